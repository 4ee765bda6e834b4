"""Stock's rope settings (a config's `rope_parameters`): what they mean as scalings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whorl.encodings.scalings import Scaling
from whorl.encodings.scalings.linear import Linear
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.scalings.longrope import LongRoPE
from whorl.encodings.scalings.ntk import NTK, DynamicNTK
from whorl.encodings.scalings.yarn import YaRN

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
