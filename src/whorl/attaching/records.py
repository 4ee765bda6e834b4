"""What is written of an encoding, wherever it is written: into a config, a state dict, an adapter's config, a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whorl.encodings import Encoding, from_dict
from whorl.files import write_atomically
from whorl.hosts.transformers import compat

CONFIG_KEY = "whorl"  # where a saved config keeps the encoding
ENTRY = "_extra_state"  # torch's name for it in a state dict
NAMED = " with the positional encoding whorl:"  # in model.name_or_path, which PEFT records in its adapters


GUARD = "use whorl.load(directory) for this checkpoint: stock transformers would drop its positional encoding"
UNFINISHED = "this save was not finished"
ADAPTER_GUARD = "use whorl.load(directory) for this adapter: plain PEFT would drop the positional encoding"


def record_of(encoding: Encoding) -> dict[str, Any]:
    """What is written of an encoding, wherever it is written."""
    return {"encoding": encoding.to_dict(), "notation": str(encoding)}


def by_place(encodings: Mapping[str, Encoding]) -> list[str]:
    """Each in words, with the part of the model that it is on; the model's own has the empty name."""
    return [f"{encoding} at {at}" if at else str(encoding) for at, encoding in encodings.items()]


def architecture_of(model: Any) -> str:
    """The name of the class that was saved; `fully_shard` puts FSDP before it."""
    return type(model).__name__.removeprefix("FSDP")


def guards(architecture: str) -> dict[str, Any]:
    """Entries of a config that make every stock load of it fail, and every model that is built from it alone."""
    return {**compat.unreadable(GUARD), "architectures": [f"{architecture}WithWhorl"]}


def as_tensor(encoding: Encoding) -> torch.Tensor:
    """The record of an encoding, as bytes."""
    return torch.tensor(list(json.dumps(record_of(encoding)).encode()), dtype=torch.uint8)


def from_tensor(record: torch.Tensor) -> Encoding:
    """The encoding of which `as_tensor` gave this. Raises ValueError for what is none of these records."""
    try:
        said = json.loads(bytes(record.cpu().tolist()))["encoding"]
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the record of the encoding among the weights is damaged (a tensor of {record.dtype}, "
            f"{list(record.shape)}); save the model again"
        ) from error
    return from_dict(said)


def replace_json(path: Path, content: dict[str, Any]) -> None:
    """As transformers writes a config; whole or not there."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
