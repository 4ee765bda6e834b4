"""What a diagnosis is made of: a finding per check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

PASS, WARN, FAIL, NOT_APPLICABLE, NOT_ASKED = "pass", "warn", "fail", "n/a", "not asked"


class Answer(NamedTuple):
    """What a check function gives: its status, and the number that it measured, in words."""

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
class Finding:
    """One check's answer. `status`: "pass", "warn", "fail", "n/a" or "not asked"; a warning is no failure.

    n/a         there is nothing to ask of this model
    not asked   there is, and something is missing that a user may give (a text)
    """

    check: str
    title: str
    status: str
    measured: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The findings about one model, in the order of `CHECKS`.

    >>> whorl.doctor(model).failed
    ('precision',)
    """

    model: str
    findings: tuple[Finding, ...]

    def __getitem__(self, check: str) -> Finding:
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise ValueError(f"no check {check!r}; there are {', '.join(f.check for f in self.findings)}")

    def having(self, status: str) -> tuple[str, ...]:
        """The names of the checks with this status."""
        return tuple(f.check for f in self.findings if f.status == status)

    @property
    def failed(self) -> tuple[str, ...]:
        return self.having(FAIL)

    @property
    def healthy(self) -> bool:
        """No check failed. Warnings and checks that do not apply or were not asked are no failures."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"model": self.model, "healthy": self.healthy, "findings": [asdict(f) for f in self.findings]}

    def __str__(self) -> str:
        lines = [f"{self.model}: {'healthy' if self.healthy else 'fails ' + ', '.join(self.failed)}"]
        lines += [f"  {f.status:9} {f.check:16} {f.measured}" for f in self.findings]
        return "\n".join(lines)
