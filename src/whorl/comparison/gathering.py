"""results.json and the report of a comparison, from the trials that lie in its folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import torch

import whorl
from whorl.comparison.planning import Planned
from whorl.comparison.running import PACKAGES, Runner, failure_in
from whorl.provenance import machine, versions
from whorl.reports import comparison as report
from whorl.results.comparison import Comparison, Config
from whorl.results.differing import differing
from whorl.results.failure import Failure
from whorl.results.rates import picked
from whorl.results.schema import parsed
from whorl.results.training import TrainingRecord
from whorl.results.trial import FinishedTrial, Machine, Trial
from whorl.tasks.base import Task
from whorl.training.models import build_model, model_label, parameter_count
from whorl.training.settings import Settings
from whorl.training.trials import read_result

log = logging.getLogger(__name__)


def without_trials(
    settings: Settings, task: Task, planned: int, seeds: Sequence[int], learning_rates: Sequence[float] = ()
) -> Comparison:
    """The comparison before any trial: the machine, the versions and the settings."""
    with torch.device("meta"):
        model = build_model(settings, task.vocab_size, task.eos_token_id, weights=False)
    recipe = settings.recipe(seed=0)
    known = settings.to_dict() | {"lengths": settings.evaluation_lengths(), "model": model_label(settings)}
    return Comparison(
        whorl=whorl.__version__,
        created="",
        machine=parsed(Machine, machine()),
        versions=versions(*PACKAGES),
        config=Config(
            **known,
            parameters=parameter_count(model),
            steps=recipe.steps,
            seeds=tuple(seeds),
            trials_planned=planned,
            data=task.describe(),
            train_tokens=recipe.train_length,
            learning_rates=tuple(learning_rates),
        ),
        trials=(),
    )


def gathered(runner: Runner, trials: Sequence[Planned]) -> tuple[list[FinishedTrial], list[Failure]]:
    """Of these trials those that are finished, by the notation that is asked for now, and those that failed."""
    done = [dataclasses.replace(found, notation=t.label) for t in trials if (found := runner.result(t)) is not None]
    return done, [lost.failure() for t in trials if (lost := runner.failure(t)) is not None]


def of_other_data(runner: Runner, trials: Sequence[Planned]) -> list[str]:
    """The finished trials in the folder, by id, that are left out beside these: of other data, or of a model that was
    another then."""
    found = []
    for place in _beside(runner, trials):
        with suppress(ValueError, FileNotFoundError):
            found += [place.name] if read_result(place / "result.json").data != runner.data else []
    return found


def _beside(runner: Runner, trials: Sequence[Planned]) -> list[Path]:
    """The folders of other trials than these."""
    asked = {t.id for t in trials}
    return [place for place in sorted((runner.folder / "trials").glob("*")) if place.name not in asked]


def write_results(runner: Runner, empty: Comparison, trials: Sequence[Planned]) -> None:
    """results.json and the report: the trials of this run, finished or failed, then those of earlier runs on the same
    data."""
    done, failed = gathered(runner, trials)
    of_now = len(done) + len(failed)
    for place in _beside(runner, trials):
        if (lost := failure_in(place)) is not None and lost.data == runner.data:
            failed.append(lost.failure())
        if not (place / "result.json").exists():
            continue
        try:
            earlier = read_result(place / "result.json")
        except ValueError as error:
            log.warning("left out of the report: %s", error)
            continue
        if earlier.data == runner.data:
            done.append(earlier)
    whole = [_with_losses(runner.folder / "trials" / t.id / "training.json", t.trial()) for t in done]
    shown, others = picked(whole)
    results = dataclasses.replace(
        empty,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=dataclasses.replace(
            empty.config,
            seeds=tuple(sorted({t.seed for t in done})),
            trials_planned=len(trials) + len(done) + len(failed) - of_now,
        ),
        trials=tuple(shown),
        failures=tuple(failed),
        at_other_rates=tuple(others),
        differing=differing(done),
    )
    results.write(runner.folder / "results.json")
    report.write(results, runner.folder)


def _with_losses(path: Path, trial: Trial) -> Trial:
    """The trial with its losses by step. Earlier versions kept them in its training's file alone: where that is
    damaged, a warning. A trial that was taken over from a study has none."""
    if trial.train.losses:
        return trial
    try:
        losses = TrainingRecord.read(path).training().losses
    except FileNotFoundError:
        return trial
    except (OSError, ValueError) as error:
        log.warning("the learning curve of %s is left out of the report: %s", trial.id, error)
        return trial
    return dataclasses.replace(trial, train=dataclasses.replace(trial.train, losses=losses))
