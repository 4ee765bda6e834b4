"""Encodings of an image's grid: how many patches each pair takes for a turn, and what one pair does to a grid."""

from __future__ import annotations

from dataclasses import replace

import torch

from whorl.encodings import Spectrum
from whorl.encodings.grid import COLUMN, Grid, X, Y
from whorl.encodings.lookhere import DirectedBias
from whorl.encodings.mixed_rope import MixedAngles
from whorl.pages import facts
from whorl.pages.figures.drawing import Subject, cells
from whorl.reports.chart import Chart, CurveChart, CurveView
from whorl.reports.formatting import listing
from whorl.reports.spectrum import wavelengths

SHOWN = 3  # of a head's pairs: one that takes some patches for a turn
PLAIN = "axial-rope"


def turning(subject: Subject, spectrum: Spectrum) -> Chart:
    """Patches per turn of the pairs that go by an axis, beside axial RoPE's where some do not rotate, and how many
    patches the training grid has along it; once for axes that are alike."""
    (plain,) = facts.effects(PLAIN)
    found: dict[CurveView, list[str]] = {}
    counts = []
    for axis in dict.fromkeys(spectrum.axes):
        by, side = ("columns", facts.GRID[1]) if axis in (COLUMN, X) else ("rows", facts.GRID[0])
        own = _along(spectrum, axis, side)
        some_still = len(own.turning) < len(own.frequencies)
        beside = (PLAIN, _along(plain.spectrum, axis, side)) if some_still else None
        view = wavelengths(own, side, beside, "patches")
        found.setdefault(view, []).append(f"by {by}")
        counts.append(f"{len(own.turning)} by {by}")
    views = tuple(replace(view, label=listing(names)) for view, names in found.items())
    turn = f"{len(spectrum.turning)} of {len(spectrum.frequencies)} pairs turn"
    title = f"{subject.name}: {turn}, {listing(counts)} (a grid of {facts.GRID[0]} x {facts.GRID[1]})"
    return CurveChart(subject.name, title, "", (("pair", views[0].axes[0]),), views)


def _along(spectrum: Spectrum, axis: int, side: int) -> Spectrum:
    """The pairs that go by an axis, in radians per patch, of an image that has `side` patches along it."""
    unit = 2 / side if axis in (X, Y) else 1.0  # of an axis on which the image goes from -1 to 1
    pairs = zip(spectrum.frequencies, spectrum.axes, strict=True)
    own = tuple(unit * frequency for frequency, by in pairs if by == axis)
    return Spectrum(own, 2 * len(own))


def view(subject: Subject, module: DirectedBias) -> Chart:
    """What the first head takes from the logits of a patch in the middle, where it looks."""
    rows, columns = facts.GRID
    at = Grid(rows, columns).positions()
    middle = rows // 2 * columns + columns // 2
    found = module(at[:, middle : middle + 1], at)[0, 0, 0].view(rows, columns)
    shown = found.masked_fill(found.isinf(), torch.nan)
    title = f"what one head takes from the logits of a patch in the middle, {module.view} degrees"
    return cells(subject, title, -shown, "row", "column", "taken")


def directions(subject: Subject, module: MixedAngles) -> Chart:
    """The cosine of one pair's angle at each patch, of a head that starts in a direction of its own."""
    rows, columns = facts.GRID
    with torch.no_grad():
        cos, _ = module.turning(Grid(rows, columns).positions(), None, torch.float32)
    found = cos[0, 0, :, SHOWN].view(rows, columns)
    title = f"the cosine of pair {SHOWN}'s angle in one head, at the start"
    return cells(subject, title, found, "row", "column", "cosine", diverging=True)
