"""How long a comparison still takes, by the trials that it has finished and the steps per second of those at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass
class _Training:
    """A trial at work. It goes on, after an interruption, from a later step than 0."""

    began: float  # in seconds of the clock
    first: int
    seen: float
    step: int

    @property
    def seconds_per_step(self) -> float | None:
        return (self.seen - self.began) / (self.step - self.first) if self.step > self.first else None


class Pace:
    """Counts the trials of a comparison down.

    waiting  the ids of those that are still to be run
    steps    of each trial's training
    at_once  how many run side by side

    Until a trial is finished, nothing is known of how long its evaluation takes, and the time left lacks it.
    """

    def __init__(
        self, waiting: Iterable[str], steps: int, at_once: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.waiting, self.steps, self.at_once, self.clock = set(waiting), steps, at_once, clock
        self.running: dict[str, _Training] = {}
        self.finished: list[float] = []  # seconds per step of whole trials, their evaluation among them

    def at(self, trial: str, step: int) -> None:
        """A trial is trained as far as this step. It begins with the first that is told of."""
        now = self.clock()
        if trial not in self.running:
            self.waiting.discard(trial)
            self.running[trial] = _Training(now, step, now, step)
        elif step > self.running[trial].step:
            self.running[trial].seen, self.running[trial].step = now, step

    def over(self, trial: str) -> None:
        """A trial is finished, or failed."""
        self.waiting.discard(trial)
        ended = self.running.pop(trial, None)
        if ended is not None and ended.step >= self.steps > ended.first:
            self.finished.append((self.clock() - ended.began) / (self.steps - ended.first))

    @property
    def done(self) -> int:
        """Steps of those at work."""
        return sum(one.step for one in self.running.values())

    def left(self) -> float | None:
        """Seconds until all trials are over; None where nothing is known of it yet."""
        rates = [rate for one in self.running.values() if (rate := one.seconds_per_step) is not None]
        known = self.finished or rates
        if not known:
            return None
        whole = sum(known) / len(known)  # seconds per step
        running = [self._left(one, whole) for one in self.running.values()]
        together = (sum(running) + len(self.waiting) * whole * self.steps) / self.at_once
        return max([together, *running])

    def _left(self, one: _Training, whole: float) -> float:
        rate = one.seconds_per_step
        training = (self.steps - one.step) * (whole if rate is None else rate)
        if not self.finished:
            return training
        return max(training, (self.steps - one.first) * whole - (self.clock() - one.began))
