"""The figure of a spectrum: wavelengths, B(m) and the bound on long-term decay (whorl.theory)."""

from itertools import pairwise

import numpy as np

from whorl import theory
from whorl.encodings import Spectrum
from whorl.reports.axes import axis, cell_ticks
from whorl.reports.bins import rounded
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid

FULLY, NEVER, STILL = "turns fully", "never turns fully in L", "does not rotate"
UNPAIRED = "in no pair"
LIMIT = 2**20
"""Distances among which the first with B(m) < 0 is looked for."""
PLACES = 2000
OTHER = 6
"""The series of a spectrum that is shown beside another: grey."""


def states(found: Spectrum, train_length: int) -> list[str]:
    """What each pair does within the training length."""
    slow = set(theory.out_of_range(found, train_length))
    return [STILL if f == 0 else NEVER if i in slow else FULLY for i, f in enumerate(found.frequencies)]


def chart(title: str, found: Spectrum, train_length: int) -> CurveChart:
    """Three views, one below the other: tokens per turn of each pair, B(m), and RoFormer's bound."""
    first = theory.max_context(found, LIMIT)
    reach = 2 * max(train_length, first or 0)
    below = "" if first is None else f"; dashed: the first below 0, m = {first:,}"
    curve = theory.b_curve(found, reach)
    places = _telling(curve)
    distances = np.unique(np.geomspace(1, reach, PLACES).astype(int))
    views = (
        wavelengths(found, train_length),
        _by_distance(f"B(m) (2405.14591){below}", "sum of cos(m theta)", places, curve[places], train_length, first),
        _by_distance(
            "bound on long-term decay (2104.09864)", "mean |S_j|",
            *(distances, theory.decay_bound(found, distances), train_length),
        ),
    )  # fmt: skip
    return CurveChart("spectrum", title, "", (("pair", views[0].axes[0]),), views)


def wavelengths(
    found: Spectrum, train_length: int, beside: tuple[str, Spectrum] | None = None, unit: str = "tokens"
) -> CurveView:
    """Tokens per turn of each pair, and which of them turn fully. beside: another spectrum by its name, in grey.

    unit: what positions count.
    """
    what = states(found, train_length)
    pairs, places = len(what), found.head_dim // 2
    unpaired = (None,) * (places - pairs)
    curves = []
    if beside is not None:
        curves.append(Curve(beside[0], OTHER, rounded(beside[1].wavelengths, 6), faint=True))
    for i, state in enumerate((FULLY, NEVER)):
        if state in what:
            waves = zip(found.wavelengths, what, strict=True)
            curves.append(Curve(state, i, (*(float(w) if s == state else None for w, s in waves), *unpaired)))
    known = [value for c in curves for value in c.y if value is not None]
    still = [i for i, state in enumerate(what) if state == STILL]
    begins = [i for i in still if i - 1 not in still]
    ends = [i for i in still if i + 1 not in still]
    spans = tuple((a - 0.5, b + 0.5, STILL if b - a >= places / 16 else "") for a, b in zip(begins, ends, strict=True))
    if unpaired:
        spans += ((pairs - 0.5, places - 0.5, UNPAIRED),)
    grid = Grid(tuple(map(float, range(places))), tuple(f"pair {i}" for i in range(places)))
    panel = CurvePanel("", (grid,), (CurveFrame(0, tuple(curves)) if curves else None,), (), spans)
    level = ((float(train_length), f"L = {train_length:,} {unit}"),)
    ticks = tuple((at - 0.5, label) for at, label in cell_ticks(places))
    x = Axis("pair", "linear", -1.0, float(places), ticks)
    y = axis(f"{unit} per turn", "log", [*known, float(train_length)])
    return CurveView("wavelengths", (y,), (panel,), level, "left", x, markers=True)


def _by_distance(
    label: str, unit: str, places: np.ndarray, values: np.ndarray, train_length: int, first: int | None = None
) -> CurveView:
    marks = ((float(train_length), "L"),) + (() if first is None else ((float(first), ""),))
    grid = Grid(tuple(map(float, places)), tuple(f"distance {m:,}" for m in places))
    panel = CurvePanel("", (grid,), (CurveFrame(0, (Curve("", 0, rounded(values, 6), faint=True),)),), marks)
    y = axis(unit, "linear", [0.0, *map(float, values)])
    return CurveView(label, (y,), (panel,), ((0.0, ""),), x=axis("distance m, tokens", "log", [1.0, float(places[-1])]))


def _telling(curve: np.ndarray) -> np.ndarray:
    """Distances from 1 on that show a curve as it is: of each stretch of it the lowest and the highest, and the first
    below zero."""
    edges = np.unique(np.geomspace(1, len(curve), PLACES).astype(int))
    stretches = [(a, curve[a:b]) for a, b in pairwise(edges)]
    below = np.flatnonzero(curve < 0)[:1]
    kept = [at + pick(part) for at, part in stretches for pick in (np.argmin, np.argmax)]
    return np.unique([*kept, *below])
