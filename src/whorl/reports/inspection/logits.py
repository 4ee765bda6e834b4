"""Logits by distance: the U-shape, and the pairs that make it."""

import math
from collections.abc import Sequence

import numpy as np

from whorl.reports.bins import mean, merge, span
from whorl.reports.chart import Chart, Columns, CurveView, HeatChart, HeatView, Marks
from whorl.reports.document import Block, Figure, Row, Table
from whorl.reports.formatting import DASH, capital, number, tokens, with_spread
from whorl.reports.inspection.drawing import (
    HEAD_BINS,
    MEAN_BINS,
    Cells,
    Lines,
    Models,
    bin_note,
    by_layer_and_pair,
    carried,
    cells,
    curve_view,
    curves,
    cuts,
    distance_axes,
    heat,
    heat_view,
    layer_options,
    layers_and_heads,
    pair_note,
    train_mark,
    wavelengths,
)
from whorl.reports.inspection.telling import (
    LABELS,
    PROTOCOLS,
    Charts,
    Finding,
    absent,
    mean_over,
    pairs_in_words,
    runs,
    section,
    share,
)
from whorl.results.inspection import Activated, FirstPair, Inspection, Protocol, UShape

PAIR_BINS = 48


def charts(models: Models) -> list[Chart | None]:
    hidden = " A layer whose window hides these distances is drawn from its mean over all that it sees."
    logits = curves(
        "logits",
        "Logits by distance",
        "The mean logit before the softmax by distance from query to key. Each curve is drawn from its own mean over "
        "[3/8 L, 5/8 L), L being the training length, or the window where that is shorter: adding a constant to "
        "logits changes no attention, and so the rise of a U-shape can be read from the axis. Random tokens are HoPE's "
        "protocol, in z-scores."
        + hidden * any(w is not None and w <= 3 / 8 * m.reach for m in models for w in m.summary.model.windows)
        + carried(models),
        distance_axes(models),
        [
            _above_the_middle(models, LABELS["text"], "logit", "logit"),
            _above_the_middle(models, LABELS["random"], "random_logit", "z-score"),
        ],
        "layer",
        layer_options(models),
    )
    makers = heat(
        "u-shape-pairs",
        "Which pairs make the U-shape",
        "The rise of each pair's part in the logit: its mean over the distances [7/8 L, L) less that over "
        "[3/8 L, 5/8 L). The rises of all pairs add up to that of the logit." + carried(models),
        "pair, fastest first",
        [
            _rises(models, LABELS["text"], "logit_by_pair", "head"),
            _rises(models, LABELS["random"], "random_logit_by_pair", ""),
        ],
        "layer",
        layer_options(models),
    )
    return [logits, makers, _pairs_by_distance(models)]


def _above_the_middle(models: Models, label: str, name: str, unit: str) -> CurveView | None:
    def read(m: Inspection) -> Lines | None:
        values = m.measured(name)
        if values is None:
            return None
        bins = m.bins("distance")
        middle = span(values, *bins, 3 / 8 * m.reach, 5 / 8 * m.reach, _tokens(m, name))
        values = values - np.where(np.isfinite(middle), middle, mean(values, -1))[..., None]
        return layers_and_heads(m, models, bins, values, "distance", MEAN_BINS, HEAD_BINS)

    return curve_view(models, label, f"{unit}, above its middle distances", read, levels=((0.0, ""),), marks=train_mark)


def _rises(models: Models, label: str, name: str, noun: str) -> HeatView | None:
    """Each pair's part in the rise of the U-shape, from its part in the logit by distance."""
    found = [_rise_by_pair(m, name) for m in models]
    return by_layer_and_pair(models, label, "rise at the far end", "diverging", found, noun)


def _rise_by_pair(m: Inspection, name: str) -> np.ndarray | None:
    """[layer, head, pair]; one head where heads were averaged already."""
    values = m.measured(name)
    if values is None:
        return None
    bins, tokens = m.bins("coarse"), _tokens(m, name)
    far, middle = (span(values, *bins, a * m.reach, b * m.reach, tokens) for a, b in ((7 / 8, 1), (3 / 8, 5 / 8)))
    rise = far - middle
    return (rise if values.ndim == 4 else rise[:, None]) if np.isfinite(rise).any() else None


def _tokens(m: Inspection, name: str) -> int:
    """Of the windows that an array is of: random tokens are read in range alone."""
    return m.reach if name.startswith("random") else int(m.distance_to[-1])


def _pairs_by_distance(models: Models) -> HeatChart | None:
    """Pair x distance for each layer: what every pair adds to the logit there, above its own mean."""
    about = PAIR_BINS if len(models) == 1 else PAIR_BINS * 2 // 3
    views = []
    for label, name in ((LABELS["text"], "logit_by_pair"), (LABELS["random"], "random_logit_by_pair")):
        parts = [_parts(m, m.measured(name), about) for m in models]
        views.append(heat_view(models, label, "part in the logit", "diverging", parts))
    deepest = max((len(view.colours) for view in views if view), default=0)
    return heat(
        "pairs-by-distance",
        "What each pair adds to the logit, by distance",
        "The mean over the heads of a layer of each pair's part in the logit, less that pair's own mean over "
        "distances, which moves no attention from one distance to another.",
        "distance in tokens",
        views,
        "layer",
        tuple(f"layer {i}" for i in range(deepest)),
    )


def _parts(m: Inspection, values: np.ndarray | None, about: int) -> Cells | None:
    if values is None:
        return None
    averaged = mean(values, 1) if values.ndim == 4 else values.astype(float)
    start, stop, joined = merge(*m.bins("coarse"), averaged, about)
    joined = joined - mean(joined, -1)[..., None]
    wanted = [t for t in (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144) if t <= stop[-1] - 1]
    ticks = tuple((float(np.searchsorted(stop, t, "right")) + 0.5, f"{t:,}") for t in wanted)
    marks: Marks = ()
    if start[0] < m.train_length < stop[-1]:
        marks = ((float(np.searchsorted(stop, m.train_length, "right")), "training length"),)
    columns = Columns(tuple(bin_note("distance", a, b) for a, b in zip(start, stop, strict=True)), marks)
    options = []
    for layer, table in enumerate(joined):
        waves = wavelengths(m, layer, len(table))

        def note(pair: int, layer: int = layer, waves: list[float | None] = waves) -> str:
            return f"layer {layer}, {pair_note(pair, waves[pair])}"

        options.append(cells("pair", table, note, marks=cuts(m, layer, len(table))))
    return Cells(ticks, (columns,), options)


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = (
        "A U-shape is a logit that is higher near and far than in the middle of the training length L (of the window, "
        "where that is shorter). Its rise is the mean over distances [7/8 L, L) less that over [3/8 L, 5/8 L); it "
        "appears where that exceeds two standard errors and the near end, [1, L/8), also lies above the middle."
    )
    found = section("Logits by distance", said, models, [charts.get("logits")], ["u_shape", "logit", "random"])
    found += [rises] if (rises := _rise_table(models)) else []
    found += [Figure(charts[name]) for name in ("u-shape-pairs", "pairs-by-distance") if name in charts]
    return found + absent(models, ["logit_by_pair", "pairs"], lambda m: m.measured("logit_by_pair") is None)


def _rise_table(models: Models) -> Table | None:
    told = [(m, p, u) for m in models for p in PROTOCOLS if (u := m.summary.u_shape.on(p)) is not None]
    rows = []
    for m, protocol, u in told:
        pairs = u.activated.pairs if u.activated is not None else ()
        values = [
            "yes" if u.appears else "not resolved" if is_open(u) else "no",
            with_spread(u.rise, u.stderr),
            number(u.near),
            runs(pairs) or DASH,
            number(u.activated.share * u.rise) if u.activated is not None else DASH,
            f"{u.activated.removed_by_hope} of {len(pairs)}" if u.activated is not None else DASH,
        ]
        words = PROTOCOLS[protocol]
        of = (m.name, words) if len(models) > 1 else (capital(words), "")
        layers = [layer.layer for layer in u.layers]
        every = len(layers) == m.summary.model.layers
        over = ("all layers", "") if every else (f"{len(layers)} of {m.summary.model.layers} layers", runs(layers))
        rows.append(Row([of, over, *((value, "") for value in values)]))
    heads = [
        ("", ""), ("mean over", ""), ("U-shape", ""), ("rise", "± standard error"), ("near end", "above the middle"),
        ("pairs", "that make it"), ("they add", "to the rise"), ("HoPE", "removes"),
    ]  # fmt: skip
    caption = "The U-shape, mean over layers and heads; on random tokens in standard deviations."
    return Table(caption, heads, rows) if rows else None


def findings(m: Inspection) -> list[Finding]:
    told = [(p, u) for p in PROTOCOLS if (u := m.summary.u_shape.on(p)) is not None]
    return [_u_shape(m, p, u) for p, u in told] + [f for p, u in told if (f := _activated(m, p, u)) is not None]


def _u_shape(m: Inspection, protocol: Protocol, u: UShape) -> Finding:
    where = PROTOCOLS[protocol] + mean_over(m, u)
    unit = " standard deviations" if protocol == "random" else ""
    size = with_spread(abs(u.rise), u.stderr) + unit
    if u.appears:
        said = (
            f"{capital(where)} the logits have a U-shape: the near end lies {number(u.near)}{unit} above the middle "
            f"and the far end {size} above it"
        )
        if len(u.layers) > 1:
            most = max(u.layers, key=lambda layer: layer.rise)
            said += f", most in layer {most.layer} ({number(most.rise)})"
        return Finding(f"{said}.", "logits")
    way, side = ("rises", "above") if u.rise >= 0 else ("falls", "below")
    no = f"Whether there is a U-shape {where} is not resolved" if is_open(u) else f"No U-shape {where}"
    said = f"{no}: the far end {way} by {size} {side} the middle"
    if u.near <= 0:
        said += f", and the near end lies {number(abs(u.near))} below it"
    return Finding(f"{said}.", "logits")


def is_open(u: UShape) -> bool:
    """Whether two standard errors leave it open that there is a U-shape (one window has no error to tell by)."""
    if u.appears or u.near <= 0:
        return False
    return u.stderr is None or abs(u.rise) <= 2 * u.stderr


def _activated(m: Inspection, protocol: Protocol, u: UShape) -> Finding | None:
    if not u.appears or u.activated is None:
        return None
    pairs, part, where = u.activated.pairs, u.activated.share, PROTOCOLS[protocol]
    said = f"{capital(pairs_in_words(pairs))}{wavelengths_in_words(u.activated)},"
    if part > 1.005:  # a share of more than all of it would say nothing
        unit = " standard deviations" if protocol == "random" else ""
        said += f" {'lifts' if len(pairs) == 1 else 'lift'} the far end {where} by {number(part * u.rise)}{unit}, and"
        said += f" other pairs lower it by {number((part - 1) * u.rise)}, to the {number(u.rise)} of the U-shape"
    else:
        said += f" {'makes' if len(pairs) == 1 else 'make'} {share(part)} of the U-shape {where}"
    left = m.summary.out_of_range
    first = left.first_pair if left is not None else None
    if first is not None and first.pair in pairs:
        said += f"; {leaves_first(first, pairs)}, in layer {first.layer}"
    return Finding(f"{said}; HoPE would remove {removed_in_words(u.activated)}.", "u-shape-pairs")


def leaves_first(first: FirstPair, pairs: Sequence[int]) -> str:
    """That the pair that leaves its range first is one of these."""
    return "it leaves its range first" if len(pairs) == 1 else f"pair {first.pair} of them leaves its range first"


def wavelengths_in_words(activated: Activated) -> str:
    """`, wavelengths 130 to 730`."""
    if not activated.wavelengths:
        return ""
    ends = list(dict.fromkeys(tokens(w) for w in activated.wavelengths))
    return f", wavelength{'s' if len(ends) > 1 else ''} {' to '.join(ends)}"


def removed_in_words(activated: Activated) -> str:
    """How many of the pairs HoPE's cut removes."""
    removed, count = activated.removed_by_hope, len(activated.pairs)
    if count == 1:
        return "it" if removed else "none of it"
    return f"all {count}" if removed == count else f"{removed or 'none'} of the {count}"


def differences(a: Inspection, b: Inspection) -> list[Finding]:
    found = []
    for protocol, where in PROTOCOLS.items():
        u, v = (m.summary.u_shape.on(protocol) for m in (a, b))
        if u is None or v is None:
            continue
        rises = [f"{with_spread(x.rise, x.stderr)} in {m.name}{mean_over(m, x)}" for x, m in ((u, a), (v, b))]
        said = f"How far the far end lies above the middle {where}: {', '.join(rises)}"
        if u.stderr is not None and v.stderr is not None and abs(u.rise - v.rise) <= 2 * math.hypot(u.stderr, v.stderr):
            said += "; their difference is not resolved"
        found.append(Finding(f"{said}.", "logits"))
    return found
