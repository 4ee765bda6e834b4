"""Ranks: ties share theirs, order decides nothing, and what did not reach a length is not right there."""

import math
from itertools import permutations

import pytest

from whorl.results.over_seeds import Encoding, Metric
from whorl.results.ranks import mean_reciprocal_rank, means, ranks
from whorl.results.trial import FinishedTrial

from .samples import FINISHED

RIGHT = Metric("right", "right", "share", evaluation="copy")


def test_equal_values_share_the_mean_of_their_ranks_in_any_order():
    values = {"nope": 0.4, "rope": 0.0, "t5": 0.7, "alibi": 0.0, "fox": 0.0}
    expected = {"t5": 1, "nope": 2, "rope": 4, "alibi": 4, "fox": 4}
    for order in permutations(values):
        assert ranks({name: values[name] for name in order}) == expected
    assert sum(expected.values()) == 1 + 2 + 3 + 4 + 5


def test_what_is_lower_may_be_better_and_what_diverged_is_last():
    values = {"a": 3.0, "b": math.nan, "c": 2.0, "d": math.inf}
    assert ranks(values, lower_is_better=True) == {"c": 1, "a": 2, "b": 3.5, "d": 3.5}


def test_reciprocal_ranks_are_averaged_over_cells():
    cells = [{"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 0.0, "b": 0.5, "c": 0.0}, {"a": 0.0, "b": 0.0, "c": 0.0}]
    found = mean_reciprocal_rank(cells)
    assert found == pytest.approx(
        {"a": (1 + 1 / 2.5 + 1 / 2) / 3, "b": (1 / 2 + 1 + 1 / 2) / 3, "c": (1 / 3 + 0.9) / 3}
    )
    assert mean_reciprocal_rank([]) == {}
    with pytest.raises(ValueError, match="every cell must have a value of a, b; one has those of a"):
        mean_reciprocal_rank([{"a": 1.0, "b": 0.0}, {"a": 1.0}])


def rows(*values):
    return [{"length": 128 * 2**i, "right": value} for i, value in enumerate(values)]


def encoding(name, *by_seed):
    """One encoding with these rows, a seed each."""
    found = [{**FINISHED, "seed": seed, "evaluations": {"copy": given}} for seed, given in enumerate(by_seed)]
    return Encoding(name, 0, tuple(FinishedTrial.from_json(trial).trial() for trial in found))


def test_means_are_over_the_lengths_seed_by_seed():
    nope = encoding("nope", rows(1.0, 0.5, 0.1), rows(1.0, 0.7, 0.3))
    rope = encoding("rope", rows(1.0, 0.2, None), rows(1.0, 0.4, 0.0), rows(1.0, 1.0, 1.0))
    learned = encoding("learned", *[[*rows(1.0, 0.8), {"length": 512, "unreachable": "512 is past the table"}]] * 2)
    assert means([nope, rope, learned], RIGHT, [256, 512]) == {
        0: pytest.approx({"nope": 0.3, "rope": 0.1, "learned": 0.4}),
        1: pytest.approx({"nope": 0.5, "rope": 0.2, "learned": 0.4}),
    }
    assert means([nope, rope], RIGHT, []) == {}
