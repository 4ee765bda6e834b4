"""Scalings: pure functions from spectrum to spectrum that stretch a rotary encoding past its trained length.

theta_i   frequency of pair i, radians per token;  lambda_i = 2 pi / theta_i, its wavelength in tokens
d         the width of the spectrum: twice its number of pairs. Stock's exponents run over it too (2i/d), so a partial
          rotary's d is its own width, and a pair that stands still counts (HoPE, p-RoPE) and stays still
factor s  how many times longer the context becomes;  original L: the length before, in tokens (what transformers calls
          original_max_position_embeddings; for `dynamic` it takes max_position_embeddings instead)

Each paper is named at its class. Where transformers does otherwise than the paper, the class says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from whorl.encodings.base import check_base, format_value, require_number, require_positive_int
from whorl.encodings.spectrum import Spectrum

FLOAT32_MAX = (2 - 2**-23) * 2.0**127
GEOMETRIC = 1e-5  # how far from base^(-2i/d) a frequency may lie: float32 tables lie within 2e-6


@dataclass(frozen=True)
class Scaling:
    """Base of every scaling. Subclasses are frozen dataclasses whose fields are the literature's arguments."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    example: ClassVar[str]  # in the notation

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        """The scaled spectrum; of one that depends on the length, that up to the original length."""
        raise NotImplementedError

    def at(self, spectrum: Spectrum, length: int) -> Spectrum:
        """The scaled spectrum for a context of `length` tokens."""
        require_positive_int("length", length, " tokens")
        return self(spectrum)

    @property
    def length_dependent(self) -> bool:
        """Whether `at` gives different spectra at different lengths."""
        return False

    def same_up_to(self, length: int) -> float:
        """The longest context with the spectrum that one of `length` tokens has; infinite where all longer ones do."""
        require_positive_int("length", length, " tokens")
        return math.inf

    def with_original(self, original: int) -> Scaling:
        """The same scaling with an unset original length filled in."""
        if getattr(self, "original", 0) is not None:
            return self
        return replace(self, original=original)  # type: ignore[call-arg]

    def __str__(self) -> str:
        """The notation, e.g. `yarn:factor=4,original=256`; `whorl.encodings.parse` reads it after a `~`."""
        given = [
            f"{f.name}={str(value).lower() if isinstance(value, bool) else format_value(value)}"
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != f.default
        ]
        return self.name + (":" + ",".join(given) if given else "")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: {"name": ..., argument: value, ...}."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


@dataclass(frozen=True)
class Linear(Scaling):
    """Position interpolation: theta_i / s, as if every position were divided by s (Chen et al., arXiv 2306.15595)."""

    factor: float

    name = "linear"
    title = "position interpolation: every frequency divided by the factor"
    paper = "2306.15595"
    example = "linear:factor=2"

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return replace(spectrum, frequencies=tuple(f / self.factor for f in spectrum.frequencies))


@dataclass(frozen=True)
class NTK(Scaling):
    """NTK-aware: base b s^(d/(d-2)), that is theta_i s^(-2i/(d-2)) (bloc97; arXiv 2309.00071).

    The fastest pair keeps its frequency and the slowest is divided by s.
    """

    factor: float

    name = "ntk"
    title = "a larger base: the slowest pair divided by the factor, the fastest kept"
    paper = "2309.00071"
    example = "ntk:factor=2"

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return _with_base_grown(spectrum, self.factor, self.name)


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """NTK-aware by the current length l: past L, base b (s l/L - (s-1))^(d/(d-2)) (emozilla; arXiv 2309.00071).

    Up to L nothing changes, and `spectrum` gives that. Stock takes L from max_position_embeddings.

    step: past L, l is rounded up to L plus a multiple of this many tokens, by default L / 4 (rounded down, at least 1),
    so that a long text has few spectra; keys are turned anew for each. 1 is the formula as it stands, and stock's, so
    that is what `from_stock` gives: docs/extend.md says what it costs.
    """

    factor: float
    original: int | None = None
    step: int | None = None

    name = "dynamic-ntk"
    title = "a base that grows with the current length, past the original one"
    paper = "2309.00071"
    example = "dynamic-ntk:factor=2,original=2048"

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_original(self.original)
        if self.step is not None:
            require_positive_int("step", self.step, " tokens")

    @property
    def length_dependent(self) -> bool:
        return True

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return _with_base_grown(spectrum, 1.0, self.name)  # as it is; one that cannot grow later is refused now

    def at(self, spectrum: Spectrum, length: int) -> Spectrum:
        stated, original = self.same_up_to(length), _original(self)
        if stated <= original:
            return self(spectrum)
        return _with_base_grown(spectrum, self.factor * stated / original - (self.factor - 1), self.name)

    def same_up_to(self, length: int) -> float:
        require_positive_int("length", length, " tokens")
        original = _original(self)
        step = max(original // 4, 1) if self.step is None else self.step
        return original + max(0, -(-(length - original) // step)) * step


@dataclass(frozen=True)
class NTKByParts(Scaling):
    """Pairs that turn at least beta_fast times in L keep theta_i, those below beta_slow times get theta_i / s.

    Between them a ramp, linear in the pair's index, as YaRN's code and stock have it (the paper's text ramps in the
    number of turns): see `ramp`. (bloc97; arXiv 2309.00071.)
    """

    factor: float
    original: int | None = None
    beta_fast: float = 32
    beta_slow: float = 1
    truncate: bool = True

    name = "ntk-by-parts"
    title = "fast pairs kept, slow pairs divided by the factor, a ramp between"
    paper = "2309.00071"
    example = "ntk-by-parts:factor=4,original=2048"

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_original(self.original)
        _check_positive("beta_fast", self.beta_fast, "turns within the original length")
        _check_positive("beta_slow", self.beta_slow, "turns within the original length")
        if self.beta_fast < self.beta_slow:
            raise ValueError(
                f"beta_fast must not be below beta_slow (turns within the original length), got {self.beta_fast} and "
                f"{self.beta_slow}; YaRN's are 32 and 1"
            )
        if isinstance(self.truncate, str) and self.truncate.lower() in ("true", "false"):
            object.__setattr__(self, "truncate", self.truncate.lower() == "true")
        if not isinstance(self.truncate, bool):
            raise ValueError(f"truncate must be true or false, got {self.truncate!r}")

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        original = _original(self)
        if not spectrum.turning:
            return spectrum
        first, step = _geometry(spectrum, self.name)
        slow = ramp(spectrum.width, first, step, original, self.beta_fast, self.beta_slow, self.truncate)
        return replace(
            spectrum,
            frequencies=tuple(
                f / self.factor * r + f * (1 - r) for f, r in zip(spectrum.frequencies, slow, strict=True)
            ),
        )


def ramp(
    width: int, first: float, step: float, original: float, beta_fast: float, beta_slow: float, truncate: bool
) -> list[float]:
    """The share of each pair's frequency first x exp(-step i) that NTK-by-parts divides: 0 is kept, 1 divided.

    Linear in the pair's index i, from that with beta_fast turns in `original` tokens to that with beta_slow, clamped to
    0 .. width - 1 as in YaRN's code; `truncate` rounds them outwards to whole indices first.

    Where no pair lies between them, the paper decides: pairs that all turn less than beta_slow times are divided, and
    pairs that all turn more than beta_fast times are kept. YaRN's code and stock clamp without asking, and there do
    something else: too slow, all pairs are kept (or the first alone, where the index rounds up to 0); fast enough, all
    are divided where they lie below the clamped end. Only lengths of a few tokens, or tiny bases, come to that.
    """

    def index(turns: float) -> float:
        """The index, whole or not, of the pair that makes this many turns in the original length."""
        return math.log(original * first / (turns * 2 * math.pi)) / step

    low, high = index(beta_fast), index(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    start, end = max(low, 0), min(high, width - 1)

    def share(i: int) -> float:
        if i <= low:
            return 0.0
        return 1.0 if i >= high else min(max((i - start) / (end - start), 0.0), 1.0)

    return [share(i) for i in range(width // 2)]


@dataclass(frozen=True)
class YaRN(NTKByParts):
    """NTK-by-parts, and cos and sin multiplied by 0.1 ln s + 1 (Peng et al., arXiv 2309.00071).

    attention_factor: what to multiply by instead.
    mscale, mscale_all_dim: DeepSeek's m(mscale) / m(mscale_all_dim) instead, m(x) = 0.1 x ln s + 1, where the one that
    is not given is 1 and 0, as in DeepSeek's code. (Stock ignores one given without the other. Its DeepSeek models also
    multiply their attention's own scale by m(mscale_all_dim)^2; that is the host's, not the encoding's.)
    """

    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    name = "yarn"
    title = "NTK by parts, and attention sharpened by 0.1 ln(factor) + 1"
    paper = "2309.00071"
    example = "yarn:factor=4,original=2048"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_attention_factor(self.attention_factor)
        for argument in ("mscale", "mscale_all_dim"):
            value = getattr(self, argument)
            if value is None:
                continue
            require_number(argument, value)
            if not 0 <= value < math.inf:
                raise ValueError(f"{argument} must be finite and not negative, got {value}; DeepSeek's are around 1")
            if self.attention_factor is not None:
                raise ValueError(f"attention_factor={self.attention_factor} leaves nothing for {argument}; give one")

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        mscale = 1.0 if self.mscale is None else self.mscale
        grown = 0.1 * math.log(self.factor)
        return (grown * mscale + 1) / (grown * (self.mscale_all_dim or 0.0) + 1)

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return replace(super().__call__(spectrum), amplitude=spectrum.amplitude * self.amplitude)


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """theta_i / short_factor[i] up to L tokens and theta_i / long_factor[i] past it (Ding et al., arXiv 2402.13753).

    cos and sin are multiplied by sqrt(1 + ln s / ln L) at every length, or by `attention_factor` in place of `factor`.
    The lists have one number per pair, joined by "@" in the notation; they come from a search, which is not done here.
    A number past float32 (3.4e38) stops its pair, as it does in stock's float32 tables.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float | None = None
    original: int | None = None
    attention_factor: float | None = None

    name = "longrope"
    title = "every frequency divided by its own searched factor, one list up to the original length, one past it"
    paper = "2402.13753"
    example = "longrope:short_factor=1@1,long_factor=1.5@4,factor=4,original=4096"

    def __post_init__(self) -> None:
        for argument in ("short_factor", "long_factor"):
            object.__setattr__(self, argument, _check_list(argument, getattr(self, argument)))
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                f"short_factor and long_factor need one number per pair each, got {len(self.short_factor)} and "
                f"{len(self.long_factor)}"
            )
        _check_original(self.original)
        if self.original == 1:
            raise ValueError("original must be at least 2 tokens (its logarithm divides), got 1")
        if self.factor is not None:
            _check_factor(self.factor)
        _check_attention_factor(self.attention_factor)
        if (self.factor is None) == (self.attention_factor is None):
            raise ValueError(
                "longrope needs factor (cos and sin are multiplied by sqrt(1 + ln(factor) / ln(original))) or "
                f"attention_factor in its place, and one of them; got factor={self.factor} and "
                f"attention_factor={self.attention_factor}"
            )

    @property
    def length_dependent(self) -> bool:
        return self.short_factor != self.long_factor

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        if self.factor is None:
            return self.attention_factor or 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(_original(self)))

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        return self._divided(spectrum, "short_factor")

    def at(self, spectrum: Spectrum, length: int) -> Spectrum:
        require_positive_int("length", length, " tokens")
        return self._divided(spectrum, "long_factor" if length > _original(self) else "short_factor")

    def same_up_to(self, length: int) -> float:
        require_positive_int("length", length, " tokens")
        return _original(self) if self.length_dependent and length <= _original(self) else math.inf

    def _divided(self, spectrum: Spectrum, argument: str) -> Spectrum:
        factors = getattr(self, argument)
        if len(factors) != len(spectrum.frequencies):
            raise ValueError(
                f"{argument} has {len(factors)} numbers, and this spectrum has {len(spectrum.frequencies)} pairs; "
                "give one number per pair"
            )
        return replace(
            spectrum,
            frequencies=tuple(
                f / by if by <= FLOAT32_MAX else 0.0 for f, by in zip(spectrum.frequencies, factors, strict=True)
            ),
            amplitude=spectrum.amplitude * self.amplitude,
        )


@dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1's: theta_i where lambda_i < L/high, theta_i / s where lambda_i > L/low (arXiv 2407.21783; Meta's code).

    Between them (1-a) theta_i / s + a theta_i with a = (L/lambda_i - low) / (high - low). Llama 3.1 has s 8, low 1,
    high 4, L 8192 (3.2: s 32). Where low is high (Llama 4 Scout), there is nothing between: a step, and a pair right at
    it is kept (Meta's code refuses such numbers, and stock gives NaN for that one pair).
    """

    factor: float
    original: int | None = None
    low_freq_factor: float = 1
    high_freq_factor: float = 4

    name = "llama3"
    title = "short wavelengths kept, long ones' frequencies divided by the factor, smooth between"
    paper = "2407.21783"
    example = "llama3:factor=8,original=8192"

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        _check_original(self.original)
        _check_positive("low_freq_factor", self.low_freq_factor, "turns within the original length")
        _check_positive("high_freq_factor", self.high_freq_factor, "turns within the original length")
        if self.high_freq_factor < self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor must not be below low_freq_factor, got {self.high_freq_factor} and "
                f"{self.low_freq_factor}; Llama 3.1's are 4 and 1"
            )

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        original, low, high = _original(self), self.low_freq_factor, self.high_freq_factor

        def scaled(frequency: float) -> float:
            kept = kept_share(original * frequency / (2 * math.pi), low, high)
            return (1 - kept) * frequency / self.factor + kept * frequency

        return replace(spectrum, frequencies=tuple(map(scaled, spectrum.frequencies)))


def kept_share(turns: float, low: float, high: float) -> float:
    """The share of a frequency that Llama 3's scaling keeps, of a pair that makes so many turns in the original length:
    0 below `low`, 1 from `high` on, linear between."""
    if turns >= high:
        return 1.0
    return 0.0 if turns <= low else (turns - low) / (high - low)


@dataclass(frozen=True)
class BaseChange(Scaling):
    """Another base under the same exponents: theta_i (b / base)^(2i/d) (Xiong et al., arXiv 2309.16039; Code Llama).

    The spectrum's own base b is read off its frequencies. Which pairs turn was settled before, under b.
    """

    base: float

    name = "base-change"
    title = "another base under the same exponents (ABF)"
    paper = "2309.16039"
    example = "base-change:base=500000"

    def __post_init__(self) -> None:
        check_base(self.base)

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        if not spectrum.turning:
            return spectrum
        _, step = _geometry(spectrum, self.name)
        change = step - 2 * math.log(self.base) / spectrum.width
        frequencies = tuple(f * math.exp(i * change) for i, f in enumerate(spectrum.frequencies))
        return replace(spectrum, frequencies=frequencies)


@dataclass(frozen=True)
class Clip(Scaling):
    """Pairs whose wavelength exceeds `wavelength` tokens stand still (hard clipping, in arXiv 2602.05258).

    The rule of HoPE: `rope~clip:wavelength=512` has the spectrum of `hope:train_length=512`. The code of 2602.05258
    names a number of pairs instead, the last 20 of 64.
    """

    wavelength: float

    name = "clip"
    title = "pairs with a wavelength above this many tokens stand still"
    paper = "2602.05258"
    example = "clip:wavelength=512"

    def __post_init__(self) -> None:
        _check_positive("wavelength", self.wavelength, "tokens")

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        slowest = 2 * math.pi / self.wavelength
        return replace(spectrum, frequencies=tuple(f if f >= slowest else 0.0 for f in spectrum.frequencies))


@dataclass(frozen=True)
class SoftClip(Scaling):
    """CoPE, Clipped RoPE (arXiv 2602.05258; not the contextual CoPE): frequencies roll off to 0 along half a cosine.

    The band is the n turning pairs whose wavelength exceeds `wavelength` tokens, in order: the k-th gets
    theta (1 + cos(pi k / (n-1))) / 2, so the first keeps its frequency and the last stands still (a lone pair keeps
    its own). The paper's code has this taper on the last 20 of 64 pairs; a band by wavelength is ours, and any
    `wavelength` between those of the 44th and the 45th pair gives the code's own.
    """

    wavelength: float

    name = "soft-clip"
    title = "pairs with a wavelength above this many tokens slow down to a stop along half a cosine"
    paper = "2602.05258"
    example = "soft-clip:wavelength=512"

    def __post_init__(self) -> None:
        _check_positive("wavelength", self.wavelength, "tokens")

    def __call__(self, spectrum: Spectrum) -> Spectrum:
        slowest = 2 * math.pi / self.wavelength
        band = [i for i in spectrum.turning if spectrum.frequencies[i] < slowest]
        frequencies = list(spectrum.frequencies)
        for k, i in enumerate(band[1:], start=1):
            frequencies[i] *= 0.5 * (1 + math.cos(math.pi * k / (len(band) - 1)))
        return replace(spectrum, frequencies=tuple(frequencies))


# rope_type -> the settings that it has, apart from those of every type.
STOCK: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "proportional": ("factor",),
    "dynamic": ("factor", "alpha"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate"),
        *("attention_factor", "mscale", "mscale_all_dim"),
    ),
    "longrope": ("short_factor", "long_factor", "factor", "original_max_position_embeddings", "attention_factor"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
INNER = ("rope_type", "type", "rope_theta", "partial_rotary_factor")  # they say what is scaled, not how


def from_stock(rope_parameters: Mapping[str, Any], max_position_embeddings: int | None = None) -> tuple[Scaling, ...]:
    """The scalings that transformers' `config.rope_parameters` (of one layer type) ask for; none for the default type.

    max_position_embeddings: the config's. `dynamic` needs it, yarn and llama3 without an original length take it for
    one (as stock does), and yarn and longrope without a factor divide it by the original length.

    What the settings say, not what stock makes of them: stock ignores yarn's `truncate` where settings go by layer
    type, and one of mscale and mscale_all_dim without the other. As in stock, attention_factor goes before those two
    and before longrope's factor, and Hunyuan's `alpha` under `dynamic`, NTK by that fixed factor, before `factor`.

    Raises ValueError for a rope_type or a setting that no scaling expresses, and for a setting that is missing.
    """
    if any(isinstance(value, Mapping) for value in rope_parameters.values()):
        types = ", ".join(map(str, rope_parameters))
        raise ValueError(
            f"these rope_parameters go by layer type ({types}); pass those of one, e.g. settings[layer_type]"
        )
    given = {key: value for key, value in rope_parameters.items() if value is not None}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in STOCK:
        raise ValueError(f"no scaling says rope_type {kind!r}; known are {', '.join(STOCK)}")
    unknown = [key for key in given if key not in INNER and key not in STOCK[kind]]
    if unknown:
        raise ValueError(
            f"no scaling says {', '.join(unknown)} under rope_type {kind!r}; it has {', '.join(STOCK[kind]) or 'none'}"
        )
    arguments = {key: value for key, value in given.items() if key not in INNER}

    def needed(key: str) -> Any:
        if key not in arguments:
            raise ValueError(f"rope_type {kind!r} needs {key}, and {sorted(given)} have none")
        return arguments.pop(key)

    def longest(use: str) -> int:
        if max_position_embeddings is None:
            raise ValueError(f"rope_type {kind!r} needs max_position_embeddings {use}; pass the config's")
        return max_position_embeddings

    if kind == "default" or (kind == "proportional" and not arguments):
        return ()
    if kind in ("linear", "proportional"):
        return (Linear(needed("factor")),)
    if kind == "dynamic":
        if alpha := arguments.get("alpha"):
            return (NTK(alpha),)
        return (DynamicNTK(needed("factor"), longest("for its original length"), step=1),)

    original = arguments.pop("original_max_position_embeddings", None)
    if original is None:
        original = longest("where it has no original_max_position_embeddings")
    if kind == "llama3":
        low, high = needed("low_freq_factor"), needed("high_freq_factor")
        return (Llama3(needed("factor"), original, low, high),)
    if kind == "yarn":
        factor = arguments.pop("factor", None)
        if factor is None:
            factor = longest("where it has no factor") / original
        for key in ("beta_fast", "beta_slow"):
            if arguments.get(key) == 0:  # stock's "or" takes 0 for "not given"
                del arguments[key]
        if "attention_factor" in arguments:
            arguments.pop("mscale", None)
            arguments.pop("mscale_all_dim", None)
        return (YaRN(factor, original, **arguments),)
    short, long, factor = needed("short_factor"), needed("long_factor"), arguments.pop("factor", None)
    if "attention_factor" in arguments:
        return (LongRoPE(short, long, None, original, arguments["attention_factor"]),)
    if factor is None:  # stock takes a ratio below 1 for 1
        factor = max(longest("where it has no factor") / original, 1.0)
    return (LongRoPE(short, long, factor, original),)


def _with_base_grown(spectrum: Spectrum, growth: float, name: str) -> Spectrum:
    """theta_i growth^(-2i/(d-2)): base x growth^(d/(d-2))."""
    if not spectrum.turning:
        return spectrum
    if spectrum.width < 4:
        raise ValueError(
            f"{name} keeps the fastest pair and slows the slowest, and needs at least 2 pairs; this spectrum has "
            f"{len(spectrum.frequencies)}"
        )
    exponent = -2 / (spectrum.width - 2)
    frequencies = tuple(f * growth ** (exponent * i) for i, f in enumerate(spectrum.frequencies))
    return replace(spectrum, frequencies=frequencies)


def _geometry(spectrum: Spectrum, name: str) -> tuple[float, float]:
    """(a, s) of a spectrum whose turning pairs have theta_i = a exp(-s i); RoPE's are 1 and 2 ln(base) / d."""
    turning, frequencies = spectrum.turning, spectrum.frequencies
    if len(turning) < 2:
        raise ValueError(
            f"{name} reads the base off two turning pairs, and this spectrum has {len(turning)}; "
            "try linear, or more pairs"
        )
    i, j = turning[0], turning[-1]
    step = math.log(frequencies[i] / frequencies[j]) / (j - i)
    first = frequencies[i] * math.exp(step * i)
    for k in turning:
        expected = first * math.exp(-step * k)
        if step <= 0 or abs(frequencies[k] - expected) > GEOMETRIC * expected:
            raise ValueError(
                f"{name} needs frequencies that fall as base^(-2i/{spectrum.width}), and these have no one base "
                f"(pair {k} turns at {frequencies[k]:.6g} radians per token); put {name} first, or leave it out"
            )
    return first, step


def _original(scaling: Any) -> int:
    if scaling.original is None:
        raise ValueError(
            f"{scaling.name} needs original, the length in tokens that the model was trained at, and none was given; "
            f"try {scaling.example}"
        )
    return scaling.original


def _check_factor(factor: object) -> None:
    require_number("factor", factor)
    if not 1 <= factor < math.inf:  # type: ignore[operator]
        raise ValueError(
            f"factor must be a finite number of at least 1 (how many times longer the context becomes), got {factor}"
        )


def _check_original(original: object) -> None:
    if original is not None:
        require_positive_int("original", original, " tokens")


def _check_attention_factor(value: object) -> None:
    if value is not None:
        _check_positive("attention_factor", value, "times cos and sin")


def _check_positive(argument: str, value: object, unit: str) -> None:
    require_number(argument, value)
    if not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{argument} must be finite and above 0 ({unit}), got {value}")


def _check_list(argument: str, value: object) -> tuple[float, ...]:
    """A list of positive numbers, in Python, JSON or the notation (1@1.5@4)."""
    items = value.split("@") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(float(item) for item in items)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{argument} must be numbers joined by '@' (1@1.5@4), got {value!r}") from None
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"{argument} must be finite numbers above 0, at least one, got {numbers}")
    return numbers
