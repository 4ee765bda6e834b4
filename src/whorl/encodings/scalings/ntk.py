"""NTK-aware scaling: a larger base. bloc97's post, and emozilla's of the dynamic one; both in YaRN, arXiv 2309.00071.

base b s^(d/(d-2)), that is theta_i s^(-2i/(d-2)): the fastest pair keeps its frequency and the slowest is divided by s.
The dynamic one takes s l/L - (s-1) for s, past L, where l is the current length.
"""

from __future__ import annotations

from dataclasses import dataclass

from whorl.encodings.config import of_host, require_positive_int
from whorl.encodings.scalings.base import Scaling, original_length
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class NTK(Scaling):
    """A larger base: the slowest pair is divided by the factor, the fastest kept (bloc97; arXiv 2309.00071)."""

    factor: float

    name = "ntk"
    title = "a larger base: the slowest pair divided by the factor, the fastest kept"
    paper = "2309.00071"
    example = "ntk:factor=2"

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return _with_base_grown(spectrum, self.factor, self.name)


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """A base that grows with the current length, past the original one (emozilla; arXiv 2309.00071).

    Up to the original length nothing changes.

    step: past the original length L, the current one is rounded up to L plus a multiple of this many tokens, by default
    L / 4 (rounded down, at least 1), so that a long text has few spectra; keys are turned anew for each. 1 is the
    formula as it stands, and stock's: docs/extend.md says what it costs.
    """

    factor: float
    original: int | None = of_host(known="train_length")
    step: int | None = None

    name = "dynamic-ntk"
    title = "a base that grows with the current length, past the original one"
    paper = "2309.00071"
    example = "dynamic-ntk:factor=2,original=2048"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step is not None:
            require_positive_int("step", self.step, " tokens")

    @property
    def length_dependent(self) -> bool:
        return True

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return _with_base_grown(spectrum, 1.0, self.name)  # as it is; one that cannot grow later is refused now

    def at(self, spectrum: Spectrum, length: int) -> Spectrum:
        stated, original = self.same_up_to(length), original_length(self)
        if stated <= original:
            return self(spectrum)
        return _with_base_grown(spectrum, self.factor * stated / original - (self.factor - 1), self.name)

    def same_up_to(self, length: int) -> float:
        require_positive_int("length", length, " tokens")
        original = original_length(self)
        step = max(original // 4, 1) if self.step is None else self.step
        return original + max(0, -(-(length - original) // step)) * step


def grown_base(base: float, growth: float, width: int) -> float:
    """The base under which the slowest of `width` / 2 pairs is divided by `growth`: base x growth^(d/(d-2))."""
    return base * growth ** (width / (width - 2))


def _with_base_grown(spectrum: Spectrum, growth: float, name: str) -> Spectrum:
    """The same of a spectrum, whatever its base: theta_i growth^(-2i/(d-2))."""
    if not spectrum.turning:
        return spectrum
    if spectrum.width < 4:
        raise ValueError(
            f"{name} keeps the fastest pair and slows the slowest, and needs at least 2 pairs; this spectrum has "
            f"{len(spectrum.frequencies)}"
        )
    exponent = -2 / (spectrum.width - 2)
    frequencies = tuple(f * growth ** (exponent * i) for i, f in enumerate(spectrum.frequencies))
    return spectrum.with_frequencies(frequencies)
