"""Positional heads: those that keep to a distance, or to the first token."""

from collections.abc import Sequence

import numpy as np

from whorl.reports.axes import cell_ticks
from whorl.reports.chart import Chart, Columns
from whorl.reports.document import Block, Row, Table
from whorl.reports.formatting import DASH, listing, number
from whorl.reports.inspection.drawing import Cells, Models, cells, heat, heat_view
from whorl.reports.inspection.telling import (
    Charts,
    Finding,
    aside,
    of_measured,
    of_model,
    pairs_in_words,
    runs,
    runs_in_words,
    section,
    share,
    shares,
)
from whorl.results.inspection import Head, Inspection

KINDS = {
    "previous-token": ("previous token", "on the previous token"),
    "diagonal": ("itself", "on its own token"),
    "offset": ("fixed offset", "at its distance"),
    "first-token": ("first token", "on the first token"),
}
"""What a head's kind is called on a button, and the place that it attends to."""
SHOWN = ("previous-token", "first-token", "diagonal", "offset")
"""The kinds in the order of the chart's buttons: a picture shows the first two, of which models have most."""
NEAR_OFFSETS = 16
SETTLED = 8
"""Queries before this one have the first token among few others, whatever a head is."""
MOST_ROWS = 12
"""Of a kind, in the table."""


def charts(models: Models) -> list[Chart | None]:
    """Layer x head: the mean attention on the previous token, on itself, on the best near offset, on the first."""
    tables = [_scores(m) for m in models]
    views = []
    for label in ("best of these", *(KINDS[kind][0] for kind in SHOWN)):
        parts = [_part(table[label]) if label in table else None for table in tables]
        views.append(heat_view(models, label, "mean attention", "sequential", parts, high=1.0))
    scores = heat(
        "heads",
        "How positional each head is",
        "The mean attention, on the text, that a head pays to the previous token, to the first token of the text, to "
        f"the query's own token, and to the best single distance of 2 to {NEAR_OFFSETS}.",
        "head",
        views,
    )
    return [scores]


def _part(table: np.ndarray) -> Cells:
    heads = table.shape[1]
    columns = Columns(tuple(f"head {i}" for i in range(heads)))
    return Cells(cell_ticks(heads), (columns,), [cells("layer", table, lambda i: f"layer {i}")])


def _scores(m: Inspection) -> dict[str, np.ndarray]:
    """[layer, head] for each kind, from the attention arrays."""
    scores: dict[str, np.ndarray] = {}
    paid, first = m.measured("attention"), m.measured("first_token")
    if paid is not None:
        start, stop = m.bins("distance")
        single = stop - start == 1
        for kind, at in (("previous-token", 1), ("diagonal", 0)):
            where = np.flatnonzero(single & (start == at))
            if len(where):
                scores[KINDS[kind][0]] = paid[..., where[0]].astype(float)
        near = single & (start >= 2) & (start <= NEAR_OFFSETS)
        if near.any():
            scores[KINDS["offset"][0]] = _best(paid[..., near], -1)
    if first is not None:
        start, stop = m.bins("position")
        queries = np.where(start >= SETTLED, stop - start, 0.0)
        scores[KINDS["first-token"][0]] = (first * queries).sum(-1) / max(queries.sum(), 1.0)
    if scores:
        scores["best of these"] = _best(np.array(list(scores.values())), 0)
    return scores


def _best(values: np.ndarray, axis: int) -> np.ndarray:
    """The largest of what is there; NaN where nothing is."""
    best = np.where(np.isfinite(values), values, -np.inf).max(axis)
    return np.where(np.isfinite(best), best, np.nan)


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = (
        "A positional head pays most of its attention to one distance, or to the first token, whatever the tokens are: "
        "it should do so on random tokens too. Its pairs are those that carry 80 % of the margin of that logit; the "
        "bound is that of Cauchy and Schwarz, |q||k|, and 1 is at the bound. The fastest quarter has more than all of "
        "the margin where the other pairs lower it, and less than nothing where it does."
    )
    found = section("Positional heads", said, models, [charts.get("heads")], ["heads", "attention"])
    head_row = [
        ("head", ""), ("kind", ""), ("attention there", "on the text"), ("attention there", "random tokens"),
        ("fastest quarter", "of the margin"), ("bound", ""), ("pairs", "that carry it"),
    ]  # fmt: skip
    for m in models:
        if m.summary.heads:
            by_kind = _by_kind(m.summary.heads)
            cut = [f"the first {MOST_ROWS} of {len(h)} {k} heads" for k, h in by_kind.items() if len(h) > MOST_ROWS]
            left = f"; {listing(cut)}" if cut else ""
            caption = f"The positional heads{of_model(m, models)}, kind by kind, by their attention{left}."
            shown = [head for heads in by_kind.values() for head in heads[:MOST_ROWS]]
            found.append(Table(caption, head_row, [_row(head) for head in shown]))
    return found


def _by_kind(heads: Sequence[Head]) -> dict[str, list[Head]]:
    """Those of each kind that there is, the strongest first."""
    ordered = sorted(heads, key=lambda head: -head.text)
    return {kind: found for kind in KINDS if (found := [head for head in ordered if head.kind == kind])}


def _row(head: Head) -> Row:
    kind = (head.kind, f"{head.offset} tokens back" if head.kind == "offset" else "")
    parts = [share(part) for part in (head.text, head.random, head.fast_share)]
    values = [*parts, number(head.bound), runs(head.pairs) or DASH]
    return Row([(f"layer {head.layer}, head {head.head}", ""), kind, *((value, "") for value in values)])


def findings(m: Inspection) -> list[Finding]:
    if m.summary.heads is None:
        return []
    if not m.summary.heads:
        said = f"No head{of_measured(m)} is positional: none keeps to a distance, nor to the first token."
        return [Finding(said, "heads")]
    return [_of_kind(m, kind, heads) for kind, heads in _by_kind(m.summary.heads).items()]


def _of_kind(m: Inspection, kind: str, heads: Sequence[Head]) -> Finding:
    layers = sorted({head.layer for head in heads})
    hold = "Layer {}{} holds" if len(layers) == 1 else "Layers {}{} hold"
    said = f"{hold.format(runs_in_words(layers), aside(m))} {len(heads)} {kind} head{'' if len(heads) == 1 else 's'}"
    if kind == "offset":
        offsets = sorted({head.offset for head in heads if head.offset is not None})
        said += f" ({listing([str(o) for o in offsets])} tokens back)"
    if pairs := sorted({pair for head in heads for pair in head.pairs}):
        said += f", carried by {pairs_in_words(pairs)}"
        if fast := [head.fast_share for head in heads if head.fast_share is not None]:
            said += f": {_fast_part(fast)} by the fastest quarter of all pairs"
    best = heads[0]
    who = f"The strongest, head {best.head} of layer {best.layer}," if len(heads) > 1 else "It"
    said += f". {who} puts {share(best.text)} of its attention {KINDS[kind][1]} on the text"
    if best.random is not None and best.random < best.text / 2:
        said += f" but only {share(best.random)} on random tokens: the text draws it more than the position does"
    elif best.random is not None:
        said += f" and {share(best.random)} on random tokens"
    return Finding(f"{said}.", "heads")


def _fast_part(fast: Sequence[float]) -> str:
    """What the fastest pairs have in the margins of some heads: less than nothing where they lower the logit there, and
    more than all of it where the others do."""
    least, most = min(fast), max(fast)
    if most < 0.005:
        return "none of it"
    if least >= 0.995:
        return "all of it"
    if least < -0.005 and most > 1.005:
        return "from none to all of it"
    if most > 1.005:
        return f"at least {share(least)}"
    return f"at most {share(most)}" if least < -0.005 else shares(fast)


def differences(a: Inspection, b: Inspection) -> list[Finding]:
    if a.summary.heads is None or b.summary.heads is None:
        return []
    counts = [f"{len(m.summary.heads or ())} in {m.name}{aside(m)}" for m in (a, b)]
    return [Finding(f"Positional heads: {', '.join(counts)}.", "heads")]
