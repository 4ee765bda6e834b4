"""Stock's rope settings: which ones each rope type reads, and the encoding that they mean.

settings   a config's `rope_parameters`, or where they go by layer type, those of one: a rope type, its base
           (`rope_theta`), the share of a head that turns (`partial_rotary_factor`) and what the type reads besides
longest    the config's `max_position_embeddings`, tokens; None where it states none

The meaning is the papers', as `whorl.encodings` has it. Stock code does otherwise in these places:

- yarn's `truncate` is looked for beside the layer types where settings go by layer type, and so ignored;
- yarn where no pair lies on its ramp turns the ramp around (see `NTKByParts.divided`);
- yarn's mscale and mscale_all_dim count together only (`as_stock_reads` leaves a lone one out);
- llama3 with low_freq_factor equal to high_freq_factor gives NaN for a pair right at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE, Rotary
from whorl.encodings.scaled import Scaled
from whorl.encodings.scalings import Scaling
from whorl.encodings.scalings.linear import Linear
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.scalings.longrope import LongRoPE, amplitude_of
from whorl.encodings.scalings.ntk import NTK, DynamicNTK
from whorl.encodings.scalings.yarn import YaRN

OF_EVERY_TYPE = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
READ: dict[str, tuple[str, ...]] = {
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
LISTS = ("short_factor", "long_factor")
# What the code of a family's attention reads there, with what it reads it by (Ministral 3: a scale of q).
OF_ATTENTION = {"llama_4_scaling_beta": ("original_max_position_embeddings",)}
# Which of three positions each pair goes by (M-RoPE): rotary modules of these families read it under every type.
OF_POSITIONS = ("mrope_section", "mrope_interleaved")
# Of a longrope: vLLM and SGLang multiply by these, and not by attention_factor. Stock ignores them.
MSCALES = ("short_mscale", "long_mscale")
# Names of the base besides `rope_theta`: of stock configs of some families and times, and of other people's.
BASE_NAMES = ("rotary_emb_base", "global_rope_theta", "local_rope_theta", "rope_local_base_freq")
FOREIGN_BASE_NAMES = ("rope_base", "rotary_base")


def rope_parameters(config: Any) -> dict[str, Any]:
    """A config's rope settings, flat or by layer type; empty where it has none."""
    found = getattr(config, "rope_parameters", None)
    return found if isinstance(found, dict) else {}


def not_of_rotation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flat settings that other code reads than a rotary module: names that no rope type reads, and those of
    `OF_ATTENTION`."""
    names = {*OF_EVERY_TYPE, *MSCALES, *BASE_NAMES, *(name for read in READ.values() for name in read)}
    by = {name for key, read in OF_ATTENTION.items() if key in settings for name in read}
    return {key: value for key, value in settings.items() if key not in names or key in by}


def by_layer_type(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each layer type; empty where they are flat."""
    return {key: value for key, value in settings.items() if isinstance(value, dict)}


def of_layers(config: Any, layer_type: str, typed: bool = True) -> dict[str, Any] | None:
    """A config's rope settings for layers of a type; None where it says that they have none.

    typed: whether the family has frequencies by layer type. One that has not, and settings that go by it all the same,
    is taken to mean those of the type, or else the first ones.
    """
    settings = rope_parameters(config)
    first = settings if typed else next(iter(by_layer_type(settings).values()), settings)
    return settings.get(layer_type, first)


def rope_type(settings: Mapping[str, Any]) -> str:
    """The rope type, under its new name or its old one."""
    return settings.get("rope_type") or settings.get("type") or "default"


def reads(settings: Mapping[str, Any], key: str) -> bool:
    """Whether the rope type of these settings reads this one."""
    return key in READ.get(rope_type(settings), ())


def scaled_by(settings: Mapping[str, Any]) -> str | None:
    """The rope type, where it makes other frequencies than `rope_theta` alone gives; else None."""
    kind = rope_type(settings)
    unscaled = kind == "default" or (kind == "proportional" and settings.get("factor") in (None, 1))
    return None if unscaled else kind


def turning_share(settings: Mapping[str, Any]) -> float:
    """The share of a head that the settings let turn."""
    given = settings.get("partial_rotary_factor")
    return 1.0 if given is None else float(given)


def length_dependent(settings: Mapping[str, Any]) -> bool:
    """Whether the frequencies depend on the length of the input."""
    if rope_type(settings) == "dynamic":
        return not settings.get("alpha")
    return rope_type(settings) == "longrope" and settings.get("short_factor") != settings.get("long_factor")


def unscaled_up_to(settings: Mapping[str, Any], longest: int | None) -> int | None:
    """The tokens up to which the frequencies are those of the training. (`dynamic` goes by the longest alone.)"""
    original = settings.get("original_max_position_embeddings")
    return longest if rope_type(settings) == "dynamic" or not original else int(original)


def as_stock_reads(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of their own type that stock code drops: one mscale without the other."""
    both = settings.get("mscale") and settings.get("mscale_all_dim")
    return {k: v for k, v in settings.items() if both or k not in ("mscale", "mscale_all_dim")}


def longrope_amplitudes(settings: Mapping[str, Any], longest: int) -> tuple[float, float]:
    """What stock multiplies cos and sin by under these longrope settings, and what readers do that go by the lengths
    alone (`longest` and the original one)."""
    original = settings.get("original_max_position_embeddings") or longest
    by_lengths = amplitude_of(longest / original, original)
    given, factor = settings.get("attention_factor"), settings.get("factor")
    said = float(given) if given is not None else amplitude_of(factor, original) if factor else by_lengths
    return said, by_lengths


def same_amplitude(a: float, b: float) -> bool:
    """Whether two amplitudes are one in float32."""
    return abs(a - b) <= 2**-24 * abs(b)


def encoding_from(settings: Mapping[str, Any], head_dim: int, longest: int | None) -> Rotary:
    """The encoding that flat settings mean for heads of `head_dim` channels; what their type does not read is ignored.

    Raises ValueError for a rope type without a scaling, and for settings that lack a number or make no sense.
    """
    if settings.get("rope_theta") is None:
        raise ValueError(f"{sorted(settings)} have no rope_theta")
    base, share, kind = float(settings["rope_theta"]), turning_share(settings), rope_type(settings)
    inner: Rotary = RoPE(base) if share == 1 else PartialRoPE(share, base)
    if kind == "proportional":
        inner = PRoPE(share, base)
    if kind == "longrope":  # one number goes for all pairs
        pairs = inner.width(head_dim) // 2
        lists = {key: settings[key] for key in LISTS if isinstance(settings.get(key), list)}
        settings = {**settings, **{key: value * pairs for key, value in lists.items() if len(value) == 1}}
    scalings = scalings_from(settings, longest)
    return Scaled(inner, scalings) if scalings else inner


def from_stock(settings: Mapping[str, Any], longest: int | None = None) -> tuple[Scaling, ...]:
    """The scalings that settings ask for, every one of them; none for the default type.

    Raises ValueError as `scalings_from` does, for settings by layer type, and for a setting that the type never reads.
    """
    if types := by_layer_type(settings):
        raise ValueError(
            f"these rope_parameters go by layer type ({', '.join(types)}); pass those of one, e.g. settings[layer_type]"
        )
    kind = rope_type(settings)
    known = (*OF_EVERY_TYPE, *READ.get(kind, ()), *(MSCALES if kind == "longrope" else ()))
    unread = [k for k, v in settings.items() if v is not None and k not in known]
    if unread and kind in READ:
        raise ValueError(
            f"no scaling says {', '.join(unread)} under rope_type {kind!r}; it has {', '.join(READ[kind]) or 'none'}"
        )
    return scalings_from(settings, longest)


def scalings_from(settings: Mapping[str, Any], longest: int | None) -> tuple[Scaling, ...]:
    """The scalings that flat settings ask for, by what their type reads.

    `dynamic` needs the longest length, yarn, longrope and llama3 without an original length take it for one (as stock
    does), and yarn and longrope without a factor divide it by the original length. As in stock, attention_factor goes
    before the mscales and before longrope's factor, and Hunyuan's `alpha` under `dynamic`, NTK by that fixed factor,
    before `factor`.

    Raises ValueError for a rope type that no scaling says, and for a setting that is missing or makes no sense.
    """
    kind = rope_type(settings)
    if kind not in READ:
        raise ValueError(f"no scaling says rope_type {kind!r}; known are {', '.join(READ)}")
    arguments = {key: settings[key] for key in READ[kind] if settings.get(key) is not None}

    def needed(key: str) -> Any:
        if key not in arguments:
            raise ValueError(f"rope_type {kind!r} needs {key}, and {sorted(settings)} have none")
        return arguments.pop(key)

    def the_longest(use: str) -> int:
        if longest is None:
            raise ValueError(f"rope_type {kind!r} needs max_position_embeddings {use}; pass the config's")
        return longest

    if kind == "default" or (kind == "proportional" and not arguments):
        return ()
    if kind in ("linear", "proportional"):
        return (Linear(needed("factor")),)
    if kind == "dynamic":
        if alpha := arguments.get("alpha"):
            return (NTK(alpha),)
        return (DynamicNTK(needed("factor"), the_longest("for its original length"), step=1),)

    original = arguments.pop("original_max_position_embeddings", None)
    if original is None:
        original = the_longest("where it has no original_max_position_embeddings")
    elif isinstance(original, float) and original.is_integer():
        original = int(original)
    if kind == "llama3":
        low, high = needed("low_freq_factor"), needed("high_freq_factor")
        return (Llama3(needed("factor"), original, low, high),)
    if kind == "yarn":
        factor = arguments.pop("factor", None)
        if factor is None:
            factor = the_longest("where it has no factor") / original
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
        factor = max(the_longest("where it has no factor") / original, 1.0)
    return (LongRoPE(short, long, factor, original),)
