"""Masked language modelling: what is masked and by what, the same targets at every length, and a test of word order
that a model without positions passes exactly half of the time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import whorl
from whorl.tasks.base import TaskSettings
from whorl.tasks.language import Language
from whorl.tasks.mlm import TIE, MaskedLanguage, true_over_other_order, word_order
from whorl.testing import peaked, tiny_model
from whorl.training.models import build_model
from whorl.training.settings import Settings

LENGTHS = (32, 48, 96)
TAIL = 24
TARGETS = 4  # 15 % of 24


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("text")
    for i in range(40):
        numbers = np.random.default_rng(i).integers(10**6, size=120)
        (path / f"{i:02}.txt").write_text(" ".join(map(str, numbers)))
    return TaskSettings(train_length=200, lengths=LENGTHS, tail=TAIL, windows=7, text=str(path), vocab_size=300)


@pytest.fixture(scope="module")
def task(settings):
    return MaskedLanguage(settings)


class Model(torch.nn.Module):
    """Gives `logits(ids)` and keeps what it was asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.asked = logits, []

    def forward(self, input_ids):
        self.asked.append(input_ids.clone())
        return type("Output", (), {"logits": self.logits(input_ids)})


def knowing(task, length, strength=9.0):
    """Gives the true tokens of the evaluation's windows `strength` more than any other."""
    true = torch.nn.functional.one_hot(around_middle(task.windows, length), task.vocab_size) * strength
    return Model(lambda ids: true[: len(ids)])


def around_middle(windows, length):
    first = (windows.shape[1] - length) // 2
    return windows[:, first : first + length]


def test_the_text_is_the_language_tasks(task, settings):
    language = Language(settings)
    assert np.array_equal(task.train_tokens, language.train_tokens)
    assert torch.equal(task.windows, language.windows)
    assert (task.mask_token_id, task.vocab_size) == (language.vocab_size, language.vocab_size + 1)


def test_a_training_example_hides_15_percent_as_bert_does(task):
    items, plain = task.training_set(seed=0, examples=400), Language.training_set(task, seed=0, examples=400)
    hidden = kept = drawn = 0
    for i in range(len(items)):
        ids, labels, true = items[i]["input_ids"], items[i]["labels"], plain[i]["input_ids"]
        target = labels != -100
        assert target.sum() == 30  # of 200
        assert torch.equal(labels[target], true[target])
        assert torch.equal(ids[~target], true[~target])
        assert not (true[target] == task.bos_token_id).any()
        masked, same = ids[target] == task.mask_token_id, ids[target] == true[target]
        hidden, kept = hidden + int(masked.sum()), kept + int(same.sum())
        drawn += int((~masked & ~same).sum())
    for count, share in ((hidden, 0.8), (kept, 0.1), (drawn, 0.1)):
        assert abs(count / 12000 - share) < 4 * math.sqrt(share * (1 - share) / 12000), (count, share)


def test_masks_go_by_seed_and_number(task, monkeypatch):
    """What is masked of one window, were it drawn as every example."""
    window = torch.from_numpy(task.train_tokens[:200].astype(np.int64))
    always = [{"input_ids": window}] * 3
    monkeypatch.setattr(
        Language, "training_set", lambda *_: [{"input_ids": one["input_ids"].clone()} for one in always]
    )
    first, again, other = ([task.training_set(seed, 3)[i]["labels"] for i in (2, 0, 1)] for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[1])


def test_targets_are_the_same_at_every_length_and_context_grows_around(task):
    longest = task.evaluation_set(96)
    for length in LENGTHS:
        found = task.evaluation_set(length)
        assert torch.equal(found.ids, around_middle(longest.ids, length))
        assert torch.equal(found.tokens, longest.tokens)
        assert torch.equal(around_middle(task.windows, length).gather(1, found.places), found.tokens)
        assert (found.ids.gather(1, found.places) == task.mask_token_id).all()
        assert found.places.shape == (7, TARGETS)
        assert (found.places >= (length - TAIL) // 2).all()
        assert (found.places < (length + TAIL) // 2).all()
        assert (found.places.diff() > 0).all()
    masked = (longest.ids == task.mask_token_id).double().mean()
    assert abs(masked - 0.15) < 0.02, "no fewer masks around than among the targets"
    unmasked = longest.ids != task.mask_token_id
    assert torch.equal(longest.ids[unmasked], task.windows[unmasked])


def test_a_model_that_knows(task):
    row = task.evaluate(knowing(task, 48), 48)
    assert row.values["masked"] == pytest.approx(1 + (task.vocab_size - 1) * math.exp(-9), rel=1e-5)
    assert (row.values["masked_accuracy"], row.values["word_order"]) == (1, 1)
    assert (row.windows, row.tokens, len(row.samples)) == (7, 7 * TARGETS, 7)
    wrong = task.evaluate(knowing(task, 48, strength=-9.0), 48)
    assert (wrong.values["masked_accuracy"], wrong.values["word_order"]) == (0, 0)


def test_batches_change_nothing(task):
    """Of a model that says something else at every mask, by the token before it."""
    says = torch.randn(task.vocab_size, task.vocab_size)
    model = Model(lambda ids: says[ids.roll(1, dims=1)])
    whole = task.evaluate(model, 48)
    assert task.evaluate(model, 48, batch_tokens=2 * 48) == whole
    assert [len(ids) for ids in model.asked] == [7, 2, 2, 2, 1]


def test_a_unigram_model_is_what_the_description_says(task):
    counts = np.bincount(task.train_tokens, minlength=task.vocab_size) + 1.0
    logits = torch.from_numpy(np.log(counts / counts.sum()))
    model = Model(lambda ids: logits.expand(*ids.shape, -1))
    for level, length in zip(task.unigram(), LENGTHS, strict=True):
        row = task.evaluate(model, length)
        assert row.values["masked"] == pytest.approx(level.values["masked"], rel=1e-5)
        assert row.values["word_order"] == 0.5


def test_what_is_not_finite_has_no_value(task):
    row = task.evaluate(Model(lambda ids: torch.full((*ids.shape, task.vocab_size), math.nan)), 32)
    assert all(math.isnan(value) for value in row.values.values())


def test_pairs_of_one_token_are_not_asked_and_ties_are_half():
    logits = torch.zeros(1, 6, 3)
    logits[0, 0, 0] = 2.0  # the first pair: right
    assert word_order(logits, torch.tensor([[0, 1, 2, 2, 1, 0]])) == 0.75  # one right, none, one tie
    assert word_order(logits, torch.tensor([[1, 0, 2, 2, 1, 1]])) == 0
    assert math.isnan(word_order(logits, torch.tensor([[1, 1, 2, 2, 0, 0]])))


BODIES = {
    "the preset": lambda vocab: loud(peaked(build_model(Settings(task="mlm", train_length=96), vocab, 0))),
    "bert": lambda vocab: loud(tiny_model("bert", vocab_size=vocab, max_position_embeddings=96)),
}


def loud(model):
    """The same with logits of a trained model's size; a norm takes it from the input again."""
    model.get_input_embeddings().weight.data *= 50
    return model.eval()


def knows_order(task, model):
    """The largest difference, in nats, that the model sees between two orders of two masked tokens."""
    found = task.evaluation_set(96)
    with torch.inference_mode():
        logits = model(input_ids=found.ids).logits.take_along_dim(found.places[..., None], 1)
    return float(true_over_other_order(logits, found.tokens).abs().max())


@pytest.mark.parametrize("body", BODIES)
def test_without_positions_word_order_is_exactly_chance(body, task):
    """On a model whose attention is peaked, so that what it knew of order would be seen; with positions it is."""
    torch.manual_seed(0)
    model = BODIES[body](task.vocab_size)
    for name in ("rope", "learned", "sinusoidal", "alibi"):
        assert knows_order(task, whorl.attach(model, name)) > 10 * TIE, name
        whorl.detach(model)
    whorl.attach(model, "nope")
    assert knows_order(task, model) < TIE / 10
    for length in LENGTHS:
        values = task.evaluate(model, length).values
        assert values["word_order"] == 0.5
        assert values["masked"] != pytest.approx(task.vocab_size, rel=0.01), "it does say something of the tokens"


def test_windows_of_a_models_own_are_positions(task):
    """Why the preset has none: a ModernBERT's local layers know who is near, under nope too."""
    model = whorl.attach(loud(tiny_model("modernbert", vocab_size=task.vocab_size)), "nope")
    assert knows_order(task, model) > 10 * TIE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": 1}, "tail=1 holds no two tokens whose order could be asked for"),
        ({"tail": 32}, "tail=32 tokens do not fit in the shortest length, 32"),
    ],
)
def test_settings_that_give_no_test(settings, changes, message):
    from dataclasses import replace

    with pytest.raises(ValueError, match=message):
        MaskedLanguage(replace(settings, **changes))


def test_a_length_that_was_not_asked_for(task):
    with pytest.raises(ValueError, match="masked tokens at 97 tokens cannot be had from windows of 96"):
        task.evaluate(knowing(task, 96), 97)
