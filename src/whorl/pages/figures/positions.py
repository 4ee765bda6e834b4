"""Encodings that go by other positions than a token's own: which, or at what distance a key is scored."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from whorl.encodings.darope import ChosenPositions
from whorl.encodings.randomized import RandomPositions
from whorl.encodings.rerope import Rectified
from whorl.encodings.self_extend import Grouped
from whorl.encodings.two_rotations import TwoRotations
from whorl.pages.figures.drawing import Subject, curves, random
from whorl.reports.chart import Chart

TOKENS = 96
OWN = "its own"


def drawn(module: nn.Module, subject: Subject) -> Chart:
    """Of what changes positions: three draws for a short text."""
    assert isinstance(module, RandomPositions)
    length, count = module.length, TOKENS
    found = module._draw(3, count)
    lines = [(f"draw {i + 1}", row.double().numpy()) for i, row in enumerate(found)]
    return curves(
        subject,
        f"the positions of {count} tokens, drawn from {length:,}",
        ("token", "linear"),
        ("position in training", "linear"),
        range(count),
        [(OWN, range(count)), *lines],
        other=OWN,
    )


def mapped(module: TwoRotations, subject: Subject) -> Chart:
    """At which distance a key is scored, by the one that it is at; two settings."""
    shown: list[tuple[str, TwoRotations]]
    of_pairs, layout = module.frequencies, module.layout
    if isinstance(module, Grouped):
        shown = [(f"group={g}", Grouped(of_pairs, layout, module.window, g)) for g in (4, module.group, 16)]
    else:
        shown = [(f"leak={leak:g}", Rectified(of_pairs, layout, module.window, leak)) for leak in (0.1, 0.0)]
    last = 16 * module.window
    key, query = torch.zeros(1, last).long(), torch.arange(last)[None]
    lines = []
    for name, one in shown:
        of_q, of_k = one.far(query, key)
        at = torch.where(query < one.window, query, of_q - of_k)[0]
        lines.append((name, at.double().numpy()[::4]))
    trained = 4 * module.window
    return curves(
        subject,
        f"the distance at which a key is scored, window={module.window}",
        ("distance, tokens", "linear"),
        ("scored at", "linear"),
        range(0, last, 4),
        [("rope", range(0, last, 4)), *lines],
        other="rope",
        levels=((trained, f"L = {trained:,}"),),
        marks=((module.window, "window"),),
    )


def chosen(module: nn.Module, subject: Subject, width: int) -> Chart:
    """The positions that tokens of random content choose in two heads, at the start of training."""
    length = module.train_length if isinstance(module, ChosenPositions) else None
    count, content = (TOKENS, 1.0) if length is None else (3 * length // 2, 0.3)
    every = max(1, count // TOKENS)
    at = torch.arange(count)[None]
    with torch.no_grad():
        state = module.tokens(content * random(1, count, width), at, None, None)[0, :, :2, 0]  # type: ignore[operator]
    lines = [(f"head {head}", state[::every, head].double().numpy()) for head in range(state.shape[1])]
    levels = () if length is None else ((float(length), f"L = {length}"),)
    beside = [] if length is None else [(OWN, [float(x) for x in range(0, count, every)])]
    return curves(
        subject,
        "the positions that tokens of random content choose, before training",
        ("token", "linear"),
        ("chosen position", "linear"),
        range(0, count, every),
        [*beside, *lines],
        other=OWN,
        levels=levels,
    )


def accumulated(angles: torch.Tensor, subject: Subject) -> Chart:
    """Angles [tokens, pairs] that grow along a text of random content."""
    along = np.unwrap(angles.double().numpy(), axis=0)
    along -= math.tau * np.round(along[0] / math.tau)
    return curves(
        subject,
        "the angle of a pair along a text of random content, before training",
        ("token", "linear"),
        ("radians", "linear"),
        range(len(along)),
        [(f"pair {pair}", along[:, pair]) for pair in range(0, along.shape[1], max(1, along.shape[1] // 5))],
    )
