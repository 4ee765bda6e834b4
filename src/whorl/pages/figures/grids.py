"""Encodings of an image's grid: how many patches each pair takes for a turn, and what one pair does to a grid."""

from __future__ import annotations

import math

import torch

from whorl.encodings import Spectrum
from whorl.encodings.grid import COLUMN, ROW, Grid, X, Y
from whorl.encodings.mixed_rope import MixedAngles
from whorl.pages import facts
from whorl.pages.figures.drawing import Subject, cells, curves
from whorl.reports.chart import Chart

AXES = {COLUMN: "by columns", ROW: "by rows", X: "by columns", Y: "by rows"}
SHOWN = 3  # of a head's pairs: one that takes some patches for a turn


def turning(subject: Subject, spectrum: Spectrum) -> Chart:
    """Patches per turn of each axis's pairs that turn, in the training grid."""
    grid = facts.GRID
    half = {X: grid[1] / 2, Y: grid[0] / 2}  # patches in one unit of an axis that goes from -1 to 1
    pairs = len(spectrum.frequencies) // 2
    lines = []
    for axis in dict.fromkeys(spectrum.axes):
        own = [f for f, a in zip(spectrum.frequencies, spectrum.axes, strict=True) if a == axis]
        lines.append((AXES[axis], [math.tau / f * half.get(axis, 1) if f else math.nan for f in own]))
    if lines[0][1] == lines[1][1]:
        lines = [("by columns, and by rows", lines[0][1])]
    return curves(
        subject,
        f"{len(spectrum.turning)} of {2 * pairs} pairs turn, half of them by columns (a grid of {grid[0]} x {grid[1]})",
        ("pair of an axis", "linear"),
        ("patches per turn", "log"),
        range(pairs),
        lines,
        markers=True,
    )


def directions(subject: Subject, module: MixedAngles) -> Chart:
    """The cosine of one pair's angle at each patch, of a head that starts in a direction of its own."""
    rows, columns = facts.GRID
    with torch.no_grad():
        cos, _ = module.tables(Grid(rows, columns).positions(), None, torch.float32)
    found = cos[0, 0, :, SHOWN].view(rows, columns)
    title = f"the cosine of pair {SHOWN}'s angle in one head, at the start"
    return cells(subject, title, found, "row", "column", "cosine", diverging=True)
