"""Tests of whorl.doctor: settings and changes of tiny models that several files share."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 2.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def rope(settings: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": copy.deepcopy(settings)}


def rotary(model: Any) -> Any:
    return model.model.rotary_emb


SCALED = [
    YARN,
    {**YARN, "truncate": False},
    {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
    {**YARN, "attention_factor": 1.3, "beta_fast": 8.0},
    LLAMA3,
    {**LLAMA3, "low_freq_factor": 4.0},
    {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
    {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    {**LONGROPE, "long_factor": [1.0] * 8},
    {**LONGROPE, "short_factor": [0.25] * 8, "long_factor": [0.25] * 8},  # 4 radians per token
    {
        **LONGROPE,
        "short_factor": [1.0] * 4 + [1e39] * 4,
        "long_factor": [1.0] * 4 + [1e39] * 4,
    },  # still, as whorl says it
]


def changed(folder: Path, **entries: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config.update(entries)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    return folder
