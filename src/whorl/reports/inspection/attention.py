"""What the softmax makes of the logits: attention by distance and by the query's position."""

from typing import Literal

import numpy as np

from whorl.reports.axes import axis, log_ticks, tick
from whorl.reports.chart import Axis, Chart, CurveView
from whorl.reports.document import Block
from whorl.reports.inspection.drawing import (
    HEAD_BINS,
    MEAN_BINS,
    Lines,
    Models,
    carried,
    curve_view,
    curves,
    distance_axes,
    last,
    layer_options,
    layers_and_heads,
    train_mark,
)
from whorl.reports.inspection.telling import LABELS, Charts, Finding, aside, section, share
from whorl.results.inspection import Inspection

POSITION_BINS = 24
LITTLE = 0.05
"""Attention on the first token that is not worth a layer's name."""


def charts(models: Models) -> list[Chart | None]:
    end = last(models, "position_to")
    label, ticks = "position of the query", tuple((t, tick(t)) for t in log_ticks(1, end))
    options = ("layer", layer_options(models))
    by_distance = curves(
        "attention",
        "Attention by distance",
        "The mean attention, after the softmax, that a query pays to the key at a distance; both axes are logarithmic. "
        "The first token is among the keys, and at the far end almost alone: a rise there is attention to it."
        + carried(models),
        distance_axes(models)[:1],
        [
            _view(models, LABELS["text"], "mean attention", "attention", "distance"),
            _view(models, LABELS["random"], "mean attention", "random_attention", "distance"),
        ],
        *options,
    )
    by_position = curves(
        "positions",
        "Attention by position",
        "The entropy of attention, which grows as log(position) where attention is spread evenly, and the attention "
        "paid to the first token, by the position of the query." + carried(models),
        (("linear", axis(label, "linear", [0.0, end])), ("log", Axis(label, "log", 0.9, end * 1.05, ticks))),
        [
            _view(models, "entropy", "entropy (nats)", "entropy", "position"),
            _view(
                models, "attention on the first token", "mean attention on the first token", "first_token", "position"
            ),
        ],
        *options,
    )
    return [by_distance, by_position]


def _view(models: Models, label: str, unit: str, name: str, over: Literal["distance", "position"]) -> CurveView | None:
    """Attention by distance is drawn on a logarithmic axis, where what is not above zero has no place."""

    def read(m: Inspection) -> Lines | None:
        values = m.measured(name)
        if values is None:
            return None
        if over == "position":
            return layers_and_heads(m, models, m.bins(over), values, over, 4 * POSITION_BINS, POSITION_BINS)
        values = np.where(values > 0, values, np.nan)
        return layers_and_heads(m, models, m.bins(over), values, over, MEAN_BINS, HEAD_BINS)

    return curve_view(models, label, unit, read, "log" if over == "distance" else "linear", marks=train_mark)


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = (
        "What the softmax makes of the logits: the attention paid at each distance, how widely each query spreads it, "
        "and how much falls on the first token."
    )
    shown = [charts.get("attention"), charts.get("positions")]
    return section("Attention", said, models, shown, ["attention", "entropy", "first_token"])


def findings(m: Inspection) -> list[Finding]:
    """How much the first token draws."""
    known = [(row.text, row) for row in m.summary.first_token or () if row.text is not None]
    if not known:
        return []
    most, row = max(known, key=lambda item: item[0])
    random = f", {share(row.random)} on random tokens" if row.random is not None else ""
    if max(most, *(row.random or 0.0 for _, row in known)) < LITTLE:
        said = f"The first token draws little: at most {share(most)} of a layer's attention on the text{aside(m)}."
    else:
        where = f"in layer {row.layer}{aside(m)}"
        said = f"The first token draws most {where}: {share(most)} of the attention on the text{random}."
    return [Finding(said, "positions")]
