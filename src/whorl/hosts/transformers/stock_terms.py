"""How stock transformers may say a spectrum, and where readers older than `rope_parameters` look for it.

`candidates` proposes rope settings; `whorl.attaching.stock` asks the host's own rotary module which of them it
understands. A rope type by name comes first wherever the encoding has one (`yarn`, `llama3`, `linear`), with its own
arguments and base: readers know what to do with those, and several drop the attention factor of a `longrope` (mlx-lm,
ExLlamaV3). vLLM and SGLang take it by another name, so that it is written twice (`with_mscales`).

`for_older_readers`: transformers 4 and mlx-lm read `rope_theta` and `rope_scaling` at the top of a config, SGLang
`partial_rotary_factor`, and all take a default in silence where there is none. Transformers 5 reads them too, and
prefers `rope_scaling` to `rope_parameters`, so what is written there says the same; where there is no scaling it is
null, since some families are scaled by default (transformers 4's gpt-oss and Apertus).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whorl.encodings import Encoding, Scaled, Spectrum
from whorl.encodings.rope import Rotary
from whorl.encodings.scalings import Scaling
from whorl.encodings.scalings.base_change import BaseChange
from whorl.encodings.scalings.linear import Linear
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.scalings.longrope import LongRoPE
from whorl.encodings.scalings.ntk import NTK, grown_base
from whorl.encodings.scalings.yarn import YaRN
from whorl.encodings.spectrum import base_of, rope_frequencies, share_of
from whorl.hosts.transformers.rope_settings import MSCALES, longrope_amplitudes, rope_type, same_amplitude

STILLING_FACTOR = 1e39  # of a longrope: past float32, so that the frequency is exactly zero
LARGEST_BASE = 1e30  # the powers of larger ones stock's float32 may not hold
# In the place of a base, where a reader of bases would drop the rest: no number, so that it stops.
SEE_BY_TYPE = "see rope_parameters, by layer type"
SEE_SETTINGS = "see rope_parameters"
WORDS = (SEE_BY_TYPE, SEE_SETTINGS)

# Where older readers look for a setting, in families that call it by another name.
OLDER_NAMES: dict[str, dict[str, str]] = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
}
# Families of which transformers 4 reads no `rope_scaling`; and those of which mlx-lm reads none: transformers 4 reads
# theirs, but for `proportional`, at which it stops anyway.
UNSCALED = ("nemotron",)
UNSCALED_IN_MLX = ("gemma2", "cohere", "cohere2", "helium", "starcoder2", "ernie4_5", "glm")
# Families with settings by layer type that were there before: the names of the bases of full and of sliding layers. A
# `rope_scaling` means their full layers (and in ModernBERT all).
BASES_BY_TYPE: dict[str, tuple[str, str]] = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "olmo3": ("rope_theta", "rope_theta"),
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}


def tidied(settings: Mapping[str, Any], head_dim: int, longest: int) -> dict[str, Any]:
    """Rope settings as earlier versions of whorl wrote them, as they are written now: a share with half a pair more is
    the exact one, a base that is a whole number but for float64's rounding (999999.9999999935) is that, and a longrope
    says its attention factor to vLLM and SGLang too."""
    tidy, base = dict(settings), settings.get("rope_theta")
    if settings.get("rope_type") == "proportional" and settings.get("partial_rotary_factor") is not None:
        pairs = int(settings["partial_rotary_factor"] * head_dim // 2)
        tidy["partial_rotary_factor"] = share_of(2 * pairs, head_dim)
    if isinstance(base, float) and not base.is_integer() and abs(base - round(base)) < 1e-12 * base:
        tidy["rope_theta"] = float(round(base))
    return with_mscales(tidy, longest)


def with_mscales(settings: dict[str, Any], longest: int) -> dict[str, Any]:
    """A longrope whose attention factor is not what its lengths give, with that factor as `short_mscale` and
    `long_mscale` too; other settings as they are."""
    if rope_type(settings) != "longrope":
        return settings
    said, by_lengths = longrope_amplitudes(settings, longest)
    bare = {key: value for key, value in settings.items() if key not in MSCALES}
    return bare if same_amplitude(by_lengths, said) else {**bare, **dict.fromkeys(MSCALES, said)}


def candidates(
    encoding: Encoding, spectrum: Spectrum, head_dim: int, own: Mapping[str, Any], longest: int
) -> Iterator[dict[str, Any]]:
    """Rope settings that may have this spectrum, the most readable first.

    encoding: what one layer has; head_dim: the head's full width; own: the host's settings of this layer type; longest:
    the config's max_position_embeddings.
    """
    turning, width = spectrum.turning, spectrum.width
    theta, scaling = _base_and_scaling(encoding, width)
    inferred = base_of(spectrum) if turning and spectrum.frequencies[0] == 1.0 else None
    bases = list(dict.fromkeys(float(b) for b in (theta, own.get("rope_theta"), inferred) if b)) or [10000.0]
    partial = {"partial_rotary_factor": share_of(width, head_dim)} if "partial_rotary_factor" in own else {}
    share = share_of(2 * len(turning), head_dim)
    for base in bases:
        for named in () if scaling is None else _by_name(scaling, spectrum.amplitude):
            yield with_mscales({**named, "rope_theta": base, **partial}, longest)
        yield {"rope_type": "default", "rope_theta": base, **partial}
        yield {"rope_type": "proportional", "rope_theta": base, "partial_rotary_factor": share}
    base = bases[0] if bases[0] < LARGEST_BASE else 10000.0
    original = _length_before(spectrum.amplitude, longest)
    pairs = zip(rope_frequencies(base, width), spectrum.frequencies, strict=True)
    factors = [plain / f if f > 0 else STILLING_FACTOR for plain, f in pairs]
    listed = {
        "rope_type": "longrope",
        "rope_theta": base,
        "short_factor": factors,
        "long_factor": factors,
        "factor": longest / original if original < longest else 1.0,
        "attention_factor": spectrum.amplitude,
        "original_max_position_embeddings": original,
        **partial,
    }
    yield with_mscales(listed, longest)


def _length_before(amplitude: float, longest: int) -> int:
    """The original length from which LongRoPE's formula, sqrt(1 + ln(longest / original) / ln(original)), gives this
    amplitude, as nearly as whole tokens allow: for readers that go by it alone (mlx-lm, ExLlamaV3).
    Both lists are the same, so that nothing else depends on it. `longest` itself for an amplitude of 1 or less."""
    if amplitude <= 1 or longest < 4:
        return longest
    return min(max(round(longest ** (1 / amplitude**2)), 2), longest)


def _base_and_scaling(encoding: Encoding, width: int) -> tuple[float | None, Scaling | None]:
    """The base of a layer's rotary encoding after the scalings that only change it, and the one scaling that is left.

    None for a base that has no name, and where more than one is left.
    """
    rotary = next((part for part in getattr(encoding, "parts", (encoding,)) if isinstance(part, Rotary)), None)
    inner = rotary.inner if isinstance(rotary, Scaled) else rotary
    base = getattr(inner, "base", None)
    rest: list[Scaling] = []
    for scaling in rotary.settled if isinstance(rotary, Scaled) else ():
        if isinstance(scaling, BaseChange):
            base = scaling.base
        elif isinstance(scaling, NTK) and base is not None and width > 2:
            base = grown_base(base, scaling.factor, width)
        else:
            rest.append(scaling)
    return base, rest[0] if len(rest) == 1 else None


def _by_name(scaling: Scaling, amplitude: float) -> Iterator[dict[str, Any]]:
    """A scaling as the rope type of its name, without base and share. Numbers are floats: transformers 4 asks for them.

    None for YaRN with an attention factor of 1: of a `longrope` that is what readers that drop the factor take.
    """
    if isinstance(scaling, Linear):
        yield {"rope_type": "linear", "factor": float(scaling.factor)}
    elif isinstance(scaling, Llama3):
        yield {
            "rope_type": "llama3",
            "factor": float(scaling.factor),
            "low_freq_factor": float(scaling.low_freq_factor),
            "high_freq_factor": float(scaling.high_freq_factor),
            "original_max_position_embeddings": scaling.original,
        }
    elif isinstance(scaling, LongRoPE):
        yield {
            "rope_type": "longrope",
            "short_factor": list(scaling.short_factor),
            "long_factor": list(scaling.long_factor),
            "factor": float(scaling.factor or 1.0),
            "original_max_position_embeddings": scaling.original,
            **({"attention_factor": float(amplitude)} if scaling.factor is None else {}),
        }
    elif isinstance(scaling, YaRN) and (amplitude != 1 or scaling.factor == 1):
        ramp = {
            "beta_fast": float(scaling.beta_fast),
            "beta_slow": float(scaling.beta_slow),
            "truncate": scaling.truncate,
        }
        yarn = {
            "rope_type": "yarn",
            "factor": float(scaling.factor),
            "original_max_position_embeddings": scaling.original,
            **{k: v for k, v in ramp.items() if v != getattr(YaRN, k)},
        }
        if scaling.attention_factor is None:
            scales = {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
            yield {**yarn, **{k: float(v) for k, v in scales.items() if v is not None}}
        yield {**yarn, "attention_factor": float(amplitude)}


def for_older_readers(model_type: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Entries for the top of a config that say the same as its `rope_parameters`, for readers that look there alone.

    Half of the truth would mislead. A family that older readers do not know by layer type gets no entry; and where they
    know one and cannot say its settings (no reader scales sliding layers), words stand in the place of a base, so that
    they stop there. So in the families whose readers drop a scaling.
    """
    by_type = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    if not by_type:
        older = _flat(settings, OLDER_NAMES.get(model_type, {}))
        kind = settings.get("rope_type", "default")
        unread = model_type in UNSCALED and kind != "default"
        unread |= model_type in UNSCALED_IN_MLX and kind == "proportional"
        # No rope_scaling beside it: transformers 5 would take that for the settings, and the words for their base.
        return {**older, "rope_theta": SEE_SETTINGS, "rope_scaling": None} if unread else older
    full, sliding = by_type.get("full_attention"), by_type.get("sliding_attention")
    names = BASES_BY_TYPE.get(model_type)
    if names is None or full is None or sliding is None:
        return {}
    older = _flat(full, {"rope_theta": names[0]})
    unsaid = sliding.get("rope_type", "default") != "default"
    unsaid |= older["rope_scaling"] is not None and model_type.startswith("modernbert")
    unsaid |= names[0] == names[1] and full["rope_theta"] != sliding["rope_theta"]
    return {names[1]: SEE_BY_TYPE} if unsaid else {**older, names[1]: sliding["rope_theta"]}


def _flat(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    top = {k: settings[k] for k in ("rope_theta", "partial_rotary_factor") if settings.get(k) is not None}
    if settings.get("rope_type", "default") == "default":
        return {**{names.get(k, k): v for k, v in top.items()}, "rope_scaling": None}
    inner = {k: v for k, v in settings.items() if k not in top}
    if settings["rope_type"] == "proportional":
        inner |= {k: v for k, v in top.items() if k == "partial_rotary_factor"}  # where mlx-lm looks
    if "partial_rotary_factor" in names:  # a reader by these names knows no scaling, and must not find them
        return {"rope_scaling": {**inner, **top}}
    return {**{names.get(k, k): v for k, v in top.items()}, "rope_scaling": inner}
