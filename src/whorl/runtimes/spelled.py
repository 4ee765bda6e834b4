"""What a written config says of positions, by the kinds that set engines apart.

Engines are alike in which rope types they know, and differ in which of their numbers they drop. So a config says one or
more kinds: its rope type, and beside it each number that some engine drops or reckons anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whorl.attaching import attached
from whorl.attaching.reading import same_spectrum
from whorl.attaching.stock import stock_form
from whorl.encodings import Encoding
from whorl.encodings.nope import NoPE
from whorl.encodings.rope import Rotary
from whorl.encodings.scalings.yarn import YaRN
from whorl.hosts.transformers.rope_settings import (
    MSCALES,
    by_layer_type,
    encoding_from,
    length_dependent,
    longrope_amplitudes,
    rope_parameters,
    rope_type,
    same_amplitude,
    turning_share,
)
from whorl.hosts.transformers.stock_terms import BASES_BY_TYPE, candidates

KINDS = {
    "base": "a base: RoPE",
    "part": "a base, on a part of each head",
    "proportional": "HoPE, p-RoPE, NoPE",
    "linear": "position interpolation",
    "llama3": "Llama 3's scaling",
    "yarn": "YaRN",
    "yarn: another factor": "YaRN whose factor is not max_position_embeddings by the original length",
    "yarn: own attention": "YaRN with an attention factor of its own",
    "yarn: mscale": "YaRN with mscale and mscale_all_dim",
    "yarn: untruncated": "YaRN with truncate=false",
    "yarn: own turns": "YaRN whose beta_fast and beta_slow are not 32 and 1",
    "longrope": "a list of frequencies: scaled HoPE and p-RoPE, and all else",
    "longrope: rounded attention": "such a list with an attention factor that its lengths, whole tokens, give nearly",
    "longrope: own attention": "such a list with an attention factor that no lengths give",
    "longrope: no mscale": "such a list whose attention factor short_mscale and long_mscale do not repeat",
    "by length": "frequencies that go by the length: dynamic NTK, LongRoPE with two lists",
    "sliding base": "a base for sliding layers other than 10,000 (Olmo 3: than the full layers')",
    "sliding scaled": "scaled sliding layers, HoPE and p-RoPE in them",
    "table": "a learned table",
}
LOCAL_BASE = 10000.0  # of sliding layers, where an engine knows no other
ENOUGH = 2**-10  # half a rounding of bfloat16: how far an attention factor may be from the one that lengths give
HEAD_DIM = 64
TURNS = {"beta_fast": 32, "beta_slow": 1}  # YaRN's; stock takes 0 for "not given"


def kinds(model: Any) -> tuple[str, ...]:
    """The kinds that the directory of this model says, stock or with an encoding attached.

    Raises ValueError, with the reason, where stock terms cannot say the encoding.
    """
    config = model.config.get_text_config()
    settings = rope_parameters(config)
    if attached(model) is not None:
        form = stock_form(model)
        if isinstance(form, str):
            raise ValueError(form)
        settings = form.config.get("rope_parameters", {})
    return kinds_of(settings, config.max_position_embeddings, config.model_type)


def kinds_of(settings: Mapping[str, Any], longest: int, model_type: str = "llama") -> tuple[str, ...]:
    """The kinds that rope settings say, flat or by layer type; `longest` is the config's max_position_embeddings."""
    if not settings:
        return ("table",)
    types = by_layer_type(settings)
    if not types:
        return _flat(settings, longest)
    full = types.get("full_attention", next(iter(types.values())))
    sliding = types.get("sliding_attention", full)
    one_base = len(set(BASES_BY_TYPE.get(model_type, ("full", "sliding")))) == 1
    if rope_type(sliding) != "default":
        return (*_flat(full, longest), "sliding scaled")
    expected = full.get("rope_theta") if one_base else LOCAL_BASE
    return (*_flat(full, longest), *(("sliding base",) if sliding.get("rope_theta") != expected else ()))


def kinds_of_encoding(encoding: Encoding, longest: int) -> tuple[str, ...]:
    """The kinds that a Llama with this encoding says; none for one that its config cannot say."""
    if isinstance(encoding, NoPE):
        return ("proportional",)
    if not isinstance(encoding, Rotary):
        return ()
    if getattr(encoding, "length_dependent", False):
        return ("by length",)
    spectrum = encoding.spectrum(HEAD_DIM)
    for settings in candidates(encoding, spectrum, HEAD_DIM, {"rope_theta": 10000.0}, longest):  # the default of all
        if same_spectrum(encoding_from(settings, HEAD_DIM, longest).spectrum(HEAD_DIM), spectrum):
            return kinds_of(settings, longest)
    return ()


def _flat(settings: Mapping[str, Any], longest: int) -> tuple[str, ...]:
    kind = rope_type(settings)
    if length_dependent(settings):
        return ("by length",)
    if kind == "default":
        return ("base",) if turning_share(settings) == 1 else ("part",)
    given = settings.get("attention_factor")
    original = settings.get("original_max_position_embeddings") or longest
    if kind == "yarn":
        factor = settings.get("factor") or longest / original
        mscales = [settings[key] for key in ("mscale", "mscale_all_dim") if settings.get(key)]
        odd = {
            "yarn: another factor": factor != longest / original,
            "yarn: own attention": given is not None and not _near(given, YaRN(factor, original).amplitude),
            "yarn: mscale": given is None and len(mscales) == 2,
            "yarn: untruncated": settings.get("truncate") is False,
            "yarn: own turns": any(settings.get(key) not in (None, 0, own) for key, own in TURNS.items()),
        }
        return ("yarn", *(name for name, is_so in odd.items() if is_so))
    if kind == "longrope":
        said, by_lengths = longrope_amplitudes(settings, longest)
        exact = same_amplitude(by_lengths, said)
        odd = {
            "longrope: rounded attention": not exact and _near(said, by_lengths),
            "longrope: own attention": not exact and not _near(said, by_lengths),
            "longrope: no mscale": not all(same_amplitude(settings.get(key, by_lengths), said) for key in MSCALES),
        }
        return ("longrope", *(name for name, is_so in odd.items() if is_so))
    return (kind,)


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= ENOUGH * abs(b)
