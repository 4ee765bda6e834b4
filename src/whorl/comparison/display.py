"""What a person sees while a comparison runs: bars on a terminal, plain lines elsewhere, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from whorl.comparison.pace import Pace
from whorl.console import console as plain
from whorl.console import said
from whorl.reports.comparison import uneven, unlearnt
from whorl.reports.formatting import DIVERGED, duration, listing, plural
from whorl.results.comparison import Comparison, Config
from whorl.results.failure import Failure
from whorl.results.over_seeds import Metric
from whorl.results.trial import Machine, Row, Trial
from whorl.stages import Lines
from whorl.tasks import of_evaluation, parse

Update = Callable[[int, float | None], None]


@dataclass(frozen=True)
class Reached:
    """How far a trial is: so many steps of its training, or lengths of its evaluation."""

    stage: str
    done: int
    of: int
    loss: float | None = None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"{self.stage} {self.done:,} of {self.of:,}{loss}"


class Silent:
    """Says nothing (quiet runs, and all but the first of several processes)."""

    def waiting(self, what: str) -> AbstractContextManager[Any]:
        return nullcontext()

    def start(self, config: Config, machine: Machine, trials: list[str], waiting: list[str]) -> None: ...

    def filled(self, words: list[str]) -> None: ...

    def training(self, trial: str, steps: int) -> AbstractContextManager[Update]:
        return nullcontext(lambda step, loss: None)

    def evaluating(self, trial: str, lengths: int) -> AbstractContextManager[Callable[[int, int], None]]:
        """What it gives is told how many lengths are done, and which one was last."""
        return nullcontext(lambda done, length: None)

    def side_by_side(self, at_once: int) -> AbstractContextManager[Callable[[Mapping[str, Reached]], None]]:
        return nullcontext(lambda running: None)

    def trial_done(self, trial: Trial, again: bool) -> None: ...

    def trial_failed(self, failure: Failure) -> None: ...

    def listed(self, path: Path, commands: int, last: str) -> None: ...

    def finish(self, results: Comparison, folder: Path) -> None: ...


class Display(Silent):
    """Bars on a terminal; elsewhere (a log file, CI) a line every tenth of a trial."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or plain()
        self.trials: list[str] = []
        self.tokens = "tokens"
        self.pace = Pace((), steps=1)

    def waiting(self, what: str) -> AbstractContextManager[Any]:
        if self.console.is_terminal:
            return self.console.status(what)
        self.console.print(what)
        return nullcontext()

    def start(self, config: Config, machine: Machine, trials: list[str], waiting: list[str]) -> None:
        """waiting: those of the trials that are still to be run."""
        self.trials, self.pace = trials, Pace(waiting, config.steps)
        self.tokens = parse(config.task)[0].words().tokens
        cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
        self.console.print(
            said(
                (f"{len(trials)} trial{'' if len(trials) == 1 else 's'}", "bold"),
                f" of {config.tokens:,} {self.tokens} ({config.steps:,} steps of {config.batch_size} x "
                f"{config.train_tokens or config.train_length}), task {config.task}, model {config.model} "
                f"({config.parameters / 1e6:.2f} M parameters), {config.precision}, on {machine.device} "
                f"({machine.cpu}, {cores})",
            )
        )

    def filled(self, words: list[str]) -> None:
        """Says which arguments of the encodings the model's config filled."""
        for line in words:
            self.console.print(line)

    @contextmanager
    def training(self, trial: str, steps: int) -> Iterator[Update]:
        begun = False

        def update(step: int, loss: float | None) -> None:
            nonlocal begun
            if step and not begun:
                self.console.print(f"{trial} goes on from step {step:,}, where it was interrupted")
            begun = True
            self.pace.at(trial, step)
            advance(step, "" if loss is None else f"loss {loss:.3f}")

        with self._bar(trial, steps, "training", every=max(1, steps // 10)) as advance:
            yield update

    @contextmanager
    def evaluating(self, trial: str, lengths: int) -> Iterator[Callable[[int, int], None]]:
        with self._bar(trial, lengths, "evaluating", every=lengths) as advance:
            yield lambda done, length: advance(done, f"length {length:,}")

    @contextmanager
    def _bar(self, trial: str, total: int, verb: str, every: int) -> Iterator[Callable[[int, str], None]]:
        where = f"({self.trials.index(trial) + 1}/{len(self.trials)})" if trial in self.trials else ""
        name = f"{where} {verb} {trial.rsplit('-', 1)[0]}"
        if not self.console.is_terminal:

            def line(step: int, note: str) -> None:
                if step and (step % every == 0 or step == total):
                    words = f"{name}: {step:,} of {total:,} {note}".rstrip()
                    self.console.print(", ".join(filter(None, (words, self._left()))))

            yield line
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            bar = progress.add_task(name, total=total, note="", left=self._left())
            yield lambda step, note: progress.update(bar, completed=step, note=note, left=self._left())

    @contextmanager
    def side_by_side(self, at_once: int) -> Iterator[Callable[[Mapping[str, Reached]], None]]:
        """Trials of other processes, so many at once. What it gives is told, every second or so, how far they are.

        In a file there is a line at once, each time that they are further by a tenth of a trial, together, and once a
        minute.
        """
        self.pace.at_once = at_once
        lines = Lines()
        live = self.console.status("starting") if self.console.is_terminal else None

        def update(running: Mapping[str, Reached]) -> None:
            for trial, reached in running.items():
                self.pace.at(trial, self.pace.steps if reached.stage == "evaluating" else reached.done)
            over = len(self.trials) - len(self.pace.waiting) - len(self.pace.running)
            first = f"{over} of {len(self.trials)} trials are over"
            each = [f"{trial.rsplit('-', 1)[0]} {reached}" for trial, reached in running.items()]
            if live is not None:
                live.update("\n".join((", ".join(filter(None, (first, self._left()))), *each)))
            elif lines.due(over * self.pace.steps + self.pace.done, self.pace.steps, time.monotonic()):
                self.console.print("; ".join(filter(None, (first, *each, self._left()))))

        with live or nullcontext():
            yield update

    def _left(self) -> str:
        """Of the whole comparison, in words."""
        seconds = self.pace.left()
        return f"about {duration(seconds)} left" if seconds else ""

    def trial_done(self, trial: Trial, again: bool) -> None:
        self.pace.over(trial.id)
        rate = "" if trial.learning_rate is None else f"learning rate {trial.learning_rate:g}, "
        facts = f"{rate}loss {_number(trial.train.loss)}, {trial.train.tokens_per_second:,.0f} {self.tokens}/s"
        verb = ("was done already", "dim") if again else ("done ", "green")
        rows = ((row, _main(name)) for name, found in trial.evaluations.items() for row in found)
        values = "  ".join(f"{row.length:,}: {_cell(row, metric)}" for row, metric in rows)
        self.console.print(said(verb, f" {trial.id}: {facts}; {values}"))

    def trial_failed(self, failure: Failure) -> None:
        self.pace.over(failure.id)
        self.console.print(said(("failed ", "red"), f"{failure.id}: {failure.error}"))

    def listed(self, path: Path, commands: int, last: str) -> None:
        """A job list was written; `last` is the command that makes the report when its commands are over."""
        self.console.print(f"{path} has {plural(commands, 'command')}, one a line; they may run anywhere, in any order")
        self.console.print(f"when they are over, for the report: {last}")

    def finish(self, results: Comparison, folder: Path) -> None:
        self.console.print(results_table(results))
        for notice in filter(None, (uneven(results), *unlearnt(results), *_out_of_reach(results))):
            self.console.print(notice)
        self.console.print(
            f"report: {folder / 'report.html'} and {folder / 'report.md'}; numbers: {folder / 'results.json'}"
        )


def results_table(results: Comparison) -> Table:
    """One row per trial: the task's main number at every length."""
    config = results.config
    task, _ = parse(config.task)
    metric = task.measured()[0]
    table = Table(title=task.words().table, title_justify="left")
    table.add_column("encoding")
    table.add_column("seed", justify="right")
    for length in config.lengths:
        trained = length == config.train_length
        table.add_column(f"{length:,}" + (" (trained)" if trained else ""), justify="right")
    for trial in results.trials:
        rows = (trial.row(metric.evaluation, length) for length in config.lengths)
        table.add_row(trial.notation, str(trial.seed), *("" if row is None else _cell(row, metric) for row in rows))
    unigram = {row.length: row for row in config.data.unigram}
    if unigram:
        table.add_section()
        cells = ("" if n not in unigram else _cell(unigram[n], metric) for n in config.lengths)
        table.add_row("a unigram model", "", *cells)
    return table


def _out_of_reach(results: Comparison) -> list[str]:
    """What each encoding could not be evaluated at, with the reason at the first such length."""
    said = {}
    for trial in results.trials:
        rows = [row for rows in trial.evaluations.values() for row in rows if row.unreachable]
        if rows:
            lengths = listing([f"{n:,}" for n in sorted({row.length for row in rows})])
            said[trial.notation] = f"{trial.notation} is out of reach at {lengths}: {rows[0].unreachable}."
    return list(said.values())


def _main(evaluation: str) -> Metric:
    return of_evaluation(evaluation).measured()[0]


def _cell(row: Row, metric: Metric) -> str:
    if row.unreachable:
        return "out of reach"
    value = row.value(metric.key)
    if value is None or not math.isfinite(value):
        return DIVERGED
    return f"{value:.1%}" if metric.share else _number(value)


def _number(value: float) -> str:
    return DIVERGED if not math.isfinite(value) else f"{value:.2f}" if value < 1e6 else f"{value:.1e}"
