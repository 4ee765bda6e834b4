"""RoPE, rotary position embedding. Su et al., RoFormer, arXiv 2104.09864, Eq. 14-16.

Pair i of q and k turns by position x base^(-2i/d), so q.k depends on the distance alone. d is the head dim, or the
width of that share of it which turns (partial rotary, as in `partial_rope`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from whorl.encodings.base import Encoding
from whorl.encodings.config import check_base, of_host, require_number, require_positive, require_positive_int
from whorl.encodings.effects import Effect, Rotate, Shape
from whorl.encodings.spectrum import Spectrum, check_head_dim, rope_frequencies


@dataclass(frozen=True)
class OfPairs(Encoding):
    """What all encodings that turn pairs of channels share: the arguments that most of them have, and their width."""

    kinds: ClassVar[tuple[str, ...]] = ("rotate",)

    def __post_init__(self) -> None:
        """Refuses a base, and a share of the channels, that make no sense."""
        base, fraction = getattr(self, "base", None), getattr(self, "fraction", None)
        if base is not None:
            check_base(base)
        if fraction is not None:
            require_number("fraction", fraction)
            if not 0 <= fraction <= 1:
                raise ValueError(f"fraction is the share of channels that turn and must be in [0, 1], got {fraction}")

    def width(self, head_dim: int) -> int:
        """The channels that are in pairs: all of the head, or its first `fraction` where that argument is set.

        Raises ValueError where they cannot be paired.
        """
        check_head_dim(head_dim, self.name)
        fraction = self.argument("fraction")
        if fraction is None:
            return head_dim
        width = int(head_dim * fraction)
        if width % 2:
            raise ValueError(
                f"{self.name} with fraction={fraction} turns {width} of {head_dim} channels, an odd number "
                f"that cannot be paired; try fraction={_share(width - 1, head_dim)} or {_share(width + 1, head_dim)}"
            )
        return width


def _share(width: int, head_dim: int) -> str:
    """A short number of which head_dim times is `width` channels, rounded down."""
    exact = width / head_dim
    if int(head_dim * exact) < width:
        exact = math.nextafter(exact, 1)
    told = (f"{exact:.{digits}g}" for digits in range(1, 18))
    return next(share for share in told if int(head_dim * float(share)) == width)


@dataclass(frozen=True)
class Rotary(OfPairs):
    """What all rotary encodings share: their one effect is to turn by their spectrum."""

    def spectrum(self, head_dim: int) -> Spectrum:
        """The frequencies at this head dim. Raises ValueError for an odd head dim."""
        raise NotImplementedError

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Rotate(self.spectrum(shape.head_dim)),)


@dataclass(frozen=True)
class ByTrainLength(Rotary):
    """What rotary encodings share that tell pairs apart by the wavelength that fits `cut` times into `train_length`."""

    train_length: int | None = of_host()
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    cut: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")
        require_positive("cut", self.cut, "times the training length")

    def kept(self, frequencies: tuple[float, ...], length: float) -> tuple[float, ...]:
        """RoPE's frequencies, changed where a pair makes no full turn within `length` tokens."""
        raise NotImplementedError

    def spectrum(self, head_dim: int) -> Spectrum:
        width = self.width(head_dim)
        length = self.needed("train_length", "the length that the model is trained at", 4096)
        frequencies = rope_frequencies(self.argument("base"), width)
        return Spectrum(self.kept(frequencies, self.cut * length), head_dim)


@dataclass(frozen=True)
class RoPE(Rotary):
    """Turns every pair of channels of q and k by an angle that grows with the position, so that a logit depends on the
    distance alone. Fast pairs turn once in a few tokens and tell neighbours apart; slow ones hardly turn within a
    text. (arXiv 2104.09864)

    base      of the frequencies base^(-2i/d); a larger one turns slow pairs more slowly
    fraction  the share of a head's channels that are in pairs, the first ones; outside of a model all of them
    """

    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()

    name = "rope"
    title = "rotary position embedding: every pair turns"
    paper = "2104.09864"

    def spectrum(self, head_dim: int) -> Spectrum:
        return Spectrum(rope_frequencies(self.argument("base"), self.width(head_dim)), head_dim)
