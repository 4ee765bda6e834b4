"""The frequencies that rope settings mean, in float64, from the papers' formulas and not from the code that is checked.

partial        the first p x d channels turn as a RoPE of their own width (GPT-NeoX, 2204.06745)
proportional   the fastest p of all pairs turn, exponent over the whole head (p-RoPE, 2410.06205)
linear         all frequencies / factor (2306.15595)
dynamic        within the trained length, plain RoPE; with `alpha`, base x alpha^(w / (w - 2))
yarn           blended between both by how often a pair turns within the original length (2309.00071)
longrope       one factor per pair, here the short list (2402.13753)
llama3         blended by wavelength (Llama 3.1's release)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whorl.encodings import Spectrum
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.scalings.longrope import FLOAT32_MAX
from whorl.encodings.scalings.yarn import NTKByParts

FLOAT32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Turning:
    """Frequencies (radians per token) as found, valid or not, and what cos and sin are multiplied by.

    rounding    how many times more than elsewhere float32 code may be off, where it blends two frequencies
    """

    frequencies: np.ndarray
    amplitude: float
    rounding: float = 1.0

    @property
    def turning(self) -> np.ndarray:
        return self.frequencies[self.frequencies != 0]


@dataclass(frozen=True)
class Sizes:
    """What the formulas need besides the settings."""

    head_dim: int
    max_position: int


def share(settings: Mapping[str, Any]) -> float:
    """The share of a head that the settings let turn."""
    given = settings.get("partial_rotary_factor")
    return 1.0 if given is None else float(given)


def kind(settings: Mapping[str, Any]) -> str:
    """The rope type, under its new or old name."""
    return settings.get("rope_type") or settings.get("type") or "default"


def meant(settings: Mapping[str, Any], sizes: Sizes) -> Turning | None:
    """What these settings mean, or None for a rope type that is not in the table. Raises KeyError or TypeError for
    settings that lack a number."""
    formula = FORMULAS.get(kind(settings))
    return None if formula is None else formula(settings, sizes)


def precision(settings: Mapping[str, Any], meaning: Turning | None) -> float:
    """The relative error that float32 code may have: rounding of base^x grows with ln(base), and by what a blend of two
    frequencies makes of it."""
    slack = 8 + math.log(float(settings.get("rope_theta") or 1e4))
    return slack * FLOAT32 * (1.0 if meaning is None else meaning.rounding)


def _width(settings: Mapping[str, Any], sizes: Sizes) -> int:
    return int(sizes.head_dim * share(settings))


def _frequencies(base: float, width: int, over: int | None = None) -> np.ndarray:
    return float(base) ** (-np.arange(0, width, 2, dtype=np.float64) / (over or width))


def partial(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    """RoPE on the first `share` of a head, exponent over that width."""
    return Turning(_frequencies(settings["rope_theta"], _width(settings, sizes)), 1.0)


def proportional(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    """The fastest `share` of the pairs, exponent over the whole head; zeros after them."""
    found = np.zeros(sizes.head_dim // 2)
    pairs = int(share(settings) * sizes.head_dim // 2)
    found[:pairs] = _frequencies(settings["rope_theta"], 2 * pairs, sizes.head_dim)
    return Turning(found / float(settings.get("factor") or 1.0), 1.0)


def _linear(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    return Turning(partial(settings, sizes).frequencies / float(settings["factor"]), 1.0)


def _dynamic(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    width, alpha = _width(settings, sizes), settings.get("alpha")
    base = float(settings["rope_theta"]) * (float(alpha) ** (width / (width - 2)) if alpha else 1.0)
    return Turning(_frequencies(base, width), 1.0)


def _yarn(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    base, width = float(settings["rope_theta"]), _width(settings, sizes)
    original = settings.get("original_max_position_embeddings") or sizes.max_position
    factor = settings.get("factor") or sizes.max_position / original

    fast, slow = settings.get("beta_fast") or 32, settings.get("beta_slow") or 1
    parts = NTKByParts(1, original, fast, slow, settings.get("truncate", True))
    divided = np.array(parts.divided(RoPE(base).spectrum(width)))
    plain = _frequencies(base, width)
    blend = max(1.0, float(factor)) if ((divided > 0) & (divided < 1)).any() else 1.0  # the kept part may be small
    return Turning(plain / factor * divided + plain * (1 - divided), _yarn_amplitude(settings, factor), blend)


def _yarn_amplitude(settings: Mapping[str, Any], factor: float) -> float:
    def scale(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    if settings.get("attention_factor") is not None:
        return float(settings["attention_factor"])
    both = settings.get("mscale"), settings.get("mscale_all_dim")
    return scale(both[0]) / scale(both[1]) if both[0] and both[1] else scale(1.0)


def _longrope(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    original = settings.get("original_max_position_embeddings") or sizes.max_position
    factor = settings.get("factor") or sizes.max_position / original
    amplitude = settings.get("attention_factor")
    if amplitude is None:
        amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    factors = np.asarray(settings["short_factor"], dtype=np.float64)
    factors = np.where(factors > FLOAT32_MAX, np.inf, factors)  # such a pair stands still in stock's float32
    return Turning(partial(settings, sizes).frequencies / factors, float(amplitude))


def _llama3(settings: Mapping[str, Any], sizes: Sizes) -> Turning:
    plain, factor = partial(settings, sizes).frequencies, float(settings["factor"])
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    llama3 = Llama3(factor, settings["original_max_position_embeddings"], low, high)
    scaled = np.array(llama3(Spectrum(tuple(plain.tolist()), 2 * len(plain))).frequencies)
    blended = ((scaled != plain) & (scaled != plain / factor)).any()
    return Turning(scaled, 1.0, max(1.0, factor * high / (high - low) if blended else 1.0))


FORMULAS: dict[str, Callable[[Mapping[str, Any], Sizes], Turning]] = {
    "default": partial,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": proportional,
}

# The settings that each rope type uses, besides rope_type, type, rope_theta and partial_rotary_factor.
USES: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor", "alpha"}),
    "yarn": frozenset(
        {
            "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
            "mscale_all_dim", "truncate",
        }
    ),
    "longrope": frozenset(
        {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"}
    ),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
    "proportional": frozenset({"factor"}),
}  # fmt: skip
SETTINGS = frozenset().union(*USES.values()) - {"original_max_position_embeddings"}
HARMLESS = {"factor": (None, 1, 1.0), "attention_factor": (None, 1, 1.0), "alpha": (None, 1, 1.0)}


def unused(settings: Mapping[str, Any]) -> list[str]:
    """The settings that would change something under another rope type, and which this one does not use."""
    uses = USES.get(kind(settings))
    if uses is None:
        return []
    return sorted(k for k in SETTINGS - uses if settings.get(k) not in HARMLESS.get(k, (None,)))


def depends_on_length(settings: Mapping[str, Any]) -> bool:
    """Whether the frequencies change with the length of the input."""
    if kind(settings) == "longrope":
        return settings.get("short_factor") != settings.get("long_factor")
    return kind(settings) == "dynamic" and not settings.get("alpha")


def border(settings: Mapping[str, Any], sizes: Sizes) -> int:
    """The tokens up to which the frequencies are the trained ones. (Stock `dynamic` goes by the declared length.)"""
    original = settings.get("original_max_position_embeddings")
    return sizes.max_position if kind(settings) == "dynamic" or not original else int(original)


def meant_at(settings: Mapping[str, Any], sizes: Sizes, tokens: int) -> Turning | None:
    """What these settings mean in an input of so many tokens: past the border, `dynamic` grows the base with each token
    (Eq. of bloc97's dynamic NTK, as transformers has it), and `longrope` takes its long list (2402.13753)."""
    if not depends_on_length(settings) or tokens <= border(settings, sizes):
        return meant(settings, sizes)
    if kind(settings) == "longrope":
        return meant({**settings, "short_factor": settings["long_factor"]}, sizes)
    width, factor = _width(settings, sizes), float(settings["factor"])
    grown = factor * tokens / sizes.max_position - (factor - 1)
    return meant({**settings, "rope_theta": float(settings["rope_theta"]) * grown ** (width / (width - 2))}, sizes)
