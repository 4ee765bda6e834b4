"""What the benchmarks share: their options, the facts of a row, and CSV files that keep the rows of other machines."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from whorl.ops.impl import native
from whorl.provenance import machine

RESULTS = Path(__file__).parent / "results"


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the rows go")
    return made


def facts(device: str = "cpu") -> dict[str, Any]:
    """When, which code, and on what: the first columns of every row."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    info = machine()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "cpu": info["cpu"] + vectors(),
        "device": info["device"] if device == "cuda" else "cpu",
        "threads": info["threads"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def vectors() -> str:
    """The widest vectors of this CPU: machines of one name ("AMD EPYC") may differ in nothing more than in these."""
    flags = native._cpuinfo().split()
    known = {"avx512_bf16": "AVX512-BF16", "avx512bw": "AVX-512", "avx2": "AVX2"}
    return next((f", {name}" for flag, name in known.items() if flag in flags), "")


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> dict[str, float]:
    """Of times of the same rounds: the median, and how far it goes either way."""
    found = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {
        "ratio_50": round(median(found), 3),
        "ratio_least": round(found[0], 3),
        "ratio_most": round(found[-1], 3),
    }


def read(path: Path, **missing: str) -> list[dict[str, str]]:
    """The rows of a file, none where there is no file; `missing` is what columns hold that older rows do not have."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{**missing, **row} for row in csv.DictReader(file)]


def write(path: Path, new: Sequence[dict[str, Any]], same: Sequence[str] = (), **missing: str) -> None:
    """Adds rows, in one move: older rows of the same cpu and device that agree with a new one in `same` go."""
    keys = ("cpu", "device", *same)
    replaced = {tuple(str(row[key]) for key in keys) for row in new}
    kept = [row for row in read(path, **missing) if tuple(row[key] for key in keys) not in replaced]
    columns = dict.fromkeys(key for row in (*new, *kept) for key in row)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns), restval="")
        writer.writeheader()
        writer.writerows([*kept, *new])
    os.replace(unfinished, path)
