"""The registry of tasks, their common settings, and what every task promises."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from whorl import tasks
from whorl.results.schema import as_json
from whorl.tasks import TASKS, get, of_evaluation, parse, written
from whorl.tasks.base import Task, TaskSettings

from .. import texts
from .table import NOTATIONS, SEQUENCES, build


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return texts.count(tmp_path_factory.mktemp("text"))


def test_folder_and_registry_agree():
    shared = {
        "__init__",
        "base",
        "generated",
        "graded",
        "metrics",
        "mixed",
        "problems",
        "scratchpad",
        "pictures",
        "solids",
    }
    files = {path.stem for path in Path(tasks.__file__).parent.glob("*.py")} - shared
    assert files == {name.replace("-", "_") for name in TASKS}
    for name in TASKS:
        assert issubclass(get(name), Task)
        assert get(name).name == name
        assert get(name).version >= 1


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_task_describes_itself(name, text):
    """All that settings, models, the command line and reports say of a task is its own."""
    task = get(name)
    assert of_evaluation(task.evaluation) is task
    assert task.title
    made = build(name, text)
    row = made.evaluate(Uniform(made.vocab_size), made.settings.train_length)
    assert list(row.values) == [metric.key for metric in task.metrics]
    assert {metric.evaluation for metric in task.measured()} == {task.evaluation}
    options = {field.name for field in fields(TaskSettings) if field.metadata.get("option")}
    assert task.options.keys() <= options


def test_an_evaluation_that_no_task_makes():
    with pytest.raises(ValueError, match=r"no task makes the evaluation 'bleu' \(known: perplexity, copy, recall, "):
        of_evaluation("bleu")


def test_unknown_task():
    with pytest.raises(ValueError, match=r"unknown task 'langage'; did you mean 'language'\?"):
        get("langage")
    with pytest.raises(ValueError, match=r"unknown task 'zzz'; try language \(known: language, copy, recall, "):
        get("zzz")


@pytest.mark.parametrize(
    ("asked", "shortest"),
    [
        ("copy", "copy"),
        ("copy-items:variant=cmc", "copy-items"),
        ("copy-items: symbols=9, variant=rsc", "copy-items:symbols=9,variant=rsc"),
        ("parity:scratchpad=in@comp@out@var@re", "parity:scratchpad=full"),
        ("parity:scratchpad=out@comp", "parity:scratchpad=comp@out"),
    ],
)
def test_a_task_is_written_as_encodings_are(asked, shortest):
    assert written(asked) == shortest
    assert parse(shortest)[0] is parse(asked)[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("copy:variant=rsc", "the copy task has no argument 'variant'; it takes none"),
        ("copy-items:sort=rsc", "copy-items has no argument 'sort'; it takes symbols, variant"),
        ("copy-items:variant=abc", "variant must be one of 'cmc', .* got 'abc'"),
        ("copy-items:symbols=1", "symbols must be 2 or more, got 1"),
        ("copy-items:variant", "write arguments as copy-items:key=value"),
        ("parity:scratchpad=some", "scratchpad must be no, full, or parts of in@comp@out@var@re, got 'some'"),
        ("parity:scratchpad=in@in", "got 'in@in'; try comp@out"),
        ("", "a task is written as its name, or name:key=value, got ''"),
    ],
)
def test_arguments_that_a_task_does_not_have_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        parse(asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_length": 0}, "train_length must be at least 1, got 0"),
        ({"windows": 0}, "windows must be at least 1, got 0"),
        ({"data_seed": -1}, "data_seed must be 0 or more, got -1"),
        ({"lengths": ()}, "lengths must be different positive numbers"),
        ({"lengths": (64, 64)}, "lengths must be different positive numbers"),
    ],
)
def test_settings_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        TaskSettings(**{"train_length": 32, "lengths": (32,)} | changes)


@pytest.mark.parametrize("name", NOTATIONS)
def test_training_items_depend_on_seed_and_index_only(name, text):
    task = build(name, text)
    tokens = task.example_tokens(task.settings)
    short = task.training_set(seed=1, examples=6)
    long = build(name, text).training_set(seed=1, examples=50)
    other = build(name, text).training_set(seed=2, examples=6)
    assert (len(short), len(long)) == (6, 50)
    for i in (5, 0, 3):  # in any order
        for key in ("input_ids", "labels"):
            assert short[i][key].dtype == torch.int64
            assert short[i][key].shape == (tokens,)
            assert torch.equal(short[i][key], long[i][key])
    assert not torch.equal(short[0]["input_ids"], short[1]["input_ids"])
    assert not torch.equal(short[0]["input_ids"], other[0]["input_ids"])
    with pytest.raises(IndexError):
        short[6]


@pytest.mark.parametrize("name", NOTATIONS)
def test_labels_are_the_tokens_of_their_position_or_ignored(name, text):
    task = build(name, text)
    items = task.training_set(seed=0, examples=20)
    for i in range(20):
        ids, labels = items[i]["input_ids"], items[i]["labels"]
        scored = labels != -100
        assert scored.any()
        if task.body == "decoder" and getattr(task, "answers_shown", True):  # else it is hidden in its place
            assert torch.equal(labels[scored], ids[scored])
        assert ids.min() >= 0
        assert ids.max() < task.vocab_size


@pytest.mark.parametrize("name", TASKS)
def test_description_is_json_and_fingerprint_follows_the_data(name, text, tmp_path):
    task = build(name, text)
    assert json.loads(json.dumps(as_json(task.describe())))["task"] == name
    fingerprint = task.fingerprint()
    assert len(fingerprint) == 64
    assert build(name, text).fingerprint() == fingerprint
    trained, (first, last) = task.settings.train_length, task.settings.lengths
    step = 4 if name == "images" else 1  # whole patches
    shorter = {"train_length": trained - step, "lengths": (first - step, last)}
    for change in (shorter, {"lengths": (last,)}, {"windows": 4}, {"data_seed": 1}):
        assert build(name, text, **change).fingerprint() != fingerprint, change


class Uniform(torch.nn.Module):
    """Every token equally likely: logits [batch, length, vocab] of zero."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size = vocab_size
        self.batches: list[tuple[int, ...]] = []

    def forward(self, input_ids, use_cache=False):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(tuple(input_ids.shape))
        return type("Output", (), {"logits": torch.zeros(*input_ids.shape, self.vocab_size)})


@pytest.mark.parametrize("name", SEQUENCES)
def test_evaluation_batches_progress_and_mode(name, text):
    task = build(name, text)
    near, far = task.settings.lengths
    tokens = near if name == "language" else task.evaluation_set(near)[0].shape[1]
    model = Uniform(task.vocab_size)
    done: list[int] = []
    row = task.evaluate(model, near, batch_tokens=2 * tokens + 1, progress=done.append)
    assert model.training
    assert model.batches == [(2, tokens), (2, tokens), (1, tokens)]
    assert done == [2, 2, 1]
    assert row.length == near
    assert task.evaluate(model, near, batch_tokens=1) == row  # one window at a time at least
    model.eval()
    task.evaluate(model, far)
    assert not model.training


def test_large_vocabularies_get_smaller_batches(monkeypatch, text):
    from whorl.data import losses

    task = build("copy", text)
    monkeypatch.setattr(losses, "LOGITS", 3 * 64 * task.vocab_size)
    model = Uniform(task.vocab_size)
    task.evaluate(model, 64)
    assert model.batches == [(3, 64), (2, 64)]
