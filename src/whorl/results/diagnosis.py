"""What `whorl doctor` finds: an answer to each of its questions about a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from whorl.results.schema import Keyed
from whorl.results.showing import Shown

PASS, WARN, FAIL, NOT_APPLICABLE, NOT_ASKED = "pass", "warn", "fail", "n/a", "not asked"


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


@dataclass(frozen=True, repr=False)
class Diagnosis(Keyed, Shown):
    """The findings about one model, in the order of `diagnosis.CHECKS`.

    >>> whorl.doctor(model).failed
    ('precision',)
    """

    schema: ClassVar[int] = 1

    model: str
    findings: tuple[Finding, ...]

    def by_key(self) -> dict[str, Finding]:
        """The findings by their checks."""
        return {finding.check: finding for finding in self.findings}

    def __getitem__(self, check: str) -> Finding:
        if check not in self:
            raise ValueError(f"no check {check!r}; there are {', '.join(self)}")
        return self.by_key()[check]

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

    def to_json(self) -> dict[str, Any]:
        """With whether it is healthy, for those who read no further."""
        return {"schema": self.schema, "model": self.model, "healthy": self.healthy} | {
            "findings": [asdict(f) for f in self.findings]
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        return ("status", "check", "measured"), [(f.status, f.check, f.measured) for f in self.findings]

    def __repr__(self) -> str:
        lines = [f"{self.model}: {'healthy' if self.healthy else 'fails ' + ', '.join(self.failed)}"]
        lines += [f"  {status:9} {check:16} {measured}" for status, check, measured in self.table()[1]]
        return "\n".join(lines)

    def records(self) -> list[dict[str, Any]]:
        return [asdict(finding) for finding in self.findings]
