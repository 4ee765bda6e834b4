"""A step is as large as memory lets it be, and gives what the whole of it would."""

from __future__ import annotations

from pathlib import Path

import pytest

import whorl
from tests import texts
from tests.comparison.small_runs import BATCH, LENGTH, SMALL, STEPS
from whorl.results.training import TrainingRecord
from whorl.testing import tiny_model
from whorl.training import trainer
from whorl.training.recipe import Recipe
from whorl.training.trainer import at_once, check_memory, training_arguments, vocabulary


def test_as_many_sequences_go_at_once_as_their_logits_allow() -> None:
    assert at_once(32, 128, 1024) == 32
    assert at_once(32, 2048, 49_152) == 2, "of SmolLM2, 1 GiB of logits are 2.7 sequences, and 2 divides 32"
    assert at_once(9, 2048, 49_152) == 1
    assert at_once(4, 131_072, 128_256) == 1, "one is the least"


def test_a_step_in_shares_trains_as_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = str(texts.lay(tmp_path / "text"))

    def losses(out: str) -> list[float]:
        whorl.compare(["rope"], out=tmp_path / out, text=text, **SMALL)
        (record,) = (tmp_path / out).glob("trials/*/training.json")
        return [point.loss for point in TrainingRecord.read(record).curve]

    whole = losses("whole")
    assert len(whole) == STEPS
    monkeypatch.setattr(trainer, "LOGITS", 1)
    arguments = training_arguments(Recipe(LENGTH, 1000, BATCH, 1e-3), tmp_path, 1024)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (1, BATCH)
    assert losses("shares") == pytest.approx(whole, rel=1e-5)


def test_hours_in_which_a_training_was_stopped_are_none_of_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, stopped = trainer.time.perf_counter, [0.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: real() + stopped[0])
    monkeypatch.setattr(trainer, "MAX_SECONDS", float("inf"))
    at = trainer.Worked.at

    def stop_before(worked: trainer.Worked, now: float, step: int) -> float:
        if step != 8:
            return at(worked, now, step)
        stopped[0] += 7200
        return at(worked, trainer.time.perf_counter(), step)

    monkeypatch.setattr(trainer.Worked, "at", stop_before)
    whorl.compare(["rope"], out=tmp_path / "out", text=str(texts.lay(tmp_path / "text")), **SMALL)
    (record,) = (tmp_path / "out").glob("trials/*/training.json")
    assert TrainingRecord.read(record).seconds < 3600
    assert "stopped for 7200 s before step 8; it is not counted as training" in caplog.text


def test_a_training_that_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    recipe = Recipe(64, 64_000, 2, 1e-3)
    weights = sum(4 * p.numel() for p in model.parameters())
    needed = 4 * weights + 12 * 2 * 64 * vocabulary(model)
    monkeypatch.setattr(trainer, "free_memory", lambda device: float(needed))
    check_memory(model, recipe, copies=1)
    monkeypatch.setattr(trainer, "free_memory", lambda device: float(needed - 1))
    with pytest.raises(ValueError, match=r"logits of 2 x 64 tokens, and 0\.0 are free; .*, --no-control, or"):
        check_memory(model, recipe, copies=1)
    check_memory(model, recipe)
    for tensor in model.parameters():
        tensor.requires_grad_(False)
    monkeypatch.setattr(trainer, "free_memory", lambda device: float(needed - 4 * weights))
    check_memory(model, recipe)
