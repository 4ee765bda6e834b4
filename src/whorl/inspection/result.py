"""What an inspection gives: NumPy arrays with named axes, and a summary in plain JSON."""

from __future__ import annotations

import difflib
import io
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from whorl.checking import check_path
from whorl.files import write_atomically, write_json
from whorl.inspection.measures import Array

FILES = ("inspection.json", "inspection.npz")


@dataclass
class Inspection:
    """How a checkpoint uses positions. Arrays are float32, NaN where nothing was measured; None: not measured at all.

    `summary["absent"]` says why something is not there. Pairs are numbered from the fastest; distances are query
    position - key position, in tokens. Means over a distance leave the first token out as a key (see
    `measures.curves`). Ranges are `from` <= x < `to`.

    >>> inspection = whorl.inspect(model, ids, train_length=256)
    >>> inspection.axes("norm_q"), inspection.norm_q.shape
    (('layer', 'head', 'pair'), (4, 2, 32))
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        "distance_from": ("distance",),
        "distance_to": ("distance",),
        "coarse_from": ("coarse",),
        "coarse_to": ("coarse",),
        "position_from": ("position",),
        "position_to": ("position",),
        "wavelength": ("layer", "pair"),
        "norm_q": ("layer", "head", "pair"),
        "norm_k": ("layer", "key_head", "pair"),
        "norm_v": ("layer", "key_head", "pair"),
        "logit": ("layer", "head", "distance"),
        "logit_by_pair": ("layer", "head", "pair", "coarse"),
        "random_logit": ("layer", "head", "distance"),
        "random_logit_by_pair": ("layer", "pair", "coarse"),
        "attention": ("layer", "head", "distance"),
        "random_attention": ("layer", "head", "distance"),
        "entropy": ("layer", "head", "position"),
        "first_token": ("layer", "head", "position"),
        "key_distribution": ("layer", "head", "key"),
        "departure": ("layer", "multiple"),
        "departure_by_pair": ("layer", "pair", "multiple"),
    }

    summary: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Array:
        arrays = self.__dict__.get("arrays", {})
        if name in arrays:
            return arrays[name]
        if name in self.AXES:
            why = self.summary.get("absent", {})
            raise AttributeError(f"{name} was not measured; summary['absent'] says why: {why}")
        raise AttributeError(f"an Inspection has no {name!r}; its arrays are {', '.join(self.arrays)}")

    def axes(self, name: str) -> tuple[str, ...]:
        """The names of an array's axes. Raises ValueError for a name that no inspection has."""
        if name not in self.AXES:
            close = difflib.get_close_matches(str(name), self.AXES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.AXES)}"
            raise ValueError(f"an Inspection has no array {name!r}; {hint}")
        return self.AXES[name]

    def save(self, folder: str | Path) -> None:
        """Writes inspection.json and inspection.npz, each whole or not at all."""
        folder = Path(folder)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = self.arrays
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder / "inspection.npz", buffer.getvalue())
        write_json(folder / "inspection.json", self.summary)

    @classmethod
    def load(cls, folder: str | Path) -> Inspection:
        """What `save` wrote there. Raises ValueError for a folder that holds no inspection, or a damaged one."""
        from whorl.files import read_json

        folder = Path(check_path("folder", folder, "the path of a folder that whorl inspect wrote"))
        if folder.name in FILES:
            raise ValueError(f"an inspection is a folder, and {folder} names a file of one; try {str(folder.parent)!r}")
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            there = f"{folder} has no {' and no '.join(missing)}" if folder.is_dir() else f"there is no folder {folder}"
            raise ValueError(f"no inspection in {str(folder)!r}: {there}; whorl inspect --out DIR writes one")
        summary = read_json(folder / "inspection.json")
        if not isinstance(summary, dict):
            raise ValueError(f"{folder / 'inspection.json'} is damaged, it holds no summary; inspect again")
        try:
            with np.load(folder / "inspection.npz") as arrays:
                return cls(summary, dict(arrays))
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{folder / 'inspection.npz'} is damaged ({error}); inspect again") from error


def stacked(layers: list[Array | None]) -> Array | None:
    """Per-layer arrays as one, padded with NaN where layers differ in heads or pairs; None where there are none."""
    found = [x for x in layers if x is not None]
    if not found:
        return None
    shape = tuple(max(x.shape[i] for x in found) for i in range(found[0].ndim))
    out = np.full((len(layers), *shape), np.nan, dtype=np.float32)
    for i, x in enumerate(layers):
        if x is not None:
            out[i][tuple(slice(n) for n in x.shape)] = x
    return out
