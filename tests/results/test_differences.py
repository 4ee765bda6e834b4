"""What is called a difference: intervals of paired differences, and how often they hold the truth."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.results.samples import FINISHED
from whorl.results import differences
from whorl.results.differences import Difference, difference, resampled, student
from whorl.results.over_seeds import Encoding, Metric
from whorl.results.trial import FinishedTrial

TAIL = Metric("tail", "tail perplexity", "ratio", lower_is_better=True, evaluation="perplexity", has_stderr=True)
RIGHT = Metric("right", "right", "share", evaluation="perplexity", has_stderr=True)
Values = list[list[float]]


def encoding(*rows: list[dict[str, Any]]) -> Encoding:
    """One encoding with these rows of perplexity, a seed each."""
    found = [{**FINISHED, "seed": s, "evaluations": {"perplexity": r}} for s, r in enumerate(rows)]
    return Encoding("rope", 0, tuple(FinishedTrial.from_json(trial).trial() for trial in found))


def two_lengths(near: list[float], far: list[float], **row: Any) -> Encoding:
    """A trial per pair of tail perplexities at 128 and 512 tokens."""
    pairs = zip(near, far, strict=True)
    return encoding(
        *([{"length": n, "tail": v, **row} for n, v in zip((128, 512), pair, strict=True)] for pair in pairs)
    )


def of_windows(values: np.ndarray, **row: Any) -> Encoding:
    """An encoding whose windows lose these nats [seeds, windows] at 128 tokens."""
    rows = [{"tail": math.exp(v.mean()), "samples": v.tolist(), "windows": len(v), **row} for v in values]
    return encoding(*([{"length": 128, **one}] for one in rows))


def far_from_near(e: Encoding) -> Difference | None:
    return difference(TAIL, (e, 512), (e, 128))


def half(found: Difference | None) -> float:
    """Half the width of an interval whose ends are about as far from the mean."""
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(found.mean - found.low, rel=0.1)
    return (found.high - found.low) / 2


def test_the_quantile_is_students() -> None:
    """Table values (two-sided, 95 %) for 1, 2, 3, 5, 10, 95 degrees of freedom."""
    for freedom, t in ((1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (95, 1.985)):
        assert student(freedom) == pytest.approx(t, rel=0.02 if freedom == 3 else 0.003)


def test_seeds_are_paired_where_there_are_several() -> None:
    """What they have in common cancels: values that differ by 60 % between seeds, and a ratio that hardly does."""
    found = far_from_near(two_lengths([10.0, 13.0, 16.0], [10.2, 13.3, 16.3], stderr=5.0))
    ratios = [math.log(b / a) for a, b in ((10.0, 10.2), (13.0, 13.3), (16.0, 16.3))]
    sd = float(np.std(ratios, ddof=1))
    assert found is not None
    assert (found.mean, found.pairs, found.resolved) == (pytest.approx(sum(ratios) / 3), "seeds", True)
    assert half(found) == pytest.approx(4.303 * sd / math.sqrt(3), rel=1e-3)
    scattered = far_from_near(two_lengths([10.0, 13.0, 16.0], [9.0, 16.9, 16.0], stderr=0.0))
    assert scattered is not None
    assert not scattered.resolved


def test_windows_are_paired_where_there_is_one_seed() -> None:
    """Windows differ by nats from one another; each is 0.05 worse with more context, give or take 0.01."""
    near = [1.0 + i for i in range(60)]
    far = [x + 0.05 + (0.01 if i % 2 else -0.01) for i, x in enumerate(near)]
    apart = two_lengths([math.exp(3.5)], [math.exp(3.55)], stderr=20.0)
    rough = far_from_near(apart)
    assert half(rough) == pytest.approx(2 * 20 * math.hypot(1 / math.exp(3.5), 1 / math.exp(3.55)))
    assert (rough and rough.pairs) == "none"
    a, b = of_windows(np.array([far])), of_windows(np.array([near]))
    found = difference(TAIL, (a, 128), (b, 128))
    assert found is not None
    assert (found.mean, found.pairs, found.resolved) == (pytest.approx(0.05), "windows", True)
    # 2,000 draws know such a quantile to 3 %, one standard error.
    expected = student(59) * 0.01 * math.sqrt(60 / 59) / math.sqrt(60)
    assert (found.low, found.high) == (
        pytest.approx(0.05 - expected, abs=0.09 * expected),
        pytest.approx(0.05 + expected, abs=0.09 * expected),
    )
    fewer = difference(TAIL, (a, 128), (of_windows(np.array([near[:59]])), 128))
    assert fewer == Difference(pytest.approx(fewer.mean), None, None, "none"), "other windows are no pairs"


def test_seeds_and_windows_each_widen_the_interval() -> None:
    """Seeds that agree leave what the windows leave open, and windows that agree what the seeds do."""
    by_seed, by_window = np.array([[0.2], [0.3], [0.4]]), np.linspace(-1, 1, 96)[None]
    level = of_windows(np.zeros((3, 96)))
    found = {
        name: difference(TAIL, (of_windows(values), 128), (level, 128))
        for name, values in {
            "seeds": by_seed + 0 * by_window,
            "windows": 0.3 + 0 * by_seed + by_window,
            "both": by_seed + by_window,
        }.items()
    }
    assert {one.pairs for one in found.values() if one is not None} == {"seeds and windows"}
    assert half(found["seeds"]) == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert half(found["both"]) == pytest.approx(math.hypot(half(found["seeds"]), half(found["windows"])), rel=0.02), (
        "each alone is in both"
    )
    assert half(found["windows"]) == pytest.approx(student(95) * by_window.std(ddof=1) / math.sqrt(96), rel=0.05)


def test_seeds_without_the_values_of_their_windows_leave_it_to_the_others() -> None:
    """Results of earlier versions beside new ones: the windows' part is that of the seeds that tell it."""
    rng = np.random.default_rng(3)
    a, b = of_windows(rng.normal(3, 1, (2, 96))), of_windows(rng.normal(3, 1, (2, 96)))
    (row,) = a.trials[1].evaluations["perplexity"]
    earlier = replace(a.trials[1], evaluations={"perplexity": (replace(row, samples=()),)})
    mixed = Encoding("rope", 0, (a.trials[0], earlier))
    found = difference(TAIL, (mixed, 128), (b, 128))
    alone = difference(TAIL, (Encoding("rope", 0, a.trials[:1]), 128), (b, 128))
    seeds = difference(replace(TAIL, has_stderr=False), (mixed, 128), (b, 128))
    assert found is not None
    assert found.pairs == "seeds and windows"
    assert half(found) == pytest.approx(math.hypot(half(seeds), half(alone)), rel=0.05)


def test_the_values_of_windows_are_of_the_metric_that_has_them_alone() -> None:
    values = np.random.default_rng(1).normal(3, 1, (2, 8, 96))
    a, b = (of_windows(v[:2], mean=9.0 + i) for i, v in enumerate(values))
    mean = Metric("mean", "mean perplexity", "ratio", evaluation="perplexity")
    found = [difference(metric, (a, 128), (b, 128)) for metric in (TAIL, mean)]
    assert [one and one.pairs for one in found] == ["seeds and windows", "seeds"]


def test_without_any_error_nothing_is_resolved() -> None:
    found = far_from_near(two_lengths([10.0], [90.0]))
    assert found == Difference(pytest.approx(math.log(9)), None, None, "none")
    assert not found.resolved
    assert far_from_near(two_lengths([10.0], [math.nan])) is None


def test_where_a_seed_diverged_the_others_do_not_speak_for_it() -> None:
    whole = two_lengths([10.0, 10.1, 10.2], [12.0, 12.1, 12.2])
    assert far_from_near(whole) is not None
    for lost in (math.nan, math.inf):
        some = two_lengths([10.0, 10.1, 10.2], [12.0, lost, 12.2])
        assert far_from_near(some) is None
        assert difference(TAIL, (whole, 512), (some, 512)) is None
        assert difference(TAIL, (whole, 128), (some, 128)) is not None, "there it has all of its values"


def test_shares_of_right_answers_are_paired_by_sequence() -> None:
    right = [1.0, 0.0] * 4
    rope, hope = (
        encoding([{"length": 128, "right": sum(values) / 8, "samples": values, "sequences": 8}])
        for values in (right, [1.0, *right[1:-1], 0.8])
    )
    found = difference(RIGHT, (hope, 128), (rope, 128))
    assert found is not None
    assert found.mean == pytest.approx(0.1)
    assert (found.pairs, found.resolved) == ("windows", False)


def test_what_is_drawn_is_the_same_every_time() -> None:
    values = np.random.default_rng(2).exponential(size=40)
    first = resampled(values)
    differences._draws.cache_clear()
    assert resampled(values) == first
    below, above = first
    assert above > below, "a long tail upwards widens the interval upwards"


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seed", "of_window"), [(0.1, 0.1), (0.03, 0.0), (0.0, 0.2)])
def test_an_interval_holds_the_truth_as_often_as_it_says(seeds: int, of_seed: float, of_window: float) -> None:
    """1,000 made-up experiments of 96 windows whose true difference is 0: seeds alone, percentiles of a bootstrap of
    seeds and windows, and what is used, on the same numbers."""
    rng, held = np.random.default_rng(seeds), np.zeros(3)
    for _ in range(1000):
        values = (
            of_seed * rng.standard_normal((seeds, 1))
            + of_window * rng.standard_normal((1, 96))
            + 0.1 * rng.standard_normal((seeds, 96))
        )
        mean, each = values.mean(), values.mean(1)
        alone = differences.half_width(each.tolist())
        below, above = resampled(values.mean(0))
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=200) / seeds
        both = np.einsum("rs,sw,rw->r", drawn, values, differences._draws(96)[:200])
        low, high = np.quantile(both, [0.025, 0.975])
        held += (
            abs(mean) <= alone,
            low <= 0 <= high,
            -math.hypot(alone, above) <= mean <= math.hypot(alone, below),
        )
    by_seeds, percentiles, used = held / 1000
    assert 0.935 <= used <= 0.995
    assert used > percentiles - 0.01
    if of_seed == 0.0:
        assert by_seeds < 0.9, "as if the text had been given"
    else:
        assert percentiles < 0.91, "too few seeds to be drawn from"
