"""What a check function gives: an answer, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from whorl.results.diagnosis import FAIL, NOT_APPLICABLE, NOT_ASKED, PASS, Finding


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


@dataclass(frozen=True)
class Check:
    """One question, why it matters, and what to do when the answer is no. It is asked of a subject: a model with what
    several checks need."""

    name: str
    title: str
    why: str
    remedy: str
    ask: Callable[[Any], Answer]

    def finding(self, subject: Any) -> Finding:
        """Its answer about a subject."""
        try:
            status, measured = self.ask(subject)
        except NotApplicable as reason:
            status, measured = NOT_APPLICABLE, str(reason)
        except NotAsked as missing:
            status, measured = NOT_ASKED, str(missing)
        except Exception as error:  # what the model raises is the finding
            status, measured = FAIL, f"raised {type(error).__name__}: {' '.join(str(error).split())}"
        return Finding(self.name, self.title, status, measured, self.why, self.remedy)
