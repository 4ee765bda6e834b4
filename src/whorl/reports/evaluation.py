"""The report of an evaluation: what the probes found by length, in words, two figures and a table of each."""

import math
from pathlib import Path

import numpy as np

from whorl.reports import html, writing
from whorl.reports.axes import axis, percent_axis
from whorl.reports.bins import rounded
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid
from whorl.reports.document import Block, Bullet, Bullets, Details, Document, Figure, Heading, Paragraph, Row, Table
from whorl.reports.formatting import compact, finite, listing, multiple, out_of_reach, percent, plural, setting
from whorl.results.differences import half_width
from whorl.results.evaluation import ABOUT, Evaluation, Quantity
from whorl.results.schema import as_json

ABOUT_ALIKE = 0.01
"""The share by which a loss may be below that of guessing and still be that of a model that was not trained."""
CAVEATS = (
    "Loss is not retrieval: most tokens can be guessed from what is near, so a loss that holds does not show that what "
    "lies far back is found. The other probes ask for that.",
    "The probes are small and of their own: none of their numbers is a score of RULER, or of another benchmark of that "
    "name.",
)


def _windows(count: int | None) -> str:
    return f"{count} window{'' if count == 1 else 's'}"


def write(found: Evaluation, out: Path) -> list[Path]:
    """Writes `out/report.md`, `out/report.html` and `out/figures/*.png`, each in one step, and returns their paths."""
    return writing.write(build(found), out)


def head(found: Evaluation) -> str:
    """The head of the report, for a notebook."""
    return html.head(build(found))


def build(found: Evaluation) -> Document:
    """The document; rows may be missing (it then says that it is partial), unreachable or not finite."""
    blocks: list[Block] = []
    if found.missing:
        (probe, length), count = found.missing[0], len(found.missing)
        of = count + sum(map(len, found.rows.values()))
        blocks.append(
            Paragraph(
                f"This report is partial: {count} of {of} parts are still to be read, {probe} at {length:,} first.",
                "notice",
            )
        )
    if found.trained_with is not None:
        blocks.append(
            Paragraph(
                f"{found.encoding} was attached in the place of {found.trained_with}, with which the weights were "
                "trained, and nothing was trained since.",
                "notice",
            )
        )
    blocks += [Heading("Findings"), Bullets([Bullet(text) for text in findings(found)])]
    blocks += [Figure(chart) for chart in (by_position(found), retrieval(found)) if chart is not None]
    for probe, about in ABOUT.items():
        if found.rows.get(probe):
            asked = about.asked.format(tail=found.asked.tail)
            blocks += [Heading(about.title), Paragraph(asked, "note"), _table(found, probe)]
            blocks += [Paragraph(why, "note") for why in unreachable(found, probe)]
    blocks += [Heading("What these numbers do not show"), Bullets([Bullet(text) for text in CAVEATS])]
    blocks.append(_settings(found))
    longest = max(found.asked.lengths)
    return Document(
        f"{found.model} in and past its training length",
        f"Trained at {found.train_length:,} tokens ({found.train_length_from}), read at up to {longest:,}. Nothing was "
        "trained.",
        [
            ("Encoding", found.encoding),
            ("Model", f"{compact(found.parameters)} parameters"),
            ("Text", f"{found.asked.text}{', held out' if found.heldout else ''}, {_windows(found.asked.windows)}"),
            ("Sequences", f"{found.asked.sequences} a length"),
            ("Device", ", ".join(part for part in (found.machine.device, found.machine.cpu) if part)),
            ("Created", found.created[:16].replace("T", " ")),
        ],
        blocks,
        f"Written by whorl {found.whorl}, from results.json beside this report.",
    )


def findings(found: Evaluation) -> list[str]:
    """What the numbers say, a sentence for each probe that has been asked in range or beyond."""
    said = [_learnt_nothing(found), _loss(found)]
    said += [_holds(found, probe, ABOUT[probe].measured[0]) for probe in found.rows if probe != "loss"]
    return [sentence for sentence in said if sentence]


def _learnt_nothing(found: Evaluation) -> str:
    """Where at no length the tokens cost less than a guess among the whole vocabulary (to one part in a hundred): a
    model that was not trained, or whose weights are lost, and whose other numbers mean nothing."""
    rows = [row for row in found.rows.get("loss", ()) if row.unreachable is None]
    losses = [(row.values["mean"], row.length) for row in rows if math.isfinite(row.values["mean"])]
    if found.guessing is None or not losses:
        return ""
    least, length = min(losses)
    if least < (1 - ABOUT_ALIKE) * found.guessing:
        return ""
    return (
        f"The model has learnt nothing of this text, as it is read here: a token costs {least:.3f} nats at {length:,} "
        f"tokens, the least of any length, and a guess among all {found.vocab_size:,} of the vocabulary costs "
        f"{found.guessing:.3f}. What else is found means nothing."
    )


def _loss(found: Evaluation) -> str:
    """The loss of the same tokens at the longest length, held against that in range (or at the shortest length, where
    none is longer), paired by window."""
    rows = [row for row in found.rows.get("loss", ()) if row.unreachable is None]
    if len(rows) < 2:
        return ""
    far, near = rows[-1], rows[0]
    if far.length > found.train_length:
        near = next((row for row in rows if row.length == found.reference), near)
    for row in (near, far):
        if not math.isfinite(row.values["tail"]):
            return f"At {row.length:,} tokens the loss is not finite."
    each = np.subtract(far.samples, near.samples)
    mean = float(each.mean())
    half = half_width(each.tolist()) if len(each) > 1 else math.inf
    of = f"With {far.length:,} tokens of context the same tokens cost"
    if not abs(mean) > half:
        return f"{of} what they do with {near.length:,}, as far as {plural(len(each), 'window')} can tell."
    more, meaning = (
        ("more", "the added context hurts") if mean > 0 else ("less", "the model gains from the added context")
    )
    return f"{of} {abs(mean):.3f} ± {half:.3f} nats {more} than with {near.length:,}: {meaning}."


def _holds(found: Evaluation, probe: str, one: Quantity) -> str:
    """A share in range, and past the training length."""
    shares = [(n, finite(found.value(probe, one.key, n))) for n in found.asked.lengths]
    known = [(n, share) for n, share in shares if share is not None]
    if not known:
        return ""
    told = [f"{percent(share)} at {n:,}" for n, share in known]
    guess = f" (guessing: {percent(one.chance)})" if one.chance is not None else ""
    return f"{ABOUT[probe].title}: {one.label}, {listing(told)} tokens{guess}."


def by_position(found: Evaluation) -> CurveChart | None:
    """Loss by position at the longest length that was reached."""
    values = rounded([position.loss for position in found.positions])
    known = [value for value in values if value is not None]
    if not known:
        return None
    places = tuple((position.first + position.last) / 2 for position in found.positions)
    notes = tuple(f"positions {position.first:,} to {position.last:,}" for position in found.positions)
    last = found.positions[-1].last
    marks = ((float(found.train_length), "training length"),) if found.train_length <= last else ()
    panel = CurvePanel("", (Grid(places, notes),), (CurveFrame(0, (Curve("loss", 0, values),)),), marks)
    view = CurveView("loss", (axis("loss (nats per token)", "linear", known),), (panel,))
    x = axis("position", "linear", [0.0, float(last)])
    row = found.row("loss", last + 1)
    count = found.asked.windows if row is None else row.windows
    caption = f"Mean over {_windows(count)} of {last + 1:,} tokens. Each place has tokens of its own."
    return CurveChart("loss", "Loss by position", caption, (("position", x),), (view,))


def retrieval(found: Evaluation) -> CurveChart | None:
    """The telling share of each probe that has one, by length."""
    lengths = found.asked.lengths
    curves: list[Curve] = []
    for probe, about in ABOUT.items():
        one = about.measured[0]
        values = tuple(finite(found.value(probe, one.key, n)) for n in lengths)
        if one.unit == "share" and any(value is not None for value in values):
            curves.append(Curve(probe, len(curves), values))
    if not curves:
        return None
    notes = tuple(f"{n:,} tokens, {multiple(n, found.train_length)}" for n in lengths)
    marks = ((float(found.train_length), "training length"),) if lengths[0] <= found.train_length <= lengths[-1] else ()
    panel = CurvePanel("", (Grid(tuple(map(float, lengths)), notes),), (CurveFrame(0, tuple(curves)),), marks)
    view = CurveView("right", (percent_axis("right"),), (panel,), markers=True)
    ticks = tuple((float(n), f"{n:,}\n{multiple(n, found.train_length)}") for n in lengths)
    x = Axis("length in tokens", "log", lengths[0] / 1.12, lengths[-1] * 1.12, ticks)
    caption = f"The share that is right, of {found.asked.sequences} sequences at each length"
    caption += "; of decoy, half of them, which ask for the first statement." if "decoy" in found.rows else "."
    return CurveChart("retrieval", "What is found far back", caption, (("length", x),), (view,), named=True)


def _table(found: Evaluation, probe: str) -> Table:
    """A row per quantity, a column per length; the telling one with its standard error."""
    lengths = found.asked.lengths
    first, *_ = measured = ABOUT[probe].measured
    return Table(
        f"{ABOUT[probe].title}, by length in tokens; in small print the standard error over windows or sequences.",
        [("", ""), *((f"{n:,}", multiple(n, found.train_length)) for n in lengths)],
        [Row([(one.label, ""), *(_value(found, probe, one, n, one is first) for n in lengths)]) for one in measured],
    )


def _value(found: Evaluation, probe: str, one: Quantity, length: int, spread: bool) -> tuple[str, str]:
    """A value as the result's own table has it, and its standard error."""
    row = found.row(probe, length)
    error = row.error if row is not None and spread else None
    if error is None or not math.isfinite(error):
        return found.cell(probe, one, length), ""
    return found.cell(probe, one, length), f"± {100 * error:.1f} %" if one.unit == "share" else f"± {error:.3f}"


def unreachable(found: Evaluation, probe: str) -> list[str]:
    """Why lengths were out of reach of a probe, a sentence for each reason."""
    rows = found.rows.get(probe, ())
    return [f"Out of reach at {lengths}: {why}." for why, lengths in out_of_reach(rows).items()]


def _settings(found: Evaluation) -> Details:
    groups = {
        "Asked": as_json(found.asked) | {"probes": found.probes, "definitions": found.probe_versions},
        "Machine": as_json(found.machine),
        "Versions": found.versions,
    }
    told = {name: {key: setting(value) for key, value in group.items()} for name, group in groups.items()}
    return Details("Settings, machine and versions", told)
