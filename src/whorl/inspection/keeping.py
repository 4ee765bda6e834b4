"""Keeps the stages of an inspection that are done, so that a run which was stopped goes on after them."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whorl.files import read_json, write_atomically, write_json
from whorl.inspection.passes import Sums
from whorl.results.inspection import Ablation, Array
from whorl.results.plan import Plan
from whorl.results.schema import as_json, parsed
from whorl.watching import Layer

log = logging.getLogger(__name__)

ARRAYS = ("logit", "by_pair", "curve", "first_by_pair", "bound", "attention", "entropy", "first", "settled_first",
          "last_keys", "added", "sizes", "spread", "moved", "gates", "factor")  # fmt: skip
OF = "windows"  # among the arrays of a stage, the digest of its windows


class Kept:
    """The stages of an inspection in a folder, known by the digest of all that was asked for."""

    def __init__(self, folder: Path, **asked: Any) -> None:
        self.folder, self._plan = folder, folder / "plan.json"
        self.digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()

    def plan(self) -> Plan | None:
        """That of a run which asked for the same; None where there was none."""
        try:
            found = read_json(self._plan) if self._plan.exists() else {}
            return parsed(Plan, found["plan"]) if found.get("asked") == self.digest else None
        except (ValueError, AttributeError, KeyError):
            return None  # damaged: planned anew

    def begin(self, plan: Plan, anew: bool = False) -> None:
        """Keeps the plan. The stages of a run which asked for something else are taken away, and all of them `anew`."""
        if anew or self.plan() is None:
            for left in (*self.folder.glob("*.npz"), *self.folder.glob("*.json")):
                left.unlink()  # one that stays would be gone on with, so an error of it is one
        write_json(self._plan, {"asked": self.digest, "plan": as_json(plan)})

    def sums(self, stage: str, facts: Sequence[Layer], windows: torch.Tensor) -> dict[int, Sums]:
        """Of the windows of a stage that were read, by layer; none where it was not begun or of others (of another
        tokenizer, say), and where its file is damaged."""
        path = self.folder / f"{stage}.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path) as file:
                arrays = dict(file)
            return _summed(arrays, facts) if str(arrays.pop(OF, "")) == digest_of(windows) else {}
        except (ValueError, OSError, EOFError, IndexError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s): the stage is run again", path, error)
            return {}

    def keep(self, stage: str, layers: dict[int, Sums], windows: torch.Tensor) -> None:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {OF: np.array(digest_of(windows)), **_arrays(layers)}
        np.savez(buffer, **arrays)
        write_atomically(self.folder / f"{stage}.npz", buffer.getvalue())

    def ablation(self, windows: list[str]) -> Ablation | None:
        """The ablation of windows in range and past it, by their digests, where it was done."""
        path = self.folder / "ablation.json"
        found = read_json(path) if path.exists() else {}
        return parsed(Ablation, found["ablation"], str(path)) if found.get("windows") == windows else None

    def keep_ablation(self, windows: list[str], found: Ablation) -> None:
        write_json(self.folder / "ablation.json", {"windows": windows, "ablation": as_json(found)})


def digest_of(windows: torch.Tensor) -> str:
    """What tells these token ids from others."""
    return hashlib.sha256(str(tuple(windows.shape)).encode() + windows.cpu().numpy().tobytes()).hexdigest()


def _arrays(layers: dict[int, Sums]) -> dict[str, Array]:
    """Sums as arrays, named layer.field or layer.field.key."""
    found: dict[str, Array] = {}
    for i, sums in layers.items():
        found[f"{i}.windows"] = np.array(sums.windows)
        found |= {f"{i}.{name}": value for name in ARRAYS if (value := getattr(sums, name)) is not None}
        found |= {f"{i}.norms.{key}": value for key, value in sums.norms.items()}
        found |= {f"{i}.samples.{key}": torch.cat(drawn, 1).numpy() for key, drawn in sums.samples.items()}
        if sums.regions:
            found[f"{i}.regions"] = np.stack(sums.regions)
    return found


def _summed(arrays: dict[str, Array], facts: Sequence[Layer]) -> dict[int, Sums]:
    """The sums of `_arrays`."""
    layers: dict[int, Sums] = {}
    for name, value in arrays.items():
        index, own, *key = name.split(".")
        sums = layers.setdefault(int(index), Sums(facts[int(index)]))
        if own == "windows":
            sums.windows = int(value)
        elif own == "norms":
            sums.norms[key[0]] = value
        elif own == "samples":
            sums.samples[key[0]] = [torch.from_numpy(value)]
        elif own == "regions":
            sums.regions = list(value)
        else:
            setattr(sums, own, value)
    return layers
