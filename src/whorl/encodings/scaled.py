"""A rotary encoding with scalings applied to its spectrum, one after another.

`Scaled(HoPE(train_length=4096), YaRN(factor=4))`, or `hope:train_length=4096~yarn:factor=4` in the notation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whorl.encodings.base import Encoding
from whorl.encodings.config import Known
from whorl.encodings.rope import Rotary
from whorl.encodings.scalings.base import Scaling
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True, init=False)
class Scaled(Rotary):
    """The rotary encoding `inner`, whose spectrum goes through `scalings` in turn.

    A scaling without an `original` length takes the `train_length` of `inner` (HoPE's) where it has one.
    At most one scaling may depend on the length of the context (dynamic-ntk, longrope with two lists).
    """

    inner: Rotary
    scalings: tuple[Scaling, ...]

    name = "scaled"
    title = "a rotary encoding with a scaled spectrum"
    paper = ""

    def __init__(self, inner: Encoding, scalings: Scaling | Sequence[Scaling]) -> None:
        chain = (scalings,) if isinstance(scalings, Scaling) else tuple(scalings)
        for scaling in chain:
            if not isinstance(scaling, Scaling):
                raise ValueError(f"Scaled takes scalings (linear, yarn, ...), got {scaling!r}")
        if not chain:
            raise ValueError(f"Scaled needs at least one scaling, got none; {inner} alone is an encoding")
        if isinstance(inner, Scaled):
            chain, inner = inner.scalings + chain, inner.inner
        if not isinstance(inner, Rotary):
            raise ValueError(
                f"{chain[0].name} scales the frequencies of one rotary encoding, and {inner} is none; "
                f"try rope~{chain[0]}"
            )
        dependent = [scaling.name for scaling in chain if scaling.length_dependent]
        if len(dependent) > 1:
            raise ValueError(f"{' and '.join(dependent)} both depend on the length of the context; keep one of them")
        object.__setattr__(self, "inner", inner)
        object.__setattr__(self, "scalings", chain)

    @property
    def length_dependent(self) -> bool:
        """Whether the spectrum depends on the length of the context."""
        return any(scaling.length_dependent for scaling in self.scalings)

    @property
    def settled(self) -> tuple[Scaling, ...]:
        """The scalings, with `inner`'s training length where they lack the original one."""
        trained = getattr(self.inner, "train_length", None)
        if trained is None:
            return self.scalings
        return tuple(scaling.filled(Known(train_length=trained)) for scaling in self.scalings)

    @property
    def on_grid(self) -> bool:  # type: ignore[override]
        return self.inner.on_grid

    def spectrum(self, head_dim: int) -> Spectrum:
        """The frequencies at this head dim; up to the original length, where they depend on the length."""
        spectrum = self.inner.spectrum(head_dim)
        for scaling in self.settled:
            spectrum = scaling(spectrum)
        return spectrum

    def spectrum_at(self, head_dim: int, length: int) -> Spectrum:
        """The frequencies at this head dim for a context of `length` tokens."""
        spectrum = self.inner.spectrum(head_dim)
        for scaling in self.settled:
            spectrum = scaling.at(spectrum, length)
        return spectrum

    def filled(self, known: Known) -> Scaled:
        inner = self.inner.filled(known)
        trained = getattr(inner, "train_length", None) or known.train_length
        return Scaled(inner, tuple(s.filled(replace(known, train_length=trained)) for s in self.scalings))

    def rebuilt(self, change: Callable[[Encoding], Encoding]) -> Scaled:
        return Scaled(self.inner.rebuilt(change), self.scalings)

    def __str__(self) -> str:
        return "~".join(map(str, (self.inner, *self.scalings)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inner": self.inner.to_dict(),
            "scalings": [scaling.to_dict() for scaling in self.scalings],
        }
