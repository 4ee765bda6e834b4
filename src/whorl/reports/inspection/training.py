"""The U-shape and the positional heads along training, where snapshots were kept."""

import math
from collections.abc import Sequence

import numpy as np

from whorl.reports.axes import axis, log_ticks, tick
from whorl.reports.chart import Axis, Chart, Columns, CurveChart, Grid
from whorl.reports.document import Block, Figure, Heading
from whorl.reports.formatting import number
from whorl.reports.inspection.drawing import (
    Cells,
    Line,
    Lines,
    Models,
    cells,
    curve_view,
    curves,
    cuts,
    heat,
    heat_view,
    pair_note,
)
from whorl.reports.inspection.telling import LABELS, PROTOCOLS, Charts, Finding
from whorl.results.inspection import Inspection, Protocol, Snapshot


def charts(models: Models) -> list[Chart | None]:
    by_pair = heat(
        "training-pairs",
        "Each pair's part in the U-shape along training",
        "The rise that each pair adds at the far end, mean over layers and heads, at each checkpoint in turn.",
        "training step",
        [
            heat_view(models, label, "rise at the far end", "diverging", [_by_step(m, protocol) for m in models])
            for protocol, label in LABELS.items()
        ],
    )
    return [_along_training(models), by_pair]


def _along_training(models: Models) -> CurveChart | None:
    """The rise of the U-shape and the number of positional heads by training step."""
    steps = [float(at.step) for m in models for at in m.summary.training if at.step > 0]
    if not steps:
        return None
    low, high, label = min(steps), max(steps), "training step"
    ticks = tuple((t, tick(t)) for t in log_ticks(low, high * 1.01))
    linear, log = axis(label, "linear", [0.0, high]), Axis(label, "log", low / 1.1, high * 1.1, ticks)
    return curves(
        "training",
        "The U-shape and the positional heads along training",
        "The same measures on the checkpoints of a run; bands are one standard error.",
        (("linear", linear), ("log", log)),
        [
            curve_view(models, "rise of the U-shape", "rise at the far end", _rises, levels=((0.0, ""),), markers=True),
            curve_view(models, "positional heads", "heads", _head_counts, markers=True),
        ],
    )


def _rises(m: Inspection) -> Lines | None:
    steps = _steps(m)
    lines: list[Line] = []
    for protocol, words in PROTOCOLS.items():
        shapes = [at.u_shape.on(protocol) for at in steps]
        if any(shapes):
            y, width = ([getattr(u, name, None) for u in shapes] for name in ("rise", "stderr"))
            lines.append((words, np.array(y, dtype=float), np.array(width, dtype=float)))
    return ([_grid(steps)], [(0, lines)]) if lines else None


def _head_counts(m: Inspection) -> Lines | None:
    steps = _steps(m)
    kinds = [[head.kind for head in at.heads] for at in steps]
    every = dict.fromkeys(kind for found in kinds for kind in found)
    lines: list[Line] = [(kind, np.array([float(found.count(kind)) for found in kinds])) for kind in every]
    return ([_grid(steps)], [(0, lines)]) if lines else None


def _by_step(m: Inspection, protocol: Protocol) -> Cells | None:
    """Pair x step: each pair's rise."""
    told = [(at.step, u.pairs) for at in _steps(m) if (u := at.u_shape.on(protocol)) is not None and u.pairs]
    if not told:
        return None
    count = max(len(pairs) for _, pairs in told)
    rises = np.full((count, len(told)), np.nan)
    for column, (_, pairs) in enumerate(told):
        rises[: len(pairs), column] = [pair.rise for pair in pairs]
    waves = {pair.pair: pair.wavelength for pair in told[-1][1]}
    names = [f"{step:,}" for step, _ in told]
    ticks = tuple((i + 0.5, names[i]) for i in range(0, len(names), math.ceil(len(names) / 8)))
    columns = Columns(tuple(f"step {name}" for name in names))
    frame = cells("pair", rises, lambda i: pair_note(i, waves.get(i)), marks=cuts(m, 0, count))
    return Cells(ticks, (columns,), [frame])


def _steps(m: Inspection) -> list[Snapshot]:
    return sorted(m.summary.training, key=lambda at: at.step)


def _grid(steps: Sequence[Snapshot]) -> Grid:
    return Grid(tuple(float(at.step) for at in steps), tuple(f"step {at.step:,}" for at in steps))


def blocks(models: Models, charts: Charts) -> list[Block]:
    shown = [Figure(charts[name]) for name in ("training", "training-pairs") if name in charts]
    return [Heading("Training"), *shown] if shown else []


def findings(m: Inspection) -> list[Finding]:
    steps = _steps(m)
    if len(steps) < 2:
        return []
    last, found = steps[-1], []
    for protocol, where in PROTOCOLS.items():
        told = [(at.step, u) for at in steps if (u := at.u_shape.on(protocol)) is not None]
        if not told:
            continue
        seen = next((step for step, u in told if u.appears), None)
        if seen is None:
            said = f"In training no U-shape appears {where}, at any of {len(told)} checkpoints."
            found.append(Finding(said, "training"))
            continue
        peak, most = max(told, key=lambda item: item[1].rise)
        end = f"; at the end, step {last.step:,}, it is {number(told[-1][1].rise)}" if peak != last.step else ""
        said = f"In training the U-shape {where} is first seen at step {seen:,} of {last.step:,}"
        found.append(Finding(f"{said} and is largest at step {peak:,} ({number(most.rise)}){end}.", "training"))
    first = next((at.step for at in steps if at.heads), None)
    if first is not None:
        said = f"The first positional heads are seen at step {first:,} of {last.step:,}"
        found.append(Finding(f"{said}; at the end there are {len(last.heads)}.", "training"))
    return found
