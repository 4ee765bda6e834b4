"""Copy and recall: each sequence follows its definition, and the scores of models that know or guess are right."""

import math

import pytest
import torch

from whorl.results.trial import Row
from whorl.tasks.base import TaskSettings
from whorl.tasks.copy import SYMBOLS, Copy
from whorl.tasks.generated import BOS, PAD, SEP, SPECIAL
from whorl.tasks.recall import KEYS, NOISE, PAIRS, QUERIES, VALUES, Recall

LENGTHS = (64, 99, 128)


def build(cls, **changes):
    return cls(TaskSettings(**{"train_length": 64, "lengths": LENGTHS, "windows": 6} | changes))


def is_copy(ids, labels):
    """Asserts that the lists are one sequence of the task; gives its number of symbols."""
    n = ids.index(SEP) - 1
    segment = ids[1 : 1 + n]
    padding = len(ids) - 2 * n - 2
    assert ids == [BOS, *segment, SEP, *segment] + [PAD] * padding
    assert all(SPECIAL <= s < SPECIAL + SYMBOLS for s in segment)
    assert labels == [-100] * (n + 2) + segment + [-100] * padding
    return n


def is_recall(ids, labels):
    """Asserts that the lists are one sequence of the task; gives (pairs, noise, queries)."""
    separator = ids.index(SEP)
    first_noise, first_value = SPECIAL + KEYS + VALUES, SPECIAL + KEYS
    assert ids[0] == BOS
    noise = [s for s in ids[1:separator] if s >= first_noise]
    stated = ids[1 : separator - len(noise)]
    assert ids[separator - len(noise) : separator] == noise
    assert all(s < first_noise + NOISE for s in noise)
    assert len(stated) % 4 == 0
    pairs = {}
    for k, v, again, same in zip(*(stated[i::4] for i in range(4)), strict=True):
        assert (k, v) == (again, same)
        assert SPECIAL <= k < first_value <= v < first_noise
        pairs[k] = v
    assert len(pairs) == len(stated) // 4, "keys are different"
    queries = (len(ids) - separator - 1) // 2
    asked = ids[separator + 1 : separator + 1 + 2 * queries : 2]
    answers = ids[separator + 2 : separator + 2 + 2 * queries : 2]
    assert ids[separator + 1 + 2 * queries :] == [PAD] * ((len(ids) - separator - 1) % 2)
    assert answers == [pairs[k] for k in asked]
    scored = [-100] * len(ids)
    scored[separator + 2 : separator + 2 + 2 * queries : 2] = answers
    second = scored.copy()
    for i in range(3, 1 + len(stated), 4):
        second[i : i + 2] = ids[i : i + 2]
    assert labels in (scored, second)
    return len(pairs), len(noise), queries, labels == second


def test_copy_trains_every_size_that_fits_and_fills_its_evaluation():
    task = build(Copy)
    items = task.training_set(seed=0, examples=400)
    sizes = [is_copy(items[i]["input_ids"].tolist(), items[i]["labels"].tolist()) for i in range(400)]
    assert set(sizes) == set(range(1, 32))
    for length in LENGTHS:
        ids, labels = task.evaluation_set(length)
        assert {is_copy(*pair) for pair in zip(ids.tolist(), labels.tolist(), strict=True)} == {(length - 2) // 2}


def test_recall_trains_every_number_of_pairs_and_asks_to_the_end():
    items = build(Recall).training_set(seed=0, examples=400)
    facts = [is_recall(items[i]["input_ids"].tolist(), items[i]["labels"].tolist()) for i in range(400)]
    assert {pairs for pairs, *_ in facts} == set(range(1, PAIRS + 1))
    assert {noise for _, noise, *_ in facts} >= set(range(20))
    assert all(queries >= QUERIES and second for _, _, queries, second in facts)


def test_recall_grows_by_noise_alone():
    task = build(Recall)
    for length in LENGTHS:
        ids, labels = task.evaluation_set(length)
        for pair in zip(ids.tolist(), labels.tolist(), strict=True):
            assert is_recall(*pair) == (PAIRS, length - Recall.shortest, QUERIES, False)


def test_recall_asks_with_replacement():
    """Else a model could answer the last queries by elimination, without matching anything."""
    ids, _ = build(Recall, windows=50).evaluation_set(64)
    queries = ids[:, 64 - 2 * QUERIES : 64 : 2].tolist()
    assert 10 < sum(len(set(asked)) == PAIRS for asked in queries) < 45, "not every key is asked in every sequence"


@pytest.mark.parametrize("cls", [Copy, Recall])
def test_evaluation_sequences_are_fixed(cls):
    task = build(cls)
    for length in LENGTHS:
        ids, labels = task.evaluation_set(length)
        assert ids.shape == labels.shape == (6, length)
        assert len({tuple(row) for row in ids.tolist()}) == 6
        assert torch.equal(ids, build(cls, train_length=80).evaluation_set(length)[0])
        assert not torch.equal(ids, build(cls, data_seed=1).evaluation_set(length)[0])


class Answers(torch.nn.Module):
    """Puts its logits on the true next token; from sequence `wrong_from` on, wrong at one target each."""

    def __init__(self, task, length, wrong_from=10**9):
        super().__init__()
        self.vocab_size, self.wrong_from, self.done = task.vocab_size, wrong_from, 0
        self.labels = task.evaluation_set(length)[1]

    def forward(self, input_ids, use_cache):
        predicted = input_ids.roll(-1, dims=1)
        for row in range(len(input_ids)):
            if self.done + row >= self.wrong_from:
                target = int((self.labels[self.done + row] != -100).nonzero()[0])
                predicted[row, target - 1] += 1
        self.done += len(input_ids)
        return type("Output", (), {"logits": torch.nn.functional.one_hot(predicted, self.vocab_size + 1)})


@pytest.mark.parametrize(("cls", "targets"), [(Copy, 63), (Recall, QUERIES)])
def test_scores_of_a_model_that_knows_and_of_one_that_errs(cls, targets):
    task = build(cls)
    for length in LENGTHS:
        row = task.evaluate(Answers(task, length), length, batch_tokens=4 * length)
        assert row == Row(
            length, {"token_accuracy": 1.0, "exact_match": 1.0}, sequences=6, samples=(1.0,) * 6, stderr=0.0
        )
    row = task.evaluate(Answers(task, 128, wrong_from=2), 128, batch_tokens=4 * 128)
    assert row.values["exact_match"] == pytest.approx(2 / 6)
    assert row.values["token_accuracy"] == pytest.approx(1 - 4 / (6 * targets))
    spread = torch.tensor([0.0, 0, 1, 1, 1, 1]).std().item() / targets
    assert row.stderr == pytest.approx(spread / math.sqrt(6), rel=1e-5)


@pytest.mark.parametrize("cls", [Copy, Recall])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_whose_logits_are_not_numbers_has_no_accuracy(cls, value):
    task = build(cls)
    model = torch.nn.Module()
    model.forward = lambda input_ids, use_cache: type(
        "Output", (), {"logits": torch.full((*input_ids.shape, task.vocab_size), value)}
    )
    row = task.evaluate(model, 64)
    assert all(map(math.isnan, (*row.values.values(), row.stderr)))


def test_refuses_lengths_that_hold_nothing():
    with pytest.raises(ValueError, match="the copy task has 4 tokens or more, got 3; try --train-length 32"):
        build(Copy, lengths=(3,))
    with pytest.raises(ValueError, match="the recall task has 34 tokens or more, got 33; try --train-length 68"):
        build(Recall, train_length=33)


@pytest.mark.parametrize("cls", [Copy, Recall])
def test_a_text_is_not_read(cls):
    message = f"the {cls.name} task makes its own data and reads no --text and --tokenizer; leave .* out"
    with pytest.raises(ValueError, match=message):
        build(cls, text="book.txt", tokenizer="gpt2")
    with pytest.raises(ValueError, match="reads no --text; leave --text out"):
        build(cls, text="book.txt")
