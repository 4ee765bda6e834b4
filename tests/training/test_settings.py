"""Settings refuse nonsense and resolve to full numbers."""

from __future__ import annotations

import pytest

from whorl.training.settings import MODELS, Settings


def test_lengths_are_tokens_or_multiples() -> None:
    assert Settings(train_length=128).evaluation_lengths() == (128, 256, 512, 1024, 2048)
    assert Settings(train_length=100, lengths=("300", "1x", "1.5x")).evaluation_lengths() == (100, 150, 300)


def test_resolving_takes_the_presets_budget() -> None:
    tiny = Settings(precision="fp32").resolve()
    assert tiny.tokens == MODELS["tiny"].tokens
    assert tiny.learning_rate == MODELS["tiny"].learning_rate
    recipe = tiny.recipe(seed=3)
    assert (recipe.steps * recipe.batch_size * recipe.train_length, recipe.seed) == (tiny.tokens, 3)
    assert Settings(task="recall").resolve().tokens == 2 * tiny.tokens, "what that task needs"
    assert tiny.precision == "fp32"
    assert Settings().resolve().precision in ("bf16", "fp32")
    assert tiny.resolve() == tiny


def test_a_task_says_what_its_lengths_count() -> None:
    """Lengths are items here; what is trained on, and what an encoding's training length is, are tokens."""
    settings = Settings(task="copy-items: variant=cmc", tokens=43 * 32 * 10, precision="fp32").resolve()
    assert (settings.task, settings.train_length) == ("copy-items", 20)
    assert settings.lengths == ("10", "20", "22", "25", "28", "30", "35", "40")
    assert settings.train_tokens == settings.recipe(0).train_length == 43
    assert settings.recipe(0).steps == 10
    assert Settings(task="scan:split=len").resolve().train_length == 22
    assert Settings(task="parity", train_length=6, lengths=("1x", "1.5x", "14")).evaluation_lengths() == (6, 9, 14)
    assert settings.resolve() == settings == Settings.from_dict(settings.to_dict())


REFUSED = [
    ({"lengths": ("twice",)}, "cannot read the length 'twice'; write tokens"),
    ({"lengths": ("4x",), "train_length": 10**9}, "4x of a training length of 1,000,000,000 is more than"),
    ({"lengths": ("0x",)}, "cannot read the length '0x'"),
    ({"lengths": ()}, "lengths is empty"),
    ({"train_length": 0}, "train-length must be a whole number from 1 to 2,147,483,648 .tokens., got 0"),
    ({"schedule": "step"}, "'cosine', 'linear', 'constant', got 'step'"),
    ({"precision": "int8"}, "got 'int8'"),
    ({"tokens": -1}, "tokens must be"),
    ({"warmup": 1.0}, "share of the steps"),
    ({"learning_rate": 0.0}, "above 0 .*, got 0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_nonsense_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)
