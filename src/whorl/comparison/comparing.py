"""Runs a comparison: prepares the task once, trains and evaluates every trial that is not there yet, writes the report.

DIR/config.json            the settings; a run with others refuses to write here
DIR/trials/ID/             see `running` and `training.trainer`
DIR/results.json           every finished and every failed trial, rewritten after each
DIR/report.md, report.html, figures/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from whorl import outputs
from whorl.checking import check_keywords, check_list, check_numbers, check_path
from whorl.comparison.display import Display, Silent
from whorl.comparison.failing import TrialsFailed
from whorl.comparison.fitting import attached_to_each, filled_by_model
from whorl.comparison.gathering import without_trials, write_results
from whorl.comparison.planning import DEFAULT_ENCODINGS, check_asked, check_model, plan_trials
from whorl.comparison.running import Runner
from whorl.encodings import Encoding, parse
from whorl.files import read_json, write_json
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.locking import alone
from whorl.randomness import put_back
from whorl.results.comparison import Comparison
from whorl.results.schema import damaged
from whorl.training.models import has_weights
from whorl.training.settings import Settings


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
    that holds results of other settings; nothing there is overwritten. Raises `TrialsFailed`, once the others are
    finished and the report is written, where trials failed; the same call runs these again.

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
    attached_to_each(asked, resolved)
    display: Display | Silent = Silent() if quiet or not state.is_main_process else Display()

    with display.waiting(f"preparing the {resolved.task} task"):
        task = resolved.make_task()
    fingerprint = task.fingerprint()
    trials = plan_trials(asked, seeds, resolved, fingerprint, labels)
    empty = without_trials(resolved, task, len(trials), seeds)
    runner = Runner(folder, resolved, task, fingerprint, snapshots)
    with _alone(folder, resolved):
        waiting = [t.id for t in trials if runner.result(t) is None]
        display.start(empty.config, empty.machine, [t.id for t in trials], waiting)
        display.filled(words)
        for trial in trials:
            finished = runner.result(trial) is not None
            if not finished:
                runner.run(trial, display)
            done, failure = runner.result(trial), runner.failure(trial)
            if done is not None:  # another process than the main one may come before it is written
                display.trial_done(done, again=finished)
            elif failure is not None:
                display.trial_failed(failure)
            if state.is_main_process and (not finished or trial is trials[-1]):
                write_results(runner, empty, trials)
            state.wait_for_everyone()
        results = Comparison.read(folder / "results.json")
    display.finish(results, folder)
    ids = {trial.id for trial in trials}
    if failed := [failure for failure in results.failures if failure.id in ids]:
        raise TrialsFailed(failed, len(trials), results, folder)
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


def _read(path: Path) -> Any:
    return read_json(path) if path.exists() else None
