"""A quantity over the seeds: mean, spread, what diverged, and its ratio to the value in range, seed by seed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.results.samples import FINISHED
from whorl.results.over_seeds import Encoding, Metric
from whorl.results.trial import FinishedTrial

TAIL = Metric("tail", "tail perplexity", "ratio", lower_is_better=True, evaluation="perplexity", has_stderr=True)
RIGHT = Metric("right", "right", "share", evaluation="perplexity")


def encoding(*rows: list[dict[str, Any]], **changes: Any) -> Encoding:
    """One encoding with these rows of perplexity, a seed each."""
    found = [{**FINISHED, "seed": s, "evaluations": {"perplexity": r}, **changes} for s, r in enumerate(rows)]
    return Encoding("rope", 0, tuple(FinishedTrial.from_json(trial).trial() for trial in found))


def rows(near: float | None, far: float | None) -> list[dict[str, Any]]:
    return [{"length": 128, "tail": near}, {"length": 512, "tail": far}]


def test_the_mean_leaves_out_what_diverged_and_counts_it() -> None:
    cell = encoding(rows(1, 10.0), rows(1, None), rows(1, 14.0)).cell(TAIL, 512)
    assert cell is not None
    assert (cell.mean, cell.diverged) == (12.0, [1])
    assert cell.spread == pytest.approx(math.sqrt(8))
    alone = encoding(rows(1, None)).cell(TAIL, 512)
    assert alone is not None
    assert math.isnan(alone.mean or 0.0)
    assert alone.spread is None
    assert encoding(rows(1, 2)).cell(TAIL, 256) is None, "no trial was evaluated there"


def test_ratios_are_taken_seed_by_seed() -> None:
    ratio = encoding(rows(10.0, 30.0), rows(20.0, 40.0)).ratio(TAIL, 512, 128)
    assert ratio is not None
    assert ratio.values == {0: 3.0, 1: 2.0}
    assert ratio.spread == pytest.approx(math.sqrt(0.5))


def test_an_unreachable_length_has_its_reason_and_no_ratio() -> None:
    found = encoding([{"length": 128, "tail": 9.0}, {"length": 512, "unreachable": "128 positions"}])
    cell = found.cell(TAIL, 512)
    assert cell is not None
    assert (cell.unreachable, cell.mean) == ("128 positions", None)
    assert found.ratio(TAIL, 512, 128) is None


def test_standard_errors_are_the_rows_of_the_metric_that_has_them_and_binomial_for_shares() -> None:
    row = {"length": 128, "tail": 9.0, "mean": 8.0, "right": 0.5, "sequences": 100, "stderr": 0.25}
    found = encoding([row], [{**row, "stderr": 0.75}])
    mean = Metric("mean", "mean perplexity", "ratio", evaluation="perplexity")
    errors = [cell.stderr for metric in (TAIL, mean, RIGHT) if (cell := found.cell(metric, 128)) is not None]
    assert errors == [0.5, None, pytest.approx(0.05)]


def test_wavelengths_are_padded_to_the_pairs_and_unknown_where_layers_differ() -> None:
    told = encoding([], pairs_turning=1, pairs=3, wavelengths=[6.25])
    assert told.wavelengths == [[6.25, None, None]]
    assert encoding([], pairs_turning=None, pairs=None, wavelengths=None).wavelengths is None
    layers = encoding([], pairs_turning=[2, 0], pairs=2, wavelengths=[6.25, 8.5]).wavelengths
    assert layers is not None
    assert [[None if w is None else math.isnan(w) for w in layer] for layer in layers] == [[True, True], [None, None]]
    assert len(encoding([], pairs_turning=[0, 0], pairs=2, wavelengths=None).wavelengths or ()) == 1
