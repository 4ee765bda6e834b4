"""The trials of a comparison, run in one way or another: what is missing is run, what is over is told and written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from accelerate import PartialState

from whorl.comparison.display import Display, Silent
from whorl.comparison.gathering import gathered, write_results
from whorl.comparison.planning import Planned
from whorl.comparison.running import Runner
from whorl.locking import Busy
from whorl.results.comparison import Comparison


@dataclass
class Sweep:
    """The trials that were asked for, and who is told of them.

    empty    the comparison without trials
    reports  whether results.json and the report are written after each trial
    """

    runner: Runner
    trials: list[Planned]
    empty: Comparison
    display: Display | Silent
    reports: bool

    @cached_property
    def missing(self) -> list[Planned]:
        """The trials that were not finished when this was first asked."""
        return [trial for trial in self.trials if self.runner.result(trial) is None]

    def begin(self, words: list[str]) -> None:
        """Tells what will be run, with what was filled in, and what was finished before."""
        missing = [trial.id for trial in self.missing]
        self.display.start(self.empty.config, self.empty.machine, [trial.id for trial in self.trials], missing)
        self.display.filled(words)
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
        busy: list[tuple[Planned, Busy]] = []
        for trial in self.missing:
            try:
                self.runner.run(trial, self.display)
            except Busy as error:
                busy.append((trial, error))
                continue
            self.over(trial)
            PartialState().wait_for_everyone()
        for trial, elsewhere in busy:
            if self.runner.result(trial) is None:
                raise elsewhere
            self.over(trial)

    def results(self) -> Comparison:
        """What is there of the trials that were asked for, whatever results.json says."""
        trials, failures = gathered(self.runner, self.trials)
        return dataclasses.replace(self.empty, trials=tuple(trials), failures=tuple(failures))
