"""A step of decoding with an encoding attached against the same step of the stock model.

    python benchmarks/decoding.py [--only REGEX]

Three Llamas, float32, caches of 512 and 4,096 tokens, one more token at a time; the variants in turn. Weights are
random, which is nothing to the time. Rows go to benchmarks/results/decoding.csv.
"""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

import rows
import torch
from measuring import Provider, measured
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import whorl

ENCODINGS = ("rope", "alibi", "t5", "rope+window:size=512", "rope+fox", "rope+log-n", "rope+ssmax", "fire")
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
OF_30_M = {"hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8}
Model = tuple[dict[str, int], tuple[str, ...]]  # a shape, and what is attached
MODELS: dict[str, Model] = {  # by the end of a case's label; the first has 62 M parameters
    "": ({"vocab_size": 4096, "num_hidden_layers": 8, **SMOLLM2}, ENCODINGS),
    ", SmolLM2-135M": ({"vocab_size": 49152, "num_hidden_layers": 30, **SMOLLM2}, ("alibi", "t5")),
    ", Llama of 30 M": ({"vocab_size": 4096, "num_hidden_layers": 8, **OF_30_M}, ("alibi", "t5")),
}
CACHED = (512, 4096)
AT_ONCE = 1024  # tokens of the prompt


def main() -> None:
    parser = rows.parser(__doc__, rounds=5)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose label matches; other rows stay")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = rows.facts()
    for which, (shape, encodings) in MODELS.items():
        labels = {f"decode after {tokens}{which}": tokens for tokens in CACHED}
        wanted = {label: tokens for label, tokens in labels.items() if re.search(options.only, label)}
        if not wanted:
            continue
        models = attached(shape, encodings)
        for label, tokens in wanted.items():
            steps = {name: Provider(partial(step, model, filled(model, tokens))) for name, model in models.items()}
            found = measured(label, steps, "stock", options.rounds, torch.device("cpu"))
            rows.write(options.results / "decoding.csv", [{**facts, **row} for row in found], same=["case"])


def attached(shape: dict[str, int], encodings: tuple[str, ...]) -> dict[str, Any]:
    """The stock model, and copies of it with an encoding each."""
    torch.manual_seed(0)
    config = LlamaConfig(**shape, max_position_embeddings=8192, attn_implementation="sdpa")
    models = {"stock": LlamaForCausalLM(config).eval()}
    for encoding in encodings:
        models[encoding] = whorl.attach(copy.deepcopy(models["stock"]), encoding).eval()
    return models


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
