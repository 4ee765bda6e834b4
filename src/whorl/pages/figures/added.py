"""Encodings that add a vector to the embedding: the vectors of the first positions."""

from __future__ import annotations

import torch
from torch import nn

from whorl.pages.figures.drawing import Subject, cells
from whorl.reports.chart import Chart

TOKENS, CHANNELS = 64, 96


def vectors(subject: Subject, module: nn.Module) -> Chart:
    learned = any(p.requires_grad for p in module.parameters())
    when = ", as drawn at the start" if learned else ""
    with torch.no_grad():
        found = module(torch.arange(TOKENS)[None])[0, :, :CHANNELS]
    return cells(
        subject,
        f"what is added at each position{when}",
        found,
        "position",
        f"channel (the first {CHANNELS})",
        "added",
        diverging=True,
    )
