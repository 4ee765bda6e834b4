"""The report of a task whose lengths are sizes of problems: its unit, what guessing gives at each, and the ranks."""

import math
import re

import report_samples as samples

from whorl.reports.comparison import build
from whorl.reports.comparison.by_length import by_length
from whorl.reports.comparison.pairs import pairs_turning
from whorl.reports.markdown import render

SIZES = (10, 20, 30, 40)


def row(size: int, exact: float) -> dict:
    return {"length": size, "exact_match": exact, "token_accuracy": (1 + exact) / 2, "sequences": 96}


def parity(**shares: list[tuple[float, ...]]) -> dict:
    """Exact match at each size, by encoding and seed."""
    trials = [
        samples.trial(name, seed, {"parity": [row(*found) for found in zip(SIZES, values, strict=True)]})
        for name, seeds in shares.items()
        for seed, values in enumerate(seeds)
    ]
    guessing = [{"length": size, "exact_match": 0.5, "token_accuracy": 0.75} for size in SIZES]
    data = {"task": "parity", "version": 1, "vocab_size": 18, "unit": "bits", "guessing": guessing}
    config = {"task": "parity:scratchpad=full", "train_length": 20, "train_tokens": 176, "lengths": list(SIZES)}
    return samples.results(trials, **config, data=data)


def report(**shares: list[tuple[float, ...]]) -> str:
    return render(build(samples.read(parity(**shares))))


def test_lengths_are_told_in_the_tasks_unit_and_tokens_where_they_are_meant():
    text = report(nope=[(1.0, 1.0, 0.9, 0.6)], rope=[(1.0, 1.0, 0.5, 0.4)])
    for told in (
        "Parity of bits (parity:scratchpad=full), trained at up to 20 bits, evaluated at up to 40.",
        "at least 95 % of the answers right at every length up to 20, on every seed",
        "100.0 % of the answers right at 10 bits",
        "At 40 bits (2x), nope has the highest exact match, 60.0 %",
        "Exact match by length in bits",
        "| guessing | – | 50.0 % | 50.0 % | 50.0 % | 50.0 % |",
        "| guessing | – | 75.0 % | 75.0 % | 75.0 % | 75.0 % |",
    ):
        assert told in text, told
    assert not re.search(r"\b(10|20|30|40) tokens", text)
    pairs = pairs_turning(samples.read(parity(rope=[(1.0, 1.0, 0.5, 0.4)])))
    assert "one full turn takes exactly the training length, 176 tokens" in repr(pairs)
    chart = by_length(samples.read(parity(nope=[(1.0, 1.0, 0.9, 0.6)])), "parity", "", "")
    assert chart is not None
    assert [view.levels[0][0] for view in chart.views] == [0.5, 0.75]
    assert chart.xs[0][1].label == "length in bits"


def test_of_equal_values_none_is_called_the_highest():
    """Where tasks end at 0 % or 100 % for all, the first in the list had been named."""
    equal = report(nope=[(1.0, 1.0, 0.0, 0.0)], rope=[(1.0, 1.0, 0.0, 0.0)])
    assert "At 40 bits (2x), nope and rope have the same exact match, 0.0 %." in equal
    led = report(rope=[(1.0, 1.0, 0.9, 1.0)], hope=[(1.0, 1.0, 0.9, 0.2)], nope=[(1.0, 1.0, 0.9, 1.0)])
    assert "At 40 bits (2x), rope and nope have the highest exact match, 100.0 %; hope (20.0 %) lies below them." in led


def test_lengths_that_are_near_each_other_are_not_all_named():
    sizes = (10, 17, 25, 26, 27, 28, 30, 32, 33, 36, 40, 48)
    trials = [samples.trial("nope", 0, {"scan": [row(size, 1.0) for size in sizes]})]
    data = {"task": "scan", "version": 1, "vocab_size": 23, "unit": "actions"}
    config = {"task": "scan", "train_length": 25, "lengths": list(sizes), "data": data}
    chart = by_length(samples.read(samples.results(trials, **config)), "scan", "", "")
    assert chart is not None
    named = [int(place) for place, _ in chart.xs[0][1].ticks]
    assert named == [10, 17, 25, 28, 32, 36, 40, 48]
    grid = chart.views[0].panels[0].grids[0]
    assert len(grid.notes) == len(sizes), "all have their point, and its note"


def test_ranks_are_over_seeds_and_equal_ones_share_theirs():
    text = report(
        nope=[(1.0, 1.0, 0.9, 0.6), (1.0, 1.0, 0.98, 0.9)],
        rope=[(1.0, 0.96, 0.0, 0.0), (1.0, 0.98, 0.0, 0.0)],
        alibi=[(1.0, 0.9, 0.0, 0.0), (1.0, 0.8, 1.0, 1.0)],
    )
    table = text[text.index("Past the training length") :]
    assert "up to which of the bits 95.0 % of the answers are right at every length" in table
    assert "the mean reciprocal rank by it over two seeds" in table
    assert "| nope | 2 of 2 | 20 | 84.5 ± 13.4 % | 84.5 ± 13.4 % | 1.00 |" in table
    assert "| rope | 2 of 2 | 20 | 0.0 ± 0.0 % | 0.0 ± 0.0 % | 0.50 |" in table
    assert "| alibi | 0 of 2 | 10 | 50.0 ± 70.7 % | – | – |" in table, "it learnt the task on no seed"


def test_on_a_seed_that_did_not_learn_the_task_an_encoding_comes_last():
    text = report(
        nope=[(1.0, 1.0, 0.5, 0.5), (1.0, 1.0, 0.5, 0.5)],
        rope=[(1.0, 1.0, 0.9, 0.9), (1.0, 0.2, 0.9, 0.9)],
        hope=[(1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0)],
    )
    ranked = {name: row.split(" | ")[-1] for name, row in re.findall(r"^\| (\w+) \| (. of 2 .*) \|$", text, re.M)}
    assert ranked == {"nope": "0.75", "rope": "0.67", "hope": "0.42"}, "rope: first, then last of three"


def test_a_size_at_which_a_seed_diverged_is_not_held():
    text = report(nope=[(1.0, 1.0, 1.0, 1.0), (1.0, 1.0, math.nan, 1.0)], rope=[(1.0, 1.0, 1.0, 1.0)] * 2)
    assert "| nope | 2 of 2 | 20 |" in text
    assert "| rope | 2 of 2 | 40 |" in text
    assert "Over all seeds" not in text
