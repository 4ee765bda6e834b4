"""whorl's operations against their peers: rotate() and biased_attention(), forward, backward and both.

    make bench        on the CPU
    make bench-gpu    on a CUDA device (Liger's and flash-attn's kernels too, where they are installed)

Every round runs every provider of a case, one after another, so that what else the machine does hits all of them;
ratios are taken within a round. A correctness gate comes first, against float64: where it is red, no speed is printed.
Rows go to benchmarks/results/kernels-<device>.csv, case by case. Yardsticks: a copy of the same bytes into memory that
is there already (it touches twice the memory that a rotation in place does), and causal attention without any bias.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib import import_module
from itertools import chain, product
from typing import Any

import rows
import torch
from measuring import Provider, measured, peak, peak_row
from torch.nn.functional import scaled_dot_product_attention as sdpa

from whorl.encodings import Shape, parse
from whorl.ops import biased_attention, rotate, rotation_tables
from whorl.testing import max_error

PEERS = {  # those after the first need a CUDA device
    "rotary-embedding-torch": ("rotary_embedding_torch", "RotaryEmbedding"),
    "liger-kernel": ("liger_kernel.transformers.rope", "liger_rotary_pos_emb"),
    "flash-attn": ("flash_attn.layers.rotary", "apply_rotary_emb"),
}
Case = tuple[str, Callable[[], dict[str, Provider]], str]  # label, what makes its providers, the yardstick's name


def main() -> None:
    parser = rows.parser(__doc__, rounds=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose label matches; other rows stay")
    parser.add_argument("--peak", nargs=4, metavar=("PROVIDER", "KIND", "TOKENS", "DEVICE"), help="(internal) one peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        name, kind, tokens, where = options.peak
        print(PEAKS[kind](name, int(tokens), torch.device(where)))
        return
    device = torch.device(options.device)
    rotation_gate(device)
    for dtype in (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16):
        attention_gate(device, dtype)
    names = attention_names(device)
    for package in PEERS if device.type == "cuda" else list(PEERS)[:1]:
        peer(package)
    facts, path = rows.facts(options.device), options.results / f"kernels-{options.device}.csv"

    def write(found: list[dict[str, Any]]) -> None:
        rows.write(path, [{**facts, **row} for row in found], same=["case"], mode="both")

    for label, make, yardstick in chain(rotations(device), attentions(device, names)):
        if re.search(options.only, label):
            rounds = options.rounds if not label.endswith("16384") or device.type == "cuda" else min(options.rounds, 3)
            write(measured(label, make(), yardstick, rounds, device))
    for label, kind, tokens, providers in memories(device, names):
        if re.search(options.only, label):
            threads = ("--threads", str(options.threads))
            write([peak_row(label, __file__, name, kind, str(tokens), device.type, *threads) for name in providers])


@cache
def peer(package: str) -> Any:
    """What is measured of a package, or None, with a line on how to get it."""
    module, name = PEERS[package]
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        print(f"not measured: {package} ({error}); python -m pip install --no-build-isolation {package}")
        return None


# --- rotation --------------------------------------------------------------------------------------------------------

HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128  # an 8-billion Llama's


def queries_and_keys(tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """As they lie in memory in a Llama: [batch, tokens, heads, head_dim] seen as [batch, heads, tokens, head_dim]."""
    made = (torch.randn(1, tokens, heads, HEAD_DIM, device=device) for heads in (HEADS, KEY_HEADS))
    q, k = (x.to(dtype).transpose(1, 2) for x in made)
    return q, k


def rotation_gate(device: torch.device) -> None:
    """q, k and their gradients, in place and out of place, against float64."""
    inputs, grads = (queries_and_keys(130, torch.float32, device) for _ in range(2))
    positions = torch.arange(130, device=device)

    def turned(notation: str, layout: str, dtype: torch.dtype, inplace: bool = False, impl: str = "reference") -> Any:
        tables = rotation_tables(parse(notation).spectrum(HEAD_DIM), positions, dtype)
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = rotate(*(x.clone() for x in leaves), tables, layout=layout, inplace=inplace, impl=impl)
        back = torch.autograd.grad(out, leaves, [x.to(dtype, copy=True) for x in grads])
        return *(x.detach() for x in out), *back

    for case in product(("rope", "p-rope:p=0.5"), ("half", "interleaved")):
        truth = turned(*case, torch.float64)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            plain = turned(*case, dtype)
            for inplace in (False, True):
                ours = turned(*case, dtype, inplace, "auto")
                for mine, theirs, exactly in zip(ours, plain, truth, strict=True):
                    rounding = torch.finfo(dtype).eps * float(exactly.abs().max())
                    assert max_error(mine, exactly) <= 2 * max_error(theirs, exactly) + rounding, (
                        f"red gate, no speed: {case} {dtype} inplace={inplace}"
                    )
    print("gate: rotate() is right")


def rotations(device: torch.device) -> Iterator[Case]:
    # on a CPU, q, k and their gradients of 128 tokens fit two cores' second-level caches
    lengths = (128, 512, 2048, 8192) if device.type == "cpu" else (1024, 4096, 16384)
    for dtype, tokens in product((torch.float32, torch.bfloat16), lengths):
        name = f"{str(dtype)[6:]} {tokens}"
        yield f"rotate {name}", partial(rotation_providers, tokens, dtype, device), "copy"
        if tokens in lengths[:2] and device.type == "cpu":
            yield f"rotate in cache {name}", partial(rotation_in_cache, tokens, dtype, device), "copy"


def rotation_in_cache(tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Provider]:
    """The forward pass again and again: the same q and k, and nothing else."""
    every = rotation_providers(tokens, dtype, device)
    return {name: Provider(every[name].forward) for name in every if name == "copy" or name.endswith("in place")}


def rotation_providers(tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Provider]:
    """The forward pass of q and k together, and the backward pass of their gradients."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.compiler.reset()  # or the second length would get a kernel for any length, which is slower
    q, k = queries_and_keys(tokens, dtype, device)
    source = torch.randn(q.numel() + k.numel(), device=device).to(dtype)
    target = torch.empty_like(source)
    positions = torch.arange(tokens, device=device)
    tables = {n: rotation_tables(parse(n).spectrum(HEAD_DIM), positions) for n in ("rope", "p-rope:p=0.5")}
    back = {n: t._replace(sin=-t.sin) for n, t in tables.items()}
    cos, sin = (torch.cat([t, t], -1).to(dtype) for t in (tables["rope"].cos, tables["rope"].sin))
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    grads = [torch.randn_like(x) for x in (q, k)]

    def in_place(name: str, layout: str = "half") -> Provider:
        return Provider(
            lambda: rotate(q, k, tables[name], layout=layout, inplace=True),
            lambda _: rotate(*grads, back[name], layout=layout, inplace=True),
        )

    def differentiated(function: Callable[..., Any]) -> Provider:
        return Provider(lambda: function(*leaves), lambda out: torch.autograd.grad(out, leaves, grads))

    compiled = torch.compile(apply_rotary_pos_emb, fullgraph=True)
    providers = {
        "copy": Provider(lambda: target.copy_(source), lambda _: target.copy_(source)),
        "whorl rope, in place": in_place("rope"),
        "whorl half of the pairs, in place": in_place("p-rope:p=0.5"),
        "whorl rope interleaved, in place": in_place("rope", "interleaved"),
        "whorl rope": differentiated(lambda q, k: rotate(q, k, tables["rope"])),
        "whorl half of the pairs": differentiated(lambda q, k: rotate(q, k, tables["p-rope:p=0.5"])),
        "transformers eager": differentiated(lambda q, k: apply_rotary_pos_emb(q, k, cos, sin)),
        "transformers under torch.compile": differentiated(lambda q, k: compiled(q, k, cos, sin)),
    }
    if made := peer("rotary-embedding-torch"):
        theirs = made(HEAD_DIM).to(device)
        providers["rotary-embedding-torch (interleaved)"] = differentiated(
            lambda q, k: (theirs.rotate_queries_or_keys(q), theirs.rotate_queries_or_keys(k))
        )
    if device.type == "cuda" and (liger := peer("liger-kernel")):
        providers["liger, in place"] = differentiated(lambda q, k: liger(q, k, cos, sin))
    if device.type == "cuda" and (flash := peer("flash-attn")):
        halves = (tables["rope"].cos[0].to(dtype), tables["rope"].sin[0].to(dtype))
        providers["flash-attn's Triton rotary"] = differentiated(
            lambda q, k: tuple(flash(x.transpose(1, 2), *halves).transpose(1, 2) for x in (q, k))
        )
    return providers


# --- attention -------------------------------------------------------------------------------------------------------

ATTENTION_HEADS, ATTENTION_DIM = 8, 64


def biases(notation: str, device: torch.device) -> list[Any]:
    return [e.module.to(device) for e in parse(notation).effects(Shape(ATTENTION_DIM, ATTENTION_HEADS, 512))]


def attention_data(tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    shape = (1, ATTENTION_HEADS, tokens, ATTENTION_DIM)
    return (
        [torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3)],
        torch.randn(shape, device=device).to(dtype),
    )


def attention_gate(device: torch.device, dtype: torch.dtype) -> None:
    """Outputs and every gradient, a learned table's too, against float64."""
    (q, k, v), grad = attention_data(300, device, torch.float32)
    positions = torch.arange(300, device=device)[None]
    for notation in ("alibi", "t5", "alibi+window:size=64"):
        results = []
        for precision, which in ((torch.float64, "reference"), (dtype, "reference"), (dtype, "auto")):
            given = [x.detach().to(precision).requires_grad_() for x in (q, k, v)]
            modules = [module.to(torch.promote_types(precision, torch.float32)) for module in biases(notation, device)]
            learned = [p for module in modules for p in module.parameters()]
            for table in learned:  # zeros until it is trained, which would show no mistake
                table.data.copy_(torch.linspace(-1, 1, table.numel(), device=device).view_as(table))
            out, _ = biased_attention(
                *given, modules, query_positions=positions, key_positions=positions, causal=True, scale=0.125,
                impl=which,
            )  # fmt: skip
            results.append([out.detach(), *torch.autograd.grad(out, [*given, *learned], grad.to(precision))])
        for truth, plain, ours in zip(*results, strict=True):
            rounding = 4 * torch.finfo(dtype).eps * float(truth.abs().max())
            assert max_error(ours, truth) <= 2 * max_error(plain, truth) + rounding, f"red gate, no speed: {notation}"
    print(f"gate: biased_attention() is right in {dtype}")


ATTENTION = (
    "causal SDPA, no bias",
    "dense ALiBi, prebuilt, SDPA",
    "dense T5 with its table's gradient, SDPA",
    "whorl ALiBi",
    "whorl T5 with its table's gradient",
    "whorl window of 512",
)
BY_HAND = "ALiBi written for FlexAttention by hand"  # on a GPU


def attention_names(device: torch.device) -> tuple[str, ...]:
    return ATTENTION if device.type == "cpu" else (*ATTENTION, BY_HAND)


def attentions(device: torch.device, names: tuple[str, ...]) -> Iterator[Case]:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for tokens in (1024, 16384) if device.type == "cpu" else (1024, 8192):
        makers = {
            name: partial(attention_provider, name, tokens, device, dtype)
            for name in names
            if tokens == 1024 or not name.startswith("dense")
        }
        label = f"attention {str(dtype)[6:]} {tokens}"
        yield label, lambda makers=makers: {name: make() for name, make in makers.items()}, "causal SDPA, no bias"


def attention_provider(name: str, tokens: int, device: torch.device, dtype: torch.dtype) -> Provider:
    (q, k, v), grad = attention_data(tokens, device, dtype)
    positions = torch.arange(tokens, device=device)[None]

    def differentiated(forward: Callable[[], torch.Tensor], learned: Iterable[torch.Tensor] = ()) -> Provider:
        leaves = (q, k, v, *learned)
        return Provider(forward, lambda out: torch.autograd.grad(out, leaves, grad))

    if name == "causal SDPA, no bias":
        return differentiated(lambda: sdpa(q, k, v, is_causal=True))
    if name == BY_HAND:
        return differentiated(by_hand(q, k, v))
    notation = "t5" if "T5" in name else "alibi" if "ALiBi" in name else "window:size=512"
    modules = biases(notation, device)
    learned = [p for module in modules for p in module.parameters()]
    if name.startswith("dense"):
        hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)

        def bias() -> torch.Tensor:
            return modules[0](positions, positions).masked_fill(hidden, -torch.inf).to(dtype)

        if "prebuilt" not in name:
            return differentiated(lambda: sdpa(q, k, v, bias()), learned)
        prebuilt = bias()
        return differentiated(lambda: sdpa(q, k, v, prebuilt))

    def ours() -> torch.Tensor:
        return biased_attention(
            q, k, v, modules, query_positions=positions, key_positions=positions, causal=True, scale=0.125
        )[0]

    return differentiated(ours, learned)


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Callable[[], torch.Tensor]:
    """ALiBi as one writes it for FlexAttention: nothing is read by distance."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    tokens, device = q.shape[2], q.device
    slopes = torch.exp2(-torch.arange(1, ATTENTION_HEADS + 1, device=device) * 8.0 / ATTENTION_HEADS)
    blocks = create_block_mask(lambda b, h, i, j: i >= j, None, None, tokens, tokens, device=device)
    torch.compiler.reset()  # PyTorch goes on without a kernel once it has made eight
    attend = torch.compile(flex_attention)
    return lambda: attend(q, k, v, score_mod=lambda s, b, h, i, j: s - slopes[h] * (i - j), block_mask=blocks)


# --- memory ----------------------------------------------------------------------------------------------------------


def memories(device: torch.device, names: tuple[str, ...]) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Labels, kinds, tokens and providers of peaks."""
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    tokens = 8192 if device.type == "cpu" else 16384
    yield f"memory of rotate {dtype} {tokens}", "rotate", tokens, ROTATIONS
    sparing = tuple(name for name in names if not name.startswith("dense"))
    yield f"memory of attention {dtype} 16384", "attention", 16384, sparing


ROTATIONS = ("whorl rope, in place", "whorl rope", "transformers eager", "transformers under torch.compile")


def rotation_peak(name: str, tokens: int, device: torch.device) -> float:
    """MiB that a forward and backward pass takes above q, k and the gradients that it is given."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    provider = rotation_providers(tokens, dtype, device)[name]
    provider()  # libraries and kernels are loaded, and this length compiled
    return peak(provider, device)


def attention_peak(name: str, tokens: int, device: torch.device) -> float:
    """MiB that a forward and backward pass takes above its inputs and the gradient that it is given."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    attention_provider(name, 512, device, dtype)()  # libraries and kernels are loaded
    return peak(attention_provider(name, tokens, device, dtype), device)


PEAKS = {"rotate": rotation_peak, "attention": attention_peak}


if __name__ == "__main__":
    main()
