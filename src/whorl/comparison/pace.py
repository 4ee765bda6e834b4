"""How long a comparison still takes, by the trials that it has finished and the steps per second of those at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median_low

from whorl.stages import Worked


class Pace:
    """Counts the trials of a comparison down.

    waiting  the ids of those that are still to be run
    steps    of each trial's training
    at_once  how many run side by side

    Until a trial is finished, nothing is known of how long its evaluation takes, and the time left lacks it. A trial
    that was stopped for hours tells nothing of the others: pauses in a training do not count (`whorl.stages.Worked`),
    nor does a trial that took ten times as long as the middle one.
    """

    def __init__(
        self, waiting: Iterable[str], steps: int, at_once: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.waiting, self.steps, self.at_once, self.clock = set(waiting), steps, at_once, clock
        self.running: dict[str, Worked] = {}
        self.finished: list[float] = []  # seconds per step of whole trials, their evaluation among them

    def at(self, trial: str, step: int) -> None:
        """A trial is trained as far as this step. It begins with the first that is told of."""
        now = self.clock()
        if trial not in self.running:
            self.waiting.discard(trial)
            self.running[trial] = Worked(now, step)
        self.running[trial].at(now, step)

    def over(self, trial: str) -> None:
        """A trial is finished, or failed."""
        self.waiting.discard(trial)
        ended = self.running.pop(trial, None)
        if ended is not None and ended.step >= self.steps > ended.first:
            self.finished.append(ended.so_far(self.clock()) / (self.steps - ended.first))

    @property
    def done(self) -> int:
        """Steps of those at work."""
        return sum(one.step for one in self.running.values())

    def left(self) -> float | None:
        """Seconds until all trials are over; None where nothing is known of it yet."""
        rates = [rate for one in self.running.values() if (rate := one.per_step) is not None]
        known = self.finished or rates
        if not known:
            return None
        usual = [rate for rate in known if rate <= 10 * median_low(known)]
        whole = sum(usual) / len(usual)  # seconds per step
        running = [self._left(one, whole) for one in self.running.values()]
        together = (sum(running) + len(self.waiting) * whole * self.steps) / self.at_once
        return max([together, *running])

    def _left(self, one: Worked, whole: float) -> float:
        rate = one.per_step
        training = (self.steps - one.step) * (whole if rate is None else rate)
        if not self.finished:
            return training
        return max(training, (self.steps - one.first) * whole - one.so_far(self.clock()))
