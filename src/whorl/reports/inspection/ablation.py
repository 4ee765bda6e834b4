"""What the slow pairs' rotation is worth: the loss when they do not rotate."""

from collections.abc import Sequence

import numpy as np

from whorl.reports.axes import axis
from whorl.reports.chart import Chart, CurveView, Grid, Marks
from whorl.reports.document import Block
from whorl.reports.formatting import number, plural, tokens, with_spread
from whorl.reports.inspection.drawing import Line, Lines, Models, curve_view, curves
from whorl.reports.inspection.telling import Charts, Finding, section
from whorl.results.inspection import Cut, Inspection

SMALL = 0.005
"""A change of the loss below it, nats per token, is told as small: two decimals would show nothing."""


def charts(models: Models) -> list[Chart | None]:
    """Loss in range and past it, over the number of pairs that still turn."""
    told = [section for m in models if (section := m.summary.ablation) is not None and section.cuts]
    if not told:
        return []
    lengths = {section.past_length for section in told if section.past_length is not None}
    past = f"at {lengths.pop():,} tokens" if len(lengths) == 1 else "past the range"
    changes = [("in range", "in_range_change", "in_range_stderr"), (past, "past_change", "past_stderr")]
    losses = [("in range", "in_range", ""), (past, "past", "")]
    chart = curves(
        "ablation",
        "Loss when the slow pairs do not rotate",
        "Pairs from the cut on are made position-independent in the trained model, without training it again. The "
        "change is against the untouched model on the same windows; bands are one standard error.",
        (("linear", axis("pairs that still turn", "linear", [float(cut.cut) for one in told for cut in one.cuts])),),
        [
            _view(models, "change in loss", changes, ((0.0, "untouched"),)),
            _view(models, "loss", losses, ()),
        ],
    )
    return [chart]


def _view(models: Models, label: str, lines: Sequence[tuple[str, str, str]], levels: Marks) -> CurveView | None:
    """lines: (name, field of a Cut, field of its standard error)."""

    def read(m: Inspection) -> Lines | None:
        if m.summary.ablation is None or not (table := m.summary.ablation.cuts):
            return None
        grid = Grid(tuple(float(row.cut) for row in table), tuple(map(_note, table)))
        shown: list[Line] = [(name, _column(table, y), _column(table, e) if e else None) for name, y, e in lines]
        return [grid], [(0, shown)]

    unit = f"{label} (nats per token)"
    return curve_view(models, label, unit, read, levels=levels, marks=_hope_cut, markers=True)


def _column(table: Sequence[Cut], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in table], dtype=float)  # NaN for None


def _note(row: Cut) -> str:
    wave = "" if row.wavelength is None else f", wavelength from {tokens(row.wavelength)}"
    return f"pairs {row.cut} and slower do not rotate{wave}"


def _hope_cut(m: Inspection) -> Marks:
    return () if m.summary.ablation is None else ((float(m.summary.ablation.hope_cut), "HoPE's cut"),)


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = (
        "What the slow pairs' rotation is worth to this model: the loss on the same windows when pairs from a cut on "
        "are made position-independent, as HoPE does, though here without training."
    )
    return section("Ablation", said, models, [charts.get("ablation")], ["ablation"])


def findings(m: Inspection) -> list[Finding]:
    told = m.summary.ablation
    if told is None or not told.cuts:
        return []
    past = f"at {told.past_length:,} tokens" if told.past_length else "past the range"
    said = []
    own = next((row for row in told.cuts if row.cut == told.hope_cut), None)
    if own is not None:
        still = f"HoPE's cut (pairs {own.cut} and slower do not rotate)"
        said.append(f"Without training, {still} {_changes(own, past)}, in nats per token.")
    known = [(row.past_change, row) for row in told.cuts if row.past_change is not None]
    if known:
        lowest, best = min(known, key=lambda item: item[0])
        error = best.past_stderr
        if lowest >= 0:
            said.append(f"No cut is seen to lower the loss {past}.")
        elif _is_small(lowest, error):
            said.append(f"No cut lowers the loss {past} by as much as {SMALL}.")
        elif error is None or -lowest <= 2 * error:
            said.append(f"That a cut lowers the loss {past} is not resolved: at best, {_moves(lowest, error)}.")
        elif best is not own:
            left = f"{plural(best.cut, 'pair')} left turning"
            said.append(f"The loss {past} is lowest with {left}: {_moves(lowest, error)}.")
    return [Finding(" ".join(said), "ablation")] if said else []


def _changes(row: Cut, past: str) -> str:
    parts = [f"{_moves(row.in_range_change, row.in_range_stderr)} in range"]
    if row.past_change is not None:
        parts.append(f"{_moves(row.past_change, row.past_stderr)} {past}")
    return f"moves the loss {' and '.join(parts)}"


def _is_small(change: float, stderr: float | None) -> bool:
    """Whether a change is below `SMALL`, and known so well."""
    return abs(change) < SMALL and (stderr is None or stderr < SMALL)


def _moves(change: float, stderr: float | None) -> str:
    if _is_small(change, stderr):
        return f"by less than {SMALL}"
    moved = with_spread(abs(change), stderr)
    way = "" if float(moved.split()[0].replace(",", "")) == 0 else "up " if change > 0 else "down "
    return f"{way}by {moved}"


def differences(a: Inspection, b: Inspection) -> list[Finding]:
    losses = []
    for m in (a, b):
        told = m.summary.ablation
        if told is None or told.past is None:
            return []
        at = f"at {told.past_length:,} tokens" if told.past_length else "past it"
        losses.append(f"{m.name} has a loss of {number(told.in_range)} in range and {number(told.past)} {at}")
    return [Finding(f"Untouched, {losses[0]}; {losses[1]}.", "ablation")]
