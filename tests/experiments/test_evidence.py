"""What made-up results say of a claim: for, against, not resolved, one seed, not learnt, not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.experiments import comparison, perplexities, script, shares

evidence = script("evidence")
Verdict = evidence.Verdict
PART = "0009-extrapolation/language"


@pytest.fixture
def text(tmp_path: Path) -> evidence.Known:
    """Three seeds: hope clearly better than rope at 4x, twice as bad as itself in range; nope here better, there worse
    than rope; fox with one seed; t5, of which a seed diverged."""
    trials = {
        "rope": [perplexities(20, 34, 50), perplexities(21, 33, 52), perplexities(20, 35, 51)],
        "hope": [perplexities(20, 25, 40), perplexities(21, 24, 42), perplexities(20, 25, 41)],
        "nope": [perplexities(20, 25, 30), perplexities(21, 45, 90), perplexities(20, 35, 51)],
        "fox": [perplexities(18, 18, 18)],
        "t5": [perplexities(20, 21, 22), perplexities(20, 21, float("inf")), perplexities(20, 21, 23)],
    }
    comparison(tmp_path / "experiments" / PART, trials)
    return evidence.Known(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "times", "says", "verdict", "words"),
    [
        (
            "hope",
            "rope",
            4,
            "better",
            Verdict.FOR,
            "`hope` over `rope`, tail perplexity: 0.80 at 4x (0.79 to 0.81); three seeds (",
        ),
        ("hope", "rope", 4, "worse", Verdict.AGAINST, "0.80 at 4x"),
        ("rope", "hope", 4, "better", Verdict.AGAINST, "1.24 at 4x"),
        ("nope", "rope", 4, "better", Verdict.OPEN, "not resolved at 4x (0."),
        ("hope", "rope", 1, "alike", Verdict.FOR, "at 1x"),
        ("hope", "itself in range", 4, "alike", Verdict.AGAINST, "`hope` over itself in range, tail perplexity: 2.0"),
        ("hope", "itself in range", 4, "worse", Verdict.FOR, "2.02 at 4x"),
        ("rope", "hope", 4, "no better", Verdict.FOR, "1.24 at 4x"),
        ("hope", "rope", 4, "no better", Verdict.AGAINST, "0.80 at 4x"),
        ("rope", "hope", 4, "no worse", Verdict.AGAINST, "1.24 at 4x"),
        ("hope", "rope", 4, "no worse", Verdict.FOR, "0.80 at 4x"),
        ("hope", "rope", 1, "no worse", Verdict.FOR, "at 1x"),
        ("nope", "rope", 4, "no worse", Verdict.OPEN, "not resolved at 4x (0."),
        ("fox", "rope", 4, "better", Verdict.ONE_SEED, "one seed: no claim (0.36 at 4x)"),
        ("t5", "rope", 4, "better", Verdict.DIVERGED, "not judged at 4x (1 of 3 diverged)"),
        ("hope", "rope", 16, "better", Verdict.MISSING, "not measured yet at 16x"),
        ("alibi", "rope", 4, "better", Verdict.MISSING, "`alibi` and `rope`: not measured yet (study extrapolation, "),
        ("taper", "rope", 4, "better", Verdict.MISSING, "`taper` and `rope`: not measured yet (in no study so far)"),
    ],
)
def test_what_a_difference_says(
    text: evidence.Known, first: str, second: str, times: int, says: str, verdict: str, words: str
) -> None:
    line = evidence.Versus(first, second, times=(times,), says=says).line(text)
    assert line.verdict == verdict, line.words
    assert words in line.words
    linked = "([0009-extrapolation](experiments/0009-extrapolation/language/report.md))"
    assert linked in line.words or "no study" in line.words or "(study" in line.words


def test_a_claim_that_holds_at_one_length_and_is_not_resolved_at_another_holds_in_part(text: evidence.Known) -> None:
    line = evidence.Versus("nope", "rope", times=(1, 4), says="no better").line(text)
    assert line.verdict == Verdict.PARTLY
    assert "equal on every seed at 1x (20.3)" in line.words
    assert "not resolved at 4x" in line.words


def test_what_is_alike_or_equal_is_said_to_be(tmp_path: Path) -> None:
    part = "0010-awareness/recall"
    trials = {"hope": [shares(1, 1, 1)] * 2, "rope": [shares(1, 0.99, 1), shares(1, 0.98, 1)]}
    comparison(tmp_path / "experiments" / part, trials, "recall")
    known = evidence.Known(tmp_path)
    versus = {says: evidence.Versus("hope", "rope", (part,), (4,), says).line(known) for says in ("alike", "better")}
    assert {says: line.verdict for says, line in versus.items()} == {"alike": Verdict.FOR, "better": Verdict.OPEN}
    assert all(
        "token accuracy: equal on every seed at 4x (100.0 %); two seeds" in line.words for line in versus.values()
    )
    near = evidence.Versus("hope", "rope", (part,), (2,), "alike").line(known)
    assert near.verdict == Verdict.OPEN
    assert "not resolved at 2x (-" in near.words
    comparison(tmp_path / "experiments" / part, {n: [*rows, *rows] for n, rows in trials.items()}, "recall")
    more = evidence.Versus("hope", "rope", (part,), (2,), "alike").line(evidence.Known(tmp_path))
    assert "+1.5 at 2x (+" in more.words, "what is resolved is said, though it is as good as nothing"


def test_an_interval_without_a_part_of_windows_says_so(text: evidence.Known) -> None:
    kept = evidence.Versus("hope", "rope", times=(4,)).line(text)
    assert "0.80 at 4x (0.79 to 0.81); three seeds" in kept.words
    path = text.root / "experiments" / PART / "results.json"
    results = json.loads(path.read_text())
    for trial in results["trials"]:
        for row in trial["evaluations"]["perplexity"]:
            del row["samples"]
    path.write_text(json.dumps(results))
    lost = evidence.Versus("hope", "rope", times=(2, 4)).line(evidence.Known(text.root))
    assert lost.words.count(", over seeds alone)") == 2


def test_the_comparison_with_most_seeds_of_both_is_read(text: evidence.Known) -> None:
    folder = text.root / "experiments" / "0013-content" / "language"
    comparison(folder, {name: [perplexities(20, 20, 20)] * 2 for name in ("rope", "fox", "hope")})
    assert "two seeds ([0013-content]" in evidence.Versus("fox", "rope", times=(4,)).line(text).words
    assert "three seeds ([0009-extrapolation]" in evidence.Versus("hope", "rope", times=(4,)).line(text).words


def test_an_argument_at_its_default_is_not_in_a_comparisons_name(tmp_path: Path) -> None:
    trials = {name: [perplexities(20, at, at)] * 2 for name, at in (("rope", 34), ("p-rope:keep=slowest", 60))}
    comparison(tmp_path / "experiments" / PART, trials)
    line = evidence.Versus("p-rope:p=0.75,keep=slowest", "rope", times=(4,), says="worse").line(
        evidence.Known(tmp_path)
    )
    assert line.words.startswith("`p-rope:p=0.75,keep=slowest` over `rope`, tail perplexity: 1.")


def test_only_seeds_that_learnt_a_task_in_range_are_held_against_each_other(tmp_path: Path) -> None:
    trials = {
        "rope": [shares(1, 0.9, 0.25), shares(1, 0.8, 0.27), shares(0.4, 0.4, 0.4)],
        "hope": [shares(1, 1, 0.96), shares(1, 1, 0.98), shares(1, 1, 1)],
        "nope": [shares(0.3, 0.3, 0.3)] * 3,
        "fox": [shares(0.3, 0.3, 0.3), shares(1, 1, 1), shares(0.3, 0.3, 0.3)],
    }
    comparison(tmp_path / "experiments" / "0010-awareness" / "mqar", trials, "mqar")
    known = evidence.Known(tmp_path)

    def line(first: str) -> evidence.Line:
        return evidence.Versus(first, "rope", ("0010-awareness/mqar",), (4,)).line(known)

    assert line("hope").verdict == Verdict.FOR
    assert "+71.0 at 4x (+71.0 to +71.0)" in line("hope").words
    assert "two seeds, seeds that learnt it in range: `hope` on 3 of 3 and `rope` on 2 of 3" in line("hope").words
    assert line("nope").verdict == Verdict.UNLEARNT
    assert "`nope` on 0 of 3 and `rope` on 2 of 3" in line("nope").words
    assert line("fox").verdict == Verdict.ONE_SEED
    in_range = evidence.Versus("nope", "rope", ("0010-awareness/mqar",), (1,), "worse").line(known)
    assert "not resolved at 1x (-1" in in_range.words, "who learns it is asked: all seeds count"
    beside = evidence.Versus("nope", "rope", ("0010-awareness/mqar",), (1,), "worse", "exact_match").line(known)
    assert beside.verdict == Verdict.UNLEARNT


def test_times_may_be_fractions_of_a_training_length(tmp_path: Path) -> None:
    part, sizes = "0015-images/resolution", {"train_length": 48, "lengths": [48, 72]}
    data = {"task": "images", "version": 1, "vocab_size": 34, "unit": "pixels", "one_length": True}
    rows = {
        name: shares(0.8, right, key="accuracy", unit=48) for name, right in (("hope-2d", 0.7), ("axial-rope", 0.6))
    }
    trials = {name: [[one, {**other, "length": 72}]] * 2 for name, (one, other) in rows.items()}
    comparison(tmp_path / "experiments" / part, trials, "images", data=data, **sizes)
    line = evidence.Versus("hope-2d", "axial-rope", (part,), (1.5,)).line(evidence.Known(tmp_path))
    assert line.verdict == Verdict.FOR
    assert "accuracy: +10.0 at 1.5x (+10.0 to +10.0); two seeds" in line.words


def test_verdicts_together() -> None:
    together = evidence.together
    assert together([Verdict.FOR, Verdict.MISSING, Verdict.ONE_SEED]) == Verdict.FOR
    assert together([Verdict.FOR, Verdict.AGAINST]) == Verdict.PARTLY
    assert together([Verdict.FOR, Verdict.OPEN]) == Verdict.PARTLY
    assert together([Verdict.FOR, Verdict.UNLEARNT]) == Verdict.PARTLY
    assert together([Verdict.FOR, Verdict.DIVERGED]) == Verdict.PARTLY
    assert together([Verdict.AGAINST, Verdict.OPEN]) == Verdict.AGAINST
    assert together([Verdict.OPEN, Verdict.ONE_SEED]) == Verdict.OPEN
    assert together([Verdict.ONE_SEED, Verdict.MISSING]) == Verdict.ONE_SEED
    assert together([]) == Verdict.MISSING


def test_a_number_over_seeds_needs_two_of_them() -> None:
    assert evidence.over_seeds([1.0]) == evidence.Line(Verdict.ONE_SEED, "1.00, one seed: no claim")
    assert evidence.over_seeds([1.0, 1.1, 1.2]).verdict == Verdict.FOR
    assert evidence.over_seeds([1.0, 1.1, 1.2], "worse").verdict == Verdict.AGAINST
    line = evidence.over_seeds([1.0, -1.1, 0.9])
    assert line.verdict == Verdict.OPEN
    assert line.words.startswith("not resolved, 0.27 (-2.")
    assert line.words.endswith(", over seeds alone), three seeds")
    assert evidence.over_seeds([0.001, -0.001], "alike", alike=0.1).verdict == Verdict.FOR


def test_links_lead_to_where_the_numbers_are() -> None:
    linked = evidence.linked
    assert linked("experiments/0002-copy") == "[0002-copy](experiments/0002-copy/README.md)"
    assert linked("experiments/0005-bases/results-recall.json") == "[0005-bases](experiments/0005-bases/README.md)"
    assert linked("experiments/0013-content/recall") == "[0013-content](experiments/0013-content/recall/report.md)"
    assert linked("benchmarks/results/steps.csv") == "[steps.csv](benchmarks/results/steps.csv)"
