"""Encodings that add a vector to the embedding: the vectors of the first positions."""

from __future__ import annotations

import torch
from torch import nn

from whorl.encodings.grid import Grid
from whorl.pages.figures.drawing import Subject, cells
from whorl.reports.chart import Chart

TOKENS, CHANNELS = 64, 96
SIDE = 8  # of a grid of as many patches


def vectors(subject: Subject, module: nn.Module) -> Chart:
    learned = any(p.requires_grad for p in module.parameters())
    when = ", as drawn at the start" if learned else ""
    on_grid = getattr(module, "axis", None) == "grid"
    where = (Grid(SIDE, SIDE), torch.device("cpu")) if on_grid else (torch.arange(TOKENS)[None],)
    with torch.no_grad():
        found = module(*where)[0, :, :CHANNELS]
    return cells(
        subject,
        f"what is added at each {f'patch of a grid of {SIDE} x {SIDE}' if on_grid else 'position'}{when}",
        found,
        "patch, row by row" if on_grid else "position",
        f"channel (the first {CHANNELS})",
        "added",
        diverging=True,
    )
