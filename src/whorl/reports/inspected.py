"""The results of an inspection, read with care: any of them may be missing, and any number may be None or NaN."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whorl.reports.charts import finite
from whorl.reports.formatting import number

PROTOCOLS = {"text": "on the text", "random": "on random tokens"}
"""The two things that are read: the inspected text, and HoPE's protocol (a first token, then random ones)."""


class Inspected:
    """One model: its summary, its arrays, and what both say of its shape."""

    def __init__(self, summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, name: str = ""):
        self.summary = summary
        self.arrays = arrays or {}
        self.model: Mapping[str, Any] = summary.get("model") or {}
        self.settings: Mapping[str, Any] = summary.get("settings") or {}
        self.name = name or str(self.model.get("name") or "the model")

    @property
    def length(self) -> int | None:
        return whole(self.settings.get("length"))

    @property
    def train_length(self) -> int | None:
        return whole(self.settings.get("train_length"))

    @property
    def reach(self) -> int | None:
        """The length within which the U-shape is measured: that of training, where it is known."""
        return self.train_length or self.length

    @property
    def multiples(self) -> list[float]:
        """The multiples of the training length at which departures were measured; none where one is not known."""
        told = (self.summary.get("out_of_range") or {}).get("multiples") or []
        known = [value for x in told if (value := finite(x)) is not None]
        return known if len(known) == len(told) else []

    @property
    def heads(self) -> list[Mapping[str, Any]]:
        return [row for row in rows(self.summary, "heads") if whole(row.get("layer")) is not None]

    def array(self, name: str, dimensions: int) -> np.ndarray | None:
        """The array; None where it is missing, has other dimensions, or holds no finite number."""
        found = self.arrays.get(name)
        if found is None or np.ndim(found) != dimensions or not np.isfinite(found).any():
            return None
        return np.asarray(found)

    def bins(self, name: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Where the bins of `name` begin and end; None where they do not belong to `count` values."""
        start, stop = (self.arrays.get(f"{name}_{side}") for side in ("from", "to"))
        if start is None or stop is None or np.shape(start) != (count,) or np.shape(stop) != (count,):
            return None
        return np.asarray(start, dtype=float), np.asarray(stop, dtype=float)

    def wavelengths(self, layer: int, pairs: int) -> list[float | None]:
        """Tokens of one turn of each pair: infinity where it stands still, None where that is not told."""
        found = self.arrays.get("wavelength")
        if found is None or np.ndim(found) != 2 or layer >= len(found) or found.shape[1] < pairs:
            return [None] * pairs
        return [None if np.isnan(value) else float(value) for value in found[layer, :pairs]]

    def spectrum(self, layer: int) -> Mapping[str, Any]:
        """What the summary says of the pairs of a layer."""
        layers = rows(self.summary.get("spectrum"), "layers")
        return next((row for row in layers if row.get("layer") == layer), {})

    def u_shape(self, protocol: str) -> Mapping[str, Any]:
        return u_shape(self.summary, protocol)

    def absent(self, *sections: str) -> str:
        """Why there is nothing to show of a section, in a sentence."""
        reasons = self.summary.get("absent") or {}
        told = next((str(reasons[section]) for section in sections if reasons.get(section)), "Not measured")
        return told if told.endswith((".", "!", "?")) else f"{told[:1].upper()}{told[1:]}."


def rows(section: Any, key: str) -> list[Mapping[str, Any]]:
    """The list under a key of a section that may not be there."""
    found = section.get(key) if isinstance(section, Mapping) else None
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list | tuple) else []


def wholes(values: Any) -> list[int]:
    """Those of the values that are numbers, as integers."""
    listed = values if isinstance(values, list | tuple) else []
    return [known for value in listed if (known := whole(value)) is not None]


def u_shape(section: Mapping[str, Any], protocol: str) -> Mapping[str, Any]:
    found = (section.get("u_shape") or {}).get(protocol)
    return found if isinstance(found, Mapping) else {}


def whole(value: Any) -> int | None:
    known = finite(value)
    return None if known is None else int(known)


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The mean of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def merge(
    start: np.ndarray, stop: np.ndarray, values: np.ndarray, about: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins joined to `about` many, wider in proportion to their distance but none wider than a 24th of the whole.

    values: [..., bins]; a joined one is the mean over its bins by their widths, of those that are there.
    """
    if len(start) <= about:
        return start, stop, values
    last = float(stop[-1])
    growth = max(last, 2.0) ** (1 / about)
    groups, first = [], 0
    for i in range(len(start)):
        begin = start[first]
        full = i + 1 == len(start) or stop[i + 1] > max(begin * growth, begin + 1) or stop[i + 1] - begin > last / 24
        if full:
            groups.append((first, i + 1))
            first = i + 1
    joined = np.full((*values.shape[:-1], len(groups)), np.nan)
    for column, (a, b) in enumerate(groups):
        there = np.isfinite(values[..., a:b])
        weight = there * (stop - start)[a:b]
        total, width = (np.where(there, values[..., a:b], 0.0) * weight).sum(-1), weight.sum(-1)
        joined[..., column] = np.where(width > 0, total / np.where(width > 0, width, 1.0), np.nan)
    return np.array([start[a] for a, _ in groups]), np.array([stop[b - 1] for _, b in groups]), joined


def span(values: np.ndarray, start: np.ndarray, stop: np.ndarray, low: float, high: float) -> np.ndarray:
    """The mean over the bins whose middle lies in [low, high), by their widths; NaN where there is none."""
    middle = (start + stop - 1) / 2
    weight = np.where((middle >= low) & (middle < high), stop - start, 0.0) * np.isfinite(values)
    total, width = (np.where(weight > 0, values, 0.0) * weight).sum(-1), weight.sum(-1)
    return np.where(width > 0, total / np.where(width > 0, width, 1.0), np.nan)


def rounded(values: Sequence[float] | np.ndarray, digits: int = 4) -> tuple[float | None, ...]:
    """To significant digits, for a page that stays small; None for what is not finite."""
    return tuple(float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=float))


def graded(table: np.ndarray) -> list[tuple[float | None, ...]]:
    """The rows of a table of cells, to three significant digits of its largest value: colours tell no more."""
    there = table[np.isfinite(table)]
    top = float(np.abs(there).max()) if there.size else 0.0
    decimals = 2 - math.floor(math.log10(top)) if top > 0 else 0
    whole_rows = (np.round(table.astype(float), decimals) + 0.0).tolist()  # + 0.0: no minus before a zero
    return [tuple(v if math.isfinite(v) else None for v in row) for row in whole_rows]


def tokens(wavelength: float) -> str:
    """A wavelength: `6.28`, `250`, `47,000`."""
    return number(wavelength) if wavelength < 10 else f"{wavelength:,.0f}" if wavelength < 1e6 else f"{wavelength:.1e}"


def wavelength_in_words(wavelength: float | None) -> str:
    if wavelength is None:
        return ""
    return f"one turn in {tokens(wavelength)} tokens" if math.isfinite(wavelength) else "stands still"
