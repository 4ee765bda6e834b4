"""A training step of `whorl compare`'s tiny model on whorl's operations against the same on the references.

    .venv/bin/python benchmarks/attached.py

bfloat16 autocast, 32 x 128 tokens, AdamW; rounds of three steps, the variants in turn. The references are what every
model ran on before there were kernels. Rows go to benchmarks/results/attached.csv.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import whorl
from whorl.comparison.models import build
from whorl.comparison.running import machine
from whorl.comparison.settings import Settings
from whorl.encodings import parse

ENCODINGS = ("rope", "hope:train_length=128", "alibi", "t5")
ROUNDS, STEPS = 9, 3


def main() -> None:
    torch.set_num_threads(2)
    settings = Settings().resolve()
    ids = torch.randint(0, 1024, (32, 128), generator=torch.Generator().manual_seed(0))
    runs = {}
    for encoding in ENCODINGS:
        for impl in ("reference", "auto"):
            model = build(settings, parse(encoding), 0, 1024, 0)
            whorl.attach(model, encoding, impl=impl).train()
            runs[encoding, impl] = (model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True))

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    for encoding in ENCODINGS:  # the gate: both learn the same
        a, b = ([step(*runs[encoding, impl]) for _ in range(3)] for impl in ("reference", "auto"))
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 0.02, f"red gate: {encoding} {a} {b}"
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step(*run)
            times[key].append((time.perf_counter() - start) / STEPS * 1e3)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    common = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "cpu": machine()["cpu"],
        "threads": 2,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    rows = []
    for encoding in ENCODINGS:
        ratios = sorted(a / b for a, b in zip(times[encoding, "auto"], times[encoding, "reference"], strict=True))
        row = {
            "encoding": encoding,
            "reference_ms": round(statistics.median(times[encoding, "reference"]), 1),
            "kernels_ms": round(statistics.median(times[encoding, "auto"]), 1),
            "ratio_50": round(statistics.median(ratios), 3),
            "ratio_least": round(ratios[0], 3),
            "ratio_most": round(ratios[-1], 3),
        }
        print(row)
        rows.append({**common, **row})
    with (Path(__file__).parent / "results" / "attached.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
