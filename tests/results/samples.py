"""A trial's result.json, made up."""

from __future__ import annotations

from typing import Any

from whorl.training.settings import Settings

FINISHED: dict[str, Any] = {
    "schema": 1,
    "id": "rope",
    "encoding": "rope",
    "notation": "rope",
    "parameters": {"base": 10000.0},
    "seed": 0,
    "pairs_turning": 32,
    "pairs": 32,
    "wavelengths": [6.25, None],
    "train": {"tokens": 1536, "seconds": 2.5, "tokens_per_second": 614.4, "loss": 3.5},
    "evaluations": {"perplexity": [{"length": 32, "tail": 17.5, "mean": 18.5, "windows": 4}]},
    "config": {"name": "rope", "base": 10000.0},
    "settings": Settings(precision="fp32").resolve().to_dict(),
    "data": "0123",
    "text": {"source": "stdlib", "sha256": "4567"},
    "vocab_size": 1024,
    "eos_token_id": 0,
    "machine": {"cpu": "A CPU", "cores": 2, "memory_gib": 23.5, "device": "cpu", "platform": "Linux", "threads": 1},
    "versions": {"python": "3.11.9", "torch": "2.13.0"},
}
