"""whorl's operations against their peers: rotate() and biased_attention(), forward and backward.

    make bench        on the CPU
    make bench-gpu    on a CUDA device (Liger's kernel too, where liger-kernel is installed)

Every round runs every provider of a case, one after another, so that what else the machine does hits all of them;
ratios are taken within a round. A correctness gate comes first, against float64: where it is red, no speed is printed.
Rows go to benchmarks/results/kernels-<device>.csv. Yardsticks: a copy of the same bytes into memory that is there
already (it touches twice the memory that a rotation in place does), and causal attention without any bias.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from whorl.comparison.running import machine
from whorl.encodings import Shape, parse
from whorl.ops import biased_attention, rotate, rotation_tables
from whorl.testing import max_error

RESULTS = Path(__file__).parent / "results"
HEADS, KEY_HEADS, HEAD_DIM = 32, 8, 128  # of the rotation: an 8-billion Llama's
Case = tuple[str, dict[str, Callable[[], Any]], str]  # label, providers, the yardstick's name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose label contains this; other rows stay")
    parser.add_argument(
        "--peak", nargs=3, metavar=("PROVIDER", "TOKENS", "DEVICE"), help="(internal) one peak of memory"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1]), options.peak[2]))
        return
    device = torch.device(options.device)
    rotation_gate(device)
    attention_gate(device)
    rows: list[dict[str, Any]] = []
    for label, providers, yardstick in (*rotations(device), *attentions(device)):
        if options.only in label:
            rounds = options.rounds if not label.endswith("16384") or device.type == "cuda" else 3
            rows += measured(label, providers, yardstick, rounds, device)
    if options.only in "memory":
        rows += peaks(device)
    write(rows, options)


# --- measuring -------------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], Any], device: torch.device, budget: float = 0.15) -> list[float]:
    """Times of single calls, for about `budget` seconds: five or more of them, unless one alone takes a second."""
    times: list[float] = []
    while not times or (times[0] < 1 and (len(times) < 5 or (sum(times) < budget and len(times) < 200))):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


def measured(
    label: str, providers: dict[str, Callable[[], Any]], yardstick: str, rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    for call in providers.values():
        call()
    medians: dict[str, list[float]] = {name: [] for name in providers}
    everything: dict[str, list[float]] = {name: [] for name in providers}
    for _ in range(rounds):
        for name, call in providers.items():
            times = seconds(call, device)
            medians[name].append(statistics.median(times))
            everything[name] += times
    rows = []
    print(f"\n{label}", flush=True)
    for name in providers:
        ratios = sorted(a / b for a, b in zip(medians[name], medians[yardstick], strict=True))
        low, middle, high = (statistics.quantiles(everything[name], n=10)[i] * 1e3 for i in (1, 4, 7))
        rows.append(
            {
                "case": label,
                "provider": name,
                "ms_50": round(middle, 4),
                "ms_20": round(low, 4),
                "ms_80": round(high, 4),
                "over": yardstick,
                "ratio_50": round(statistics.median(ratios), 3),
                "ratio_least": round(ratios[0], 3),
                "ratio_most": round(ratios[-1], 3),
            }
        )
        print(f"  {name:44} {middle:10.3f} ms   {statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return rows


# --- rotation --------------------------------------------------------------------------------------------------------


def queries_and_keys(tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """As they lie in memory in a Llama: [batch, tokens, heads, head_dim] seen as [batch, heads, tokens, head_dim]."""
    made = (torch.randn(1, tokens, heads, HEAD_DIM, device=device) for heads in (HEADS, KEY_HEADS))
    q, k = (x.to(dtype).transpose(1, 2) for x in made)
    return q, k


def rotation_gate(device: torch.device) -> None:
    q, k = queries_and_keys(130, torch.float32, device)
    positions = torch.arange(130, device=device)
    for notation in ("rope", "p-rope:p=0.5"):
        spectrum = parse(notation).spectrum(HEAD_DIM)
        exact = rotation_tables(spectrum, positions, torch.float64)
        truth = rotate(q.double(), k.double(), exact, impl="reference")
        for dtype in (torch.float32, torch.bfloat16):
            given = (q.to(dtype), k.to(dtype))
            tables = rotation_tables(spectrum, positions)
            plain = rotate(*given, tables, impl="reference")
            turned = rotate(*(x.clone() for x in given), tables, inplace=True)
            for ours, theirs, exactly in zip(turned, plain, truth, strict=True):
                rounding = torch.finfo(dtype).eps * float(exactly.abs().max())
                assert max_error(ours, exactly) <= 2 * max_error(theirs, exactly) + rounding, "red gate: no speed"
    print("gate: rotate() is right")


def rotations(device: torch.device) -> Iterator[Case]:
    lengths = (512, 2048, 8192) if device.type == "cpu" else (1024, 4096, 16384)
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in lengths:
            yield f"rotate {str(dtype)[6:]} {tokens}", rotation_providers(tokens, dtype, device), "copy, twice"


def rotation_providers(tokens: int, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Each call is a forward and a backward pass of q and k together."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = queries_and_keys(tokens, dtype, device)
    source = torch.randn(q.numel() + k.numel(), device=device).to(dtype)
    target = torch.empty_like(source)
    positions = torch.arange(tokens, device=device)
    tables = {n: rotation_tables(parse(n).spectrum(HEAD_DIM), positions) for n in ("rope", "p-rope:p=0.5")}
    back = {n: t._replace(sin=-t.sin) for n, t in tables.items()}
    cos, sin = (torch.cat([t, t], -1).to(dtype) for t in (tables["rope"].cos, tables["rope"].sin))
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    grads = [torch.randn_like(x) for x in (q, k)]

    def copy_twice() -> None:
        target.copy_(source)
        target.copy_(source)

    def in_place(name: str) -> Callable[[], Any]:
        def run() -> None:
            with torch.no_grad():
                rotate(q, k, tables[name], inplace=True)
                rotate(*grads, back[name], inplace=True)

        return run

    def differentiated(function: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*leaves), leaves, grads)

    compiled = torch.compile(apply_rotary_pos_emb, fullgraph=True)
    providers: dict[str, Callable[[], Any]] = {
        "copy, twice": copy_twice,
        "whorl rope, in place": in_place("rope"),
        "whorl half of the pairs, in place": in_place("p-rope:p=0.5"),
        "whorl rope": differentiated(lambda q, k: rotate(q, k, tables["rope"])),
        "whorl half of the pairs": differentiated(lambda q, k: rotate(q, k, tables["p-rope:p=0.5"])),
        "transformers eager": differentiated(lambda q, k: apply_rotary_pos_emb(q, k, cos, sin)),
        "transformers under torch.compile": differentiated(lambda q, k: compiled(q, k, cos, sin)),
    }
    if installed("rotary-embedding-torch"):
        from rotary_embedding_torch import RotaryEmbedding

        theirs = RotaryEmbedding(HEAD_DIM).to(device)
        providers["rotary-embedding-torch (interleaved)"] = differentiated(
            lambda q, k: (theirs.rotate_queries_or_keys(q), theirs.rotate_queries_or_keys(k))
        )
    if device.type == "cuda" and installed("liger-kernel"):
        from liger_kernel.transformers.rope import liger_rotary_pos_emb

        providers["liger, in place"] = differentiated(lambda q, k: liger_rotary_pos_emb(q, k, cos, sin))
    if device.type == "cuda" and installed("flash-attn"):
        from flash_attn.layers.rotary import apply_rotary_emb

        tables_ = (tables["rope"].cos[0].to(dtype), tables["rope"].sin[0].to(dtype))
        providers["flash-attn's Triton rotary"] = differentiated(
            lambda q, k: tuple(apply_rotary_emb(x.transpose(1, 2), *tables_) for x in (q, k))
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


def attention_gate(device: torch.device) -> None:
    (q, k, v), grad = attention_data(300, device, torch.float32)
    positions = torch.arange(300, device=device)[None]
    for notation in ("alibi", "t5", "alibi+window:size=64"):
        results = []
        for dtype, impl in ((torch.float64, "reference"), (torch.float32, "reference"), (torch.float32, "auto")):
            given = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
            out, _ = biased_attention(
                *given, biases(notation, device), query_positions=positions, key_positions=positions, causal=True,
                scale=0.125, impl=impl,
            )  # fmt: skip
            results.append([out.detach(), *torch.autograd.grad(out, given, grad.to(dtype))])
        for truth, plain, ours in zip(*results, strict=True):
            rounding = 4 * torch.finfo(torch.float32).eps * float(truth.abs().max())
            assert max_error(ours, truth) <= 2 * max_error(plain, truth) + rounding, "red gate: no speed"
    print("gate: biased_attention() is right")


def attentions(device: torch.device) -> Iterator[Case]:
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for tokens in (1024, 16384) if device.type == "cpu" else (1024, 8192):
        providers = {
            name: attention_provider(name, tokens, device, dtype)
            for name in (*ATTENTION, *(FLEX if device.type == "cuda" else ()))
            if tokens == 1024 or not name.startswith("dense")
        }
        yield f"attention {str(dtype)[6:]} {tokens}", providers, "causal SDPA, no bias"


ATTENTION = (
    "causal SDPA, no bias",
    "dense ALiBi, prebuilt, SDPA",
    "dense T5 with its table's gradient, SDPA",
    "whorl ALiBi",
    "whorl T5 with its table's gradient",
    "whorl window of 512",
)
FLEX = tuple(f"{name}, FlexAttention" for name in ATTENTION[-3:])


def attention_provider(name: str, tokens: int, device: torch.device, dtype: torch.dtype) -> Callable[[], Any]:
    """Each call is a forward and a backward pass."""
    (q, k, v), grad = attention_data(tokens, device, dtype)
    positions = torch.arange(tokens, device=device)[None]
    if name == "causal SDPA, no bias":
        return lambda: torch.autograd.grad(sdpa(q, k, v, is_causal=True), (q, k, v), grad)
    if name.startswith("dense"):
        (module,) = biases("alibi" if "ALiBi" in name else "t5", device)
        hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)
        if "ALiBi" in name:
            bias = module(positions, positions).masked_fill(hidden, -torch.inf).to(dtype)
            return lambda: torch.autograd.grad(sdpa(q, k, v, bias), (q, k, v), grad)

        def dense() -> None:
            bias = module(positions, positions).masked_fill(hidden, -torch.inf).to(dtype)
            torch.autograd.grad(sdpa(q, k, v, bias), (q, k, v, module.weight), grad)

        return dense
    modules = biases({"whorl A": "alibi", "whorl T": "t5", "whorl w": "window:size=512"}[name[:7]], device)
    learned = [p for module in modules for p in module.parameters()]

    def run() -> None:
        out, _ = biased_attention(
            q, k, v, modules, query_positions=positions, key_positions=positions, causal=True, scale=0.125,
            impl="flex" if name in FLEX else "auto",
        )  # fmt: skip
        torch.autograd.grad(out, (q, k, v, *learned), grad)

    return run


def peak(name: str, tokens: int, device: str) -> float:
    """MiB that a forward and backward pass takes above its inputs and the gradient that it is given."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    attention_provider(name, 512, torch.device(device), dtype)()  # libraries and kernels are loaded
    run = attention_provider(name, tokens, torch.device(device), dtype)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    run()
    return (resident("VmHWM") - before) / 1024


def resident(what: str) -> int:
    """KiB of this process in memory: VmRSS now, VmHWM at the most. (getrusage's peak is inherited from the parent.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def peaks(device: torch.device) -> list[dict[str, Any]]:
    """Peaks of memory, each in a process of its own."""
    rows = []
    print("\nmemory above the inputs, 16384 tokens")
    for name in ATTENTION:
        if name.startswith("dense"):
            continue
        command = [sys.executable, __file__, "--peak", name, "16384", device.type]
        mib = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        rows.append({"case": "memory 16384", "provider": name, "peak_mib": round(mib)})
        print(f"  {name:44} {mib:10.0f} MiB")
    return rows


# --- rows ------------------------------------------------------------------------------------------------------------


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def write(rows: list[dict[str, Any]], options: argparse.Namespace, name: str = "kernels") -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    info = machine()
    common = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "cpu": info["cpu"],
        "device": info["device"] if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    columns = [
        "case",
        "provider",
        "ms_50",
        "ms_20",
        "ms_80",
        "over",
        "ratio_50",
        "ratio_least",
        "ratio_most",
        "peak_mib",
    ]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{options.device}.csv"
    measured_now = {row["case"] for row in rows}
    with path.open(newline="") if path.exists() else nullcontext([]) as file:
        kept = [row for row in csv.DictReader(file) if row["case"] not in measured_now]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*common, *columns], restval="")
        writer.writeheader()
        writer.writerows([*kept, *({**common, **row} for row in rows)])


if __name__ == "__main__":
    main()
