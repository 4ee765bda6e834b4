"""A step of decoding with an encoding attached against the same step of the stock model: python benchmarks/decoding.py

A Llama of 62 M parameters (8 layers, 9 heads of 64 for 3 of keys), float32, caches of 512 and 4,096 tokens, one more
token at a time; the variants in turn. Rows go to benchmarks/results/decoding.csv.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import rows
import torch
from measuring import Provider, measured
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import whorl

ENCODINGS = ("rope", "alibi", "t5", "rope+window:size=512", "rope+fox", "rope+log-n", "rope+ssmax", "fire")
CACHED = (512, 4096)
AT_ONCE = 1024  # tokens of the prompt


def main() -> None:
    options = rows.parser(__doc__, rounds=5).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=576, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, attn_implementation="sdpa",
    )  # fmt: skip
    models = {"stock": LlamaForCausalLM(config).eval()}
    for encoding in ENCODINGS:
        models[encoding] = whorl.attach(copy.deepcopy(models["stock"]), encoding).eval()
    found = []
    for tokens in CACHED:
        steps = {name: Provider(partial(step, model, filled(model, tokens))) for name, model in models.items()}
        found += measured(f"decode after {tokens}", steps, "stock", options.rounds, torch.device("cpu"))
    facts = rows.facts()
    rows.write(options.results / "decoding.csv", [{**facts, **row} for row in found], same=["case"])


@torch.no_grad()
def filled(model: Any, tokens: int) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    for ids in torch.randint(model.config.vocab_size, (1, tokens)).split(AT_ONCE, 1):
        model.model(ids, past_key_values=cache, use_cache=True)
    return cache


@torch.no_grad()
def step(model: Any, cache: DynamicCache) -> None:
    model(torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)


if __name__ == "__main__":
    main()
