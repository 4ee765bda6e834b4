"""A training step of a Llama of 124 million: the stock model against whorl attached.

    make bench-gpu
    .venv/bin/python benchmarks/llama.py --device cpu --layers 1 --batch 1 --tokens 64    a try without a GPU

The stock model with its own SDPA attention, float32 weights, AdamW; on a GPU in bfloat16 autocast. "forward" is the
loss, "backward" the gradients and the optimiser's step. A gate comes first: the losses of a few steps agree, rope's
with the stock model's and hope's with those of the reference. Rows go to benchmarks/results/llama-<device>.csv.
"""

from __future__ import annotations

import rows
import torch
from attached import gate, learn, loss
from measuring import Provider, measured
from transformers import LlamaConfig, LlamaForCausalLM

import whorl
from whorl.training.settings import Settings


def main() -> None:
    parser = rows.parser(__doc__, rounds=7)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: what whorl compare takes here")
    sizes = {"layers": 12, "hidden": 768, "heads": 12, "intermediate": 2048, "vocabulary": 50257}  # GPT-2's vocabulary
    for name, size in {**sizes, "batch": 8, "tokens": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, precision = torch.device(options.device), options.precision or Settings().resolve().precision
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        max_position_embeddings=options.tokens,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    ids = torch.randint(0, options.vocabulary, (options.batch, options.tokens), device=device)

    def model(encoding: str | None, impl: str = "auto") -> LlamaForCausalLM:
        torch.manual_seed(0)
        made = LlamaForCausalLM(config).to(device).train()
        return made if encoding is None else whorl.attach(made, encoding, impl=impl)

    def provider(encoding: str | None) -> Provider:
        made = model(encoding)
        optimizer = torch.optim.AdamW(made.parameters(), lr=1e-4, fused=True)
        return Provider(lambda: loss(made, ids, precision), lambda found: learn(found, optimizer))

    hope = f"hope:train_length={options.tokens}"
    gate("rope", model(None), model("rope"), ids[:1], precision)
    gate("hope", model(hope, "reference"), model(hope), ids[:1], precision)
    parameters = sum(p.numel() for p in model(None).parameters())
    case = f"training step {parameters / 1e6:.0f}M {precision} {options.batch} x {options.tokens}"
    providers = {"stock": provider(None), "whorl rope": provider("rope"), "whorl hope": provider(hope)}
    found = measured(case, providers, "stock", options.rounds, device)
    facts, path = rows.facts(options.device), options.results / f"llama-{options.device}.csv"
    rows.write(path, [{**facts, **row} for row in found], same=["case"])


if __name__ == "__main__":
    main()
