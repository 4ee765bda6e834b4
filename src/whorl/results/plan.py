"""What an inspection was to read, and what of it there was time for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """A stage of a plan: so many windows of so many tokens, and the seconds that they were expected to take.

    stage  text (in range), random, long (past the training length), or ablation
    read   the windows that were read in the end; None: none yet
    """

    stage: str
    windows: int
    length: int
    seconds: float
    read: int | None = None


@dataclass(frozen=True)
class Plan:
    """What an inspection was to read. minutes: its budget of time, None without one; layers: those that are measured,
    None for all; left_out: in words, what there was no time for."""

    minutes: float | None
    stages: tuple[Reading, ...]
    layers: tuple[int, ...] | None = None
    left_out: tuple[str, ...] = ()

    def stage(self, name: str) -> Reading | None:
        """The stage of this name; None where it is not planned."""
        return next((found for found in self.stages if found.stage == name), None)
