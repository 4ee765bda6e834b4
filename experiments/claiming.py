"""What a claim is, the section of the page that it stands in, and a need of people who choose."""

from __future__ import annotations

from dataclasses import dataclass

from evidence import Evidence


@dataclass(frozen=True)
class Claim:
    """`says` in words; `source`, whose it is; `question`, which the page asks first, or none; `whole`: it takes all of
    its evidence, so that a part alone decides nothing."""

    says: str
    source: str
    evidence: tuple[Evidence, ...]
    question: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Paper:
    """A section of the page."""

    title: str
    about: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Need:
    """What someone needs, and where it is asked: which encoding is best in comparisons at so many training lengths.

    parts   by task; of one task there may be several comparisons (see `evidence.LANGUAGE`)
    among   these alone; all where it is empty
    beside  what else is known
    """

    name: str
    parts: dict[str, tuple[str, ...]]
    times: float
    among: tuple[str, ...] = ()
    beside: tuple[Evidence, ...] = ()
