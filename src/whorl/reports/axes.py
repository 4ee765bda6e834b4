"""Limits and ticks of axes, and what the colours of cells mean: decided here for every chart."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from whorl.reports.bins import largest
from whorl.reports.chart import Axis, Colours, Marks

MOST_ROW_TICKS = 18
ROUNDING = 1.005
"""Limits have three digits; what is above one by no more than that is not past it."""


def axis(label: str, scale: Literal["log", "linear"], values: Sequence[float]) -> Axis:
    """Limits that hold every value with a little room, and round ticks."""
    low, high = min(values), max(values)
    if scale == "log" and low > 0:
        room = max((high / low) ** 0.06, 1.04)
        low, high = low / room, high * room
        return Axis(label, "log", low, high, tuple((t, tick(t)) for t in log_ticks(low, high)))
    room = max((high - low) * 0.06, abs(high) * 0.01, 1e-6)
    low, high = low - room, high + room
    return Axis(label, "linear", low, high, tuple((t, tick(t)) for t in linear_ticks(low, high)))


def percent_axis(label: str) -> Axis:
    """From 0 to 100 %."""
    return Axis(label, "linear", -0.02, 1.04, tuple((t, f"{100 * t:.0f} %") for t in (0.0, 0.25, 0.5, 0.75, 1.0)))


def count_axis(label: str, last: float) -> Axis:
    """A logarithmic axis over counts from 0 to `last`; 0 stands at a half."""
    ticks = ((0.5, "0"), *((t, tick(t)) for t in log_ticks(1.0, last)))
    return Axis(label, "log", 0.45, last * 1.05, ticks)


def tick(value: float) -> str:
    return f"{value:.0e}" if value >= 1e6 else f"{value:,.10g}"


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values from low to high, in steps of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values from low to high: the sparsest of a few ladders that has at least four, thinned to eight."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for ladder in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [t for p in powers for m in ladder if low <= (t := m * 10.0**p) <= high]
        if len(ticks) >= 4:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return ticks if len(ticks) >= 3 else linear_ticks(low, high, 4)


def cell_ticks(count: int) -> Marks:
    """The numbers of cells at their middle: all of a few, else every second, fourth, ..., about eight."""
    every = max(1, 2 ** round(math.log2(max(count, 1) / 8))) if count > 8 else 1
    return tuple((i + 0.5, str(i)) for i in range(0, count, every))


def row_ticks(count: int) -> Marks:
    """The numbers of rows at their middle, thinned to what fits beside them."""
    every = -(-count // MOST_ROW_TICKS)
    return tuple((i + 0.5, str(i)) for i in range(0, count, every))


def colours(
    label: str,
    scale: Literal["sequential", "diverging"],
    tables: Iterable[np.ndarray | None],
    high: float | None = None,
) -> Colours:
    """Limits (from 0; of a diverging scale to both sides of it) that hold the values of the tables, or `high`.

    A few that are far larger than all others would wash them out: past the limits then, and told in `beyond`.
    """
    values = [t[np.isfinite(t)] for t in tables if t is not None]
    flat = np.concatenate(values) if values else np.zeros(0)
    top = _short(largest(np.abs(flat)) or 1.0) if high is None else high
    low = -top if scale == "diverging" else 0.0
    past = flat[np.abs(flat) > top * ROUNDING]
    return Colours(label, scale, low, top, (tick(low), tick(top)), _beyond(past, scale))


def _beyond(past: np.ndarray, scale: str) -> str:
    if not past.size:
        return ""
    count = f"{past.size:,} cell{'' if past.size == 1 else 's'} beyond"
    if scale == "diverging" and past.min() < 0 < past.max():
        return f"{count}, from {tick(_short(past.min()))} to {tick(_short(past.max()))}"
    return f"{count}, up to {tick(_short(past[np.abs(past).argmax()]))}"


def _short(value: float) -> float:
    return float(f"{value:.3g}")
