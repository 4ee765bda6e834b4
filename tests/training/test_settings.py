"""Settings refuse nonsense, resolve to full numbers, and give every trial an id of all that determines it."""

from __future__ import annotations

import pytest

from whorl.training.settings import DEFAULT_ENCODINGS, MODELS, Settings, check_asked, check_model, plan_trials


def test_lengths_are_tokens_or_multiples() -> None:
    assert Settings(train_length=128).evaluation_lengths() == (128, 256, 512, 1024, 2048)
    assert Settings(train_length=100, lengths=("300", "1x", "1.5x")).evaluation_lengths() == (100, 150, 300)


def test_resolving_takes_the_presets_budget() -> None:
    tiny = Settings(precision="fp32").resolve()
    assert tiny.tokens == MODELS["tiny"].tokens
    assert tiny.learning_rate == MODELS["tiny"].learning_rate
    assert tiny.steps * tiny.batch_size * tiny.train_length == tiny.tokens
    assert tiny.precision == "fp32"
    assert Settings().resolve().precision in ("bf16", "fp32")
    assert tiny.resolve() == tiny


REFUSED = [
    ({"lengths": ("twice",)}, "cannot read the length 'twice'; write tokens"),
    ({"lengths": ("0x",)}, "cannot read the length '0x'"),
    ({"lengths": ()}, "lengths is empty"),
    ({"train_length": 0}, "train-length must be a whole number from 1 to 2,147,483,648 .tokens., got 0"),
    ({"tail": 128}, "tail=128 tokens do not fit in the shortest length, 128; try --tail 64"),
    ({"schedule": "step"}, "'cosine', 'linear', 'constant', got 'step'"),
    ({"precision": "int8"}, "got 'int8'"),
    ({"tokens": -1}, "tokens must be"),
    ({"warmup": 1.0}, "share of the steps"),
    ({"learning_rate": 0.0}, "above 0 .*, got 0"),
    ({"task": "copy", "text": "book.txt"}, "leave out --text and --tokenizer"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_nonsense_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)


def test_a_trials_id_depends_on_everything_that_determines_it() -> None:
    settings = Settings(precision="fp32").resolve()
    trials = plan_trials(DEFAULT_ENCODINGS, (0, 1), settings, "data")
    assert [t.seed for t in trials] == [0, 0, 0, 1, 1, 1]
    assert len({t.id for t in trials}) == 6
    assert trials == plan_trials(DEFAULT_ENCODINGS, (0, 1), settings, "data")
    ids = {t.id for t in trials}
    for other in (
        plan_trials(DEFAULT_ENCODINGS, (0, 1), settings, "other data"),
        plan_trials(DEFAULT_ENCODINGS, (0, 1), Settings(precision="fp32", learning_rate=1e-3).resolve(), "data"),
        plan_trials(["rope:base=500", "hope:train_length=64"], (0, 1), settings, "data"),
    ):
        assert not ids & {t.id for t in other}
    assert str(trials[1].encoding) == "hope:train_length=128,base=10000", "HoPE's training length is the run's"


def test_the_same_trial_twice_is_refused() -> None:
    settings = Settings(precision="fp32").resolve()
    asked = ["hope:train_length=128,base=10000", "rope:base=10000"]
    assert [str(e) for e in check_asked(["hope", "rope"], (0,), settings)] == asked
    with pytest.raises(ValueError, match="encoding hope:train_length=128 is asked for twice"):
        check_asked(["hope", "hope:train_length=128"], (0,), settings)
    with pytest.raises(ValueError, match="seed 3 is asked for twice"):
        check_asked(["hope"], (3, 3), settings)
    with pytest.raises(ValueError, match="no seed was given"):
        check_asked(["hope"], (), settings)


def test_a_model_that_is_not_there() -> None:
    check_model("tiny")
    check_model("org/name")
    with pytest.raises(ValueError, match="'tinny' is neither tiny, small, base nor a path"):
        check_model("tinny")


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 0.8), ("small", 10), ("base", 124)])
def test_presets_have_the_size_that_they_promise(preset: str, millions: float) -> None:
    import torch

    from whorl.training.models import build_model, parameter_count

    settings = Settings(model=preset)
    with torch.device("meta"):
        model = build_model(settings, MODELS[preset].vocab_size, 0)
    assert parameter_count(model) / 1e6 == pytest.approx(millions, rel=0.06)
