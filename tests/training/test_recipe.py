"""A recipe says all numbers of a training; a comparison's settings and a healing give the same kind."""

from __future__ import annotations

import pytest

from whorl.conversion.converting import Healing
from whorl.training.recipe import Recipe, has_fast_bf16
from whorl.training.settings import Settings


def test_steps_are_the_budget_over_the_tokens_of_a_batch() -> None:
    assert Recipe(train_length=128, tokens=10 * 32 * 128, batch_size=32, learning_rate=1e-3).steps == 10
    assert Recipe(train_length=128, tokens=1, batch_size=32, learning_rate=1e-3).steps == 1, "at least one"


def test_precision_is_the_machines_where_it_is_left_open() -> None:
    recipe = Recipe(train_length=8, tokens=8, batch_size=1, learning_rate=1e-3)
    assert recipe.precision == ("bf16" if has_fast_bf16() else "fp32")


def test_settings_and_healings_that_ask_for_the_same_have_the_same_recipe() -> None:
    settings = Settings(tokens=4096, train_length=64, batch_size=8, learning_rate=5e-4, precision="fp32", tail=8)
    healing = Healing(4096, 64, batch_size=8, learning_rate=5e-4, seed=3, precision="fp32", gradual=0.5)
    assert settings.resolve().recipe(seed=3) == healing.recipe()


REFUSED = [
    ({"tokens": 0}, "tokens must be"),
    ({"batch_size": 0}, "batch-size must be"),
    ({"learning_rate": -1.0}, "learning-rate must be"),
    ({"schedule": "step"}, "'cosine', 'linear', 'constant', got 'step'"),
    ({"precision": "int8"}, "got 'int8'"),
    ({"tokens": 10**12}, "125,000,000,000 examples of 8, and a run draws at most 1,073,741,824"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_nonsense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"train_length": 8, "tokens": 8, "batch_size": 1, "learning_rate": 1e-3, **changes})
