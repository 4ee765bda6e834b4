"""An evaluation against length: its findings in words, its chart, and a table of each of its two metrics."""

import math
from collections.abc import Sequence

from whorl.reports.axes import axis, percent_axis
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid, Rows
from whorl.reports.comparison.levels import Level, level
from whorl.reports.comparison.sentences import Findings, as_ratio, turning_in_words
from whorl.reports.comparison.words import compared
from whorl.reports.document import Block, Bullet, Bullets, Figure, Heading, Paragraph, Row, Table
from whorl.reports.formatting import DASH, capital, finite, multiple, number, percent, plural, ratio, with_spread
from whorl.results.comparison import Comparison
from whorl.results.differences import difference
from whorl.results.over_seeds import Cell, Encoding, Metric
from whorl.results.ranks import mean_reciprocal_rank, means
from whorl.tasks import of_evaluation

ROOM = 0.05
"""The share of an axis that the name of a length takes."""


def blocks(c: Comparison, kind: str, found: Findings) -> list[Block]:
    task = of_evaluation(kind)
    name = task.words().measure
    chart = by_length(c, kind, f"{name} against length", _chart_caption(c, kind))
    blocks: list[Block] = [Heading("Findings" if len(c.evaluations) == 1 else f"{name}: findings")]
    blocks += [Paragraph(text, "lead") for text in found.lead]
    blocks += [Paragraph(found.rule, "note")] if found.rule else []
    blocks.append(Bullets([Bullet(text, encoding.name, encoding.index) for encoding, text in found.bullets]))
    blocks += [Paragraph(found.reading, "note")] if found.reading else []
    blocks += [Figure(chart)] if chart is not None else []
    first, *_ = task.measured()
    blocks += _beside(c, kind)
    blocks += [_table(c, metric, c.encodings) for metric in task.measured()]
    solved = compared(c, first)
    if first.share and solved and sum(len(e.trials) for e in solved) < len(c.trials):
        blocks.append(_table(c, first, solved, "Of the seeds alone that learnt the task in range: "))
    return blocks + _past(c, first) + _apart_from_first(c, first, solved)


def _beside(c: Comparison, kind: str) -> list[Block]:
    """A row per encoding, a column per metric, at the length in range: for tasks that ask to be read so."""
    task, at = of_evaluation(kind), c.reference(kind)
    caption = task.words().beside
    if not caption or at is None:
        return []
    metrics = task.measured()
    rows = [
        Row([(e.name, _seeds(c, e)), *(value_at(e, metric, at, at) for metric in metrics)], e.index)
        for e in c.encodings
    ]
    known = [level(c, metric, at) for metric in metrics]
    if found := next((one for one in known if one is not None), None):
        rows.append(Row([(found.name, ""), *((DASH if one is None else one.shown, "") for one in known)]))
    header = [("encoding", ""), *((metric.label, "") for metric in metrics)]
    return [Table(caption.format(at=f"{at:,}", config=c.config), header, rows)]


def _chart_caption(c: Comparison, kind: str) -> str:
    task = of_evaluation(kind)
    said = [task.words().caption.format(config=c.config)]
    if len(c.seeds) > 1:
        said.append("Bands are one standard deviation over seeds, thin lines single seeds.")
    found = level(c, task.measured()[0], c.reference(kind))
    return " ".join([*said, f"The dotted line is {found.meaning}."] if found is not None else said)


def _table(c: Comparison, metric: Metric, encodings: Sequence[Encoding], of: str = "") -> Table:
    """A row per encoding, a column per length: mean ± spread, and for perplexity the ratio to in-range."""
    lengths, reference = c.lengths(metric.evaluation), c.reference(metric.evaluation)
    spread = ", ± one standard deviation over seeds" if len(c.seeds) > 1 else ""
    against = f"; in small print, how many times the value at {reference:,}" if reference and not metric.share else ""
    levels = [level(c, metric, n) for n in lengths]
    return Table(
        f"{capital(f'{of}{metric.label}')} by length in {c.unit}{spread}{against}.",
        [("encoding", ""), ("pairs turning", ""), *((f"{n:,}", multiple(n, c.train_length)) for n in lengths)],
        [
            Row(
                [(e.name, _seeds(c, e)), _turning(e), *(value_at(e, metric, n, reference) for n in lengths)],
                e.index,
            )
            for e in encodings
        ]
        + _levels_row(levels),
    )


def _past(c: Comparison, metric: Metric) -> list[Block]:
    """A row per encoding: on how many seeds it learnt the task, how far it holds, its mean share beyond the
    range, over all seeds and over those that learnt it, and how it ranks there."""
    far = c.far(metric.evaluation)
    by_seed = means(c.encodings, metric, far) if metric.share and len(c.encodings) > 1 else {}
    if not by_seed:
        return []
    learnt = {e.name: {trial.seed for trial in e.trials} for e in compared(c, metric)}
    ranked = mean_reciprocal_rank(
        [
            {name: values[name] if seed in seeds else math.nan for name, seeds in learnt.items()}
            for seed, values in by_seed.items()
        ]
    )
    rows = []
    for e in c.encodings:
        solved = learnt.get(e.name, set())
        every = Cell(0, {seed: values[e.name] for seed, values in by_seed.items()})
        alone = Cell(0, {seed: values[e.name] for seed, values in by_seed.items() if seed in solved})
        cells = [
            f"{len(solved)} of {len(e.trials)}",
            _holds_to(c, e, metric),
            *(with_spread(cell.mean, cell.spread, True) for cell in (every, alone)),
            f"{ranked[e.name]:.2f}" if e.name in ranked else DASH,
        ]
        rows.append(Row([(text, "") for text in (e.name, *cells)], e.index))
    needed = percent(metric.learnt) if metric.learnt else "all"
    beyond = of_evaluation(metric.evaluation).words().beyond
    heads = ["encoding", "seeds that learnt it", f"holds to, {c.unit}", "mean", "of seeds that learnt it"]
    return [
        Table(
            f"{capital(beyond)}: how many seeds learnt the task in range, up to which of the {c.unit} {needed} "
            f"of the {metric.of} are right at every length, the mean of {metric.label} {beyond}, and the "
            f"mean reciprocal rank by it over {plural(len(by_seed), 'seed')}. Encodings that learnt it on no seed are "
            "not ranked, and on a seed on which one did not it comes last. Equal ones share the mean of their ranks.",
            [(head, "") for head in (*heads, "reciprocal rank")],
            rows,
        )
    ]


def _apart_from_first(c: Comparison, metric: Metric, encodings: Sequence[Encoding]) -> list[Block]:
    """A row per encoding that learnt something: by how much it differs from the first of them at each length."""
    if len(encodings) < 2:
        return []
    first, *others = encodings
    lengths = c.lengths(metric.evaluation)
    how = f"less that of {first.name}, in points" if metric.share else f"as a multiple of that of {first.name}"
    return [
        Table(
            f"{capital(metric.label)} {how}, and in small print the 95 % interval of the paired difference.",
            [("encoding", ""), *((f"{n:,}", multiple(n, c.train_length)) for n in lengths)],
            [Row([(e.name, ""), *(_apart(metric, (e, first), n) for n in lengths)], e.index) for e in others],
        )
    ]


def _apart(metric: Metric, pair: tuple[Encoding, Encoding], length: int) -> tuple[str, str]:
    """`1.40x` and `1.32x to 1.49x`, or `not resolved` and the interval that holds zero; a dash where a seed of either
    diverged, for which the others do not speak."""
    cells = [e.cell(metric, length) for e in pair]
    lost = [
        f"{e.name}: {cell.divergence or 'diverged'}"
        for e, cell in zip(pair, cells, strict=True)
        if cell and cell.diverged
    ]
    if lost:
        return DASH, ", ".join(lost)
    found = difference(metric, (pair[0], length), (pair[1], length))
    if found is None:
        return DASH, ""
    shown = _points if metric.share else lambda value: ratio(as_ratio(value))
    if found.low is None or found.high is None:
        return "not resolved", "no interval"
    return shown(found.mean) if found.resolved else "not resolved", f"{shown(found.low)} to {shown(found.high)}"


def _points(share: float) -> str:
    return f"{100 * share:+z.1f}"


def _holds_to(c: Comparison, e: Encoding, metric: Metric) -> str:
    """The longest length up to which, from the shortest in range on, every mean reaches what counts as learnt and no
    seed diverged; a dash where not even the first does."""
    held, first = DASH, min(c.near(metric.evaluation), default=0)
    for length in (n for n in c.lengths(metric.evaluation) if n >= first):
        cell = e.cell(metric, length)
        mean = None if cell is None or cell.unreachable or cell.diverged else finite(cell.mean)
        if mean is None or mean < (metric.learnt or 1.0):
            break
        held = f"{length:,}"
    return held


def _levels_row(levels: Sequence[Level | None]) -> list[Row]:
    """What a model has that has learnt nothing, where that is known."""
    known = [one for one in levels if one is not None]
    shown = [(DASH if one is None else one.shown, "") for one in levels]
    return [Row([(known[0].name, ""), (DASH, ""), *shown])] if known else []


def _seeds(c: Comparison, e: Encoding) -> str:
    """`1 of 3 seeds`, of which the values of its row are, where there are others."""
    return f"{len(e.trials)} of {len(c.seeds)} seeds" if len(e.trials) < len(c.seeds) else ""


def _turning(e: Encoding) -> tuple[str, str]:
    """`11, 0 of 32` and, in small print, `layers in turn`."""
    text, _, small = turning_in_words(e).partition(" (")
    return text, small.removesuffix(")")


def value_at(e: Encoding, metric: Metric, length: int, reference: int | None) -> tuple[str, str]:
    """A table's cell: mean ± spread, and in small print the ratio to another length and how many seeds diverged."""
    cell = e.cell(metric, length)
    if cell is None:
        return DASH, ""
    if cell.unreachable:
        return "cannot reach", ""
    small = []
    held = e.ratio(metric, length, reference) if length != reference and not metric.share else None
    if held is not None and held.finite:
        small.append(ratio(held.mean))
    if cell.divergence:
        small.append(cell.divergence)
    return with_spread(cell.mean, cell.spread, metric.share), ", ".join(small)


def by_length(c: Comparison, kind: str, title: str, caption: str) -> CurveChart | None:
    """The metrics of an evaluation against length; None when it has no finite value."""
    lengths = c.lengths(kind)
    first, *others = of_evaluation(kind).measured()
    # Shares have one scale and lie over one another. Of several perplexities the picture has the first alone.
    pictured = 2 if first.share else 1 + sum(metric.share for metric in others)
    titled = pictured > 1 and not first.share
    views = [_view(c, metric, lengths, titled) for metric in (first, *others)]
    found = tuple(view for view in views if view is not None)
    if not found:
        return None
    low, high = lengths[0] / 1.12, lengths[-1] * 1.12
    named = [n for n in (c.train_length, lengths[-1]) if n in lengths]
    told = _with_room(lengths, named, ROOM * math.log(high / low))
    ticks = tuple((float(n), f"{n:,}\n{multiple(n, c.train_length)}") for n in told)
    x = Axis(f"length in {c.unit}", "log", low, high, ticks)
    return CurveChart(
        *(kind, title, caption, (("length", x),), found), named=True, pictured=pictured, overlaid=first.share
    )


def _with_room(lengths: Sequence[int], kept: Sequence[int], room: float) -> list[int]:
    """Lengths whose logarithms are so far from one another that what is written there has room, those kept first."""
    told = list(dict.fromkeys(kept))
    for n in lengths:
        if all(abs(math.log(n / other)) >= room for other in told):
            told.append(n)
    return sorted(told)


def _view(c: Comparison, metric: Metric, lengths: Sequence[int], titled: bool) -> CurveView | None:
    """titled: the metric's name stands above its panel, which is lower than a long one on the axis."""
    lines = tuple(_line(c, e, metric, lengths) for e in c.encodings)
    values = [v for line in lines for row in (line.y, line.low, line.high, *line.thin) for v in row if v is not None]
    if not values:
        return None
    nothing = level(c, metric, c.reference(metric.evaluation))
    levels = () if nothing is None else ((nothing.value, f"{nothing.name}, {nothing.shown}"),)
    values += [value for value, _ in levels]
    better = "lower" if metric.lower_is_better else "higher"
    scale = f"log scale, {better} is better"
    label = scale if titled else f"{metric.label} ({scale})"
    y = percent_axis(metric.label) if metric.share else axis(label, "log", values)
    notes = tuple(f"{n:,} {c.unit}, {multiple(n, c.train_length)}" for n in lengths)
    grid = Grid(tuple(map(float, lengths)), notes)
    marks = ((float(c.train_length), "training length"),)
    panel = CurvePanel("", (grid,), (CurveFrame(0, lines),), marks)
    return CurveView(metric.label, (y,), (panel,), levels, "left", markers=True)


def _line(c: Comparison, e: Encoding, metric: Metric, lengths: Sequence[int]) -> Curve:
    """The mean, where no seed diverged, and each seed."""
    cells = [e.cell(metric, n) for n in lengths]
    bands = [_band(cell, metric) for cell in cells]
    spread = any(low is not None for low, _ in bands)
    seeds = (tuple(None if cell is None else finite(cell.values.get(t.seed)) for cell in cells) for t in e.trials)
    return Curve(
        e.name,
        e.index,
        tuple(None if cell is None or cell.diverged else finite(cell.mean) for cell in cells),
        tuple(low for low, _ in bands) if spread else (),
        tuple(high for _, high in bands) if spread else (),
        tuple(seeds) if len(e.trials) > 1 else (),
        tuple(() if cell is None else _rows(c, e, metric, cell) for cell in cells),
        _note([cell for cell in cells if cell is not None], lengths),
    )


def _note(cells: Sequence[Cell], lengths: Sequence[int]) -> str:
    """What to say beside the name of a line that does not reach every length."""
    reached = [cell.length for cell in cells if cell.finite and not cell.diverged]
    if not reached:
        return "diverged" if any(cell.diverged for cell in cells) else "no value"
    return "" if reached[-1] == lengths[-1] else f"to {reached[-1]:,}"


def _band(cell: Cell | None, metric: Metric) -> tuple[float | None, float | None]:
    """One standard deviation to both sides of the mean."""
    mean, spread = (None, None) if cell is None or cell.diverged else (finite(cell.mean), cell.spread)
    if cell is None or mean is None or spread is None:
        return None, None
    low = mean - spread
    if not metric.share and low <= 0:
        low = min(cell.finite)  # a logarithmic axis has no place for it
    return low, mean + spread


def _rows(c: Comparison, e: Encoding, metric: Metric, cell: Cell) -> Rows:
    rows = [(metric.label, with_spread(cell.mean, cell.spread, metric.share))]
    in_range = e.ratio(metric, cell.length, c.reference(metric.evaluation))
    if in_range is not None and in_range.mean is not None and not metric.share:
        rows.append(("ratio to in-range", ratio(in_range.mean)))
    if cell.stderr is not None:
        rows.append(("standard error", percent(cell.stderr) if metric.share else number(cell.stderr)))
    if cell.samples is not None:
        rows.append(("sequences" if metric.share else "windows", f"{cell.samples:,}"))
    if len(cell.values) > 1:
        rows.append(("seeds", str(len(cell.finite))))
    return tuple(rows)
