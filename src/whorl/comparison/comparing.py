"""Runs a comparison: prepares the task once, trains and evaluates every trial that is not there yet, writes the report.

DIR/config.json            the settings; a run with others refuses to write here
DIR/trials/ID/             see `training.trainer`
DIR/results.json           every finished trial, rewritten after each
DIR/report.md, report.html, figures/
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

import whorl
from whorl import outputs
from whorl.checking import check_keywords, check_list, check_numbers, check_path
from whorl.comparison.display import Display, Silent
from whorl.comparison.fitting import attached_to_each, filled_by_model, own_encoding, turning
from whorl.comparison.planning import DEFAULT_ENCODINGS, Planned, check_asked, check_model, plan_trials
from whorl.encodings import Encoding, parse
from whorl.files import read_json, write_json
from whorl.hosts import OpenHost
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.locking import alone
from whorl.provenance import machine, versions
from whorl.randomness import put_back
from whorl.reports import comparison as report
from whorl.results.comparison import Comparison, Config
from whorl.results.schema import damaged
from whorl.results.training import TrainingRecord
from whorl.results.trial import FinishedTrial, Machine, Row, Trial
from whorl.tasks.base import Evaluation, Task
from whorl.training.attention import for_evaluation
from whorl.training.models import build, build_model, has_weights, model_label, parameter_count
from whorl.training.settings import Settings
from whorl.training.trials import read_result

log = logging.getLogger(__name__)


@put_back()
@without_progress_bars()  # one per checkpoint
def compare(
    encodings: Sequence[str | Encoding] = DEFAULT_ENCODINGS,
    *,
    out: str | Path = "runs/compare",
    seeds: Sequence[int] = (0,),
    snapshots: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> Comparison:
    """Trains the encodings from the same initial weights on the same batches, evaluates them, and writes the report.

    encodings  configs or their notation. Arguments that they leave unset (a base, HoPE's train_length, Learned's table)
               are the model's own where it comes with weights; from scratch they are the registry's defaults and the
               run's train_length
    out        the results folder; what is finished there is kept and not run again, what was interrupted goes on
    seeds      one trial per encoding and seed
    snapshots  how many times along its training a trial's weights are kept, for `whorl inspect`
    settings   the fields of `whorl.training.settings.Settings`: task, text, model, train_length, lengths, tokens...

    Returns what results.json holds. Raises ValueError for bad settings before anything is trained, and for an `out`
    that holds results of other settings; nothing there is overwritten.

    >>> whorl.compare(["rope", "hope"], tokens=1_000_000, out="runs/short")
    """
    fields = [field.name for field in dataclasses.fields(Settings)]
    check_keywords("compare", settings, ["encodings", "out", "seeds", "snapshots", "quiet", *fields])
    encodings = check_list("encodings", encodings, _in_a_list(encodings))
    seeds = check_list("seeds", seeds, "[0, 1, 2]")
    out = check_path("out", out, "the path of a folder")
    check_numbers(snapshots=snapshots)
    for seed in seeds:
        check_numbers(seed=seed)
    chosen = Settings(**settings)
    chosen.check_task()
    resolved = chosen.resolve()
    labels = [str(parse(e)) for e in encodings]
    check_model(resolved.model)
    if resolved.mix and has_weights(resolved):
        raise ValueError(
            f"{resolved.model} comes with weights and has no ids for the symbols of {resolved.mix[0]}; "
            "mix tasks into the training of a preset, or of a config"
        )
    of_model, words = filled_by_model(encodings, resolved)
    asked = check_asked(of_model, seeds, resolved)
    state = PartialState(cpu=not torch.cuda.is_available())
    folder = Path(out)
    _refuse_other_settings(folder, resolved)
    hosts = attached_to_each(asked, resolved)
    display: Display | Silent = Silent() if quiet or not state.is_main_process else Display()

    with display.waiting(f"preparing the {resolved.task} task"):
        task = resolved.make_task()
    fingerprint = task.fingerprint()
    trials = plan_trials(asked, seeds, resolved, fingerprint, labels)
    facts = _facts(resolved, task, trials, seeds)
    run = _Run(folder, resolved, task, fingerprint, hosts, facts, snapshots)
    with _alone(folder, resolved):
        display.start(facts.config, facts.machine, [t.id for t in trials])
        display.filled(words)
        for trial in trials:
            finished = _result(folder, trial) is not None
            if not finished:
                run.trial(trial, display)
            done = _result(folder, trial)
            if done is not None:  # another process than the main one may come before it is written
                display.trial_done(done, again=finished)
            if state.is_main_process and (not finished or trial is trials[-1]):
                run.write_results(trials)
            state.wait_for_everyone()
        results = Comparison.read(folder / "results.json")
    display.finish(results, folder)
    return results


def _in_a_list(encodings: Any) -> str:
    return f'["{encodings}"]' if isinstance(encodings, str | Encoding) else '["rope", "hope"]'


@contextmanager
def _alone(folder: Path, settings: Settings) -> Iterator[None]:
    """The folder is this run's, and says so. Raises ValueError while another run is at work there."""
    if not PartialState().is_main_process:
        yield
        return
    with alone(folder, "compare"):
        _refuse_other_settings(folder, settings)  # again: another run may have come and gone
        outputs.mark(folder, by="compare")
        write_json(folder / "config.json", settings.to_dict())
        yield


@dataclass
class _Run:
    """What all trials of a comparison share."""

    folder: Path
    settings: Settings
    task: Task
    data: str  # the task's fingerprint
    hosts: dict[Encoding, OpenHost]
    facts: Comparison  # without trials
    snapshots: int

    def trial(self, trial: Planned, display: Display | Silent) -> None:
        """Trains and evaluates one trial and writes its result.json, last of all."""
        from whorl.training.trainer import train

        settings, task = self.settings, self.task
        folder = self.folder / "trials" / trial.id
        folder.mkdir(parents=True, exist_ok=True)
        if PartialState().is_main_process:
            task.save_tokenizer(folder / "tokenizer")
        model = build(settings, trial.encoding, trial.seed, task.vocab_size, task.eos_token_id)
        recipe = settings.recipe(trial.seed)
        dataset = task.training_set(trial.seed, recipe.steps * recipe.batch_size)
        with display.training(trial.id, recipe.steps) as update:
            record = train(model, recipe, dataset, folder, update, self.snapshots)
        if not PartialState().is_main_process:
            return
        model = for_evaluation(model)
        evaluations = task.evaluations()
        rows: dict[str, tuple[Row, ...]] = dict.fromkeys(evaluations, ())
        with display.evaluating(trial.id, sum(len(made.lengths) for made in evaluations.values())) as advance:
            for name, made in evaluations.items():
                for length in made.lengths:
                    rows[name] += (_row(made, model, length),)
                    advance(length)
        FinishedTrial(
            id=trial.id,
            encoding=trial.encoding.name,
            notation=trial.label,
            parameters={k: v for k, v in trial.encoding.to_dict().items() if k != "name"},
            seed=trial.seed,
            **turning(trial.encoding, self.hosts[trial.encoding]),
            pretrained=own_encoding(model) if has_weights(settings) else None,
            train=record,
            evaluations=rows,
            config=trial.encoding.to_dict(),
            settings=settings.to_dict(),
            data=self.data,
            text=task.text(),
            vocab_size=task.vocab_size,
            eos_token_id=task.eos_token_id,
            machine=self.facts.machine,
            versions=self.facts.versions,
        ).write(folder / "result.json")

    def write_results(self, trials: list[Planned]) -> None:
        """results.json and the report: the finished trials of this run, then those of earlier runs on the same data."""
        done = [found.trial(t.label) for t in trials if (found := _result(self.folder, t)) is not None]
        asked = {t.id for t in trials}
        for path in sorted((self.folder / "trials").glob("*/result.json")):
            if path.parent.name in asked:
                continue
            try:
                earlier = read_result(path)
            except ValueError as error:
                log.warning("left out of the report: %s", error)
                continue
            if earlier.data == self.data:
                done.append(earlier.trial())
        config = dataclasses.replace(self.facts.config, seeds=tuple(sorted({t.seed for t in done})))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        trials_done = tuple(_with_losses(self.folder / "trials" / t.id / "training.json", t) for t in done)
        results = dataclasses.replace(self.facts, created=created, config=config, trials=trials_done)
        results.write(self.folder / "results.json")
        report.write(results, self.folder)


def _row(evaluation: Evaluation, model: Any, length: int) -> Row:
    """One length's row; a length that the encoding cannot reach is a row that says why."""
    try:
        return evaluation.row(model, length)
    except ValueError as error:
        return Row(length, unreachable=str(error))


def _facts(settings: Settings, task: Task, trials: list[Planned], seeds: Sequence[int]) -> Comparison:
    """The comparison before any trial: the machine, the versions and the settings."""
    with torch.device("meta"):
        model = build_model(settings, task.vocab_size, task.eos_token_id, weights=False)
    recipe = settings.recipe(seed=0)
    known = settings.to_dict() | {"lengths": settings.evaluation_lengths(), "model": model_label(settings)}
    return Comparison(
        whorl=whorl.__version__,
        created="",
        machine=Machine(**machine()),
        versions=versions("torch", "transformers", "accelerate", "tokenizers"),
        config=Config(
            **known,
            parameters=parameter_count(model),
            steps=recipe.steps,
            seeds=tuple(seeds),
            trials_planned=len(trials),
            data=task.describe(),
            train_tokens=recipe.train_length,
        ),
        trials=(),
    )


def _refuse_other_settings(folder: Path, settings: Settings) -> None:
    """Results of other settings are not mixed with these, and not overwritten."""
    outputs.check_goes_on(folder, by="compare")
    there = _read(folder / "config.json")
    if there is None:
        return
    if not isinstance(there, dict):
        raise damaged(str(folder / "config.json"), "it holds no settings")
    asked = settings.to_dict()
    differ = [k for k in sorted({*asked, *there}) if asked.get(k) != there.get(k)]
    if differ:
        what = ", ".join(f"{k} {there.get(k)!r} there and {asked.get(k)!r} asked" for k in differ)
        raise ValueError(f"--out {folder} holds results of another configuration ({what}); give another --out")


def _result(folder: Path, trial: Planned) -> FinishedTrial | None:
    path = folder / "trials" / trial.id / "result.json"
    return read_result(path) if path.exists() else None


def _with_losses(path: Path, trial: Trial) -> Trial:
    """The trial with its losses by step. Earlier versions kept them in its training's file alone: where that is gone or
    damaged, a warning."""
    if trial.train.losses:
        return trial
    try:
        losses = TrainingRecord.read(path).training().losses
    except (OSError, ValueError) as error:
        log.warning("the learning curve of %s is left out of the report: %s", trial.id, error)
        return trial
    return dataclasses.replace(trial, train=dataclasses.replace(trial.train, losses=losses))


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None
