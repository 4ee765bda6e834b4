"""The trials of a comparison, run in one way or another: what is missing is run, what is over is told and written."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from accelerate import PartialState

from whorl.comparison.display import Display, Silent
from whorl.comparison.gathering import gathered, of_other_data, write_results
from whorl.comparison.orders import Ended, Order
from whorl.comparison.planning import Planned
from whorl.comparison.running import Runner
from whorl.locking import Busy, alone
from whorl.results.comparison import Comparison
from whorl.results.differing import differing


@dataclass
class Sweep:
    """The trials that were asked for, and who is told of them.

    empty    the comparison without trials
    reports  whether results.json and the report are written after each trial
    busy     trials that another process was at, with the words that name it
    """

    runner: Runner
    trials: list[Planned]
    empty: Comparison
    display: Display | Silent
    reports: bool
    busy: list[tuple[Planned, str]] = field(default_factory=list)

    @cached_property
    def missing(self) -> list[Planned]:
        """The trials that were not finished when this was first asked."""
        return [trial for trial in self.trials if self.runner.result(trial) is None]

    def begin(self, words: list[str]) -> None:
        """Tells what will be run, with what was filled in, and what was finished before."""
        missing = [trial.id for trial in self.missing]
        self.display.start(self.empty.config, self.empty.machine, [trial.id for trial in self.trials], missing)
        left = of_other_data(self.runner, self.trials)
        why = "of other data (another text, or version of it), or of a --model that was another then"
        self.display.filled([*words, *(f"{name} is left out: {why}" for name in left)])
        for trial in self.trials:
            if self.empty.config.learning_rates and PartialState().is_main_process:
                self.runner.validate(trial)
            if trial.id not in missing and (done := self.runner.result(trial)) is not None:
                self.display.trial_done(done.trial(), again=True)

    def over(self, *trials: Planned) -> None:
        """Trials are finished, or failed."""
        for trial in trials:
            done, failure = self.runner.result(trial), self.runner.failure(trial)
            if done is not None:  # another process than the main one may come before it is written
                self.display.trial_done(done.trial(), again=False)
            elif failure is not None:
                self.display.trial_failed(failure)
        if self.reports and trials:
            self.write()

    def write(self) -> None:
        """Writes results.json and the report of what is there."""
        if PartialState().is_main_process:
            write_results(self.runner, self.empty, self.trials)

    def one_after_another(self) -> None:
        """Runs what is missing in this process (with torchrun: in all of its processes together).

        Raises `Busy`, at the end, where another process is still at one of the trials.
        """
        for trial in self.missing:
            try:
                self.runner.run(trial, self.display)
            except Busy as error:
                self.busy.append((trial, str(error)))
                continue
            self.over(trial)
            PartialState().wait_for_everyone()
        self._ask_after_busy()

    def follow(self, orders: dict[str, Order], at_once: int, taken: Callable[[], list[tuple[Planned, Ended]]]) -> None:
        """Tells and writes what becomes of trials that other processes run, until all are over.

        orders  by the ids of the trials
        taken   the trials that have ended since it was asked last; it waits for a second or so where none has

        Raises `Busy`, at the end, where yet another process is at one of them, and OSError where the disk is full.
        """
        try:
            for order in orders.values():
                order.progress.unlink(missing_ok=True)  # of one that was killed
            with self.display.side_by_side(at_once) as update:
                while orders:
                    ended = taken()
                    for trial, how in ended:
                        orders.pop(trial.id).progress.unlink(missing_ok=True)
                        self._ended(trial, how)
                    self.over(*(trial for trial, how in ended if how.how != "busy"))
                    update({name: far for name, order in orders.items() if (far := order.reached()) is not None})
        finally:
            for order in orders.values():
                order.progress.unlink(missing_ok=True)
        self._ask_after_busy()

    def _ended(self, trial: Planned, how: Ended) -> None:
        if how.how == "full":
            raise OSError(errno.ENOSPC, how.words)
        if how.how == "busy":
            self.busy.append((trial, how.words))
        if how.how == "broken":
            try:
                with alone(self.runner.place(trial), "compare"):  # and what a dead process left goes
                    self.runner.record(trial, how.words, how.trace)
            except Busy as error:
                self.busy.append((trial, str(error)))

    def _ask_after_busy(self) -> None:
        """Raises `Busy` where one of the trials that others were at is still not finished."""
        for trial, words in self.busy:
            if self.runner.result(trial) is None:
                raise Busy(words)
            self.over(trial)

    def results(self) -> Comparison:
        """What is there of the trials that were asked for, whatever results.json says."""
        trials, failures = gathered(self.runner, self.trials)
        shown = tuple(trial.trial() for trial in trials)
        return dataclasses.replace(self.empty, trials=shown, failures=tuple(failures), differing=differing(trials))
