"""The charts of an inspection, made from its summaries and arrays. A chart of which nothing was measured is None."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from whorl.reports.axes import axis, cell_ticks, colours, count_axis, log_ticks, row_ticks, tick
from whorl.reports.bins import graded, mean, merge, rounded, span
from whorl.reports.chart import (
    Axis,
    Columns,
    Curve,
    CurveChart,
    CurveFrame,
    CurvePanel,
    CurveView,
    Grid,
    HeatChart,
    HeatFrame,
    HeatPanel,
    HeatRow,
    HeatView,
    Marks,
    Strip,
    StripChart,
    shade,
)
from whorl.reports.charts import pair_of, strip_chart
from whorl.reports.formatting import number, tokens, wavelength_in_words
from whorl.reports.inspection_words import PROTOCOLS
from whorl.results.inspection import Cut, Inspection, Protocol, Snapshot

MEAN_BINS, HEAD_BINS, PAIR_BINS, POSITION_BINS = 120, 48, 48, 24
MOST_HEADS = 1024
"""Heads whose own curves and cells the page carries, of all models together: about 5 MB at 64 pairs."""

LAYERS = "all layers, mean over heads"
KINDS = {
    "previous-token": "previous token",
    "diagonal": "itself",
    "offset": "fixed offset",
    "first-token": "first token",
}
NEAR_OFFSETS = 16
LABELS: dict[Protocol, str] = {"text": "on the text", "random": "random tokens"}

Frame = tuple[str, np.ndarray | None]


def all_charts(models: Sequence[Inspection]) -> dict[str, CurveChart | HeatChart | StripChart]:
    """Every chart that the results are enough for, by name."""
    made: list[CurveChart | HeatChart | StripChart | None] = [
        usage(models),
        logits(models),
        u_shape_by_pair(models),
        pairs_by_distance(models),
        attention(models),
        by_position(models),
        head_scores(models),
        departure(models),
        departure_by_pair(models),
        ablation(models),
        spectrum(models),
        divergence(models),
        training(models),
        training_by_pair(models),
    ]
    return {chart.name: chart for chart in made if chart is not None}


# Frequency usage


def usage(models: Sequence[Inspection]) -> HeatChart | None:
    quantities = {"queries": "norm_q", "keys": "norm_k", "values": "norm_v"}
    views = []
    for label, name in quantities.items():
        found = [m.measured(name) for m in models]
        shared = any(v is not None and v.shape[1] < m.summary.model.heads for m, v in zip(models, found, strict=True))
        views.append(_by_layer_and_pair(models, label, found, noun="key head" if shared else "head"))
    return _heat(
        "usage",
        "Frequency usage: the norm of each pair",
        "The mean 2-norm of each pair of channels. The rotation keeps it, and the product of a query's and a key's "
        "norm bounds what their pair can add to a logit. Values are not rotated: they are the control."
        + _carried(models),
        "pair, fastest first",
        "layer",
        _layer_options(models),
        views,
    )


def _by_layer_and_pair(
    models: Sequence[Inspection],
    label: str,
    found: Sequence[np.ndarray | None],
    scale: Literal["sequential", "diverging"] = "sequential",
    unit: str = "mean 2-norm",
    by_head: bool = True,
    noun: str = "head",
) -> HeatView | None:
    """Layer x pair, mean over heads, and head x pair for each layer, of [layer, head, pair]."""
    if all(values is None for values in found):
        return None
    chosen = _layers_with_heads(models)
    panels, tables = [], []
    for m, values in zip(models, found, strict=True):
        if values is None:
            panels.append(HeatPanel(m.name, (), (), (None,) * (1 + len(chosen))))
            continue
        layers, _, pairs = values.shape
        columns, of_layer = _pair_columns(m, layers, pairs)
        averaged = mean(values, 1)
        tables.append([averaged, *(values[layer] for layer in chosen if layer < layers)])
        frames: list[HeatFrame | None] = [
            HeatFrame(
                "layer",
                row_ticks(layers),
                tuple(HeatRow(f"layer {i}", of_layer[i], row) for i, row in enumerate(graded(averaged))),
            )
        ]
        for layer in chosen:
            cells = values[layer] if by_head and layer < layers else np.empty((0, pairs))
            named = tuple(
                HeatRow(f"layer {layer}, {noun} {h}", of_layer[layer] if layer < layers else 0, row)
                for h, row in enumerate(graded(cells))
            )
            frames.append(HeatFrame(noun, row_ticks(len(named)), named) if named and np.isfinite(cells).any() else None)
        panels.append(HeatPanel(m.name, cell_ticks(pairs), columns, tuple(frames)))
    count = 1 + len(chosen)
    scales = [colours(unit, scale, [t[i] for t in tables if i < len(t)]) for i in range(count)]
    return HeatView(label, tuple(scales), tuple(panels))


# The U-shape


def logits(models: Sequence[Inspection]) -> CurveChart | None:
    views = [
        _by_distance(models, "on the text", "logit", "logit, above its middle distances", centred=True),
        _by_distance(models, "random tokens", "random_logit", "z-score, above its middle distances", centred=True),
    ]
    return _curves(
        "logits",
        "Logits by distance",
        "The mean logit before the softmax by distance from query to key. Each curve is drawn from its own mean over "
        "[3/8 L, 5/8 L), L being the training length: adding a constant to logits changes no attention, and so the "
        "rise of a U-shape can be read from the axis. Random tokens are HoPE's protocol, in z-scores."
        + _carried(models),
        _distance_axes(models),
        "layer",
        _layer_options(models),
        views,
    )


def attention(models: Sequence[Inspection]) -> CurveChart | None:
    views = [
        _by_distance(models, "on the text", "attention", "mean attention", log=True),
        _by_distance(models, "random tokens", "random_attention", "mean attention", log=True),
    ]
    return _curves(
        "attention",
        "Attention by distance",
        "The mean attention, after the softmax, that a query pays to the key at a distance; both axes are logarithmic."
        + _carried(models),
        _distance_axes(models)[:1],
        "layer",
        _layer_options(models),
        views,
    )


def u_shape_by_pair(models: Sequence[Inspection]) -> HeatChart | None:
    """Each pair's part in the rise of the U-shape, from its part in the logit by distance."""
    text = [_rise_by_pair(m, "logit_by_pair") for m in models]
    random = [_rise_by_pair(m, "random_logit_by_pair") for m in models]
    views = [
        _by_layer_and_pair(models, "on the text", text, "diverging", "rise at the far end"),
        _by_layer_and_pair(models, "random tokens", random, "diverging", "rise at the far end", by_head=False),
    ]
    return _heat(
        "u-shape-pairs",
        "Which pairs make the U-shape",
        "The rise of each pair's part in the logit: its mean over the distances [7/8 L, L) less that over "
        "[3/8 L, 5/8 L). The rises of all pairs add up to that of the logit." + _carried(models),
        "pair, fastest first",
        "layer",
        _layer_options(models),
        views,
    )


def _rise_by_pair(m: Inspection, name: str) -> np.ndarray | None:
    """[layer, head, pair]; one head where heads were averaged already."""
    values = m.measured(name)
    if values is None:
        return None
    far, middle = (
        span(values, *m.bins("coarse"), a * m.train_length, b * m.train_length) for a, b in ((7 / 8, 1), (3 / 8, 5 / 8))
    )
    rise = far - middle
    return (rise if values.ndim == 4 else rise[:, None]) if np.isfinite(rise).any() else None


def pairs_by_distance(models: Sequence[Inspection]) -> HeatChart | None:
    """Pair x distance for each layer: what every pair adds to the logit there, above its own mean."""
    views = []
    arrays = (("on the text", "logit_by_pair"), ("random tokens", "random_logit_by_pair"))
    read = {name: [m.measured(name) for m in models] for _, name in arrays}
    deepest = max((len(values) for found in read.values() for values in found if values is not None), default=0)
    for label, name in arrays:
        frames_of: list[list[tuple[HeatFrame | None, np.ndarray | None]]] = []
        places: list[tuple[Marks, Columns] | None] = []
        for m, values in zip(models, read[name], strict=True):
            made = (
                [] if values is None else _pair_frames(m, values, PAIR_BINS if len(models) == 1 else PAIR_BINS * 2 // 3)
            )
            places.append(made[0][2] if made else None)
            shown: list[tuple[HeatFrame | None, np.ndarray | None]] = [(frame, cells) for frame, cells, _ in made]
            frames_of.append(shown + [(None, None)] * (deepest - len(shown)))
        if all(place is None for place in places):
            continue
        panels = tuple(
            HeatPanel(m.name, place[0] if place else (), (place[1],) if place else (), tuple(f for f, _ in frames))
            for m, place, frames in zip(models, places, frames_of, strict=True)
        )
        scales = tuple(
            colours("part in the logit", "diverging", [c for frames in frames_of if (c := frames[i][1]) is not None])
            for i in range(deepest)
        )
        views.append(HeatView(label, scales, panels))
    return _heat(
        "pairs-by-distance",
        "What each pair adds to the logit, by distance",
        "The mean over the heads of a layer of each pair's part in the logit, less that pair's own mean over "
        "distances, which moves no attention from one distance to another.",
        "distance in tokens",
        "layer",
        tuple(f"layer {i}" for i in range(deepest)),
        views,
    )


def _pair_frames(
    m: Inspection, values: np.ndarray, about: int
) -> list[tuple[HeatFrame, np.ndarray, tuple[Marks, Columns]]]:
    averaged = mean(values, 1) if values.ndim == 4 else values.astype(float)
    start, stop, joined = merge(*m.bins("coarse"), averaged, about)
    joined = joined - mean(joined, -1)[..., None]
    labels = tuple(_distance(a, b) for a, b in zip(start, stop, strict=True))
    wanted = [t for t in (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144) if t <= stop[-1] - 1]
    ticks = tuple((float(np.searchsorted(stop, t, "right")) + 0.5, f"{t:,}") for t in wanted)
    marks: Marks = ()
    if start[0] < m.train_length < stop[-1]:
        marks = ((float(np.searchsorted(stop, m.train_length, "right")), "training length"),)
    made = []
    for layer, cells in enumerate(joined):
        waves = _wavelengths(m, layer, len(cells))
        named = tuple(
            HeatRow(f"layer {layer}, {_pair_note(i, waves[i])}", 0, row) for i, row in enumerate(graded(cells))
        )
        frame = HeatFrame("pair", row_ticks(len(named)), named, _cuts(m, layer, len(cells)))
        made.append((frame, cells, (ticks, Columns(labels, marks))))
    return made


def _by_distance(
    models: Sequence[Inspection], label: str, name: str, unit: str, centred: bool = False, log: bool = False
) -> CurveView | None:
    def read(m: Inspection) -> tuple[list[Grid], list[tuple[int, list[Frame]]]] | None:
        values = m.measured(name)
        if values is None:
            return None
        bins = m.bins("distance")
        if centred:
            middle = span(values, *bins, 3 / 8 * m.train_length, 5 / 8 * m.train_length)
            middle = np.where(np.isfinite(middle), middle, mean(values, -1))
            values = values - middle[..., None]
        if log:
            values = np.where(values > 0, values, np.nan)
        return _layers_and_heads(m, models, *bins, values, MEAN_BINS, HEAD_BINS, _distance)

    levels = ((0.0, ""),) if centred else ()
    return _curve_view(models, label, unit, read, "log" if log else "linear", levels, _train_mark)


# Attention by position


def by_position(models: Sequence[Inspection]) -> CurveChart | None:
    """Entropy and the attention on the first token, by the query's position."""

    def reader(name: str) -> Callable[[Inspection], Any]:
        def read(m: Inspection) -> Any:
            values = m.measured(name)
            if values is None:
                return None
            return _layers_and_heads(
                m, models, *m.bins("position"), values, 4 * POSITION_BINS, POSITION_BINS, _position
            )

        return read

    views = [
        _curve_view(models, label, unit, reader(name), "linear", (), _train_mark)
        for label, unit, name in (
            ("entropy", "entropy (nats)", "entropy"),
            ("attention on the first token", "mean attention on the first token", "first_token"),
        )
    ]
    last = _last(models, "position_to")
    ticks = tuple((t, tick(t)) for t in log_ticks(1, last))
    xs = (
        ("linear", axis("position of the query", "linear", [0.0, last])),
        ("log", Axis("position of the query", "log", 0.9, last * 1.05, ticks)),
    )
    return _curves(
        "positions",
        "Attention by position",
        "The entropy of attention, which grows as log(position) where attention is spread evenly, and the attention "
        "paid to the first token, by the position of the query." + _carried(models),
        xs,
        "layer",
        _layer_options(models),
        views,
    )


# Positional heads


def head_scores(models: Sequence[Inspection]) -> HeatChart | None:
    """Layer x head: the mean attention on the previous token, on itself, on the best near offset, on the first."""
    tables = [_scores(m) for m in models]
    views = []
    for label in ("best of these", *KINDS.values()):
        found = [table.get(label) if table else None for table in tables]
        known = [values for values in found if values is not None and np.isfinite(values).any()]
        if not known:
            continue
        panels = []
        for m, values in zip(models, found, strict=True):
            if values is None:
                panels.append(HeatPanel(m.name, (), (), (None,)))
                continue
            named = tuple(HeatRow(f"layer {i}", 0, row) for i, row in enumerate(graded(values)))
            columns = Columns(tuple(f"head {i}" for i in range(values.shape[1])), ())
            frame = HeatFrame("layer", row_ticks(len(named)), named)
            panels.append(HeatPanel(m.name, cell_ticks(values.shape[1]), (columns,), (frame,)))
        views.append(HeatView(label, (colours("mean attention", "sequential", (), high=1.0),), tuple(panels)))
    return _heat(
        "heads",
        "How positional each head is",
        "The mean attention, on the text, that a head pays to the previous token, to the query's own token, to the "
        f"best single distance of 2 to {NEAR_OFFSETS}, and to the first token of the text.",
        "head",
        "",
        ("",),
        views,
    )


def _scores(m: Inspection) -> dict[str, np.ndarray]:
    """[layer, head] for each kind, from the attention arrays."""
    scores: dict[str, np.ndarray] = {}
    paid, first = m.measured("attention"), m.measured("first_token")
    if paid is not None:
        bins = m.bins("distance")
        single = bins[1] - bins[0] == 1
        for kind, at in (("previous-token", 1), ("diagonal", 0)):
            where = np.flatnonzero(single & (bins[0] == at))
            if len(where):
                scores[KINDS[kind]] = paid[..., where[0]].astype(float)
        near = single & (bins[0] >= 2) & (bins[0] <= NEAR_OFFSETS)
        if near.any():
            scores[KINDS["offset"]] = np.where(np.isfinite(paid[..., near]), paid[..., near], -np.inf).max(-1)
    if first is not None:
        scores[KINDS["first-token"]] = mean(first, -1)
    if scores and len({values.shape for values in scores.values()}) == 1:
        stacked = np.array([np.where(np.isfinite(v), v, -np.inf) for v in scores.values()]).max(0)
        scores["best of these"] = np.where(np.isfinite(stacked), stacked, np.nan)
    return {label: np.where(np.isfinite(values), values, np.nan) for label, values in scores.items()}


# Out of range


def departure(models: Sequence[Inspection]) -> CurveChart | None:
    """How far the logits of each layer leave their range, by multiple of the training length."""

    def read(m: Inspection) -> Any:
        section = m.summary.out_of_range
        if section is None:
            return None
        values = [(f"layer {row.layer}", np.array(row.departure, dtype=float)) for row in section.layers]
        if not any(np.isfinite(series).any() for _, series in values):
            return None
        notes = tuple(f"up to {x:g}x the training length" for x in section.multiples)
        return [Grid(tuple(map(float, section.multiples)), notes)], [(0, values)]

    every = _multiples(models)
    if not every:
        return None
    noise = max(section.noise for m in models if (section := m.summary.out_of_range) is not None)
    levels = ((noise, f"noise {number(noise)}"),)
    x = Axis(
        "distances up to, in training lengths", "log", every[0] / 1.1, every[-1] * 1.1,
        tuple((t, f"{t:g}x") for t in every),
    )  # fmt: skip
    return _curves(
        "departure",
        "How far logits leave their range, by layer",
        "The 1-Wasserstein distance of logits at distances (m/2 L, mL] from those at [1, L), in their standard "
        "deviations there. At 1x, in range, it tells how much the far half differs anyway; what lies at the noise is "
        "not resolved.",
        (("log", x),),
        "",
        ("",),
        [_curve_view(models, "departure", "departure (standard deviations)", read, "linear", levels, None)],
        markers=True,
    )


def departure_by_pair(models: Sequence[Inspection]) -> HeatChart | None:
    """Layer x pair at each multiple."""
    found = [m.measured("departure_by_pair") for m in models]
    every = _multiples(models)
    if not every or all(values is None for values in found):
        return None
    panels, tables = [], []
    for m, values in zip(models, found, strict=True):
        section = m.summary.out_of_range
        if values is None or section is None:
            panels.append(HeatPanel(m.name, (), (), (None,) * len(every)))
            continue
        layers, pairs, _ = values.shape
        columns, of_layer = _pair_columns(m, layers, pairs)
        frames: list[HeatFrame | None] = []
        for at in every:
            cells = values[..., section.multiples.index(at)] if at in section.multiples else None
            tables.append((at, cells))
            named = [] if cells is None else [
                HeatRow(f"layer {i}", of_layer[i], row) for i, row in enumerate(graded(cells))
            ]  # fmt: skip
            frames.append(HeatFrame("layer", row_ticks(len(named)), tuple(named)) if named else None)
        panels.append(HeatPanel(m.name, cell_ticks(pairs), columns, tuple(frames)))
    # One scale for all multiples: the departures at each are to be compared.
    whole_scale = colours("departure (standard deviations)", "sequential", [c for _, c in tables if c is not None])
    order = sorted(every, key=lambda x: (x < 2, x))  # 2x, the first multiple outside the range, is shown first
    panels = [HeatPanel(p.name, p.ticks, p.columns, tuple(p.frames[every.index(x)] for x in order)) for p in panels]
    return _heat(
        "departure-pairs",
        "How far logits leave their range, by pair",
        "The same departure for each pair's part in the logit, at the distances that end at a multiple of the training "
        "length.",
        "pair, fastest first",
        "up to",
        tuple(f"{x:g}x the training length" for x in order),
        [HeatView("departure", (whole_scale,) * len(order), tuple(panels))],
    )


def _multiples(models: Sequence[Inspection]) -> list[int]:
    """Those of the training length at which departures of any model were measured."""
    sections = [section for m in models if (section := m.summary.out_of_range) is not None]
    return sorted({multiple for section in sections for multiple in section.multiples})


# Ablation


def ablation(models: Sequence[Inspection]) -> CurveChart | None:
    """Loss in range and past it, over the number of pairs that still turn."""
    sections = [section for m in models if (section := m.summary.ablation) is not None and section.cuts]
    if not sections:
        return None
    lengths = {section.past_length for section in sections if section.past_length is not None}
    past = f"at {lengths.pop():,} tokens" if len(lengths) == 1 else "past the range"
    views = []
    for label, columns in (
        ("change in loss", (("in range", "in_range_change", "in_range_stderr"), (past, "past_change", "past_stderr"))),
        ("loss", (("in range", "in_range", ""), (past, "past", ""))),
    ):

        def read(m: Inspection, columns: tuple[tuple[str, str, str], ...] = columns) -> Any:
            if m.summary.ablation is None or not m.summary.ablation.cuts:
                return None
            table = m.summary.ablation.cuts
            notes = [
                f"pairs {row.cut} and slower stand still"
                + (f", wavelength from {tokens(row.wavelength)}" if row.wavelength is not None else "")
                for row in table
            ]
            grid = Grid(tuple(float(row.cut) for row in table), tuple(notes))
            curves = [(name, _column(table, y), _column(table, band) if band else None) for name, y, band in columns]
            return [grid], [(0, curves)]

        levels = ((0.0, "untouched"),) if label != "loss" else ()
        views.append(_curve_view(models, label, f"{label} (nats per token)", read, "linear", levels, _cut_mark))
    cuts = [float(row.cut) for section in sections for row in section.cuts]
    x = axis("pairs that still turn", "linear", cuts)
    return _curves(
        "ablation",
        "Loss when the slow pairs stand still",
        "Pairs from the cut on are made position-independent in the trained model, without training it again. The "
        "change is against the untouched model on the same windows; bands are one standard error.",
        (("linear", x),),
        "",
        ("",),
        views,
        markers=True,
    )


# Spectrum


def spectrum(models: Sequence[Inspection]) -> StripChart | None:
    """Which pairs turn, and which fully within the training length; layers that agree are drawn once."""
    strips: list[Strip] = []
    for m in models:
        found = m.arrays.get("wavelength")
        if found is None or not found.size:
            continue
        layers = [tuple(_wavelengths(m, layer, found.shape[1])) for layer in range(len(found))]
        distinct = list(dict.fromkeys(layers))
        turning = [sum(w is not None and math.isfinite(w) for w in layer) for layer in distinct]
        pairs = tuple(tuple(pair_of(i, w, m.train_length) for i, w in enumerate(layer)) for layer in distinct)
        cut = m.summary.spectrum.layers[0].hope_cut if len(distinct) == 1 else 0
        mark = float(cut) if 0 < cut <= found.shape[1] else None
        turn = f"{', '.join(map(str, dict.fromkeys(turning)))} of {found.shape[1]}"
        strips.append(Strip(m.name, len(strips), turn, pairs, mark))
    if not strips:
        return None
    lengths = list(dict.fromkeys(f"{m.train_length:,}" for m in models))
    length = f"{lengths[0]} tokens" if len(lengths) == 1 else "the training length"
    return strip_chart("spectrum", tuple(strips), length, "HoPE's cut: what is slower would stand still")


# Divergence and training


def divergence(models: Sequence[Inspection]) -> CurveChart | None:
    """Jensen-Shannon divergence by layer: between lengths, a line per model, and between the models."""
    lengths, between = [], []
    for m in models:
        section = m.summary.divergence
        if section is None:
            continue
        if section.lengths is not None and any(v is not None for v in section.lengths.layers):
            lengths.append((m.name, np.array(section.lengths.layers, dtype=float)))
        if section.models is not None and any(v is not None for v in section.models):
            between.append(("between the models", np.array(section.models, dtype=float)))
    deepest = max((len(y) for _, y in lengths + between), default=0)
    if not deepest:
        return None
    grid = Grid(tuple(map(float, range(deepest))), tuple(f"layer {i}" for i in range(deepest)))
    views = []
    for label, found in (("between two lengths", lengths), ("between the models", between)):
        if found:
            curves = tuple(
                Curve(name, i, rounded(y) + (None,) * (deepest - len(y)), shade=shade(i, len(found)))
                for i, (name, y) in enumerate(found)
            )
            y = axis("divergence (nats)", "linear", [0.0, *_numbers(y for _, y in found)])
            panel = CurvePanel("", (grid,), (CurveFrame(0, curves),), ())
            views.append(CurveView(label, (y,), (panel,), markers=True))
    step = max(1, deepest // 12)
    ticks = tuple((float(i), str(i)) for i in range(0, deepest, step))
    return CurveChart(
        "divergence",
        "Divergence of attention, by layer",
        "The Jensen-Shannon divergence between two mean distributions of attention over relative key positions, in "
        "nats: 0 where they agree, 0.69 where they share nothing.",
        (("linear", Axis("layer", "linear", -0.2, deepest - 0.8, ticks)),),
        tuple(views),
    )


def training(models: Sequence[Inspection]) -> CurveChart | None:
    """The rise of the U-shape and the number of positional heads by training step."""

    def rise(m: Inspection) -> Any:
        table = _steps(m)
        curves = []
        for protocol, words in PROTOCOLS.items():
            us = [at.u_shape.on(protocol) for at in table]
            if any(u is not None for u in us):
                y = np.array([math.nan if u is None else u.rise for u in us])
                width = np.array([math.nan if u is None or u.stderr is None else u.stderr for u in us])
                curves.append((words, y, width))
        return ([_step_grid(table)], [(0, curves)]) if curves else None

    def counts(m: Inspection) -> Any:
        table = _steps(m)
        kinds = dict.fromkeys(head.kind for at in table for head in at.heads)
        curves = [(kind, np.array([float(sum(h.kind == kind for h in at.heads)) for at in table])) for kind in kinds]
        return ([_step_grid(table)], [(0, curves)]) if curves else None

    steps = [float(at.step) for m in models for at in m.summary.training]
    if not steps or max(steps) <= 0:
        return None
    low = min(s for s in steps if s > 0)
    xs = (
        ("linear", axis("training step", "linear", [0.0, max(steps)])),
        (
            "log",
            Axis(
                "training step", "log", low / 1.1, max(steps) * 1.1,
                tuple((t, tick(t)) for t in log_ticks(low, max(steps) * 1.01)),
            ),
        ),
    )  # fmt: skip
    views = [
        _curve_view(models, "rise of the U-shape", "rise at the far end", rise, "linear", ((0.0, ""),), None),
        _curve_view(models, "positional heads", "heads", counts, "linear", (), None),
    ]
    return _curves(
        "training",
        "The U-shape and the positional heads along training",
        "The same measures on the checkpoints of a run; bands are one standard error.",
        xs,
        "",
        ("",),
        views,
        markers=True,
    )


def training_by_pair(models: Sequence[Inspection]) -> HeatChart | None:
    """Pair x step: each pair's rise."""
    views = []
    for protocol, label in LABELS.items():
        panels, tables = [], []
        for m in models:
            told = [(at.step, u.pairs) for at in _steps(m) if (u := at.u_shape.on(protocol)) is not None and u.pairs]
            count = max((len(pairs) for _, pairs in told), default=0)
            cells = np.full((count, len(told)), np.nan)
            for column, (_, pairs) in enumerate(told):
                cells[: len(pairs), column] = [pair.rise for pair in pairs]
            if not told:
                panels.append(HeatPanel(m.name, (), (), (None,)))
                continue
            waves = {pair.pair: pair.wavelength for pair in told[-1][1]}
            named = tuple(HeatRow(_pair_note(i, waves.get(i)), 0, row) for i, row in enumerate(graded(cells)))
            every = max(1, math.ceil(len(told) / 8))
            ticks = tuple((i + 0.5, f"{told[i][0]:,}") for i in range(0, len(told), every))
            columns = Columns(tuple(f"step {step:,}" for step, _ in told), ())
            frame = HeatFrame("pair", row_ticks(count), named, _cuts(m, 0, count))
            panels.append(HeatPanel(m.name, ticks, (columns,), (frame,)))
            tables.append(cells)
        if tables:
            views.append(HeatView(label, (colours("rise at the far end", "diverging", tables),), tuple(panels)))
    return _heat(
        "training-pairs",
        "Each pair's part in the U-shape along training",
        "The rise that each pair adds at the far end, mean over layers and heads, at each checkpoint in turn.",
        "training step",
        "",
        ("",),
        views,
    )


def _steps(m: Inspection) -> list[Snapshot]:
    return sorted(m.summary.training, key=lambda at: at.step)


def _step_grid(table: Sequence[Snapshot]) -> Grid:
    return Grid(tuple(float(at.step) for at in table), tuple(f"step {at.step:,}" for at in table))


# Shared


def _layers_with_heads(models: Sequence[Inspection]) -> list[int]:
    """The layers whose heads the page carries: all of them, or those with positional heads first."""
    heads = sum(m.summary.model.heads for m in models)
    layers = max((m.summary.model.layers for m in models), default=0)
    if not heads or not layers:
        return []
    positional = {head.layer for m in models for head in m.summary.heads or ()}
    wanted = sorted(range(layers), key=lambda layer: (layer not in positional, layer))
    return sorted(wanted[: max(1, MOST_HEADS // heads)])


def _carried(models: Sequence[Inspection]) -> str:
    """A remark where the page does not carry the heads of every layer."""
    carried, every = len(_layers_with_heads(models)), max((m.summary.model.layers for m in models), default=0)
    return f" Heads are shown of {carried} of {every} layers, those with positional heads first." * (carried < every)


def _layer_options(models: Sequence[Inspection]) -> tuple[str, ...]:
    return (LAYERS, *(f"layer {layer}, its heads" for layer in _layers_with_heads(models)))


def _layers_and_heads(
    m: Inspection,
    models: Sequence[Inspection],
    start: np.ndarray,
    stop: np.ndarray,
    values: np.ndarray,
    fine: int,
    coarse: int,
    name: Callable[[float, float], str],
) -> tuple[list[Grid], list[tuple[int, list[Frame]]]]:
    """The mean of each layer on a fine grid, and each head of the chosen layers on a coarse one."""
    per_layer = merge(start, stop, mean(values, 1), fine)
    chosen = _layers_with_heads(models)
    of_heads = merge(start, stop, values[[layer for layer in chosen if layer < len(values)]], coarse)
    grids = [_grid(a, b, name) for a, b, _ in (per_layer, of_heads)]
    frames: list[tuple[int, list[Frame]]] = [(0, [(f"layer {i}", row) for i, row in enumerate(per_layer[2])])]
    for layer, heads in zip(chosen, of_heads[2], strict=False):
        frames.append((1, [(f"head {i}", row) for i, row in enumerate(heads)]))
        assert layer < len(values)
    return grids, frames


def _grid(start: np.ndarray, stop: np.ndarray, name: Callable[[float, float], str]) -> Grid:
    """The middle of each bin; place 0 stands at 0.5, where a logarithmic axis can show it."""
    x = np.maximum((start + stop - 1) / 2, 0.5)
    return Grid(tuple(float(v) for v in x), tuple(name(a, b) for a, b in zip(start, stop, strict=True)))


def _curve_view(
    models: Sequence[Inspection],
    label: str,
    unit: str,
    read: Callable[[Inspection], Any],
    scale: Literal["log", "linear"],
    levels: Marks,
    mark: Callable[[Inspection], Marks] | None,
) -> CurveView | None:
    """`read` gives (grids, frames) of a model, or None; a frame is (its grid, curves of (name, y, half a band)."""
    found = [read(m) for m in models]
    options = max((len(frames) for _, frames in filter(None, found)), default=0)
    if not options:
        return None
    panels, axes = [], []
    for m, read_of in zip(models, found, strict=True):
        grids, frames = read_of or ([], [])
        shown = [
            CurveFrame(
                grid,
                tuple(_curve(i, shade(i, len(curves)), 3 if grid else 4, *curve) for i, curve in enumerate(curves)),
            )
            for grid, curves in frames
        ]
        marks = mark(m) if mark is not None else ()
        panels.append(CurvePanel(m.name, tuple(grids), (*shown, *([None] * (options - len(shown)))), marks))
    for option in range(options):
        curves = [c for p in panels if (f := p.frames[option]) is not None for c in f.curves]
        values = [v for c in curves for v in (*c.y, *c.low, *c.high) if v is not None]
        values += [value for value, _ in levels]
        axes.append(axis(unit, scale, values or [1.0, 2.0]))
    return CurveView(label, tuple(axes), tuple(panels), levels)


def _curve(
    index: int, place: float | None, digits: int, name: str, y: np.ndarray, width: np.ndarray | None = None
) -> Curve:
    if width is None or not np.isfinite(width).any():
        return Curve(name, index, rounded(y, digits), shade=place)
    low, high = (rounded(y + side * width, digits) for side in (-1, 1))
    return Curve(name, index, rounded(y, digits), low, high, shade=place)


def _curves(
    name: str,
    title: str,
    caption: str,
    xs: tuple[tuple[str, Axis], ...],
    selector: str,
    options: tuple[str, ...],
    views: Sequence[CurveView | None],
    markers: bool = False,
) -> CurveChart | None:
    """The chart of the views that there are; None without any. Every view has a frame, or None, for every option."""
    kept = []
    for view in filter(None, views):
        short = len(options) - len(view.axes)
        panels = tuple(CurvePanel(p.name, p.grids, p.frames + (None,) * short, p.marks) for p in view.panels)
        axes = view.axes + view.axes[:1] * short
        kept.append(CurveView(view.label, axes, panels, view.levels, markers=markers))
    return CurveChart(name, title, caption, xs, tuple(kept), selector, options) if kept else None


def _heat(
    name: str,
    title: str,
    caption: str,
    x_label: str,
    selector: str,
    options: tuple[str, ...],
    views: Sequence[HeatView | None],
) -> HeatChart | None:
    kept = tuple(view for view in views if view is not None)
    return HeatChart(name, title, caption, x_label, selector, options, kept) if kept else None


def _distance_axes(models: Sequence[Inspection]) -> tuple[tuple[str, Axis], ...]:
    last = _last(models, "distance_to")
    label = "distance from query to key, in tokens"
    return ("log", count_axis(label, last)), ("linear", axis(label, "linear", [0.0, last]))


def _last(models: Sequence[Inspection], name: str) -> float:
    """The end of the last bin of any model."""
    ends = [ends for m in models if (ends := m.measured(name)) is not None]
    return max((float(np.nanmax(values)) for values in ends), default=2.0)


def _train_mark(m: Inspection) -> Marks:
    return ((float(m.train_length), "training length"),)


def _cut_mark(m: Inspection) -> Marks:
    return () if m.summary.ablation is None else ((float(m.summary.ablation.hope_cut), "HoPE's cut"),)


def _cuts(m: Inspection, layer: int, pairs: int) -> Marks:
    """Where HoPE and p-RoPE 0.75 cut the pairs of a layer, in pairs from the first."""
    told = m.summary.spectrum.layers[layer]
    cuts = ((told.hope_cut, "HoPE's cut"), (told.p_rope_cut, "p-RoPE 0.75"))
    return tuple((float(cut), words) for cut, words in cuts if 0 < cut < pairs)


def _wavelengths(m: Inspection, layer: int, pairs: int) -> list[float | None]:
    """Tokens of one turn of each pair: infinity where it stands still, None where that is not told."""
    found = m.arrays.get("wavelength")
    if found is None or layer >= len(found):
        return [None] * pairs
    return [None if np.isnan(value) else float(value) for value in found[layer, :pairs]]


def _pair_columns(m: Inspection, layers: int, pairs: int) -> tuple[tuple[Columns, ...], list[int]]:
    """The different kinds of columns that the layers have, and which of them each layer has."""
    kinds: dict[Columns, int] = {}
    of_layer = []
    for layer in range(layers):
        notes = tuple(_pair_note(i, w) for i, w in enumerate(_wavelengths(m, layer, pairs)))
        of_layer.append(kinds.setdefault(Columns(notes, _cuts(m, layer, pairs)), len(kinds)))
    return tuple(kinds), of_layer


def _pair_note(pair: int, wavelength: float | None) -> str:
    words = wavelength_in_words(wavelength)
    return f"pair {pair}, {words}" if words else f"pair {pair}"


def _distance(start: float, stop: float) -> str:
    return f"distance {start:,.0f}" if stop - start <= 1 else f"distances {start:,.0f} to {stop - 1:,.0f}"


def _position(start: float, stop: float) -> str:
    return f"position {start:,.0f}" if stop - start <= 1 else f"positions {start:,.0f} to {stop - 1:,.0f}"


def _column(table: Sequence[Cut], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in table], dtype=float)  # NaN for None


def _numbers(tables: Iterable[np.ndarray]) -> list[float]:
    return [float(v) for table in tables for v in table[np.isfinite(table)]]
