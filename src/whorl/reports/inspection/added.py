"""What biases and scores add to the logits, which heads forget, and what scales multiply logits by."""

from collections.abc import Sequence

import numpy as np

from whorl.reports.axes import cell_ticks
from whorl.reports.chart import Chart, Columns, CurveView
from whorl.reports.document import Block, Figure, Heading, Paragraph, Row, Table
from whorl.reports.formatting import DASH, finite, listing, number, tokens
from whorl.reports.inspection.drawing import (
    HEAD_BINS,
    MEAN_BINS,
    Cells,
    Lines,
    Models,
    carried,
    cells,
    curve_view,
    curves,
    distance_axes,
    heat,
    heat_view,
    layer_options,
    layers_and_heads,
    train_mark,
)
from whorl.reports.inspection.telling import Charts, Finding, aside, of_measured, of_model, runs_in_words, share
from whorl.results.added import Added, Factor, Gate
from whorl.results.inspection import Inspection

NEAR = 8
"""A head forgets where a key's weight halves within this part of the training length: the near end of a U-shape."""
MOST_ROWS, NAMED = 12, 4


def charts(models: Models) -> list[Chart | None]:
    by_distance = curves(
        "added",
        "What is added to the logits, by distance",
        "The mean of what biases and scores add to a logit beside q.k; and its share: its mean size over that and "
        "q.k's, after each query's mean over its keys is taken from both, since a softmax does not feel what all keys "
        "get alike." + carried(models),
        distance_axes(models),
        [
            _view(models, "added", "added to the logit", "added"),
            _view(models, "share", "share of what is added", "added_share"),
        ],
        "layer",
        layer_options(models),
    )
    gates, moved, shares = (
        [_table(m, getattr(m.summary, rows), name) for m in models]
        for rows, name in (("gates", "mean"), ("added", "moved"), ("added", "share"))
    )
    by_head = heat(
        "added-heads",
        "Which heads forget, and where what is added counts",
        "The mean gate of each head: 1 keeps all keys, 0 forgets all that came before. The part of its attention that "
        "would be elsewhere by q.k alone. And the part of what is added in the variance of logits over the keys of a "
        "query: the rest is q.k's.",
        "head",
        [
            heat_view(models, "gate", "mean gate", "sequential", gates, high=1.0),
            heat_view(models, "moved", "attention moved", "sequential", moved, high=1.0),
            heat_view(models, "share", "share of the variance", "diverging", shares),
        ],
    )
    return [by_distance, by_head]


def _view(models: Models, label: str, unit: str, name: str) -> CurveView | None:
    def read(m: Inspection) -> Lines | None:
        values = m.measured(name)
        if values is None:
            return None
        return layers_and_heads(m, models, m.bins("distance"), values, "distance", MEAN_BINS, HEAD_BINS)

    return curve_view(models, label, unit, read, marks=train_mark)


def _table(m: Inspection, rows: Sequence[Added | Gate] | None, name: str) -> Cells | None:
    if not rows:
        return None
    heads = m.summary.model.heads
    table = np.full((m.summary.model.layers, heads), np.nan)
    for row in rows:
        table[row.layer, row.head] = getattr(row, name)
    columns = Columns(tuple(f"head {i}" for i in range(heads)))
    return Cells(cell_ticks(heads), (columns,), [cells("layer", table, lambda i: f"layer {i}")])


def blocks(models: Models, charts: Charts) -> list[Block]:
    """Nothing where nothing is added to q.k and nothing multiplies it, as in most models."""
    tables = [table for m in models for make in (_of_layers, _of_gates, _of_factors) if (table := make(m, models))]
    shown = [Figure(charts[name]) for name in ("added", "added-heads") if name in charts]
    if not tables and not shown:
        return []
    said = (
        "A logit is q.k, the content, and what biases and scores add to it (or change of it, where a score makes it "
        "anew). What it moves is the part of the attention that would be elsewhere by q.k alone; its share is its part "
        "in the variance of the logit over the keys of a query, near and far alike. Where keys fade by gates, the "
        "half-life is the number of tokens after which a key's weight has halved. Scales multiply a query's logits."
    )
    return [Heading("What is added to the logits"), Paragraph(said), *shown, *tables]


def _of_layers(m: Inspection, models: Models) -> Table | None:
    rows = []
    for layer in sorted({one.layer for one in m.summary.added or ()}):
        heads = [one for one in m.summary.added or () if one.layer == layer]
        most = max(heads, key=lambda one: one.moved)
        ends = [_ends([getattr(one, name) for one in heads]) for name in ("spread", "content_spread")]
        moved, part = (share(sum(getattr(one, name) for one in heads) / len(heads)) for name in ("moved", "share"))
        cells = [moved, f"{share(most.moved)}, head {most.head}", part, *ends]
        rows.append(Row([(f"layer {layer}", ""), *((cell, "") for cell in cells)]))
    header = [
        ("", ""), ("moved", "of the attention"), ("most", "in one head"), ("share", "of the variance"),
        ("spread", "of what is added"), ("spread", "of q.k"),
    ]  # fmt: skip
    caption = (
        f"What is added to the logits{of_model(m, models)}. Spread: the standard deviation over a query's keys, in "
        "logits, of the heads from least to most."
    )
    return Table(caption, header, rows) if rows else None


def _of_gates(m: Inspection, models: Models) -> Table | None:
    gates = sorted(m.summary.gates or (), key=_half_life)
    rows = [
        Row([(f"layer {g.layer}, head {g.head}", ""), *((cell, "") for cell in _cells(g))]) for g in gates[:MOST_ROWS]
    ]
    header = [("head", ""), ("half-life", "tokens"), ("gate", "mean"), ("more than half", "forgotten at once")]
    first = f": the first {MOST_ROWS} of {len(gates)}" if len(gates) > MOST_ROWS else ""
    caption = f"Which heads forget{of_model(m, models)}, the soonest first{first}."
    return Table(caption, header, rows) if rows else None


def _cells(gate: Gate) -> list[str]:
    return [_told(gate), f"{gate.mean:.3f}", f"{share(gate.below_half)} of tokens"]


def _of_factors(m: Inspection, models: Models) -> Table | None:
    rows = []
    for layer in sorted({one.layer for one in m.summary.factors or ()}):
        heads = [one for one in m.summary.factors or () if one.layer == layer]
        past = [one.past for one in heads if one.past is not None]
        names = dict.fromkeys(name for one in heads for name in one.learned)
        learned = [f"{name} {_ends([one.learned[name] for one in heads if name in one.learned])}" for name in names]
        cells = [_ends([one.in_range for one in heads]), _ends(past), ", ".join(learned) or DASH]
        rows.append(Row([(f"layer {layer}", ""), *((cell, "") for cell in cells)]))
    length, within = m.summary.settings.length, m.reach
    header = [
        ("", ""), ("factor", f"of the last of {within:,} tokens"), ("factor", f"of the last of {length:,} tokens"),
        ("learned", ""),
    ]  # fmt: skip
    caption = f"What scales multiply logits by{of_model(m, models)}; of the heads from least to most."
    return Table(caption, header, rows) if rows else None


def _ends(values: Sequence[float]) -> str:
    """The least and the most: `0.30 to 0.90`."""
    known = [value for value in values if finite(value) is not None]
    return " to ".join(dict.fromkeys(number(value) for value in (min(known), max(known)))) if known else DASH


def _half_life(gate: Gate) -> float:
    return np.inf if gate.half_life is None else gate.half_life


def _told(gate: Gate) -> str:
    return "never" if gate.half_life is None else tokens(gate.half_life)


def findings(m: Inspection) -> list[Finding]:
    made = (_added(m, m.summary.added or ()), _gates(m, m.summary.gates or ()), _factors(m, m.summary.factors or ()))
    return [found for found in made if found is not None]


def _added(m: Inspection, rows: Sequence[Added]) -> Finding | None:
    if not rows:
        return None
    most = max(rows, key=lambda row: row.moved)
    middle = share(float(np.median([row.moved for row in rows])))
    said = f"Without what biases and scores add, {middle} of the attention would be elsewhere (median over heads"
    said += f"{of_measured(m)}), most in head {most.head} of layer {most.layer}: {share(most.moved)}"
    return Finding(f"{said}.", "added-heads")


def _gates(m: Inspection, rows: Sequence[Gate]) -> Finding | None:
    if not rows:
        return None
    near, length = m.train_length / NEAR, m.train_length
    ordered = sorted(rows, key=_half_life)
    forget = [gate for gate in ordered if _half_life(gate) < near]
    keep = [gate for gate in ordered if _half_life(gate) > length]
    said = f"Of {len(rows)} heads with gates{aside(m)}, {_count(forget, 'forget')}: there a key's weight halves within "
    said = f"{said}{tokens(near)} tokens"
    if forget:
        told = [f"head {gate.head} of layer {gate.layer} (after {_told(gate)})" for gate in forget[:NAMED]]
        said += f", soonest in {listing(told)}"
    said += f"; {_count(keep, 'keep')} for longer than the training length, {length:,}"
    if keep:
        layers = sorted({gate.layer for gate in keep})
        said += f", in layer{'s' if len(layers) > 1 else ''} {runs_in_words(layers)}"
    return Finding(f"{said}.", "added-heads")


def _count(gates: Sequence[Gate], verb: str) -> str:
    return f"{len(gates) or 'none'} {verb}{'s' if len(gates) < 2 else ''}"


def _factors(m: Inspection, rows: Sequence[Factor]) -> Finding | None:
    if not rows:
        return None
    within, past = m.reach, [row.past for row in rows if row.past is not None]
    said = f"Scales multiply logits by {_ends([row.in_range for row in rows])} at the end of {within:,} tokens"
    return Finding(f"{said}{f', by {_ends(past)} at the end of {m.summary.settings.length:,}' if past else ''}.")
