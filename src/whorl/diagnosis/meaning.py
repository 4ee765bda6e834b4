"""The frequencies that rope settings mean, in float64: the spectrum of the encoding that they say, not stock code's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whorl.encodings import Scaled
from whorl.encodings.rope import Rotary
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.scalings.yarn import YaRN
from whorl.hosts.transformers.rope_settings import READ, as_stock_reads, encoding_from, rope_type, turning_share

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
    """What frequencies depend on besides the settings: channels per head, and the declared length (0: none)."""

    head_dim: int
    max_position: int


def meant(settings: Mapping[str, Any], sizes: Sizes, tokens: int | None = None) -> Turning | None:
    """What these settings mean in an input of so many tokens (None: within the original length); None for a rope type
    that nobody here knows. Raises ValueError for settings that lack a number or make no sense.
    """
    if rope_type(settings) not in READ:
        return None
    encoding = encoding_from(as_stock_reads(settings), sizes.head_dim, sizes.max_position or None)
    if tokens is not None and isinstance(encoding, Scaled):
        spectrum = encoding.spectrum_at(sizes.head_dim, tokens)
    else:
        spectrum = encoding.spectrum(sizes.head_dim)
    return Turning(np.array(spectrum.frequencies), spectrum.amplitude, _rounding(encoding, sizes.head_dim))


def _rounding(encoding: Rotary, head_dim: int) -> float:
    """How much roundings grow where a frequency f is blended with f / factor: the share that is kept of f is off by a
    rounding of 1, and the blend may be as small as f / factor."""
    scaling = encoding.scalings[0] if isinstance(encoding, Scaled) else None
    if not isinstance(encoding, Scaled) or not isinstance(scaling, YaRN | Llama3):
        return 1.0
    pairs = zip(encoding.spectrum(head_dim).frequencies, encoding.inner.spectrum(head_dim).frequencies, strict=True)
    if all(scaled in (plain, plain / scaling.factor) for scaled, plain in pairs):
        return 1.0
    if isinstance(scaling, YaRN):
        return scaling.factor
    return scaling.factor * scaling.high_freq_factor / (scaling.high_freq_factor - scaling.low_freq_factor)


def precision(settings: Mapping[str, Any], meaning: Turning | None) -> float:
    """The relative error that float32 code may have: rounding of base^x grows with ln(base), and by what a blend of two
    frequencies makes of it."""
    slack = 8 + math.log(float(settings.get("rope_theta") or 1e4))
    return slack * FLOAT32 * (1.0 if meaning is None else meaning.rounding)


def other_reading(settings: Mapping[str, Any], sizes: Sizes) -> Turning | None:
    """Proportional settings read as partial ones, and the other way round; None where nothing is partial."""
    scaled = "linear" if settings.get("factor") else "default"
    other = {"default": "proportional", "linear": "proportional", "proportional": scaled}.get(rope_type(settings))
    if other is None or turning_share(settings) >= 1:
        return None
    try:
        return meant({**settings, "rope_type": other}, sizes)
    except ValueError:  # a share of the head that is no whole number of pairs
        return None


def unscaled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The base and the share of these settings, as a RoPE without scaling."""
    kept = {key: settings[key] for key in ("rope_theta", "partial_rotary_factor") if key in settings}
    return {**kept, "rope_type": "default"}


SETTINGS = frozenset().union(*READ.values()) - {"original_max_position_embeddings"}
HARMLESS = {"factor": (None, 1, 1.0), "attention_factor": (None, 1, 1.0), "alpha": (None, 1, 1.0)}


def unused(settings: Mapping[str, Any]) -> list[str]:
    """The settings that would change something under another rope type, and which this one does not use."""
    if rope_type(settings) not in READ:
        return []
    return sorted(
        k for k in SETTINGS - set(READ[rope_type(settings)]) if settings.get(k) not in HARMLESS.get(k, (None,))
    )
