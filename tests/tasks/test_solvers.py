"""The contract of generated tasks: an oracle scores 100 %, and a guess what is called chance."""

import math

import numpy as np
import pytest
import torch

from whorl.tasks.base import IGNORED
from whorl.tasks.graded import PAD
from whorl.tasks.problems import END

from .table import COMMONEST, GENERATED, build


def hidden(ids, labels):
    """The sequences [rows, tokens] with their targets hidden."""
    return torch.where(labels == IGNORED, ids, IGNORED).numpy()


def solved(task, solver, length):
    """The row of a solver of one sequence."""
    ids, labels = task.evaluation_set(length)
    answers = [torch.from_numpy(solver(asked.copy())) for asked in hidden(ids, labels)]
    return task.graded(length, torch.stack(answers), labels)


@pytest.mark.parametrize("notation", GENERATED)
def test_the_oracle_is_always_right(notation):
    task = build(notation, windows=40)
    for length in task.settings.lengths:
        row = solved(task, task.oracle, length)
        assert {row.values[metric.key] for metric in task.metrics if metric.share} == {1.0}, row
        assert row.sequences <= 40


@pytest.mark.parametrize("notation", GENERATED)
def test_a_guess_has_what_is_called_chance(notation):
    """Within four standard errors of the mean over the sequences, each guessed eight times."""
    task = build(notation, windows=200)
    guessed = {row.length: row.values for row in task.describe().guessing}
    rng = np.random.default_rng(0)
    told = 0
    for length in task.settings.lengths:
        rows = [solved(task, lambda ids: task.guess(rng, ids), length) for _ in range(8)]
        for metric in task.metrics:
            chance = guessed.get(length, {}).get(metric.key, metric.chance)
            if chance is None:
                continue
            told += 1
            found = np.array([row.values[metric.key] for row in rows])
            trials = sum(row.sequences for row in rows)
            error = math.sqrt(max(chance * (1 - chance), 1 / trials) / trials)  # of a share: the widest there is
            assert abs(found.mean() - chance) < 4 * error, (metric.key, length, found.mean(), chance)
    assert told >= len(task.settings.lengths), "a level is told at each length"


@pytest.mark.parametrize("notation", GENERATED)
def test_the_same_answer_to_everything_is_no_better_than_a_guess(notation):
    """But where one answer is commoner than others, as `COMMONEST` says; the end is put where it belongs."""
    task = build(notation, windows=200)
    guessed = {row.length: row.values for row in task.describe().guessing}
    metric = task.metrics[0]
    for length in task.settings.lengths:
        labels = task.evaluation_set(length)[1]
        chance = guessed.get(length, {}).get(metric.key, metric.chance)
        chance = max(chance, COMMONEST.get(notation.partition(":")[0], 0.0))
        error = math.sqrt(max(chance * (1 - chance), 1 / len(labels)) / len(labels))
        for word in task.guesses[:20]:
            row = task.graded(length, torch.where(labels == END, END, int(word)), labels)
            assert row.values[metric.key] < chance + 4 * error, (length, word)


@pytest.mark.parametrize("notation", GENERATED)
def test_sequences_are_those_of_the_seed_and_no_longer_than_is_said(notation):
    task, again, other = build(notation), build(notation), build(notation, data_seed=1)
    tokens = task.example_tokens(task.settings)
    for length in task.settings.lengths:
        ids, labels = task.evaluation_set(length)
        assert torch.equal(ids, again.evaluation_set(length)[0])
        assert not torch.equal(ids, other.evaluation_set(length)[0])
        assert (labels[ids == PAD] == IGNORED).all(), "padding is never asked"
        assert (labels != IGNORED).any(1).all(), "something is asked in each"
        assert length > task.settings.train_length or ids.shape[1] <= tokens


@pytest.mark.parametrize("notation", GENERATED)
def test_fingerprints_tell_forms_apart(notation):
    others = {build(other).fingerprint() for other in GENERATED if other != notation}
    assert build(notation).fingerprint() not in others
