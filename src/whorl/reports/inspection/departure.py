"""Out of range: how far logits past the training length leave those in it."""

import numpy as np

from whorl.reports.axes import cell_ticks, colours
from whorl.reports.chart import Axis, Chart, CurveChart, Grid, HeatChart
from whorl.reports.document import Block, Row, Table
from whorl.reports.formatting import DASH, number, tokens
from whorl.reports.inspection.drawing import (
    Cells,
    Lines,
    Models,
    cells,
    curve_view,
    curves,
    heat,
    heat_view,
    pair_columns,
)
from whorl.reports.inspection.telling import Charts, Finding, of_layers, of_model, section
from whorl.results.inspection import FirstLayer, FirstPair, Inspection, OutOfRange

UNIT = "departure (standard deviations)"


def charts(models: Models) -> list[Chart | None]:
    told = [section for m in models if (section := m.summary.out_of_range) is not None]
    every = sorted({multiple for section in told for multiple in section.multiples})
    return [_by_layer(models, told, every), _by_pair(models, every)] if every else []


def _by_layer(models: Models, told: list[OutOfRange], every: list[int]) -> CurveChart | None:
    """How far the logits of each layer leave their range, by multiple of the training length."""
    noise = max(section.noise for section in told)
    ticks = tuple((float(t), f"{t:g}x") for t in every)
    x = Axis("distances up to, in training lengths", "log", every[0] / 1.1, every[-1] * 1.1, ticks)

    def read(m: Inspection) -> Lines | None:
        section = m.summary.out_of_range
        if section is None:
            return None
        values = [(f"layer {row.layer}", np.array(row.departure, dtype=float)) for row in section.layers]
        if not any(np.isfinite(series).any() for _, series in values):
            return None
        notes = tuple(f"up to {x:g}x the training length" for x in section.multiples)
        return [Grid(tuple(map(float, section.multiples)), notes)], [(0, list(values))]

    levels = ((noise, f"noise {number(noise)}"),)
    return curves(
        "departure",
        "How far logits leave their range, by layer",
        "The 1-Wasserstein distance of logits at distances (m/2 L, mL] from those at [1, L), in their standard "
        "deviations there. At 1x, in range, it tells how much the far half differs anyway; what lies at the noise is "
        "not resolved.",
        (("log", x),),
        [curve_view(models, "departure", UNIT, read, levels=levels, markers=True)],
    )


def _by_pair(models: Models, every: list[int]) -> HeatChart | None:
    """Layer x pair at each multiple; 2x, the first outside the range, is shown first."""
    order = sorted(every, key=lambda x: (x < 2, x))
    found = [m.measured("departure_by_pair") for m in models]
    # One scale for all multiples: the departures at each are to be compared.
    high = colours(UNIT, "sequential", found).high

    def part(m: Inspection, values: np.ndarray | None) -> Cells | None:
        section = m.summary.out_of_range
        if values is None or section is None:
            return None
        layers, pairs, _ = values.shape
        columns, of_layer = pair_columns(m, layers, pairs)
        at = [section.multiples.index(x) if x in section.multiples else None for x in order]
        options = [None if i is None else cells("layer", values[..., i], lambda i: f"layer {i}", of_layer) for i in at]
        return Cells(cell_ticks(pairs), columns, options)

    parts = [part(m, values) for m, values in zip(models, found, strict=True)]
    return heat(
        "departure-pairs",
        "How far logits leave their range, by pair",
        "The same departure for each pair's part in the logit, at the distances that end at a multiple of the training "
        "length.",
        "pair, fastest first",
        [heat_view(models, "departure", UNIT, "sequential", parts, high)],
        "up to",
        tuple(f"{x:g}x the training length" for x in order),
    )


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = (
        "Past the training length a pair meets angles that training never showed it. The departure is how far its "
        "logits then lie from those in range."
    )
    shown = [charts.get("departure"), charts.get("departure-pairs")]
    found = section("Out of range", said, models, shown, ["out_of_range", "departure"])
    for m in models:
        left = m.summary.out_of_range
        if left is None or not left.pairs:
            continue
        rows = []
        for row in left.pairs:
            wave = DASH if row.wavelength is None else tokens(row.wavelength)
            values = [f"layer {row.layer}, pair {row.pair}", wave, *map(number, row.departure)]
            rows.append(Row([(value, "") for value in values]))
        heads = [("pair", ""), ("wavelength", "tokens"), *((f"{x:g}x", "") for x in left.multiples)]
        caption = f"The pairs{of_model(m, models)} that depart most, in standard deviations."
        found.append(Table(caption, heads, rows))
    return found


def findings(m: Inspection) -> list[Finding]:
    left = m.summary.out_of_range
    if left is None:
        return []
    pair, layer = left.first_pair, left.first_layer
    seen = [row.layer for row in left.layers if any(departure is not None for departure in row.departure[1:])]
    those = f" that were measured there ({some})" if (some := of_layers(m, seen)) else ""
    if pair is None and layer is None:
        than = f"three times the noise ({number(left.noise)})"
        reach = f"up to {left.multiples[-1]:g}x the training length"
        of = f" of the layers{those}" if those else ""
        said = f"Nothing is seen to leave its range: no pair's logits{of} depart by {than} more than in range {reach}"
        return [Finding(f"{said}.", "departure")]
    parts = []
    if pair is not None:
        turn = f" (wavelength {tokens(pair.wavelength)})" if pair.wavelength is not None else ""
        inside = [row.departure[0] for row in left.pairs if (row.layer, row.pair) == (pair.layer, pair.pair)]
        parts.append(f"pair {pair.pair}{turn} of layer {pair.layer} first, {_departs(pair, *inside)}")
    if layer is not None:
        inside = [row.departure[0] for row in left.layers if row.layer == layer.layer]
        first = f"layer {layer.layer} first"
        of = f"of the layers{those}"
        which = f"{of}, {first}" if parts else f"{first} {of}" if those else first
        parts.append(f"{which}, {_departs(layer, *inside)}")
    said = f"Logits leave the range of training in {'; '.join(parts)}; noise is {number(left.noise)}"
    return [Finding(f"{said}.", "departure-pairs" if pair is not None else "departure")]


def _departs(first: FirstPair | FirstLayer, inside: float | None = None) -> str:
    """inside: the departure at 1x, which is how much the far half of the range differs from the whole of it."""
    where = f"by {number(first.departure)} standard deviations at {first.multiple:g}x the training length"
    return where if inside is None else f"{where} (at 1x, in range: {number(inside)})"


def differences(a: Inspection, b: Inspection) -> list[Finding]:
    """The largest departure of a layer at the first multiple past the range that both have."""
    first, second = (m.summary.out_of_range for m in (a, b))
    if first is None or second is None:
        return []
    at = next((x for x in first.multiples if x > 1 and x in second.multiples), None)
    if at is None:
        return []
    most = []
    for left in (first, second):
        i = left.multiples.index(at)
        most.append(max((v for row in left.layers if (v := row.departure[i]) is not None), default=None))
    if None in most:
        return []
    said = (
        f"At {at:g}x the training length a layer's logits depart by at most {number(most[0])} standard deviations in "
        f"{a.name} and {number(most[1])} in {b.name}."
    )
    return [Finding(said, "departure")]
