"""Encodings that bias the logits: the bias by distance and head, or which distances are told apart."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import numpy as np
import torch
from torch import nn

from whorl.encodings.biases import RelativeBias
from whorl.encodings.fire import InterpolatedBias
from whorl.encodings.lookhere import DirectedBias
from whorl.encodings.t5 import BucketBias
from whorl.encodings.window import WindowBias
from whorl.pages.figures import grids
from whorl.pages.figures.drawing import ADDED, DISTANCE, LOG_DISTANCE, Subject, cells, curves, log_places, steps
from whorl.reports.axes import axis
from whorl.reports.chart import Chart

NEAR = 256  # tokens
FLOOR = -40.0  # where figures end: e^-40 of a weight is nothing


@singledispatch
def drawn(module: nn.Module, subject: Subject) -> Chart:
    """Of any bias: by distance, for the last query of a text."""
    at = placed(module, torch.arange(NEAR)[None])
    with torch.no_grad():
        found = module(at[:, -1:], at)[0, :, 0].flip(-1)
    return _by_head(subject, range(NEAR), found, _learns(module))


def placed(module: nn.Module, positions: torch.Tensor) -> torch.Tensor:
    """Positions [1, tokens] as a module goes by them: with an axis where it goes by all."""
    return positions[..., None] if getattr(module, "axis", None) == "all" else positions


@drawn.register
def _relative(module: RelativeBias, subject: Subject) -> Chart:
    with torch.no_grad():
        return _by_head(subject, range(NEAR), module.of_distance(torch.arange(NEAR)), _learns(module))


@drawn.register
def _buckets(module: BucketBias, subject: Subject) -> Chart:
    found = torch.arange(module.num_buckets).double()[:, None]  # each bucket's number is its own
    module.weight.data = found.expand_as(module.weight).float().contiguous()
    distances = steps(1, 1024)
    of = module.of_distance(torch.tensor(distances).long())[0]
    return told_apart(subject, distances, of.detach().numpy(), f"{module.num_buckets} buckets, a number each per head")


@drawn.register
def _window(module: WindowBias, subject: Subject) -> Chart:
    at = torch.arange(2 * module.size)[None]
    seen = (module(at, at)[0, 0] == 0).tril()
    table = torch.ones(seen.shape).masked_fill(~seen, torch.nan)
    return cells(subject, f"the keys that a query sees, size={module.size}", table, "query", "key", "seen")


@drawn.register
def _directed(module: DirectedBias, subject: Subject) -> Chart:
    return grids.view(subject, module)


@drawn.register
def _functional(module: InterpolatedBias, subject: Subject) -> Chart:
    """By the query's own position, which scales distances."""
    start = round(module.start)
    queries = [start, 4 * start, 16 * start]
    distances = log_places(1, queries[-1])
    lines = []
    with torch.no_grad():
        for query in queries:
            keys = query - torch.tensor(distances).long()
            bias = module(torch.tensor([[query]]), keys[None])[0, 0, 0].double()
            lines.append((f"query at {query:,}", bias.where(keys >= 0, torch.nan).numpy()))
    title = f"one head, as drawn at the start, by the query's position (L = {start})"
    return curves(subject, title, LOG_DISTANCE, ADDED, distances, lines)


def nothing(subject: Subject) -> Chart:
    """What is left without positions: how many keys there are."""
    places = log_places(1, 1024)
    return curves(
        subject,
        "logits that are all alike give the first token a weight that tells the position",
        ("position of the query", "log"),
        ("weight of the first token", "log"),
        places,
        [("1 / (i + 1)", [1 / (at + 1) for at in places])],
    )


def told_apart(subject: Subject, distances: list[float], of: np.ndarray, words: str) -> Chart:
    """The bucket or the row that each distance has."""
    y = axis("bucket", "linear", [0.0, *map(float, of)])
    return curves(
        subject,
        f"which distances are told apart: {words}",
        LOG_DISTANCE,
        replace(y, ticks=tuple(tick for tick in y.ticks if tick[0].is_integer())),
        distances,
        [("", of)],
    )


def _by_head(subject: Subject, distances: range, found: torch.Tensor, learned: bool = False) -> Chart:
    shown = np.linspace(0, len(found) - 1, min(len(found), 6)).astype(int)
    return curves(
        subject,
        f"the bias of {len(shown)} of {len(found)} heads{', as drawn at the start' if learned else ''}",
        DISTANCE,
        ADDED,
        distances,
        [(f"head {head}", found[head].double().numpy()) for head in shown],
        floor=FLOOR,
    )


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())
