"""Scratchpads: the steps to an answer, written before it, in five parts each of which can be left out (2305.19466).

    in 7 5 comp 7 + 5 + carry = 1 2 + 0 = 1 2 out 2 var carry 1 re 9 0 + 9 # in ... thus 1 0 0 2

Every part begins with a word of its own, every step but the last ends with `#`, and `thus` stands before the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from whorl.checking import shown
from whorl.tasks.base import Arguments, argument

PARTS = ("in", "comp", "out", "var", "re")
NEXT_STEP, THUS = "#", "thus"
MARKS = (*PARTS, NEXT_STEP, THUS)  # the words that a scratchpad adds to a task's own
Part = tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """One step in words: what goes in, what is computed, what comes out, the variables afterwards, what is left.

    A part is None where the task's steps have none such.
    """

    given: Part
    computed: Part
    out: Part
    variables: Part | None = None
    left: Part | None = None

    def written(self, parts: Iterable[str]) -> list[str]:
        """The words of these parts, in their order."""
        own = dict(zip(PARTS, (self.given, self.computed, self.out, self.variables, self.left), strict=True))
        return [
            word for part in PARTS if part in parts and own[part] is not None for word in (part, *(own[part] or ()))
        ]


@dataclass(frozen=True)
class WithScratchpad(Arguments):
    """Base of the arguments of a task that has one."""

    scratchpad: str = argument("no", "steps before the answer: no, full, or parts of in@comp@out@var@re")

    def __post_init__(self) -> None:
        given = self.scratchpad
        if given in ("no", "full"):
            return
        parts = given.split("@") if isinstance(given, str) else [given]
        if not all(part in PARTS for part in parts) or len(set(parts)) < len(parts):
            known = "@".join(PARTS)
            raise ValueError(f"scratchpad must be no, full, or parts of {known}, got {shown(given)}; try comp@out")
        kept = "@".join(part for part in PARTS if part in parts)
        object.__setattr__(self, "scratchpad", "full" if len(parts) == len(PARTS) else kept)

    @property
    def parts(self) -> Part:
        """The parts that are written; none without a scratchpad."""
        if self.scratchpad == "no":
            return ()
        return PARTS if self.scratchpad == "full" else tuple(self.scratchpad.split("@"))


def written(steps: Iterable[Step], parts: Part) -> list[str]:
    """All steps, and the word before the answer; nothing where no part is written."""
    if not parts:
        return []
    words: list[str] = []
    for step in steps:
        words += [NEXT_STEP] * bool(words) + step.written(parts)
    return [*words, THUS]
