"""Where a GGUF says its rotation: `rope.freq_base`, `rope.dimension_count`, `rope.scaling.*` and `rope_freqs.weight`.

llama.cpp turns pair i by position x base^(-2i/d) / factor_i, with one factor per pair where the file has a tensor
`rope_freqs.weight` (Llama 3.1's scaling; whorl's HoPE and p-RoPE), and 1 where it has none. A pair that stands still
has the factor 1e30.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whorl.encodings import Encoding, Spectrum, parse
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.layers import Layers
from whorl.encodings.nope import NoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.scaled import Scaled
from whorl.encodings.scalings.linear import Linear
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.spectrum import rope_frequencies, share_of
from whorl.gguf_files.header import Header

STILL = 0.999e30  # factors from here on are of pairs that do not turn
SINGLE = 2**-22  # of itself, what float32 keeps of a frequency
BASE = 10000.0  # llama.cpp's, where a file names none
FACTORS = "rope_freqs.weight"
FACTORS_READ_BY = ("llama",)  # architectures for which llama.cpp reads that tensor
KEYS = (
    *("rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scale_linear"),
    *(f"rope.scaling.{key}" for key in ("type", "factor", "original_context_length", "attn_factor", "finetuned")),
    *(f"rope.scaling.yarn_{key}" for key in ("beta_fast", "beta_slow", "ext_factor", "attn_factor")),
)
# Published scalings that files hold as bare factors: factor, original length, low and high frequency factors.
LLAMA_3 = tuple(Llama3(factor, 8192, 1.0, 4.0) for factor in (8.0, 32.0))


def rope_settings(header: Header, head_dim: int, factors: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """The file's scaling, as the `rope_parameters` of a config for layers that attend to everything.

    factors: `rope_freqs.weight`, which a published scaling of Llama 3 may be. Raises ValueError for a scaling that no
    settings say.
    """
    base = _rounded(header.get("rope.freq_base", BASE))
    settings: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    kind, factor = header.get("rope.scaling.type", "none"), header.get("rope.scaling.factor", 0.0)
    if "rope.scaling.type" not in header.said and (old := header.get("rope.scale_linear")):
        kind, factor = "linear", old
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        for named in LLAMA_3:
            if factors is not None and _same(
                _divided(base, factors), Scaled(RoPE(base), named).spectrum(head_dim).frequencies
            ):
                return {
                    **settings,
                    "rope_type": "llama3",
                    "factor": named.factor,
                    "original_max_position_embeddings": named.original,
                    "low_freq_factor": named.low_freq_factor,
                    "high_freq_factor": named.high_freq_factor,
                }
        return settings
    if kind == "linear":
        return {**settings, "rope_type": "linear", "factor": float(factor)}
    if kind != "yarn":
        raise ValueError(f"{header.path} scales its rotation by {kind!r}; none, linear and yarn are read")
    if factors is not None:
        raise ValueError(f"{header.path} has both rope_freqs and a scaling by yarn; one of them is read")
    settings |= {
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": header.get("rope.scaling.original_context_length"),
        "beta_fast": header.get("rope.scaling.yarn_beta_fast", 32.0),
        "beta_slow": header.get("rope.scaling.yarn_beta_slow", 1.0),
    }
    if (extra := header.get("rope.scaling.attn_factor", header.get("rope.scaling.yarn_attn_factor", 1.0))) != 1.0:
        settings["attention_factor"] = extra * (1 + 0.1 * math.log(factor))  # llama.cpp multiplies by both
    return settings


def encoding_in_part(header: Header, head_dim: int, parameters: dict[str, Any]) -> Encoding | None:
    """The encoding to attach where llama.cpp turns the first channels of a head alone (`rope.dimension_count`), or by
    next to nothing (`rope.scaling.factor` of 1e30), which the families' settings cannot say; None where neither is so.

    parameters: the settings of a config, flat or by layer type. Raises ValueError for a scaling besides that is not
    linear.
    """
    width, typed = header.get("rope.dimension_count", head_dim), "rope_type" not in parameters
    by_type = parameters if typed else {"": parameters}
    if width == head_dim and not any(settings.get("factor", 1.0) >= STILL for settings in by_type.values()):
        return None
    if header.get("rope.scaling.attn_factor", 1.0) != 1 or FACTORS in header.tensors:
        raise ValueError(
            f"{header.path} turns {width} of {head_dim} channels and has rope.scaling.attn_factor or {FACTORS}; "
            "one of them is read"
        )
    rules = {kind: _in_part(header, width, head_dim, settings) for kind, settings in by_type.items()}
    return Layers(rules) if typed else rules[""]


def _in_part(header: Header, width: int, head_dim: int, settings: dict[str, Any]) -> Encoding:
    kind, base, factor = settings["rope_type"], settings["rope_theta"], settings.get("factor", 1.0)
    if kind not in ("default", "linear"):
        raise ValueError(
            f"{header.path} turns {width} of {head_dim} channels and scales them by {kind}; linear is read"
        )
    if factor >= STILL:
        return NoPE()
    own = RoPE(base) if width == head_dim else PartialRoPE(share_of(width, head_dim), base)
    return own if factor == 1 else Scaled(own, Linear(factor))


def encoding_beyond(
    header: Header, head_dim: int, settings: dict[str, Any], factors: np.ndarray[Any, Any] | None
) -> Encoding | None:
    """The encoding to attach where `settings` do not say what the file does; None where they do.

    It is the one that whorl's own export has noted, if the file's frequencies are still that one's, or else a plain
    list of them. Raises ValueError for factors in a file of an architecture for which llama.cpp does not read them.
    """
    amplitude = header.get("rope.scaling.attn_factor", 1.0) if settings["rope_type"] == "default" else 1.0
    if settings["rope_type"] == "llama3" or (factors is None and amplitude == 1.0):
        return None
    if factors is not None and header.architecture not in FACTORS_READ_BY:
        raise ValueError(
            f"{header.path} has {FACTORS}, which llama.cpp reads for {' and '.join(FACTORS_READ_BY)} and not for "
            f"{header.architecture}: what it means here is not known"
        )
    base, width = settings["rope_theta"], header.get("rope.dimension_count", head_dim)
    if factors is None:
        factors = np.ones(width // 2)
    if len(factors) != width // 2:
        raise ValueError(f"{header.path} has {len(factors)} factors in {FACTORS} for {width // 2} pairs")
    if width != head_dim:
        raise ValueError(f"{header.path} has {FACTORS} and turns {width} of {head_dim} channels; whole heads are read")
    found = _divided(base, factors)
    if isinstance(noted := header.said.get("whorl.encoding"), str):
        encoding = parse(noted)
        spectrum = encoding.spectrum(head_dim) or Spectrum((0.0,) * (head_dim // 2), head_dim)
        # One that turns a part of the head pairs other channels than the file does, whose pairs are of the whole head.
        if _same(found, spectrum.frequencies) and abs(amplitude - spectrum.amplitude) <= SINGLE * spectrum.amplitude:
            return encoding
    return Frequencies(found, amplitude)


def _divided(base: float, factors: np.ndarray[Any, Any]) -> tuple[float, ...]:
    own = rope_frequencies(base, 2 * len(factors))
    return tuple(0.0 if x >= STILL else f / float(x) for f, x in zip(own, factors, strict=True))


def _same(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= SINGLE * y for x, y in zip(a, b, strict=True))


def _rounded(base: float) -> float:
    """The shortest number that is this one in float32, as which the file keeps it."""
    return float(str(np.float32(base)))
