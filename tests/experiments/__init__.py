"""The scripts of experiments/, which are no part of the package, and comparisons made up for them."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def script(name: str, folder: str = ".") -> ModuleType:
    """A module of experiments/, or of a folder there, as one that runs there would import it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(EXPERIMENTS / folder))
        return importlib.import_module(name)


def perplexities(*tails: float, spread: float = 0.02) -> list[dict[str, Any]]:
    """Rows at 1x, 2x, ..., with 20 windows that differ by `spread` nats around each."""
    return [
        {
            "length": 128 * 2**at,
            "tail": tail,
            "mean": tail,
            "windows": 20,
            "samples": [math.log(tail) + spread * math.sin(7 * window) for window in range(20)],
        }
        for at, tail in enumerate(tails)
    ]


def shares(*right: float, key: str = "token_accuracy", unit: int = 128) -> list[dict[str, Any]]:
    """Rows at 1x, 2x, ..., of 20 sequences."""
    return [
        {"length": unit * 2**at, key: share, "exact_match": share, "sequences": 20, "samples": [share] * 20}
        for at, share in enumerate(right)
    ]


def comparison(
    folder: Path, trials: dict[str, Sequence[list[dict[str, Any]] | None]], task: str = "language", **config: Any
) -> None:
    """Writes `folder`/results.json: for each encoding the rows of each seed, None where it is not finished."""
    name = task.partition(":")[0]
    evaluation = {"language": "perplexity"}.get(name, name)
    seeds = range(max(map(len, trials.values())))
    found = [
        {
            "id": f"{name}-s{seed}",
            "encoding": name.partition(":")[0],
            "notation": name,
            "parameters": {},
            "seed": seed,
            "pairs_turning": None,
            "pairs": None,
            "wavelengths": None,
            "train": {"tokens": 1, "seconds": 1.0, "tokens_per_second": 1.0, "loss": 1.0},
            "evaluations": {evaluation: rows},
        }
        for name, by_seed in trials.items()
        for seed, rows in enumerate(by_seed)
        if rows is not None
    ]
    settings = {
        "task": task,
        "text": "stdlib",
        "tokenizer": None,
        "model": "tiny",
        "train_length": 128,
        "lengths": [128, 256, 512],
        "tokens": 1,
        "tail": 64,
        "windows": 20,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup": 0.05,
        "weight_decay": 0.1,
        "precision": "bf16",
        "compile": False,
        "parameters": 1,
        "steps": 1,
        "seeds": list(seeds),
        "trials_planned": len(found),
        "data": {"task": name, "version": 1, "vocab_size": 64},
    }
    machine = {"cpu": "A CPU", "cores": 2, "memory_gib": 8.0, "device": "cpu", "platform": "Linux"}
    whole = {"schema": 1, "whorl": "0", "created": "2026", "machine": machine, "versions": {}, "trials": found}
    failures = config.pop("failures", [])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**whole, "config": {**settings, **config}, "failures": failures}))
