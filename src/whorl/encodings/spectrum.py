"""The spectrum: a rotary encoding *is* one angular frequency per channel pair.

pair i    two channels that turn together, i = 0 .. width/2 - 1, fastest first in RoPE
frequency radians per token; 0 means that the pair does not turn (a position-independent channel)
wavelength tokens per full turn, 2 pi / frequency
axis      one number of a position that has several: a row or a column of a grid (integers), a coordinate of a point
          (a real number); frequencies are then radians per row, column or unit of length
vector    of a pair that goes by several axes at once (mixed): its frequency along each, of either sign. It turns by
          their sum, vector . position; its frequency is the vector's length, that of the direction in which it turns
          fastest
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Spectrum:
    """Frequencies (radians per token, float64) of the pairs in the first `width` channels of a head.

    `head_dim` is the head's full width. The channels from `width` on are in no pair (partial rotary).
    `amplitude` multiplies cos and sin (YaRN's attention factor; 1 otherwise).
    `axes` says which axis of a position each pair goes by, from 0; empty where positions have one axis.
    `vectors` says the frequency of each pair along every axis, where pairs go by several: see `Spectrum.mixed`.
    """

    frequencies: tuple[float, ...]
    head_dim: int
    amplitude: float = 1.0
    axes: tuple[int, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def mixed(cls, vectors: Sequence[Sequence[float]], head_dim: int, amplitude: float = 1.0) -> Spectrum:
        """Pairs that go by several axes at once: pair i turns by vectors[i] . position (RoPE-Mixed, arXiv 2403.13298).

        Raises ValueError for vectors that are not of the same number of axes, two at the least.
        """
        found = tuple(tuple(vector) for vector in vectors)
        return cls(tuple(map(_length, found)), head_dim, amplitude, vectors=found)

    def __post_init__(self) -> None:
        values = (self.frequencies,) if isinstance(self.frequencies, int | float | str) else tuple(self.frequencies)
        if not all(isinstance(value, int | float) for value in (*values, self.head_dim, self.amplitude)):
            raise ValueError(f"a spectrum is of numbers, got {values}, {self.head_dim!r} and {self.amplitude!r}")
        object.__setattr__(self, "frequencies", values)
        if not 0 <= self.width <= self.head_dim:
            raise ValueError(f"{len(self.frequencies)} pairs do not fit in a head of {self.head_dim} channels")
        if not all(math.isfinite(f) and f >= 0 for f in self.frequencies):
            raise ValueError("frequencies must be finite and not negative (radians per token)")
        if not math.isfinite(self.amplitude):
            raise ValueError(f"amplitude must be finite (cos and sin are multiplied by it), got {self.amplitude}")
        object.__setattr__(self, "axes", tuple(self.axes))
        if self.axes and len(self.axes) != len(values):
            raise ValueError(f"axes must name one axis for each of {len(values)} pairs, got {len(self.axes)}")
        if any(isinstance(axis, bool) or not isinstance(axis, int) or axis < 0 for axis in self.axes):
            raise ValueError(f"axes must be whole numbers from 0, got {self.axes}")
        if self.vectors:
            self._check_vectors()

    def _check_vectors(self) -> None:
        sizes = {len(vector) for vector in self.vectors}
        if self.axes or len(sizes) != 1 or min(sizes) < 2:
            raise ValueError(
                "the vectors of a spectrum have two axes or more, the same number in all pairs, and stand in the place "
                f"of axes, got vectors of {sorted(sizes)} axes and axes={self.axes}; where each pair goes by one axis, "
                "give frequencies and axes"
            )
        if self.frequencies != tuple(map(_length, self.vectors)):
            raise ValueError(
                "the frequencies of a mixed spectrum are the lengths of its vectors, and these are not; "
                "Spectrum.mixed(vectors, head_dim) makes one, and its with_frequencies(...) another of it"
            )

    @property
    def number_of_axes(self) -> int:
        """How many axes a position must have."""
        return len(self.vectors[0]) if self.vectors else 1 + max(self.axes, default=0)

    @property
    def by_axis(self) -> tuple[tuple[float, ...], ...]:
        """The frequency of each pair along every axis: 0 along those that it does not go by."""
        if self.vectors:
            return self.vectors
        every = range(self.number_of_axes)
        axes = self.axes or (0,) * len(self.frequencies)
        return tuple(
            tuple(f if a == own else 0.0 for a in every) for f, own in zip(self.frequencies, axes, strict=True)
        )

    def with_frequencies(self, frequencies: Sequence[float]) -> Spectrum:
        """The same pairs, axes and directions at other frequencies; to a rounding, where they are mixed.

        Raises ValueError for a mixed pair that would begin to turn, in no direction.
        """
        if not self.vectors:
            return replace(self, frequencies=tuple(frequencies))
        vectors = []
        for new, old, vector in zip(frequencies, self.frequencies, self.vectors, strict=True):
            if new and not old:
                raise ValueError(f"a pair whose vector is {vector} has no direction in which to turn at {new}")
            vectors.append(tuple(x * (new / old) for x in vector) if old else vector)
        return Spectrum.mixed(vectors, self.head_dim, self.amplitude)

    @property
    def width(self) -> int:
        """Channels that are in pairs: twice the number of pairs."""
        return 2 * len(self.frequencies)

    @property
    def turning(self) -> tuple[int, ...]:
        """Indices of the pairs that turn."""
        return tuple(i for i, f in enumerate(self.frequencies) if f > 0)

    @property
    def wavelengths(self) -> tuple[float, ...]:
        """Tokens per full turn, one per pair; infinite where a pair does not turn."""
        return tuple(map(wavelength, self.frequencies))


def _length(vector: Any) -> float:
    """Raises ValueError for what are no numbers."""
    if not all(isinstance(value, int | float) for value in vector):
        raise ValueError(f"the vectors of a spectrum are of numbers, got {vector}")
    return math.hypot(*vector)


def same_spectrum(a: Spectrum, b: Spectrum, precision: float = 2e-6) -> bool:
    """Whether two spectra turn the same pairs by the same frequencies along the same axes, to the precision of float32
    tables."""
    if a.width != b.width or abs(a.amplitude - b.amplitude) > precision * abs(b.amplitude):
        return False
    if a.number_of_axes == b.number_of_axes == 1:
        return all(abs(x - y) <= precision * y for x, y in zip(a.frequencies, b.frequencies, strict=True))
    return a.number_of_axes == b.number_of_axes and all(
        math.dist(x, y) <= precision * math.hypot(*y) for x, y in zip(a.by_axis, b.by_axis, strict=True)
    )


def wavelength(frequency: float) -> float:
    """Tokens per full turn, 2 pi / frequency; infinite where a pair does not rotate."""
    return 2 * math.pi / frequency if frequency > 0 else math.inf


def turns_fully(frequency: float, length: float) -> bool:
    """Whether a pair makes a full turn within `length` tokens: HoPE's rule (2410.21216)."""
    return frequency >= one_turn_in(length)


def one_turn_in(length: float) -> float:
    """The frequency, radians per token, of one full turn in `length` tokens."""
    return 2 * math.pi / length


def fully_turning(frequencies: tuple[float, ...], length: float) -> tuple[float, ...]:
    """The same frequencies with those that make no full turn within `length` tokens set to 0."""
    slowest = one_turn_in(length)
    return tuple(f if f >= slowest else 0.0 for f in frequencies)


def tapered(frequencies: tuple[float, ...], length: float) -> tuple[float, ...]:
    """The same frequencies with those that turn and make no full turn within `length` tokens slowed to a stop.

    The k-th of n of them is multiplied by (1 + cos(pi k / (n - 1))) / 2: the first keeps its frequency and the last
    does not rotate; a lone one keeps its own.
    """
    found = list(frequencies)
    band = [i for i, f in enumerate(frequencies) if f > 0 and not turns_fully(f, length)]
    for k, i in enumerate(band[1:], start=1):
        found[i] *= 0.5 * (1 + math.cos(math.pi * k / (len(band) - 1)))
    return tuple(found)


def rope_frequencies(base: float, width: int) -> tuple[float, ...]:
    """base^(-2i/width) for i = 0 .. width/2 - 1 (RoFormer, 2104.09864, Eq. 15), in float64."""
    return tuple(base ** (-2.0 * i / width) for i in range(width // 2))


def share_of(part: int, whole: int) -> float:
    """The p with which int(p x whole) is `part`: the quotient, or the next number above it, since the product may be
    rounded to just below. Stock's and p-RoPE's int(p x head_dim // 2) is then half of it."""
    p = part / whole
    while int(p * whole) < part:
        p = math.nextafter(p, math.inf)
    return p


def decay(spectrum: Spectrum) -> float | None:
    """s, where frequencies fall as exp(-s i) from the first turning pair to the last: 2 ln(base) / width in RoPE.

    None with fewer than two turning pairs. What lies between the two is not looked at.
    """
    turning, frequencies = spectrum.turning, spectrum.frequencies
    if len(turning) < 2:
        return None
    i, j = turning[0], turning[-1]
    return (math.log(frequencies[i]) - math.log(frequencies[j])) / (j - i)


def base_of(spectrum: Spectrum) -> float | None:
    """The base b whose b^(-2i/width) fall as the turning pairs do, from the first to the last of them, as a round
    number where that is the same; None with fewer than two, and where they do not fall."""
    step = decay(spectrum)
    logarithm = 0.0 if step is None else step * spectrum.width / 2
    if not 0 < logarithm < 700:  # exp's range
        return None
    base = math.exp(logarithm)
    for digits in range(1, 13):
        rounded = float(f"{base:.{digits - 1}e}")
        if abs(rounded / base - 1) <= (4e-7 if digits <= 3 else 1e-9):  # float32 tables say no more than the former
            return rounded
    return base


def check_head_dim(head_dim: int, encoding: str) -> None:
    """Refuses a head dim whose channels cannot be paired."""
    if not isinstance(head_dim, int) or head_dim < 2 or head_dim % 2:
        raise ValueError(
            f"{encoding} turns channels in pairs and needs an even head dim of at least 2, got {head_dim}; "
            "choose another number of heads, or an encoding that does not turn (alibi, t5, nope)"
        )


def keep(frequencies: tuple[float, ...], pairs: range) -> tuple[float, ...]:
    """The same frequencies with those outside `pairs` set to 0 (position-independent)."""
    return tuple(f if i in pairs else 0.0 for i, f in enumerate(frequencies))
