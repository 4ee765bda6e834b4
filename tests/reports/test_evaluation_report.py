"""What the report of an evaluation says of its numbers: what differs, what is missing, what is not a number."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whorl.reports import markdown, writing
from whorl.reports.evaluation import build, by_position, findings, retrieval, write
from whorl.results.evaluation import ABOUT, Asked, Evaluation, Position
from whorl.results.trial import Machine, Row


def loss(length: int, *samples: float) -> Row:
    mean = sum(samples) / len(samples)
    return Row(length, {"tail": mean, "mean": mean}, windows=len(samples), tokens=8, samples=samples, stderr=0.1)


def copies(length: int, share: float) -> Row:
    values = dict.fromkeys((one.key for one in ABOUT["segment-copy"].measured), 1.0) | {"accuracy": share}
    return Row(length, values, sequences=4, samples=(share,) * 4, stderr=0.05)


def evaluation(loss_far: Row | None = None, **changed: Any) -> Evaluation:
    asked = Asked(None, "a text", 128, (64, 128, 256), 4, 4, 8, 0, "digest")
    rows = {
        "loss": (loss(64, 2.0, 3.0, 4.0), loss(128, 1.9, 2.9, 3.9), loss_far or loss(256, 2.9, 3.95, 4.9)),
        "segment-copy": (copies(64, 1.0), copies(128, 0.75), copies(256, 0.0)),
    }
    found = Evaluation(
        whorl="0.1.0", created="2026-11-27T10:00:00+00:00", model="a <model>", parameters=10**6,
        encoding="rope:base=10000", trained_with=None, train_length_from="its config says", asked=asked,
        machine=Machine("a chip", 2, 4.0, "cpu", "Linux"), versions={"torch": "2"},
        probes=("loss", "segment-copy"), probe_versions={"loss": 1}, rows=rows,
        positions=(Position(1, 128, 2.0), Position(129, 255, 3.0)),
    )  # fmt: skip
    return replace(found, **changed)


def test_a_difference_is_paired_by_window_and_said_with_its_interval() -> None:
    """The windows differ by 1 from one another, and by 1.0, 1.05 and 1.0 between the lengths."""
    said, copied = findings(evaluation())
    assert said == (
        "With 256 tokens of context the same tokens cost 1.017 ± 0.072 nats more than with 128: the added "
        "context hurts."
    )
    assert copied == (
        "Going on with a segment: copied right, four tokens known, 100.0 % at 64, 75.0 % at 128 and 0.0 % at 256 "
        "tokens."
    )


@pytest.mark.parametrize(
    ("far", "said"),
    [
        (loss(256, 1.8, 2.82, 3.81), "0.090 ± 0.025 nats less than with 128: the model gains from the added"),
        (loss(256, 0.9, 3.9, 3.9), "the same tokens cost what they do with 128, as far as three windows can tell"),
        (loss(256, 1.0, math.nan, 2.0), "At 256 tokens the loss is not finite."),
    ],
)
def test_what_is_not_resolved_or_no_number_is_said_so(far: Row, said: str) -> None:
    assert said in findings(evaluation(far))[0]


def test_a_loss_in_range_that_is_no_number_is_said_so_too() -> None:
    whole = evaluation()
    broken = replace(
        whole, rows={"loss": (whole.rows["loss"][0], loss(128, math.nan, 1.0, 2.0), whole.rows["loss"][2])}
    )
    assert findings(broken) == ["At 128 tokens the loss is not finite."]


def test_a_model_that_learnt_nothing_is_said_first() -> None:
    """The least of the losses is 2.9 nats, and e^2.9 is 18.2: of 18 tokens a guess costs less than that."""
    said = findings(evaluation(vocab_size=18))[0]
    assert said == (
        "The model has learnt nothing of this text, as it is read here: a token costs 2.900 nats at 128 tokens, the "
        "least of any length, and a guess among all 18 of the vocabulary costs 2.890. What else is found means nothing."
    )
    assert findings(evaluation(vocab_size=20)) == findings(evaluation()), "a loss 3 % below a guess's has learnt"
    nowhere = Row(64, unreachable="why")
    assert findings(evaluation(rows={"loss": (nowhere,)}, vocab_size=18)) == []


def test_in_range_the_longest_length_is_held_against_the_shortest() -> None:
    whole = evaluation()
    short = replace(whole, rows={"loss": (whole.rows["loss"][0], loss(128, 1.8, 2.82, 3.81))})
    assert "0.190 ± 0.025 nats less than with 64: the model gains" in findings(short)[0]
    assert findings(replace(whole, rows={"loss": whole.rows["loss"][:1]})) == []
    nowhere = replace(short, rows={"loss": (Row(64, unreachable="why"), Row(128, unreachable="why"))}, positions=())
    assert findings(nowhere) == []
    assert by_position(nowhere) is None
    assert retrieval(nowhere) is None


def test_what_is_missing_is_said_first(tmp_path: Path) -> None:
    whole = evaluation()
    partial = replace(whole, rows={"loss": whole.rows["loss"][:1]})
    assert partial.missing[0] == ("segment-copy", 64)
    write(partial, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "5 of 6 parts are still to be read, segment-copy at 64 first" in report
    assert "a &lt;model> in and past its training length" in report
    write(whole, tmp_path)
    assert "partial" not in (tmp_path / "report.md").read_text()


def test_a_number_of_which_there_is_no_sequence_says_so() -> None:
    """As niah's last third of the depths, where it has two sequences."""
    values = {"found": 1.0, "early": 1.0, "middle": 0.0, "loss": 0.5, "unstated": 9.0}
    rows = (Row(64, values, sequences=2, samples=(1.0, 0.0)), Row(128, unreachable="it is too short"))
    found = evaluation(rows={"niah": rows})
    table = {row[0]: row[1:] for row in found.table()[1]}
    assert table["in the last third"] == ("no sequence", "out of reach", "")
    assert table["in the second third"][0] == "0.0 %"
    assert "| in the last third | no sequence | out of reach |  |" in markdown.render(build(found))


def test_curves_stand_at_their_lengths_and_the_training_length_is_marked() -> None:
    chart = retrieval(evaluation())
    assert chart is not None
    panel = chart.views[0].panels[0]
    assert panel.grids[0].x == (64.0, 128.0, 256.0)
    assert [curve.y for frame in panel.frames for curve in frame.curves] == [(1.0, 0.75, 0.0)]
    assert panel.marks == ((128.0, "training length"),)
    positions = by_position(evaluation())
    assert positions is not None
    assert positions.views[0].panels[0].marks == ((128.0, "training length"),)
    assert [block.chart.name for block in build(evaluation()).blocks if hasattr(block, "chart")] == [
        "loss",
        "retrieval",
    ]


def test_figures_of_the_report_before_go_and_those_of_others_stay(tmp_path: Path) -> None:
    write(evaluation(), tmp_path)
    figures = tmp_path / "figures"
    (figures / "mine.png").write_bytes(b"of somebody else")
    before = {p.name for p in figures.iterdir()}
    write(replace(evaluation(), probes=("loss",), rows={"loss": evaluation().rows["loss"]}), tmp_path)
    after = {p.name for p in figures.iterdir()}
    assert before - after == {"retrieval.png", "retrieval@2x.png"}
    writing.take_away(tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["mine.png"]
