"""Which learning rate an encoding is shown at."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.results.samples import FINISHED
from whorl.results.rates import best_rate, by_rate, loss_of, picked
from whorl.results.trial import FinishedTrial, Trial


def trial(rate: float, seed: int, loss: float | None, notation: str = "rope") -> Trial:
    found = FinishedTrial.from_json(FINISHED).trial()
    return replace(found, notation=notation, seed=seed, learning_rate=rate, validation=loss)


def test_the_rate_of_a_trial_is_that_of_its_settings() -> None:
    assert FinishedTrial.from_json(FINISHED).trial().learning_rate == FINISHED["settings"]["learning_rate"] == 2e-3


def test_the_lowest_mean_loss_over_the_seeds_picks() -> None:
    trials = [trial(1e-3, 0, 3.0), trial(1e-3, 1, 3.4), trial(2e-3, 0, 3.1), trial(2e-3, 1, 3.2)]
    shown, others = picked(trials)
    assert [t.learning_rate for t in shown] == [2e-3, 2e-3]
    assert [t.learning_rate for t in others] == [1e-3, 1e-3]
    assert picked(trials[:1]) == (trials[:1], []), "one rate is shown whatever its loss"


def test_seeds_that_one_rate_has_not_finished_do_not_count() -> None:
    """Seed 1 is harder: a rate that has not come to it yet is not better for that."""
    trials = [trial(1e-3, 0, 3.0), trial(1e-3, 1, 5.0), trial(2e-3, 0, 3.1)]
    assert best_rate(by_rate(trials)["rope"]) == 1e-3


def test_what_diverged_or_has_no_loss_is_never_picked_and_encodings_are_picked_apart() -> None:
    assert loss_of([trial(1e-3, 0, math.nan), trial(1e-3, 1, 2.0)]) == math.inf
    assert loss_of([trial(1e-3, 0, None)]) == math.inf
    trials = [trial(1e-3, 0, 3.0), trial(4e-3, 0, math.nan), trial(4e-3, 0, 2.0, "nope"), trial(1e-3, 0, None, "nope")]
    shown, _ = picked(trials)
    assert [(t.notation, t.learning_rate) for t in shown] == [("rope", 1e-3), ("nope", 4e-3)]


def test_of_two_equal_rates_the_lower_one_is_shown() -> None:
    assert best_rate(by_rate([trial(2e-3, 0, 3.0), trial(1e-3, 0, 3.0)])["rope"]) == 1e-3
