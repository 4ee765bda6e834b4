"""Results that are arrays with named axes beside a summary: inspection.npz and inspection.json in a folder."""

from __future__ import annotations

import difflib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from whorl.checking import check_path, shown
from whorl.files import read_json, write_atomically
from whorl.results.schema import Keyed
from whorl.results.showing import Shown

Array = np.ndarray[Any, np.dtype[Any]]
FILES = ("inspection.json", "inspection.npz")
TEXTS, IMAGES = "texts", "images"
CLASSES = {TEXTS: "Inspection", IMAGES: "ImageInspection"}
"""What reads an inspection of texts, of images."""


class Measured(Shown):
    """What an inspection has measured: a frozen dataclass of `summary` and `arrays`, None for what was not measured.

    AXES   the names of each array's axes
    KIND   what was read, as the summary's `kind` says it; one without any is of texts
    KEPT   the class of the summary
    """

    AXES: ClassVar[dict[str, tuple[str, ...]]]
    KIND: ClassVar[str] = TEXTS
    KEPT: ClassVar[type[Keyed]]

    summary: Any
    arrays: Mapping[str, Array]

    def check_arrays(self, sizes: Mapping[str, int]) -> None:
        """Raises ValueError for an array that has other axes than AXES says, or another size along one of these."""
        for name, array in self.arrays.items():
            axes = self.axes(name)
            if array.ndim != len(axes):
                raise ValueError(f"the array {name} must be [{', '.join(axes)}], got {array.ndim} dimensions")
            for axis, size in zip(axes, array.shape, strict=True):
                if axis in sizes and size != sizes[axis]:
                    raise ValueError(f"the array {name} must have {sizes[axis]} places along {axis}, got {size}")

    def __getattr__(self, name: str) -> Array:
        arrays = self.__dict__.get("arrays", {})
        if name in arrays:
            return arrays[name]
        if name in self.AXES:
            raise AttributeError(f"{name} was not measured; summary.absent says why: {self.summary.absent}")
        kind = type(self).__name__
        raise AttributeError(f"an {kind} has no {name!r}; its arrays are {', '.join(arrays)}")

    @property
    def name(self) -> str:
        found: str = self.summary.model.name
        return found

    @classmethod
    def axes(cls, name: str) -> tuple[str, ...]:
        """The names of an array's axes. Raises ValueError for a name that no inspection has."""
        if name not in cls.AXES:
            close = difflib.get_close_matches(str(name), cls.AXES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(cls.AXES)}"
            raise ValueError(f"an {cls.__name__} has no array {name!r}; {hint}")
        return cls.AXES[name]

    def measured(self, name: str) -> Array | None:
        """An array; None where it was not measured, or holds no finite number."""
        found = self.arrays.get(name)
        return None if found is None or not np.isfinite(found).any() else found

    def save(self, folder: str | Path) -> None:
        """Writes inspection.json and inspection.npz, each whole or not at all."""
        folder = Path(folder)
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(self.arrays)
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder / "inspection.npz", buffer.getvalue())
        self.summary.write(folder / "inspection.json")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `save` wrote there. Raises ValueError for a folder that holds no inspection, a damaged one, or one of
        another kind."""
        folder = Path(check_path("folder", folder, "the path of a folder that whorl inspect wrote"))
        if folder.name in FILES:
            raise ValueError(f"an inspection is a folder, and {folder} names a file of one; try {str(folder.parent)!r}")
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            there = f"{folder} has no {' and no '.join(missing)}" if folder.is_dir() else f"there is no folder {folder}"
            raise ValueError(f"no inspection in {str(folder)!r}: {there}; whorl inspect --out DIR writes one")
        kind = kind_of(folder)
        if kind != cls.KIND:
            reader = f"; whorl.{CLASSES[kind]}.load reads it" if kind in CLASSES else ""
            raise ValueError(f"{folder} holds an inspection of {shown(kind)}{reader}")
        summary = cls.KEPT.read(folder / "inspection.json")
        try:
            with np.load(folder / "inspection.npz") as arrays:
                return cls(summary, dict(arrays))  # type: ignore[call-arg]
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{folder / 'inspection.npz'} is damaged ({error}); inspect again") from error


def kind_of(folder: Path) -> str:
    """What an inspection in a folder is of."""
    found = read_json(folder / "inspection.json")
    return str(found.get("kind", TEXTS)) if isinstance(found, dict) else TEXTS


def short(value: float | None) -> str:
    """A number in a cell of a table; nothing for None."""
    return "" if value is None else f"{value:.3g}"
