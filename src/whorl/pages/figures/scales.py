"""Encodings that scale the logits: the factor by the number of keys that a query sees."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import torch
from torch import nn

from whorl.encodings.head_scale import LearnedLine
from whorl.encodings.llama4_scale import Steps
from whorl.encodings.log_n import LogarithmOfCounts
from whorl.encodings.ssmax import LearnedLogarithm
from whorl.pages.figures.drawing import Subject, curves, log_places
from whorl.reports.chart import Chart, Marks

KEYS = log_places(1, 131072, 240)


@singledispatch
def drawn(module: nn.Module, subject: Subject) -> Chart:
    return _chart(subject, "the factor", [("", _factor(module))])


@drawn.register
def _steps(module: Steps, subject: Subject) -> Chart:
    return _chart(subject, f"the factor, in steps of {module.every:,} tokens", [("", _factor(module))])


@drawn.register
def _logarithm(module: LogarithmOfCounts, subject: Subject) -> Chart:
    sloped = LogarithmOfCounts(module.train_length, 0.5)
    lines = [("slope=0.5", _factor(sloped)), (subject.name, _factor(module))]
    return _chart(subject, "the factor, 1 up to L", lines, ((module.train_length, f"L = {module.train_length}"),))


@drawn.register
def _learned_logarithm(module: LearnedLogarithm, subject: Subject) -> Chart:
    start = float(module.s[0].detach())
    lines = []
    with torch.no_grad():
        for name, s in (
            ("twice the start", 2 * start),
            (f"the start, s = {start:.3f}", start),
            ("half the start", start / 2),
        ):
            module.s.fill_(s)
            lines.append((name, _factor(module)))
    return _chart(subject, "the factor s ln n, as a head may learn s", lines)


@drawn.register
def _learned_line(module: LearnedLine, subject: Subject) -> Chart:
    lines = []
    with torch.no_grad():
        for a in (0.1, 0.0, -0.05):
            module.a.fill_(a)
            lines.append((f"a = {a:g}, b = 1{'' if a else ' (the start)'}", _factor(module)))
    return _chart(subject, "the factor a ln n + b, as a head may learn it", lines)


def _factor(module: nn.Module) -> np.ndarray:
    """Of one head, for a query that sees so many keys, and is the last of them."""
    counts = torch.tensor([KEYS]).long()
    with torch.no_grad():
        found: np.ndarray = module(counts, counts - 1)[0, 0].double().numpy()
    return found


def _chart(subject: Subject, title: str, lines: list[tuple[str, np.ndarray]], marks: Marks = ()) -> Chart:
    return curves(
        subject,
        title,
        ("keys that the query sees", "log"),
        ("times the logits", "linear"),
        KEYS,
        lines,
        levels=((1.0, ""),),
        marks=marks,
    )
