"""The sentences say what the numbers say, and no more."""

import math

import pytest
import report_samples as samples

from whorl.reports.comparison import build, unlearnt
from whorl.reports.comparison.sentences import turning_in_words
from whorl.reports.comparison.words import GAINS, HURT, UNRESOLVED, differing_notice, findings, partial_notice
from whorl.reports.document import Paragraph, Table
from whorl.results.over_seeds import Metric
from whorl.tasks import of_evaluation

TAIL, _ = of_evaluation("perplexity").measured()


def bullets(data: dict, kind: str = "perplexity") -> dict[str, str]:
    return {e.name: text for e, text in findings(samples.read(data))[kind].bullets}


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
        ((17.0, 17.0, 17.1, 17.1, 17.2), UNRESOLVED),  # within two standard errors of 1 %
        ((17.0, 18.0, 20.0, 22.0, 30.0), HURT),
    ],
)
def test_verdict_follows_the_side_of_one_by_more_than_the_uncertainty(tails, expected) -> None:
    assert expected in bullets(with_tails(tails))["hope"]


def test_trials_that_ran_on_different_machines_are_said_to() -> None:
    data = samples.language()
    assert differing_notice(samples.read(data)) is None
    torch = {"2.11.0": ["rope-0", "hope-0", "nope-0"], "2.13.0": ["p-rope:p=0.5-0"]}
    found = samples.read({**data, "differing": {"torch": torch}})
    said = differing_notice(found)
    assert said is not None
    assert "versions: torch 2.11.0 (three trials) or 2.13.0 (one trial). " in said
    assert Paragraph(said, "notice") in build(found).blocks


def test_verdicts_that_differ_between_lengths_are_told_apart() -> None:
    said = bullets(with_tails((17.0, 16.0, 14.0, 17.0, 40.0)))["hope"]
    assert f"at 512 tokens it {GAINS}, at 2,048 tokens it {HURT}" in said


def test_a_difference_that_is_not_resolved_is_said_so_with_its_interval() -> None:
    data = with_tails((17.0, 17.0, 17.1, 17.1, 17.2))
    said = bullets(data)["hope"]
    assert "17.1 at 4x (1.01 times; 95 % interval 0.98 to 1.03)" in said
    lead = findings(samples.read(data))["perplexity"].lead[0]
    assert lead == (
        "No encoding is seen to gain from context past the training length; whether hope does is not resolved at every "
        "length."
    )


def test_encodings_are_ranked_and_told_apart_only_where_pairs_of_seeds_resolve_them() -> None:
    data = samples.language((0, 1, 2))
    for trial in data["trials"]:  # the seed that is best for one is worst for the other
        if trial["notation"] == "p-rope:p=0.5":
            trial["seed"] = 2 - trial["seed"]
    lead = " ".join(findings(samples.read(data))["perplexity"].lead)
    assert "At 512 tokens (4x), hope has the lowest tail perplexity" in lead
    in_range = lead.split("At 512")[0]
    assert "nope (27.6) lies above it" in in_range
    assert "its difference from hope (17.8) and rope (18.4) is not resolved" in in_range
    assert "No encoding gains from context past the training length" in lead


def test_one_seed_is_said_to_give_no_spread_and_several_are_not() -> None:
    one, three = (findings(samples.read(samples.language(s)))["perplexity"] for s in ((0,), (0, 1, 2)))
    assert "One seed gives no spread" in one.rule
    assert "as an indication only" in one.rule
    assert any(text.startswith("One seed.") for text in one.caveats)
    assert "zero lies outside its 95 % interval, from the differences between trials of the same seed" in three.rule
    assert any("not a confidence interval" in text for text in three.caveats)


def test_the_target_tokens_and_the_limits_of_perplexity_are_explained() -> None:
    found = findings(samples.read(samples.language()))["perplexity"]
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
    found = findings(samples.read(data))["copy"]
    said = bullets(data, "copy")
    assert "learnt in range" in found.lead[0]
    assert "by rope and hope. The others did not" in found.lead[0]
    assert "did not learn the task in range: 94.9 % of the tokens right at 128 tokens" in said["nope"]
    assert "mean nothing" in said["nope"]
    assert "97.0 % of the tokens right at 128 tokens; 20.0 % at 512 tokens (4x) (exact match 0.0 %)" in said["rope"]
    assert "nope" not in found.lead[0].split("At 512")[1], "an unlearnt task must not be ranked"


def test_no_learner_at_all_is_said_plainly() -> None:
    found = findings(samples.read(samples.copying(rope={128: 0.5, 256: 0.1}, hope={128: 0.6, 256: 0.1})))["copy"]
    assert found.lead[0].startswith("No encoding learnt the copy task in range")


def test_seeds_that_did_not_learn_the_task_are_counted_and_left_out() -> None:
    """Retrieval is learnt or it is not, by the seed: of hope's three seeds one was not, and rope's all were."""
    data = by_seed(hope=((1.0, 0.9), (0.94, 0.1), (0.98, 0.8)), rope=((1.0, 0.2), (1.0, 0.3), (1.0, 0.1)))
    found, said = findings(samples.read(data))["recall"], bullets(data, "recall")
    assert found.lead[0].startswith(
        "The recall task was learnt in range (at least 95 % of the tokens right at every length up to 128, on every "
        "seed) by rope. It was learnt on some seeds only by hope (2 of 3); past the training length, these seeds alone "
        "are compared. At 256 tokens (2x), hope has the highest token accuracy, 85.0 %"
    )
    assert "learnt the task in range on 2 of 3 seeds (0 and 2), which are told alone, 99.0 % of" in said["hope"]
    assert "85.0 % at 256 tokens (2x) (exact match 70.0 %). Over all seeds: 60.0 % at 256 tokens (2x)." in said["hope"]
    assert "learnt the task in range, 100.0 %" in said["rope"]
    assert unlearnt(samples.read(data)), "below the table on a terminal, too"
    tables = {block.caption: block for block in build(samples.read(data)).blocks if isinstance(block, Table)}
    alone = next(table for caption, table in tables.items() if caption.startswith("Of the seeds alone that learnt"))
    assert [row.cells[3][0] for row in alone.rows[:2]] == ["85.0 ± 7.1 %", "20.0 ± 10.0 %"]
    past = next(table for caption, table in tables.items() if caption.startswith("Past the training length"))
    assert [row.cells[1][0] for row in past.rows] == ["2 of 3", "3 of 3"]
    assert [row.cells[4][0] for row in past.rows] == ["85.0 ± 7.1 %", "20.0 ± 10.0 %"]


def test_a_task_that_no_encoding_learnt_on_every_seed_is_said_so() -> None:
    data = by_seed(hope=((1.0, 0.9), (0.5, 0.1)), rope=((0.2, 0.2), (1.0, 0.3)), nope=((0.1, 0.1), (0.1, 0.1)))
    lead = findings(samples.read(data))["recall"].lead[0]
    assert lead.startswith("No encoding learnt the recall task in range (at least 95 %")
    assert "on some seeds only by hope (1 of 2) and rope (1 of 2)" in lead
    assert "its difference from rope (30.0 %) is not resolved" in lead, "they have no seed in common"
    assert "The others did not learn it" in lead


def by_seed(**accuracies: tuple[tuple[float, float], ...]) -> dict:
    """Recall at 128 and 256 tokens, a pair per seed."""
    trials = [
        samples.trial(name, s, {"recall": samples.accuracy_rows(dict(zip((128, 256), pair, strict=True)))})
        for name, pairs in accuracies.items()
        for s, pair in enumerate(pairs)
    ]
    return samples.results(trials)


def test_differences_from_the_first_encoding_are_told_with_their_intervals() -> None:
    data = samples.language((0, 1, 2))
    for trial in data["trials"]:  # the seed that is best for one is worst for the other
        if trial["notation"] == "p-rope:p=0.5":
            trial["seed"] = 2 - trial["seed"]
    table = next(
        block for block in build(samples.read(data)).blocks
        if isinstance(block, Table) and block.caption.startswith("Tail perplexity as a multiple of that of rope")
    )  # fmt: skip
    hope, p_rope, nope = table.rows
    assert hope.cells[:2] == [("hope", ""), ("0.97x", "0.97x to 0.97x")], "the ratio is the same on every seed"
    assert p_rope.cells[1] == ("not resolved", "0.83x to 1.11x")
    assert nope.cells[1][0] == "1.50x"
    shares = by_seed(rope=((1.0, 0.2), (1.0, 0.3)), hope=((1.0, 0.4), (1.0, 0.5)))
    caption = "Token accuracy less that of rope, in points"
    (told,) = (b for b in build(samples.read(shares)).blocks if isinstance(b, Table) and b.caption.startswith(caption))
    assert told.rows[0].cells[1:] == [("not resolved", "+0.0 to +0.0"), ("+20.0", "+20.0 to +20.0")]


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
    assert partial_notice(samples.read(samples.language())) is None
    assert partial_notice(samples.read(samples.language(trials_planned=4))) is None
    assert "4 of 9 trials" in (partial_notice(samples.read(samples.language(trials_planned=9))) or "")
    assert "None of the 3" in (partial_notice(samples.read(samples.results([], trials_planned=3))) or "")


def test_ratios_are_taken_seed_by_seed() -> None:
    a, b = samples.perplexity_rows((10.0, 1, 30.0, 1, 1)), samples.perplexity_rows((20.0, 1, 40.0, 1, 1))
    data = samples.results([samples.trial("rope", s, {"perplexity": r}) for s, r in enumerate((a, b))])
    ratio = samples.read(data).encodings[0].ratio(TAIL, 512, 128)
    assert ratio is not None
    assert ratio.values == {0: 3.0, 1: 2.0}
    assert ratio.spread == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("turning", "expected"),
    [
        (11, "11 of 32"),
        (None, "–"),
        (0, "0 of 32"),
        ([11, 0, 11, 0], "11, 0 of 32 (layers in turn)"),
        ([11, 11], "11 of 32"),
        ([4, 0, 0], "4, 0, 0 of 32 (by layer)"),
    ],
)
def test_pairs_turning_reads_compactly(turning, expected) -> None:
    trial = {**samples.trial("rope", 0, {}), "pairs_turning": turning}
    assert turning_in_words(samples.read(samples.results([trial])).encodings[0]) == expected


# Learnt at all; what the weights began with; how often the text was seen


def with_unigram(data: dict, tail: float = 60.0, mean: float = 70.0) -> dict:
    rows = [{"length": n, "tail": tail, "mean": mean} for n in samples.LENGTHS]
    data["config"]["data"] |= {"train_tokens": 2_048_000, "unigram": rows}
    return data


def test_what_is_not_below_a_unigram_model_has_learnt_nothing() -> None:
    data = with_unigram(samples.language(), 26.8)  # what nope has in range, to the digit
    found = findings(samples.read(data))["perplexity"]
    said = bullets(data)
    assert said["nope"] == (
        "(0 of 32 pairs turn) learnt nothing from context: 26.8 in range, where a unigram model has 26.8. Its values "
        "at longer lengths mean nothing."
    )
    assert found.lead[0].startswith("In range, nope is not below a unigram model, which knows how often each token")
    assert "nope" not in found.lead[0].split("not compared.")[1]
    assert HURT in said["hope"]
    assert said["hope"].endswith("At 1,024 and 2,048 tokens it is worse than a unigram model, 26.8.")
    assert not any("is not checked" in text for text in found.caveats)


def test_one_seed_that_learnt_nothing_is_enough() -> None:
    data = with_unigram(with_tails((17.0, 17.0, 17.0, 17.0, 17.0), (0, 1), 0.5), 20.0)
    assert "learnt nothing from context: 21.2 ± 6.0 in range" in bullets(data)["hope"]


def test_where_nothing_was_learnt_nothing_is_compared() -> None:
    found = findings(samples.read(with_unigram(samples.language(), 17.2)))["perplexity"]
    assert found.lead == [
        "No encoding learnt anything from context: in range, none is below a unigram model, which knows how often each "
        "token occurs and nothing else (17.2). Nothing here about longer contexts means anything; train for longer."
    ]
    assert found.rule == ""


def test_results_without_a_unigram_model_say_so() -> None:
    found = findings(samples.read(samples.language()))["perplexity"]
    assert any("whether a model learnt anything from context at all is not checked" in text for text in found.caveats)


def test_the_unigram_line_is_in_figure_and_table() -> None:
    document = build(samples.read(with_unigram(samples.language())))
    (chart, *_) = document.charts
    levels = [level for view in chart.views for level in view.levels]
    assert levels == [(60.0, "a unigram model, 60.0"), (70.0, "a unigram model, 70.0")]
    assert all(view.axes[0].low < at < view.axes[0].high for view in chart.views for at, _ in view.levels)
    tables = [block for block in document.blocks if hasattr(block, "rows")]
    assert [cell[0] for cell in tables[0].rows[-1].cells] == ["a unigram model", "–", *["60.0"] * 5]
    assert [cell[0] for cell in tables[1].rows[-1].cells] == ["a unigram model", "–", *["70.0"] * 5]
    assert not any(v.levels for v in build(samples.read(samples.language())).charts[0].views)


def test_weights_that_were_trained_before_are_said_first() -> None:
    data = samples.language()
    for trial in data["trials"]:
        trial["pretrained"] = "rope:base=500000"
    first = build(samples.read(data)).blocks[0]
    assert isinstance(first, Paragraph)
    assert first.style == "notice"
    assert first.text.startswith(
        "The trials began with the pretrained weights of tiny, which were trained with rope:base=500000. That favours "
        "rope:base=500000: it goes on where it was, and the others have 4.1 M tokens to replace it."
    )
    assert not any("pretrained" in getattr(b, "text", "") for b in build(samples.read(samples.language())).blocks)


def test_tokens_beyond_one_pass_are_counted_in_epochs() -> None:
    data = with_unigram(samples.language())
    document = build(samples.read(data))
    assert ("Budget", "4.1 M tokens a trial, 2 epochs of the text") in document.facts
    assert any(text.startswith("2 epochs: ") for text in findings(samples.read(data))["perplexity"].caveats)
    data["config"]["data"]["train_tokens"] = 5_000_000
    assert ("Budget", "4.1 M tokens a trial") in build(samples.read(data)).facts
    assert not any("epochs" in text for text in findings(samples.read(data))["perplexity"].caveats)


def test_a_task_may_measure_one_thing_or_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics that a task lists are in its sentences, its tables and its figure."""
    task = of_evaluation("copy")
    data = samples.copying(rope={128: 0.97, 512: 0.7})
    for row in data["trials"][0]["evaluations"]["copy"]:
        row["first"] = 0.5
    accuracy, exact = task.metrics
    first = Metric("first", "first symbol right", "share")
    beside = {(accuracy,): "", (accuracy, exact, first): " (exact match 40.0 %, first symbol right 50.0 %)"}
    for metrics, words in beside.items():
        monkeypatch.setattr(task, "metrics", metrics)
        assert bullets(data, "copy")["rope"].endswith(f"70.0 % at 512 tokens (4x){words}.")
        document = build(samples.read(data))
        labels = [metric.label for metric in metrics]
        assert [view.label for view in document.charts[0].views] == labels
        tables = [block.caption for block in document.blocks if hasattr(block, "caption")]
        assert [caption.partition(" by length")[0].lower() for caption in tables[: len(labels)]] == labels
