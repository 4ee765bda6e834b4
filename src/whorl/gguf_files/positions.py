"""Where a GGUF says its rotation: `rope.freq_base`, `rope.dimension_count`, `rope.scaling.*` and `rope_freqs.weight`.

llama.cpp turns pair i of the first `width` channels of a head by position x base^(-2i/width) / factor_i, with one
factor per pair where the file has a tensor `rope_freqs.weight` (Llama 3.1's scaling; whorl's HoPE and p-RoPE). A factor
of 1e30 is of a pair that does not rotate. Where it turns a part of the head, channels are put in another order as the
file is read, so that the pairs are the first of the whole head's: that changes no logit, and is what HoPE and p-RoPE
are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whorl.encodings import Encoding, Spectrum, parse
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.layers import by_layer
from whorl.encodings.rope import RoPE
from whorl.encodings.scaled import Scaled
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.spectrum import rope_frequencies
from whorl.gguf_files.architectures import architecture_of
from whorl.gguf_files.header import Header
from whorl.hosts import OpenHost, stock_spectrum

STILL = 1e30  # the factor of a pair that does not turn
SINGLE = 2**-22  # of itself, what float32 keeps of a frequency
TABLES = 2e-6  # of itself, what stock float32 tables keep of one
BASE = 10000.0  # llama.cpp's, where a file names none
FACTORS = "rope_freqs.weight"
KEYS = (
    *("rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", "rope.scale_linear"),
    *(f"rope.scaling.{key}" for key in ("type", "factor", "original_context_length", "attn_factor", "finetuned")),
)
TURNS = (32.0, 1.0)  # within the original length: YaRN keeps the pairs that turn more, divides those that turn less
# Published scalings that files hold as bare factors: factor, original length, low and high frequency factors.
LLAMA_3 = tuple(Llama3(factor, 8192, 1.0, 4.0) for factor in (8.0, 32.0))
FULL, LOCAL = "full_attention", "sliding_attention"  # types of layers
LOCAL_BASE = 10000.0  # of Gemma 3, in llama.cpp's code and in few files


def frequencies_of(
    base: float, width: int, head_dim: int, scaling: float = 1.0, factors: np.ndarray[Any, Any] | None = None
) -> tuple[float, ...]:
    """Radians per token that llama.cpp turns each pair of a head by, in float64; those of the first `width` channels
    come first, and the others do not rotate.

    scaling  by which all frequencies are divided (`rope.scaling.factor`)
    factors  by which each is divided besides, one per pair of `width` (`rope_freqs.weight`); None where all are 1
    """
    own = rope_frequencies(base, width)
    divisors = scaling * (np.ones(len(own)) if factors is None else factors.astype(np.float64))
    said = [0.0 if _is_still(x) else f / float(x) for f, x in zip(own, divisors, strict=True)]
    return (*said, *(0.0,) * (head_dim // 2 - len(said)))


def yarn_frequencies(base: float, width: int, factor: float, original: int) -> tuple[float, ...]:
    """The same of each of `width` / 2 pairs under llama.cpp's YaRN (`rope_yarn`, `ggml_rope_yarn_corr_dims`).

    A ramp leads from pairs that are kept to pairs that are divided by `factor`, between two indices that are rounded
    outwards: those of 32 turns and of 1 in `original` tokens, in float32 as there.
    """

    def index(turns: float) -> float:
        length, single = np.float32(original), np.float32
        often = np.log(length / (single(turns) * single(2) * single(math.pi)))
        return float(single(width) * often / (single(2) * np.log(single(base))))

    low, high = max(0.0, math.floor(index(TURNS[0]))), min(width - 1.0, math.ceil(index(TURNS[1])))
    divided = [min(1.0, max(0.0, (i - low) / max(0.001, high - low))) for i in range(width // 2)]
    own = rope_frequencies(base, width)
    return tuple(f / factor * share + f * (1 - share) for f, share in zip(own, divided, strict=True))


def rope_settings(header: Header, head_dim: int, factors: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """The file's rotation as the `rope_parameters` of a config, as far as they say it: see `encoding_beyond`.

    They are of layers that attend to everything, and the base is the one of whole heads. factors: `rope_freqs.weight`.
    Raises ValueError for a scaling that nothing here reads.
    """
    kind, factor = _scaling(header)
    base = _base(header, "rope.freq_base", BASE)
    base = _named(base) if _is_still(factor) else _of_whole_heads(base, header, head_dim)
    settings: dict[str, Any] = {"rope_type": "default", "rope_theta": base}
    if kind == "linear" and factor > 1 and not _is_still(factor):
        return {**settings, "rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return settings | {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": _original(header),
            "beta_fast": TURNS[0],
            "beta_slow": TURNS[1],
            "attention_factor": _amplitude(header),
        }
    for named in LLAMA_3 if factors is not None else ():
        if _same(_turning(header, head_dim, factors), Scaled(RoPE(base), named).spectrum(head_dim), SINGLE):
            return settings | {
                "rope_type": "llama3",
                "factor": named.factor,
                "original_max_position_embeddings": named.original,
                "low_freq_factor": named.low_freq_factor,
                "high_freq_factor": named.high_freq_factor,
            }
    return settings


def local_settings(header: Header, head_dim: int) -> dict[str, Any]:
    """The same of layers with a window, where those have a base of their own: no scaling is theirs."""
    local = _base(header, "rope.freq_base_swa", LOCAL_BASE)
    return {"rope_type": "default", "rope_theta": _of_whole_heads(local, header, head_dim)}


def run_instead(header: Header) -> dict[str, float]:
    """Keys that converters write and that llama.cpp reads in none of these architectures: what it runs in their place.

    Its converter writes what transformers calls the attention factor, all that cos and sin are multiplied by.
    """
    kind, factor = _scaling(header)
    runs = {
        "beta_fast": TURNS[0],
        "beta_slow": TURNS[1],
        "attn_factor": yarn_amplitude(factor) if kind == "yarn" else 1.0,
        "ext_factor": 1.0,
        "log_multiplier": 0.0,
    }
    return {f"rope.scaling.yarn_{key}": value for key, value in runs.items()}


def layer_spectra(
    header: Header, layer_types: Sequence[str], head_dim: int, factors: np.ndarray[Any, Any] | None
) -> list[Spectrum]:
    """What the file turns each layer by, as pairs of the whole head. Raises ValueError for factors of another number
    than pairs, and for a scaling that nothing here reads."""
    everywhere = _turning(header, head_dim, factors)
    windowed = _windowed(header, head_dim) if architecture_of(header).local else everywhere
    return [windowed if kind == LOCAL else everywhere for kind in layer_types]


def encoding_beyond(header: Header, host: OpenHost, factors: np.ndarray[Any, Any] | None) -> Encoding | None:
    """The encoding to attach where the stock model, built by `rope_settings`, does not turn as the file says; or None.

    It is the one that whorl's own export has noted, if the file's frequencies are still that one's, or else a plain
    list of them.
    """
    head_dim = host.shapes[0].head_dim
    wanted = layer_spectra(header, host.layer_types, head_dim, factors)
    if all(
        (stock := stock_spectrum(host.rotary, kind, head_dim)) is not None and _same(stock, spectrum, TABLES)
        for kind, spectrum in zip(host.layer_types, wanted, strict=True)
    ):
        return None
    if (encoding := _noted(header)) is not None:
        each = [encoding.for_layer(i, kind).spectrum(head_dim) for i, kind in enumerate(host.layer_types)]
        # One that turns a part of the head pairs other channels than those of the whole head, and is no match.
        still = _whole(Spectrum((), head_dim), head_dim)
        if all(_same(one or still, spectrum, SINGLE) for one, spectrum in zip(each, wanted, strict=True)):
            return encoding
    return by_layer([Frequencies(one.frequencies, one.amplitude) for one in wanted], host.layer_types)


def turned(header: Header, head_dim: int) -> int:
    """The channels of a head that are in pairs, from the first on. Raises ValueError for no pairs of it."""
    width = header.get("rope.dimension_count", head_dim)
    if width % 2 or not 0 < width <= head_dim:
        raise ValueError(f"{header.path} turns {width} of {head_dim} channels, which are no pairs of a head")
    return int(width)


def _turning(header: Header, head_dim: int, factors: np.ndarray[Any, Any] | None) -> Spectrum:
    """What the file says, as pairs of the whole head, in float64."""
    width, amplitude = turned(header, head_dim), _amplitude(header)
    base, (kind, factor) = _named(_base(header, "rope.freq_base", BASE)), _scaling(header)
    if kind == "yarn":
        if factors is not None:
            raise ValueError(f"{header.path} has both {FACTORS} and a scaling by yarn; one of them is read")
        said = yarn_frequencies(base, width, factor, _original(header))
        return _whole(Spectrum(said, head_dim, amplitude), head_dim)
    if factors is not None and len(factors) != width // 2:
        raise ValueError(f"{header.path} has {len(factors)} factors in {FACTORS} for {width // 2} pairs")
    return Spectrum(frequencies_of(base, width, head_dim, factor, factors), head_dim, amplitude)


def _windowed(header: Header, head_dim: int) -> Spectrum:
    """No scaling is theirs, nor the amplitude that YaRN brings."""
    base = _named(_base(header, "rope.freq_base_swa", LOCAL_BASE))
    return Spectrum(frequencies_of(base, turned(header, head_dim), head_dim), head_dim, _attention_factor(header))


def _scaling(header: Header) -> tuple[str, float]:
    """The kind of scaling, and by what it divides: 1 where there is none."""
    kind, factor = header.get("rope.scaling.type"), float(header.get("rope.scaling.factor", 0.0) or 1.0)
    if kind is None:  # llama.cpp takes it for linear, and older files have a key for that alone
        kind, factor = "linear", float(header.get("rope.scale_linear", 0.0) or factor)
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(f"{header.path} scales its rotation by {kind!r}; none, linear and yarn are read")
    return str(kind), 1.0 if kind == "none" else factor


def _base(header: Header, key: str, default: float) -> float:
    found = float(header.get(key, default))
    if not 0 < found < math.inf:
        raise ValueError(f"{header.path} says {key} = {found:g}, which is no base of a rotation")
    return found


def _original(header: Header) -> int:
    """The length before a scaling by yarn: llama.cpp takes the length of the context where a file does not say it."""
    return int(header.get("rope.scaling.original_context_length", header.get("context_length")))


def _amplitude(header: Header) -> float:
    """What cos and sin are multiplied by: a factor of the file, and under yarn llama.cpp's own besides."""
    kind, factor = _scaling(header)
    return _attention_factor(header) * (yarn_amplitude(factor) if kind == "yarn" else 1.0)


def _attention_factor(header: Header) -> float:
    return float(header.get("rope.scaling.attn_factor", 1.0))


def yarn_amplitude(factor: float) -> float:
    """What llama.cpp multiplies cos and sin by under YaRN, before the file's own factor."""
    return 1 + 0.1 * math.log(max(factor, 1.0))


def _of_whole_heads(base: float, header: Header, head_dim: int) -> float:
    """The base with which whole heads have the same frequencies as the first channels have with this one."""
    share = head_dim / turned(header, head_dim)
    return _named(base) if share == 1 else float(f"{base**share:.6g}")  # float32 of the base leaves no more digits


def _whole(spectrum: Spectrum, head_dim: int) -> Spectrum:
    """With pairs that do not rotate, up to the whole head."""
    lacking = head_dim // 2 - len(spectrum.frequencies)
    return Spectrum((*spectrum.frequencies, *(0.0,) * lacking), head_dim, spectrum.amplitude)


def _is_still(factor: float) -> bool:
    return bool(factor >= 0.999 * STILL)  # float32 rounds it


def _noted(header: Header) -> Encoding | None:
    """What whorl's export has noted; None where it did not, and for one of somebody's own or of a later version."""
    try:
        return parse(header.said.get("whorl.encoding", ""))
    except ValueError:
        return None


def _same(a: Spectrum, b: Spectrum, precision: float) -> bool:
    return (
        len(a.frequencies) == len(b.frequencies)
        and abs(a.amplitude - b.amplitude) <= precision * abs(b.amplitude)
        and all(abs(x - y) <= precision * y for x, y in zip(a.frequencies, b.frequencies, strict=True))
    )


def _named(base: float) -> float:
    """The shortest number that is this one in float32, as which the file keeps it."""
    return float(str(np.float32(base)))
