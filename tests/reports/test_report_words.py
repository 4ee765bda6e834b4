"""The sentences say what the numbers say, and no more."""

import math

import pytest
import report_samples as samples

from whorl.reports.summary import TAIL, Cell, summarize, turning_in_words
from whorl.reports.words import GAINS, HOLDS, HURT, findings, partial_notice, verdict


def bullets(data: dict, kind: str = "perplexity") -> dict[str, str]:
    return {e.name: text for e, text in findings(summarize(data))[kind].bullets}


def with_tails(tails: tuple[float, ...], seeds: tuple[int, ...] = (0,), spread: float = 0.0, error: float = 0.01):
    rows = [samples.perplexity_rows(tails, 1 + spread * i, error) for i in range(len(seeds))]
    return samples.results([samples.trial("hope", s, {"perplexity": r}) for s, r in zip(seeds, rows, strict=True)])


def test_an_encoding_whose_value_rises_is_hurt_with_the_ratios_at_4x_and_the_longest() -> None:
    said = bullets(samples.language())
    assert said["hope"] == (
        "(11 of 32 pairs turn) is hurt by context that it cannot use: "
        "from 17.3 in range to 22.5 at 4x (1.30 times) and 40.9 at 16x (2.36 times)."
    )
    assert "55.8 at 4x (3.12 times) and 84.1 at 16x (4.70 times)" in said["rope"]


@pytest.mark.parametrize(
    ("tails", "expected"),
    [
        ((17.0, 16.5, 15.0, 14.5, 14.0), GAINS),
        ((17.0, 17.0, 17.1, 17.1, 17.2), HOLDS),  # within two standard errors of 1 %
        ((17.0, 18.0, 20.0, 22.0, 30.0), HURT),
    ],
)
def test_verdict_follows_the_side_of_one_by_more_than_the_uncertainty(tails, expected) -> None:
    assert expected in bullets(with_tails(tails))["hope"]


def test_verdicts_that_differ_between_lengths_are_told_apart() -> None:
    said = bullets(with_tails((17.0, 16.0, 14.0, 17.0, 40.0)))["hope"]
    assert f"at 512 tokens it {GAINS}, at 2,048 tokens it {HURT}" in said


def test_the_spread_over_seeds_decides_and_not_the_windows_when_there_are_seeds() -> None:
    assert verdict(Cell(512, {0: 1.02, 1: 1.08, 2: 1.05}, stderr=5.0)) == HURT
    assert verdict(Cell(512, {0: 0.9, 1: 1.3, 2: 1.0}, stderr=0.0)) == HOLDS
    assert verdict(Cell(512, {0: 1.05}, stderr=0.01)) == HURT
    assert verdict(Cell(512, {0: 1.05}, stderr=0.03)) == HOLDS


def test_encodings_are_ranked_and_told_apart_only_beyond_the_spread() -> None:
    lead = " ".join(findings(summarize(samples.language((0, 1, 2))))["perplexity"].lead)
    assert "At 512 tokens (4x), hope has the lowest tail perplexity" in lead
    in_range = lead.split("At 512")[0]
    assert "nope (27.6) lies above it" in in_range
    assert "hope (17.8) and rope (18.4) are not told apart from it" in in_range
    assert "No encoding gains from context past the training length" in lead


def test_one_seed_is_said_to_give_no_spread_and_several_are_not() -> None:
    one, three = (findings(summarize(samples.language(s)))["perplexity"] for s in ((0,), (0, 1, 2)))
    assert "One seed gives no spread" in one.rule
    assert "as an indication only" in one.rule
    assert any(text.startswith("One seed.") for text in one.caveats)
    assert "± one standard deviation over seeds do not overlap" in three.rule
    assert any("not a confidence interval" in text for text in three.caveats)


def test_the_target_tokens_and_the_limits_of_perplexity_are_explained() -> None:
    found = findings(summarize(samples.language()))["perplexity"]
    assert "the last 64 tokens of the same windows" in found.reading
    assert "dropping the far context" in found.reading
    assert any("Perplexity is not retrieval" in text for text in found.caveats)
    assert any("0.84 M parameters" in text for text in found.caveats)


def test_a_task_not_learnt_in_range_means_nothing_beyond_it() -> None:
    data = samples.copying(
        rope={64: 0.99, 128: 0.97, 512: 0.2},
        hope={64: 0.99, 128: 0.98, 512: 0.9},
        nope={64: 0.99, 128: 0.949, 512: 0.9},
    )
    found = findings(summarize(data))["copy"]
    said = bullets(data, "copy")
    assert "learnt in range" in found.lead[0]
    assert "by rope and hope. The others did not" in found.lead[0]
    assert "did not learn the task in range: 94.9 % of the tokens right at 128 tokens" in said["nope"]
    assert "mean nothing" in said["nope"]
    assert "97.0 % of the tokens right at 128 tokens; 20.0 % at 512 tokens (4x) (exact match 0.0 %)" in said["rope"]
    assert "nope" not in found.lead[0].split("At 512")[1], "an unlearnt task must not be ranked"


def test_no_learner_at_all_is_said_plainly() -> None:
    found = findings(summarize(samples.copying(rope={128: 0.5, 256: 0.1}, hope={128: 0.6, 256: 0.1})))["copy"]
    assert found.lead[0].startswith("No encoding learnt the copy task in range")


def test_one_seed_below_the_line_is_enough_to_say_not_learnt() -> None:
    rows = [samples.accuracy_rows({128: accuracy, 256: 0.5}) for accuracy in (1.0, 0.94)]
    data = samples.results([samples.trial("hope", s, {"recall": r}) for s, r in enumerate(rows)])
    assert "did not learn" in bullets(data, "recall")["hope"]


def test_unreachable_lengths_and_divergence_are_reported() -> None:
    rows = [
        samples.perplexity_rows((18.0,) * 5)[0],
        *({"length": n, "unreachable": "128 positions"} for n in (256, 512)),
    ]
    bad = samples.perplexity_rows((17.0, math.nan, math.inf, 18.0, 18.0))
    trials = [samples.trial("learned", 0, {"perplexity": rows}), samples.trial("alibi", 0, {"perplexity": bad})]
    said = bullets(samples.results(trials))
    assert "Cannot reach 256 and 512 tokens: 128 positions." in said["learned"]
    assert "Diverged at 256 and 512 tokens" in said["alibi"]


def test_a_running_comparison_says_that_it_is_partial() -> None:
    assert partial_notice(summarize(samples.language())) is None
    assert partial_notice(summarize(samples.language(trials_planned=4))) is None
    assert "4 of 9 trials" in (partial_notice(summarize(samples.language(trials_planned=9))) or "")
    assert "None of the 3" in (partial_notice(summarize(samples.results([], trials_planned=3))) or "")


def test_ratios_are_taken_seed_by_seed() -> None:
    a, b = samples.perplexity_rows((10.0, 1, 30.0, 1, 1)), samples.perplexity_rows((20.0, 1, 40.0, 1, 1))
    data = samples.results([samples.trial("rope", s, {"perplexity": r}) for s, r in enumerate((a, b))])
    ratio = summarize(data).encodings[0].ratio(TAIL, 512, 128)
    assert ratio is not None
    assert ratio.values == {0: 3.0, 1: 2.0}
    assert ratio.spread == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("turning", "expected"),
    [
        (11, "11 of 32"),
        (None, "–"),
        ([11, 0, 11, 0], "11, 0 of 32 (layers in turn)"),
        ([11, 11], "11 of 32"),
        ([4, 0, 0], "4, 0, 0 of 32 (by layer)"),
    ],
)
def test_pairs_turning_reads_compactly(turning, expected) -> None:
    trial = {**samples.trial("rope", 0, {}), "pairs_turning": turning}
    assert turning_in_words(summarize(samples.results([trial])).encodings[0]) == expected
