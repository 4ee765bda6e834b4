"""What a learning rate is picked by: held out from all trainings, and not what the evaluation asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whorl.data.windows import ends_between
from whorl.tasks.base import IGNORED, Task, TaskSettings
from whorl.tasks.language import Language
from whorl.tasks.mixed import Mixed, shares
from whorl.tasks.scan import Scan, pairs
from whorl.testing import tiny_model

from .table import GENERATED, build


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("text")
    for i in range(40):
        words = np.random.default_rng(i).integers(10**6, size=10 if i % 2 else 200)
        (folder / f"{i:02}.txt").write_text(" ".join(map(str, words)))
    return str(folder)


def sequences(items: Any) -> set[tuple[int, ...]]:
    return {tuple(items[i]["input_ids"].tolist()) for i in range(len(items))}


def test_windows_between_others_share_no_token_with_them() -> None:
    documents = [np.arange(n) for n in (50, 9, 30)]
    taken = [(0, 25), (0, 30), (2, 30)]
    of_first = [(0, end) for end in (5, 10, 15, 35, 40, 45, 50)]
    found = ends_between(documents, taken, 10, 5)
    assert found == [*of_first, (1, 5), (2, 5), (2, 10), (2, 15), (2, 20)]
    assert ends_between(documents, [(2, 30)], 10, 31) == [(0, 31)]


def test_language_is_validated_on_held_out_tokens_that_no_evaluation_reads(text: str) -> None:
    task: Language = build("language", text)
    items = sequences(task.validation_set())
    assert len(items) == task.settings.windows
    read = [(d, end - 96, end) for d, end in task.ends]
    held_out = [
        (d, at)
        for window in items
        for d, tokens in enumerate(task.heldout)
        for at in range(len(tokens) - 63)
        if tuple(tokens[at : at + 64].tolist()) == window
    ]
    assert len(held_out) == len(items), "each once"
    assert not [(d, at) for d, at in held_out for of, start, end in read if d == of and start < at + 64 and at < end]


def test_a_text_of_which_nothing_is_left_cannot_be_validated_on(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text(" ".join(map(str, np.random.default_rng(i).integers(10**6, size=120))))
    task = Language(TaskSettings(64, (64, 96), 8, 96, str(tmp_path), vocab_size=280))
    with pytest.raises(ValueError, match="no 64 tokens in a row are left to validate on; try fewer --windows than 96"):
        task.validation_set()


@pytest.mark.parametrize("notation", GENERATED)
def test_a_generated_task_is_validated_on_sequences_of_its_own(notation: str) -> None:
    task = build(notation, windows=8)
    items, trained = task.validation_set(), task.training_set(0, 64)
    assert all(items[0][key].shape == trained[0][key].shape for key in ("input_ids", "labels"))
    assert sequences(items) == sequences(build(notation, windows=8).validation_set()), "the same every time"
    first = [tuple(trained[i]["input_ids"].tolist()) for i in range(8)]
    assert [tuple(items[i]["input_ids"].tolist()) for i in range(8)] != first
    if task.unit == "tokens":  # of 8 bits, say, there are few: any is trained on
        asked = task.evaluation_set(64)[0].tolist()
        assert not sequences(items) & {*map(tuple, asked), *sequences(trained)}


def test_scan_is_validated_on_commands_that_are_neither_trained_on_nor_asked() -> None:
    task: Scan = build("scan", windows=40)
    items = sequences(task.validation_set())
    assert len(items) == 40

    def written(found: Any) -> set[tuple[int, ...]]:
        return {tuple(task.written(pair)["input_ids"].tolist()) for pair in found}

    within = [pair for pair in pairs() if len(pair[1]) <= 25]
    assert items <= written(within)
    assert not items & written(task.trained_on)
    asked = [pair for n in task.settings.lengths if n <= 25 for pair in task.evaluation_problems(n)]
    assert not items & written(asked)
    all_of_them = build("scan", windows=5000, lengths=tuple(sorted({len(pair[1]) for pair in within})))
    with pytest.raises(ValueError, match="leaves none to validate on; try fewer --windows"):
        all_of_them.validation_set()


@pytest.mark.parametrize(("notation", "family"), [("language", "llama"), ("mqar", "llama"), ("mlm", "modernbert")])
def test_the_validation_loss_is_what_a_training_would_have_on_it(notation: str, family: str, text: str) -> None:
    task: Task = build(notation, text)
    items = task.validation_set()
    batch = {key: torch.stack([items[i][key] for i in range(len(items))]) for key in ("input_ids", "labels")}  # type: ignore[arg-type]
    model = tiny_model(family, vocab_size=task.vocab_size).eval()
    with torch.no_grad():
        expected = float(model(**batch).loss)
    assert task.validation_loss(model, batch_tokens=128) == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert not np.isfinite(task.validation_loss(model))


def test_a_mix_is_validated_on_its_mix(text: str) -> None:
    settings = TaskSettings(64, (64, 96), 8, 8, text, vocab_size=280)
    mixed = Mixed(settings, shares(["recall=0.5"]))
    items = mixed.validation_set()
    of_recall = sum(int(items[i]["input_ids"][0]) >= mixed.language.vocab_size for i in range(len(items)))  # type: ignore[arg-type]
    assert 0 < of_recall < len(items)  # type: ignore[arg-type]
    labels = torch.stack([items[i]["labels"] for i in range(len(items))])  # type: ignore[arg-type]
    assert (labels != IGNORED).any(1).all()
