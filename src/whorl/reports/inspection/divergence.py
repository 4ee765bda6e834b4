"""How much attention over relative positions changes with the length of the text, or from model to model."""

from collections.abc import Sequence

import numpy as np

from whorl.reports.axes import axis
from whorl.reports.bins import rounded
from whorl.reports.chart import Axis, Chart, Curve, CurveFrame, CurvePanel, CurveView, Grid, shade
from whorl.reports.document import Block
from whorl.reports.formatting import number
from whorl.reports.inspection.drawing import Models, curves
from whorl.reports.inspection.telling import Charts, Finding, aside, section
from whorl.results.inspection import Inspection

ByLayer = Sequence[float | None]


def charts(models: Models) -> list[Chart | None]:
    """Jensen-Shannon divergence by layer: between lengths, a line per model, and between the models."""
    lengths = [(m.name, found) for m in models if _largest(found := _between_lengths(m))]
    between = [("between the models", found) for m in models if _largest(found := _between_models(m))]
    deepest = max((len(found) for _, found in lengths + between), default=0)
    ticks = tuple((float(i), str(i)) for i in range(0, deepest, max(1, deepest // 12)))
    chart = curves(
        "divergence",
        "Divergence of attention, by layer",
        "The Jensen-Shannon divergence between two mean distributions of attention over relative key positions, in "
        "nats: 0 where they agree, 0.69 where they share nothing.",
        (("linear", Axis("layer", "linear", -0.2, deepest - 0.8, ticks)),),
        [_view("between two lengths", lengths, deepest), _view("between the models", between, deepest)],
    )
    return [chart]


def _between_lengths(m: Inspection) -> ByLayer:
    found = m.summary.divergence.lengths if m.summary.divergence is not None else None
    return () if found is None else found.layers


def _between_models(m: Inspection) -> ByLayer:
    return (m.summary.divergence.models or ()) if m.summary.divergence is not None else ()


def _largest(found: ByLayer) -> tuple[float, int] | None:
    """(value, layer) where it is largest; None where there is no value."""
    return max(((v, layer) for layer, v in enumerate(found) if v is not None), default=None)


def _view(label: str, series: Sequence[tuple[str, ByLayer]], deepest: int) -> CurveView | None:
    """The models as lines of one panel."""
    if not series:
        return None
    grid = Grid(tuple(map(float, range(deepest))), tuple(f"layer {i}" for i in range(deepest)))
    lines = []
    for i, (name, found) in enumerate(series):
        y = rounded(np.array(found, dtype=float)) + (None,) * (deepest - len(found))
        lines.append(Curve(name, i, y, shade=shade(i, len(series))))
    values = [v for line in lines for v in line.y if v is not None]
    panel = CurvePanel("", (grid,), (CurveFrame(0, tuple(lines)),))
    return CurveView(label, (axis("divergence (nats)", "linear", [0.0, *values]),), (panel,), markers=True)


def blocks(models: Models, charts: Charts) -> list[Block]:
    if "divergence" not in charts and not any("divergence" in m.summary.absent for m in models):
        return []
    said = "How much attention over relative key positions changes with the length of the text, or from model to model."
    return section("Divergence", said, models, [charts.get("divergence")], ["divergence"])


def findings(m: Inspection) -> list[Finding]:
    found = m.summary.divergence.lengths if m.summary.divergence is not None else None
    if found is None or (largest := _largest(found.layers)) is None:
        return []
    between = f"Between {found.train_length:,} and {found.length:,} tokens"
    where = f"in layer {largest[1]}{aside(m)}"
    said = f"{between}, attention by relative position changes most {where}, by {number(largest[0])} nats"
    return [Finding(f"{said} of at most 0.69.", "divergence")]


def differences(a: Inspection, b: Inspection) -> list[Finding]:
    if (largest := _largest(_between_models(a))) is None:
        return []
    said = f"Their attention by relative position differs most in layer {largest[1]}, by {number(largest[0])} nats"
    return [Finding(f"{said} of at most 0.69.", "divergence")]
