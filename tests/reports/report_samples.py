"""Made-up results of a comparison, shaped like results.json; the perplexities are those of an early prototype."""

import math
from typing import Any

from whorl.results.comparison import Comparison

read = Comparison.from_json
LENGTHS = (128, 256, 512, 1024, 2048)
TAILS = {
    "rope": (17.9, 40.7, 55.8, 74.8, 84.1),
    "hope": (17.3, 18.7, 22.5, 28.7, 40.9),
    "p-rope:p=0.5": (17.2, 47.3, 56.9, 68.4, 82.6),
    "nope": (26.8, 32.1, 38.1, 47.0, 51.6),
}
TURNING = {"rope": 32, "hope": 11, "p-rope:p=0.5": 16, "nope": 0}


def wavelengths(turning: int, pairs: int = 32, base: float = 10_000.0) -> list[float | None]:
    return [2 * math.pi * base ** (i / pairs) if i < turning else None for i in range(pairs)]


def trial(notation: str, seed: int, evaluations: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    turning = TURNING.get(notation)
    return {
        "id": f"{notation}-{seed}",
        "encoding": notation.partition(":")[0],
        "notation": notation,
        "parameters": {"base": 10_000.0},
        "seed": seed,
        "pairs_turning": turning,
        "pairs": None if turning is None else 32,
        "wavelengths": None if turning is None else wavelengths(turning),
        "train": {"tokens": 4_096_000, "seconds": 200.0, "tokens_per_second": 20_480.0, "loss": 2.93 + 0.01 * seed},
        "evaluations": evaluations,
    }


def perplexity_rows(tails: tuple[float, ...], factor: float = 1.0, error: float = 0.01) -> list[dict[str, Any]]:
    return [
        {
            "length": length,
            "tail": tail * factor,
            "mean": tail * factor * 0.8 + 3,
            "windows": 200,
            "stderr": tail * error,
            "tokens": 12_800,
        }
        for length, tail in zip(LENGTHS, tails, strict=True)
    ]


def accuracy_rows(accuracies: dict[int, float], sequences: int = 400) -> list[dict[str, Any]]:
    return [
        {"length": n, "token_accuracy": a, "exact_match": max(0.0, 2 * a - 1), "sequences": sequences}
        for n, a in accuracies.items()
    ]


def results(trials: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    return {
        "whorl": "0.1.0",
        "created": "2026-08-01T12:34:56+00:00",
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_gib": 7.7, "device": "cpu", "platform": "Linux"},
        "versions": {"python": "3.11.9", "torch": "2.11.0"},
        "config": {
            "task": "language",
            "model": "tiny",
            "parameters": 838_912,
            "train_length": 128,
            "tokens": 4_096_000,
            "windows": 200,
            "batch_size": 32,
            "learning_rate": 4e-3,
            "schedule": "linear",
            "warmup": 0.05,
            "weight_decay": 0.1,
            "compile": False,
            "steps": 1000,
            "seeds": sorted({t["seed"] for t in trials}),
            "trials_planned": len(trials),
            "lengths": list(LENGTHS),
            "tail": 64,
            "text": "stdlib",
            "tokenizer": None,
            "precision": "bf16",
            "data": {"task": "language", "version": 1, "vocab_size": 1024},
            **config,
        },
        "trials": trials,
    }


def language(seeds: tuple[int, ...] = (0,), spread: float = 0.03, **config: Any) -> dict[str, Any]:
    """Every prototype encoding; the seeds differ by `spread`, as a fraction."""
    trials = [
        trial(name, seed, {"perplexity": perplexity_rows(tails, 1 + spread * i)})
        for name, tails in TAILS.items()
        for i, seed in enumerate(seeds)
    ]
    return results(trials, **config)


def copying(**accuracies: dict[int, float]) -> dict[str, Any]:
    """The copy task: length -> token accuracy, by encoding."""
    trials = [trial(name, 0, {"copy": accuracy_rows(rows)}) for name, rows in accuracies.items()]
    return results(trials, task="copy", data={"task": "copy", "version": 1, "vocab_size": 67})


def with_losses(data: dict[str, Any], steps: int = 60) -> dict[str, Any]:
    """The same results, whose trials say what they lost on the way."""
    for k, one in enumerate(data["trials"]):
        one["train"]["losses"] = {
            str(i): 3 + 4 * math.exp(-i / 12) + 0.2 * math.sin(i * 1.7) + 0.05 * k for i in range(1, steps)
        }
    return data
