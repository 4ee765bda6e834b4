"""Runs one trial: trains and evaluates it and writes its result, or why there is none. The same wherever it runs.

DIR/trials/ID/result.json     written last of all; a trial that has it is never run again
DIR/trials/ID/failure.json    why it came to no result, with traceback.txt; both go when it does
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from whorl.attaching import attach
from whorl.attaching.filling import completed
from whorl.comparison.display import Display, Silent
from whorl.comparison.fitting import attached_to_each, own_encoding, turning
from whorl.comparison.planning import Planned
from whorl.files import disk_full, write_atomically
from whorl.hosts import host_of
from whorl.locking import alone
from whorl.provenance import machine, versions
from whorl.results.failure import FailedTrial
from whorl.results.schema import parsed
from whorl.results.trial import FinishedTrial, Machine, ModelFiles, Row
from whorl.tasks.base import Evaluation, NothingLeft, Task
from whorl.training.attention import for_evaluation
from whorl.training.models import build, model_files
from whorl.training.settings import Settings
from whorl.training.trials import load_trial, read_result

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers")
TRAINED = ("model.safetensors", "training.json")
FAILURE, TRACEBACK = "failure.json", "traceback.txt"


@dataclass(frozen=True)
class Runner:
    """What the trials of a comparison share within a process. Their settings are their own: see `Planned`."""

    folder: Path  # of the comparison
    task: Task
    data: str  # the fingerprint: see `fingerprint`
    snapshots: int
    files: ModelFiles | None = None  # of a model that is no preset

    def place(self, trial: Planned) -> Path:
        return self.folder / "trials" / trial.id

    def result(self, trial: Planned) -> FinishedTrial | None:
        """What the trial came to; None where it is not finished. Raises ValueError for a damaged file."""
        path = self.place(trial) / "result.json"
        return read_result(path) if path.exists() else None

    def failure(self, trial: Planned) -> FailedTrial | None:
        """Why the trial came to no result when it was last run; None where it is finished, or was not run."""
        return failure_in(self.place(trial))

    def run(self, trial: Planned, display: Display | Silent) -> None:
        """Runs a trial that is not finished. An exception is recorded and goes no further, but for a full disk, which
        is no trial's own, and under torchrun, where the other processes would wait for this one.

        Raises ValueError where another process is at this trial.
        """
        with self._alone(trial):
            if self.result(trial) is not None:  # another process has just finished it
                return
            try:
                self._train_and_evaluate(trial, display)
            except Exception as error:
                if disk_full(error):
                    raise
                if PartialState().is_main_process:
                    self.record(trial, in_one_line(error), "".join(traceback.format_exception(error)))
                if PartialState().num_processes > 1:
                    raise
            else:
                forget_failure(self.place(trial))
        gc.collect()  # a model in a traceback's frames
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def validate(self, trial: Planned) -> None:
        """Takes the validation loss of a finished trial of an earlier version, from its weights.

        Raises ValueError where these are gone.
        """
        found = self.result(trial)
        if found is None or found.validation is not None:
            return
        if not (self.place(trial) / "model.safetensors").exists():
            raise ValueError(
                f"{self.place(trial)} has neither the validation loss by which a learning rate is picked nor the "
                "weights to take it from; delete it to train it again, or give another --out"
            )
        loss = self.task.validation_loss(load_trial(self.place(trial)))
        replace(found, validation=loss).write(self.place(trial) / "result.json")

    @contextmanager
    def _alone(self, trial: Planned) -> Iterator[None]:
        if not PartialState().is_main_process:
            yield
            return
        with alone(self.place(trial), "compare"):
            yield

    def record(self, trial: Planned, error: str, trace: str | None = None) -> None:
        """Writes down that a trial failed."""
        place = self.place(trial)
        if trace is not None:
            write_atomically(place / TRACEBACK, trace)
        FailedTrial(
            id=trial.id,
            notation=trial.label,
            seed=trial.seed,
            error=error,
            traceback=None if trace is None else (place / TRACEBACK).relative_to(self.folder).as_posix(),
            config=trial.encoding.to_dict(),
            settings=trial.settings.to_dict(),
            data=self.data,
            machine=parsed(Machine, machine()),
            versions=versions(*PACKAGES),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ).write(place / FAILURE)

    def _train_and_evaluate(self, trial: Planned, display: Display | Silent) -> None:
        from whorl.training.trainer import train

        settings, task, folder = trial.settings, self.task, self.place(trial)
        folder.mkdir(parents=True, exist_ok=True)
        if PartialState().is_main_process:
            task.save_tokenizer(folder / "tokenizer")
        model = build(settings, trial.encoding, trial.seed, task.vocab_size, task.eos_token_id, self.files)
        self._check_weights(settings)
        recipe = settings.recipe(trial.seed)
        dataset = task.training_set(trial.seed, recipe.steps * recipe.batch_size)
        self._take_over_training(trial)
        with display.training(trial.id, recipe.steps) as update:
            record = train(model, recipe, dataset, folder, update, self.snapshots)
        if not PartialState().is_main_process:
            return
        model = for_evaluation(model)
        validation = validation_loss(task, model)
        if trial.tested is not None:
            attach(model, completed(host_of(model), trial.tested))
        evaluations = task.evaluations()
        rows: dict[str, tuple[Row, ...]] = dict.fromkeys(evaluations, ())
        asked = [(name, made, length) for name, made in evaluations.items() for length in made.lengths]
        with display.evaluating(trial.id, len(asked)) as update:
            for done, (name, made, length) in enumerate(asked, 1):
                rows[name] += (_row(made, model, length),)
                update(done, length)
        shown = trial.tested or trial.encoding
        host = attached_to_each([shown], settings, self.files)[shown]
        FinishedTrial(
            id=trial.id,
            encoding=trial.encoding.name,
            notation=trial.label,
            parameters={k: v for k, v in trial.encoding.to_dict().items() if k != "name"},
            seed=trial.seed,
            **turning(shown, host),
            pretrained=own_encoding(model) if self.files is not None and self.files.weights is not None else None,
            train=record,
            evaluations=rows,
            validation=validation,
            config=trial.encoding.to_dict(),
            tested=None if trial.tested is None else trial.tested.to_dict(),
            settings=settings.to_dict(),
            data=self.data,
            text=task.text(),
            vocab_size=task.vocab_size,
            eos_token_id=task.eos_token_id,
            machine=parsed(Machine, machine()),
            versions=versions(*PACKAGES),
            model=self.files,
        ).write(folder / "result.json")

    def _check_weights(self, settings: Settings) -> None:
        """Raises ValueError where a model's path holds other weights by now than when the comparison began: what was
        read just then may be those."""
        if self.files is not None and self.files.weights is not None:
            now = model_files(settings)
            if now is None or now.weights != self.files.weights:
                raise ValueError(
                    f"{settings.model} holds other weights than when this comparison began; run the same command again "
                    "once nothing writes there any more"
                )

    def _take_over_training(self, trial: Planned) -> None:
        """The weights and the record of the trial that is trained alike, where it is over; the record last, without
        which the weights count for nothing."""
        if trial.alike is None or not PartialState().is_main_process:
            return
        alike, own = self.folder / "trials" / trial.alike, self.place(trial)
        if all((alike / name).exists() for name in TRAINED) and not (own / TRAINED[-1]).exists():
            for name in TRAINED:
                shutil.copyfile(alike / name, own / name)


def fingerprint(task: Task, files: ModelFiles | None) -> str:
    """The sha256, hex, of what trials of equal settings share: the task's data, and what a model was made of that is no
    preset (its path may hold another one later)."""
    if files is None:
        return task.fingerprint()
    told = json.dumps({"data": task.fingerprint(), **asdict(files)}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def validation_loss(task: Task, model: Any) -> float | None:
    """The loss by which a learning rate is picked; None where the task's data have none left to take it from."""
    try:
        return task.validation_loss(model)
    except NothingLeft:
        return None


def _row(evaluation: Evaluation, model: Any, length: int) -> Row:
    """One length's row; a length that the encoding cannot reach is a row that says why."""
    try:
        return evaluation.row(model, length)
    except ValueError as error:
        return Row(length, unreachable=str(error))


def in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def failure_in(place: Path) -> FailedTrial | None:
    """What the failed trial of a folder left there; None where it left nothing that can be read, or has a result."""
    if (place / "result.json").exists() or not (place / FAILURE).exists():
        return None
    try:
        return FailedTrial.read(place / FAILURE)
    except ValueError as error:
        log.warning("a failed trial is not told of: %s", error)
        return None


def forget_failure(place: Path) -> None:
    for name in (FAILURE, TRACEBACK):
        (place / name).unlink(missing_ok=True)
