"""Encodings of which some have fewer seeds than others are not ranked together, and it is said which have fewer."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import report_samples as samples
from rich.console import Console

from whorl.comparison.display import Display
from whorl.reports.comparison import build, uneven
from whorl.reports.comparison.words import findings
from whorl.reports.document import Paragraph, Table
from whorl.results.comparison import Comparison
from whorl.results.failure import Failure

FACTORS = {0: 0.5, 1: 1.0, 2: 1.5}
"""Seed 0 has by far the lowest perplexity."""


def comparison(**seeds: tuple[int, ...]) -> Comparison:
    """On each seed rope is below hope and hope below nope."""
    tails = {"rope": 20.0, "hope": 22.0, "nope": 24.0}
    each = [(name, seed) for name, own in seeds.items() for seed in own]
    rows = {one: samples.perplexity_rows((tails[one[0]],) * 5, FACTORS[one[1]]) for one in each}
    return samples.read(samples.results([samples.trial(*one, {"perplexity": rows[one]}) for one in each]))


def lead(c: Comparison) -> str:
    return findings(c)["perplexity"].lead[0]


def test_what_has_fewer_seeds_is_not_ranked_by_the_mean_of_them() -> None:
    told = lead(comparison(rope=(0, 1, 2), hope=(0, 1, 2), nope=(0,)))
    assert "In range, at 128 tokens, rope has the lowest tail perplexity, 20.0; hope (22.0) lies above it; " in told
    assert told.count("nope has 1 of 3 seeds and is not ranked") == 3, "at every length that is told"


def test_a_seed_that_one_alone_has_ranks_nothing() -> None:
    """As where a comparison is still running."""
    told = lead(comparison(rope=(0, 1), hope=(0,), nope=(0,)))
    assert "rope has the lowest tail perplexity, 10.0" in told, "by seed 0, which all have"
    assert "not ranked" not in told
    assert "lowest" not in lead(comparison(rope=(0,), hope=(1,))), "they have none in common"


def test_which_have_fewer_is_said_first_and_beside_their_names() -> None:
    c = comparison(rope=(0, 1, 2), hope=(0, 1), nope=(0,))
    said = (
        "Not every encoding has all of the 3 seeds: hope has 2 and nope has 1. A mean over fewer seeds is not to be "
        "held against one over all."
    )
    blocks = build(c).blocks
    assert [block.text for block in blocks if isinstance(block, Paragraph) and block.style == "notice"] == [said]
    table = next(block for block in blocks if isinstance(block, Table))
    names = [row.cells[0] for row in table.rows[:3]]
    assert names == [("rope", ""), ("hope", "2 of 3 seeds"), ("nope", "1 of 3 seeds")]
    shown = io.StringIO()
    Display(Console(file=shown, width=300)).finish(c, Path("out"))
    assert said in shown.getvalue()


def test_nothing_is_said_where_all_have_the_same_or_trials_failed() -> None:
    assert uneven(comparison(rope=(0, 1), hope=(0, 1))) is None
    c = comparison(rope=(0, 1), hope=(0,), nope=(0, 1))
    failed = replace(c, failures=(Failure(id="hope-1", notation="hope", seed=1, error="MemoryError"),))
    assert uneven(failed) is None, "that is said of them already"
    assert "hope failed in 1 of 2 seeds and is not ranked" in lead(failed)
