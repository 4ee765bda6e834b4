"""Runs a comparison: prepares the task once, trains and evaluates every trial that is not there yet, writes the report.

DIR/config.json            the settings; a run with others refuses to write here
DIR/trials/ID/             see `running` and `training.trainer`
DIR/results.json           every finished and every failed trial, rewritten after each
DIR/report.md, report.html, figures/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whorl.checking import check_keywords, check_list, check_numbers, check_path, shown
from whorl.comparison import job_list as job_lists
from whorl.comparison.display import Display, Silent
from whorl.comparison.failing import TrialsFailed
from whorl.comparison.fitting import asked_for, attached_to_each
from whorl.comparison.folder import alone_in, beside_others, refuse_other_settings
from whorl.comparison.gathering import without_trials
from whorl.comparison.on_ray import on_ray
from whorl.comparison.planning import (
    RAY_ADDRESS,
    check_model,
    check_rates,
    plan_trials,
    written,
)
from whorl.comparison.pool import side_by_side
from whorl.comparison.running import Runner, fingerprint
from whorl.comparison.sweep import Sweep
from whorl.encodings import Encoding
from whorl.encodings.config import choices
from whorl.extras import require
from whorl.hosts.transformers.messages import without_progress_bars
from whorl.randomness import put_back
from whorl.reports.formatting import listing
from whorl.results.comparison import Comparison
from whorl.training.models import has_weights, model_files
from whorl.training.processes import processes
from whorl.training.settings import Settings

OF_TASK = ("the task's own",)  # encodings that were not given; known by being this very tuple


@put_back()
@without_progress_bars()  # one per checkpoint
def compare(
    encodings: Sequence[str | Encoding] = OF_TASK,
    *,
    out: str | Path = "runs/compare",
    seeds: Sequence[int] = (0,),
    learning_rates: Sequence[float] = (),
    snapshots: int = 0,
    quiet: bool = False,
    only: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    job_list: str | Path | None = None,
    **settings: Any,
) -> Comparison:
    """Trains the encodings from the same initial weights on the same batches, evaluates them, and writes the report.

    encodings  configs or their notation; "A then B" trains A and evaluates the trained model with B. Arguments that
               they leave unset (a base, HoPE's train_length, Learned's table) are the model's own where it comes with
               weights; from scratch they are the registry's defaults and the run's train_length. Left out: the task's
    out        the results folder; what is finished there is kept and not run again, what was interrupted goes on
    seeds      one trial per encoding and seed
    learning_rates  one for each of these, too, in place of `learning_rate`: an encoding is shown at the one that has
               the lowest loss in range, on examples that the evaluation does not ask for
    snapshots  how many times along its training a trial's weights are kept, for `whorl inspect`
    only       "trials": runs them and writes no report, so that any number of processes may work in one folder, each at
               a trial that no other is at; "report": runs nothing, writes the report of what is finished
    jobs       how many trials run side by side, each in a process of its own with a share of the threads (or a GPU)
    ray        where the Ray is whose tasks the trials are: "auto" for the one that is there, or else a new one; "local"
               for a new one; or "host:port"
    job_list   a file to write: a command for each trial that is not finished, for a scheduler; nothing is run
    settings   the fields of `whorl.training.settings.Settings`: task, text, model, train_length, lengths, tokens...

    Returns what results.json holds. Raises ValueError for bad settings before anything is trained, and for an `out`
    that holds results of other settings; nothing there is overwritten. Raises `TrialsFailed`, once the others are
    finished and the report is written, where trials failed; the same call runs these again.

    >>> whorl.compare(["rope", "hope"], tokens=1_000_000, out="runs/short")
    """
    fields = [field.name for field in dataclasses.fields(Settings)]
    own = ["encodings", "out", "seeds", "learning_rates", "snapshots", "quiet", "only", "jobs", "ray", "job_list"]
    check_keywords("compare", settings, [*own, *fields])
    if encodings is not OF_TASK:
        encodings = check_list("encodings", encodings, _in_a_list(encodings))
    seeds = check_list("seeds", seeds, "[0, 1, 2]")
    out = check_path("out", out, "the path of a folder")
    check_numbers(snapshots=snapshots)
    _check_how(only, jobs, ray, job_list)
    for seed in seeds:
        check_numbers(seed=seed)
    learning_rates = check_rates(learning_rates, settings.get("learning_rate"))
    chosen = Settings(**settings)
    chosen.check_task()
    if encodings is OF_TASK:
        encodings = chosen.task_class.encodings
    resolved = chosen.resolve()
    labels = [written(e) for e in encodings]
    check_model(resolved.model)
    if resolved.mix and has_weights(resolved):
        raise ValueError(
            f"{resolved.model} comes with weights and has no ids for the symbols of {resolved.mix[0]}; "
            "mix tasks into the training of a preset, or of a config"
        )
    asked, tested, words = asked_for(encodings, seeds, resolved)
    state = processes()
    folder = Path(out)
    refuse_other_settings(folder, resolved)
    attached_to_each([*asked, *(e for e in tested if e is not None)], resolved)
    display: Display | Silent = Silent() if quiet or not state.is_main_process else Display()

    with display.waiting(f"preparing the {resolved.task} task"):
        task = resolved.make_task()
        files = model_files(resolved)
        data = fingerprint(task, files)
    if learning_rates:
        task.validation_set()  # raises where there is nothing to pick a rate by
    trials = plan_trials(asked, seeds, resolved, data, labels, learning_rates, tested)
    empty = without_trials(resolved, task, len(trials), seeds, learning_rates)
    runner = Runner(folder, task, data, snapshots, files)
    reports = only != "trials" and job_list is None
    sweep = Sweep(runner, trials, empty, display, reports)
    with beside_others(folder, resolved) if only == "trials" else alone_in(folder, resolved):
        sweep.begin(words)
        if job_list is not None:
            last = job_lists.command(resolved, folder, snapshots, labels, seeds, learning_rates, only="report")
            job_lists.write(Path(job_list), sweep.missing, resolved, folder, snapshots, bool(learning_rates))
            display.listed(Path(job_list), len(sweep.missing), last)
        elif only == "report" or not sweep.missing:
            pass
        elif ray is not None:
            on_ray(sweep, ray)
        elif jobs > 1:
            side_by_side(sweep, jobs)
        else:
            sweep.one_after_another()
        if reports and (only or not sweep.missing):
            sweep.write()
        state.wait_for_everyone()
        results = Comparison.read(folder / "results.json") if reports else sweep.results()
    if reports:
        display.finish(results, folder)
    ids = {trial.id for trial in trials}
    if job_list is None and (failed := [failure for failure in results.failures if failure.id in ids]):
        raise TrialsFailed(failed, len(trials), results, folder)
    return results


def _check_how(only: Any, jobs: Any, ray: Any, job_list: Any) -> None:
    """Raises ValueError for ways of running that there are none of, or that exclude one another."""
    check_numbers(jobs=jobs)
    if only is not None:
        choices("only", only, ("trials", "report"))
    if job_list is not None:
        check_path("job_list", job_list, "the path of a file")
    if ray is not None:
        if not isinstance(ray, str) or not RAY_ADDRESS.fullmatch(ray):
            raise ValueError(f"ray must be auto, local or an address like host:6379, got {shown(ray)}")
        require("--ray", "ray")
    ways = {"--jobs": jobs > 1, "--ray": ray is not None, "--job-list": job_list is not None}
    ways |= {"--only report": only == "report", "--only trials": only == "trials" and job_list is not None}
    ways["torchrun"] = processes().num_processes > 1 and only != "report"
    asked = [way for way, given in ways.items() if given]
    if len(asked) > 1:
        raise ValueError(f"{listing(asked)} are different ways to run trials; give one of them")


def _in_a_list(encodings: Any) -> str:
    return f'["{encodings}"]' if isinstance(encodings, str | Encoding) else '["rope", "hope"]'
