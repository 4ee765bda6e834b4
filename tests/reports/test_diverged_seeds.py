"""The mean of the seeds that did not diverge is never held against the mean of all: in sentences, tables, lines."""

import math
from dataclasses import replace

import pytest
import report_samples as samples

from whorl.reports.comparison import build
from whorl.reports.comparison.by_length import by_length
from whorl.reports.comparison.words import GAINS, findings
from whorl.reports.document import Paragraph, Table
from whorl.results.comparison import Comparison
from whorl.results.failure import Failure

HARD = {0: 1.4, 1: 1.2, 2: 1.0}
"""Seed 2 has by far the lowest perplexity, and is the one that does not diverge."""


def comparison(*lost: int, at: int = 512, names: tuple[str, ...] = ("rope", "hope", "nope")) -> Comparison:
    """Three seeds; on each, rope is below hope and hope below nope. At a length hope diverged on those of `lost`."""
    tails = {"rope": 20.0, "hope": 20.2, "nope": 30.0}
    trials = []
    for name in names:
        for seed, factor in HARD.items():
            rows = samples.perplexity_rows((tails[name],) * 5, factor)
            for row in rows:
                if name == "hope" and seed in lost and row["length"] == at:
                    row.update(tail=math.nan, mean=math.nan)
            trials.append(samples.trial(name, seed, {"perplexity": rows}))
    return samples.read(samples.results(trials))


def lead(c: Comparison) -> str:
    return findings(c)["perplexity"].lead[0]


def hope(c: Comparison) -> str:
    return next(text for e, text in findings(c)["perplexity"].bullets if e.name == "hope")


@pytest.mark.parametrize("lost", [(0, 1), (0,), (0, 1, 2)])
def test_an_encoding_of_which_a_seed_diverged_is_not_ranked_and_that_is_said(lost: tuple[int, ...]) -> None:
    told = lead(comparison(*lost))
    at = told[told.index("At 512") : told.index("At 2,048")]
    assert at == (
        "At 512 tokens (4x), rope has the lowest tail perplexity, 24.0; nope (36.0) lies above it; "
        f"hope diverged in {len(lost)} of 3 seeds and is not ranked. "
    )
    assert "its difference" in told or "hope (24.2) and nope (36.0) lie above it" in told, "where none diverged it is"


def test_a_seed_whose_trial_failed_is_none_that_others_speak_for() -> None:
    whole = comparison()
    trials = tuple(t for t in whole.trials if (t.notation, t.seed) != ("rope", 0))
    failure = Failure(id="rope-0", notation="rope", seed=0, error="MemoryError")
    told = lead(replace(whole, trials=trials, failures=(failure,)))
    assert "At 512 tokens (4x), hope has the lowest tail perplexity, 24.2; nope (36.0) lies above it; " in told
    assert told.count("rope failed in 1 of 3 seeds and is not ranked") == 3, "at every length that is told"
    assert "failed" not in lead(replace(whole, failures=(failure,))), "at another learning rate it did"


def test_with_no_two_left_to_rank_it_is_said_what_diverged() -> None:
    told = lead(comparison(0, 1, names=("rope", "hope")))
    assert "At 512 tokens (4x), hope diverged in 2 of 3 seeds and is not ranked. At 2,048" in told
    assert "not ranked" not in lead(comparison(names=("rope", "hope")))
    assert "ranked" not in lead(comparison(0, 1, names=("hope",))), "there is nothing to rank it with"


def test_it_is_not_held_against_itself_in_range_by_the_others() -> None:
    far = hope(comparison(0, 1))
    assert "at 4x" not in far
    assert "24.2 at 16x" in far, "there no seed diverged"
    assert far.endswith("Diverged at 512 tokens for seed 0 and 1: those values are not finite and are left out.")
    near = hope(comparison(1, at=128))
    assert "diverged in 1 of 3 seeds in range, where the others have 24.2 ± 5.7: nothing beyond it is judged." in near
    last = comparison(1, at=2048)
    for trial in last.trials:
        rows = trial.evaluations["perplexity"]
        trial.evaluations["perplexity"] = tuple(row for row in rows if row.length in (128, 2048))
    assert "has 24.2 in range and no length at which every seed has a value beyond the training length." in hope(last)


def test_it_does_not_gain_by_the_seeds_that_are_left() -> None:
    def gaining(*lost: int) -> str:
        c = comparison(*lost, names=("hope", "nope"))
        for trial in c.trials:
            if trial.notation == "hope":
                rows = trial.evaluations["perplexity"]
                trial.evaluations["perplexity"] = tuple(
                    replace(r, values={**r.values, "tail": r.values["tail"] / 2}) if r.length == 512 else r
                    for r in rows
                )
        return lead(c)

    assert "Only hope gains from context past the training length" in gaining()
    assert "hope gains" not in gaining(1)
    assert GAINS not in hope(comparison(1))


def table(c: Comparison, start: str) -> Table:
    return next(b for b in build(c).blocks if isinstance(b, Table) and b.caption.startswith(start))


def test_tables_of_differences_have_none_where_a_seed_of_either_diverged() -> None:
    apart = table(comparison(0, 1), "Tail perplexity as a multiple of that of rope")
    assert apart.rows[0].cells[3] == ("–", "hope: 2 of 3 diverged")
    assert apart.rows[0].cells[2][0] == "1.01x"
    first = table(comparison(0, 1, names=("hope", "rope")), "Tail perplexity as a multiple of that of hope")
    assert first.rows[0].cells[3] == ("–", "hope: 2 of 3 diverged")


def test_the_line_of_the_means_leaves_the_length_out_and_its_seeds_stay() -> None:
    chart = by_length(comparison(0, 1, at=2048), "perplexity", "", "")
    assert chart is not None
    frame = chart.views[0].panels[0].frames[0]
    assert frame is not None
    line = next(curve for curve in frame.curves if curve.name == "hope")
    assert line.y[-2:] == (pytest.approx(24.24), None)
    assert line.high[-1] is None
    assert [seed[-1] for seed in line.thin] == [None, None, pytest.approx(20.2)]
    assert line.note == "to 1,024"


def test_the_short_table_says_how_many_diverged() -> None:
    header, rows = comparison(0, 1).table()
    assert rows[1][header.index("512")] == "20.2 (2 of 3 diverged)"
    assert rows[1][header.index("256")] == "24.24"
    assert comparison(0, 1, 2).table()[1][1][header.index("512")] == "diverged"


def test_shares_over_all_seeds_are_told_only_where_all_have_one() -> None:
    def recall(*far: float) -> Comparison:
        shares = zip((1.0, 1.0, 0.5), far, strict=True)
        rows = {"hope": [(near, share) for near, share in shares], "rope": [(1.0, 0.6)] * 3}
        trials = [
            samples.trial(name, seed, {"recall": samples.accuracy_rows({128: near, 256: share})})
            for name, seeds in rows.items()
            for seed, (near, share) in enumerate(seeds)
        ]
        return samples.read(samples.results(trials))

    def said(c: Comparison) -> tuple[str, str]:
        found = findings(c)["recall"]
        return found.lead[0], found.bullets[0][1]

    assert "hope has the highest token accuracy, 85.0 %" in said(recall(0.8, 0.9, 0.1))[0]
    assert "Over all seeds: 60.0 % at 256" in said(recall(0.8, 0.9, 0.1))[1]
    told, bullet = said(recall(0.8, math.nan, 0.1))
    assert "At 256 tokens (2x), hope diverged in 1 of 2 seeds and is not ranked." in told
    assert "80.0 %" not in bullet
    assert "85.0 % at 256" in said(recall(0.8, 0.9, math.nan))[1]
    assert "Over all seeds" not in said(recall(0.8, 0.9, math.nan))[1]


def test_losses_of_trainings_and_of_learning_rates_say_how_many_diverged() -> None:
    c = comparison(names=("hope",))
    low = tuple(replace(t, learning_rate=1e-3, validation=math.nan if t.seed else 2.0) for t in c.trials)
    high = tuple(replace(t, learning_rate=1e-2, validation=3.0) for t in c.trials)
    swept = replace(c, trials=high, at_other_rates=low)
    rates = table(swept, "All learning rates")
    assert [row.cells[3] for row in rates.rows] == [("2.00", "2 of 3 diverged"), ("3.00 ± 0.00", "")]
    lost = replace(swept, trials=low, at_other_rates=tuple(replace(t, validation=math.nan) for t in high))
    told = next(b.text for b in build(lost).blocks if isinstance(b, Paragraph) and "learning rate at" in b.text)
    assert "At no rate have all seeds of hope a loss that is finite: shown is the lowest rate." in told
    assert "a better one may lie beyond" not in told
    trained = tuple(replace(t, train=replace(t.train, loss=math.nan)) if t.seed else t for t in c.trials)
    assert table(replace(c, trials=trained), "Training, per trial").rows[0].cells[3] == ("2.93", "2 of 3 diverged")
