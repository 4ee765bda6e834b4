"""A trial that came to no result, and why. `DIR/trials/ID/failure.json`, and `failures` in results.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from whorl.results.schema import Result
from whorl.results.trial import Machine


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A trial that failed, as results.json has it.

    notation   as it was asked for
    error      in one line: the exception's type and words, or how the process of the trial ended
    traceback  the file that has it, from the results folder on; None where a process ended without one
    """

    id: str
    notation: str
    seed: int
    error: str
    traceback: str | None = None


@dataclass(frozen=True, kw_only=True)
class FailedTrial(Result, Failure):
    """A failed trial's own file. It goes when the trial is run again and comes to a result.

    config, settings, data, machine, versions  as in `whorl.results.trial.FinishedTrial`
    created                                     when it failed
    """

    schema: ClassVar[int] = 1

    config: dict[str, Any]
    settings: dict[str, Any]
    data: str
    machine: Machine
    versions: dict[str, str]
    created: str

    def failure(self) -> Failure:
        """The part that results.json has."""
        return Failure(**{own.name: getattr(self, own.name) for own in fields(Failure)})
