"""What inspect adds to a forward: python benchmarks/inspection.py (two cores; a tiny Llama of 4 layers and width 128).

    forward               the base model, SDPA, nothing read
    frequencies           and pair norms, logits by distance and by pair through an FFT, the U-shape
    attention             and the streamed softmax: attention by distance, entropy, positional heads
    output_attentions     what is done today: eager attention that keeps every [tokens, tokens] matrix
    TransformerLens       the same through its run_with_cache, where the package is installed

Where WHORL_MODELS names the folder of smollm2-135m-instruct.gguf, that model is read too, without its head, on text.

A gate comes first: streamed numbers against those matrices, at 512 tokens. Peaks of memory are of processes of their
own, above the model and its inputs. Rows go to benchmarks/results/inspection-cpu.csv.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rows
import torch
from measuring import Provider, measured, peak, peak_row
from transformers import LlamaConfig, LlamaModel

from whorl.inspection.measures import curves
from whorl.inspection.passes import Pass
from whorl.inspection.streaming import softmax
from whorl.watching import forward

LENGTHS = (2048, 8192, 32768)
REACHABLE = 4096  # for output_attentions: 2 heads and 4 layers at 8,192 tokens would be 2 GiB, and eager copies
DEVICE = torch.device("cpu")


def main() -> None:
    parser = rows.parser(__doc__, rounds=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--peak", nargs=2, metavar=("PROVIDER", "TOKENS"), help="(internal) one peak of memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak_of(options.peak[0], int(options.peak[1])))
        return
    gate()
    found = []
    for tokens in options.lengths:
        found += measured(f"inspect {tokens}", providers(tokens), "forward", options.rounds, DEVICE)
    if (folder := os.environ.get("WHORL_MODELS")) is None:
        print("\nsmollm2 2048: left out, for WHORL_MODELS names no folder of models")
    else:
        found += measured("smollm2 2048", smollm2(Path(folder), 2048), "forward", options.rounds, DEVICE)
    found += measured("logits by distance 131072", distance(), "8 heads of 64", options.rounds, DEVICE)
    print("\nmemory above model and inputs")
    for tokens in options.lengths:
        label, threads = f"memory of inspect {tokens}", ("--threads", str(options.threads))
        found += [peak_row(label, __file__, name, str(tokens), *threads) for name in providers(tokens)]
    facts = rows.facts()
    path = options.results / "inspection-cpu.csv"
    rows.write(path, [{**facts, **row, "mode": "forward"} for row in found], same=["case"], mode="forward")


def model_and_ids(tokens: int) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=tokens, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaModel(config).eval(), torch.randint(1024, (1, tokens))


def providers(tokens: int) -> dict[str, Provider]:
    model, ids = model_and_ids(tokens)
    found = readings(model, ids)
    if tokens <= REACHABLE:
        found["output_attentions"] = matrices(model, ids)
        if find_spec("transformer_lens"):
            found["TransformerLens, run_with_cache"] = transformer_lens(model, ids)
    return found


def smollm2(folder: Path, tokens: int) -> dict[str, Provider]:
    """SmolLM2-135M-Instruct in float32, on a window of the standard library."""
    from transformers import AutoModel, AutoTokenizer

    from whorl.data.corpus import read_documents
    from whorl.data.windows import text_windows

    name = "smollm2-135m-instruct.gguf"
    model = AutoModel.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    return readings(model, text_windows("stdlib", read_documents("stdlib"), tokenizer, tokens, 1))


def readings(model: Any, ids: torch.Tensor) -> dict[str, Provider]:
    """The forward, and what is read in it."""
    tokens = ids.shape[1]

    @torch.no_grad()
    def plain() -> None:
        model.set_attn_implementation("sdpa")
        model(ids, use_cache=False)

    @torch.no_grad()
    def reading(**how: Any) -> Provider:
        return Provider(torch.no_grad()(lambda: Pass(model, ids, regions_over=tokens, norms=True, **how).run()))

    return {
        "forward": Provider(plain),
        "frequencies": reading(attention=False),
        "frequencies and attention": reading(attention=True),
    }


def matrices(model: Any, ids: torch.Tensor) -> Provider:
    @torch.no_grad()
    def run() -> None:
        model.set_attn_implementation("eager")
        model(ids, use_cache=False, output_attentions=True)

    return Provider(run)


def transformer_lens(model: Any, ids: torch.Tensor) -> Provider:
    """Every activation, the matrices among them, as TransformerLens keeps them for a person to look at."""
    from tempfile import mkdtemp

    from transformer_lens import TransformerBridge
    from transformers import LlamaForCausalLM

    from whorl.data.corpus import load_tokenizer, train_tokenizer

    folder = mkdtemp()
    whole = LlamaForCausalLM(model.config).eval()
    whole.save_pretrained(folder)
    train_tokenizer(["a tokenizer is asked for"], 300).save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    bridge = TransformerBridge.boot_transformers(folder, hf_model=whole, device="cpu", tokenizer=tokenizer)
    return Provider(torch.no_grad()(lambda: bridge.run_with_cache(ids)))


def distance() -> dict[str, Provider]:
    q, k = torch.randn(2, 8, 131_072, 64)
    channels = torch.arange(64).view(2, 32).T
    return {"8 heads of 64": Provider(torch.no_grad()(lambda: curves(q, k, channels)))}


@torch.no_grad()
def gate() -> None:
    model, ids = model_and_ids(512)
    found: dict[int, Any] = {}
    forward(model, ids, lambda attended: found.__setitem__(attended.layer.index, attended))
    model.set_attn_implementation("eager")
    for layer, weights in enumerate(model(ids, output_attentions=True).attentions):
        direct = torch.stack([weights[0].double().diagonal(-d, 1, 2).sum(-1) for d in range(512)], -1)
        streamed = torch.from_numpy(softmax(found[layer], 0).by_distance)
        assert (streamed - direct).abs().max() < 1e-3, "red gate: no speed"
    print("gate: the streamed softmax is right")


def peak_of(name: str, tokens: int) -> float:
    providers(256)[name]()  # libraries are loaded
    return peak(providers(tokens)[name], DEVICE)


if __name__ == "__main__":
    main()
