"""What a check function gives: an answer, or why there is none."""

from __future__ import annotations

from typing import NamedTuple

from whorl.results.diagnosis import FAIL, PASS


class Answer(NamedTuple):
    """Its status, and the number that it measured, in words."""

    status: str
    measured: str


class NotApplicable(Exception):
    """A check has nothing to ask of this model; the message says why."""


class NotAsked(Exception):
    """A check could not ask this model for want of something that a user may give; the message says what."""


def judged(ok: bool, measured: str) -> Answer:
    """Pass or fail."""
    return Answer(PASS if ok else FAIL, measured)
