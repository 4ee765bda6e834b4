"""Settings of positions that are written and that nobody reads, or that say two things.

At the top of a config    transformers keeps a key that the config class does not declare, and no code looks at it. Some
                          say what another setting says as well (whorl writes such for older readers): those must agree.
Among the rope settings   each rope type reads its own keys and drops the others, with a log line at most.
The original length       is written in up to three places, and frequencies and reach depend on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from whorl.diagnosis.meaning import SETTINGS
from whorl.diagnosis.reading import Reading
from whorl.diagnosis.subject import Subject
from whorl.hosts import head_dim_of
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.rope_settings import (
    BASE_NAMES,
    FOREIGN_BASE_NAMES,
    LISTS,
    MSCALES,
    OF_EVERY_TYPE,
    READ,
    by_layer_type,
    rope_parameters,
    rope_type,
    same_amplitude,
    turning_share,
)

POSITIONAL = re.compile(r"(^|_)(rope|rotary|alibi|ntk|yarn|nope|logn)(_|$)|pos(ition)?_(emb|enc)|no_rope")
COMMON = {*OF_EVERY_TYPE, "original_max_position_embeddings"}
ALIASES = {("su", "longrope"), ("mrope", "default"), ("rope", "default")}  # old names of types, beside the new ones
SHARES = ("rotary_pct", "rope_pct", "rotary_percentage", "rotary_emb_fraction", "partial_rotary_factor")
WIDTHS = ("rotary_dim", "rotary_ndims", "rope_dim")
INTERVALS = ("no_rope_layer_interval", "nope_layer_interval")
NUMBERS = (*SHARES, *WIDTHS, *INTERVALS, "rope_ratio")
OF_OTHER_CHECKS = {
    *("rope_theta", *BASE_NAMES, *FOREIGN_BASE_NAMES),
    *("original_max_position_embeddings", "rope_parameters", "rope_scaling"),
}


def contradicted(subject: Subject) -> list[str]:
    """Keys that say something that the model does not do, and rope settings that say two things; in words."""
    found = [f"{key} is {value!r}: {why}" for key, value, why in _top(subject) if why != UNKNOWN]
    for r in subject.readings if subject.encoding is None and subject.host.rotary is not None else ():
        label = f"{r.label}: " if r.label else ""
        found += [
            f"{label}{words}"
            for words in (*_unknown(subject, r.settings), *_twice(r), *_alone(subject, r), *_lists(r), *_mscales(r))
        ]
    return [*found, *_beside_types(subject), *_window(subject)]


def unread(subject: Subject) -> list[str]:
    """Keys that look positional, that the class does not declare and that its code does not name."""
    return [f"{key} is {value!r}" for key, value, why in _top(subject) if why == UNKNOWN]


UNKNOWN = "nothing reads it"


def _top(subject: Subject) -> list[tuple[str, Any, str]]:
    """(key, value, why it is a fault) of the config's own keys, as the model has it and as the file says it."""
    if subject.encoding is not None:
        return []
    said = dict(vars(subject.config))
    if subject.files is not None:
        said = {**said, **subject.files.text_config}
    found = []
    for key, value in said.items():
        if key in OF_OTHER_CHECKS or key.startswith("_") or not POSITIONAL.search(key) or not value:
            continue
        claim = _claim(subject, key, value)
        if claim is None:
            if not _declared(subject.config, key) and not _named(subject, key):
                found.append((key, value, UNKNOWN))
        elif claim and not (_declared(subject.config, key) and _named(subject, key)):
            found.append((key, value, claim))
    return found


def _claim(subject: Subject, key: str, value: Any) -> str | None:
    """What is wrong with what a known key says; "" where the model does that; None for a key of unknown meaning."""
    does = _does(subject)
    if key in NUMBERS and not (isinstance(value, int | float) and math.isfinite(value)):
        return "it takes a number"
    if key in SHARES or key in WIDTHS:
        if subject.host.rotary is None:
            return "the model turns nothing"
        width = head_dim_of(subject.config, subject.host.attentions[0])
        wanted = value if key in SHARES else value / width
        shares = {r for reading in subject.readings for r in _shares(reading)}
        if any(abs(wanted - s) < 1e-9 or int(wanted * width) == int(s * width) for s in shares):
            return ""
        if key == "partial_rotary_factor" and _given_by_class(subject.config, value):
            return ""
        return f"{', '.join(f'{s:g}' for s in sorted(shares))} of each head turns"
    if key == "rope_ratio":
        bases = {float(r.settings.get("rope_theta") or 0) for r in subject.readings} if does == "rotary" else set()
        return "" if value == 1 or any(abs(b / (1e4 * value) - 1) < 1e-6 for b in bases) else "the base is not scaled"
    if key in ("position_embedding_type", "position_encoding_type", "pos_emb", "positional_encoding", "pos_embd"):
        names = {"rotary": ("rope", "rotary", "default"), "learned": ("absolute", "learned"), "none": ("nope", "none")}
        return "" if any(n in str(value).lower() for n in names[does]) else f"the model's positions are {does}"
    if key in ("use_rope", "use_rotary", "rotary", "use_rotary_embeddings"):
        return "" if does == "rotary" else f"the model's positions are {does}"
    if key in ("use_dynamic_ntk", "use_ntk"):
        dynamic = does == "rotary" and any(rope_type(r.settings) == "dynamic" for r in subject.readings)
        return "" if dynamic else "no frequency depends on the length"
    if key in ("alibi", "use_alibi", "use_logn_attn"):
        return "nothing in this family does that"
    if key == "no_rope_layers":
        listed = isinstance(value, list) and len(value) == len(subject.host.turns)
        return "" if listed else "it takes a number for each layer"  # what it says is the matter of `pattern`
    if key in INTERVALS:
        turns = subject.host.turns
        return "" if turns == tuple((i + 1) % value != 0 for i in range(len(turns))) else "other layers turn"
    if key == "rope_type":
        kinds = sorted({rope_type(r.settings) for r in subject.readings}) if does == "rotary" else []
        return "" if value in kinds else f"the settings say {', '.join(kinds) or 'nothing'}"
    return None


def _given_by_class(config: Any, share: float) -> bool:
    """Whether the class itself says this share: transformers 5.17 keeps its own beside the one that is asked for."""
    fresh = type(config)()
    return share in (getattr(fresh, "partial_rotary_factor", None), rope_parameters(fresh).get("partial_rotary_factor"))


def _does(subject: Subject) -> str:
    if subject.host.rotary is not None:
        return "rotary"
    return "none" if subject.host.position_table is None else "learned"


def _shares(r: Reading) -> set[float]:
    """The share of a head that turns, as the settings say it and as the module does it."""
    turning = 2 * len(r.done.turning) / r.sizes.head_dim
    return {turning} | ({turning_share(r.settings)} if not r.cause else set())


def _declared(config: Any, key: str) -> bool:
    cls = type(config)
    return key in getattr(cls, "__dataclass_fields__", {}) or hasattr(cls, key) or key in cls.attribute_map


def _named(subject: Subject, key: str) -> bool:
    """Whether the family's own code has this name as a word."""
    return compat.has_word(key, subject.host.model, subject.host.base, subject.config)


def _unknown(subject: Subject, settings: Mapping[str, Any]) -> list[str]:
    """Keys among the rope settings that no rope type has."""
    if rope_type(settings) not in READ:
        return []
    known = COMMON | SETTINGS  # those of another type are `meaning.unused`'s matter
    if rope_type(settings) == "longrope":
        known |= set(MSCALES)
    given = {k: v for k, v in settings.items() if k not in known and v is not None and not isinstance(v, dict)}
    shown = ", ".join(f"{k}={v!r}" for k, v in given.items() if not _named(subject, k))
    return [f"{shown} among the rope settings is read by nothing"] if shown else []


def _twice(r: Reading) -> list[str]:
    old, new = r.settings.get("type"), r.settings.get("rope_type")
    if old is None or new is None or old == new or any((old, new) == pair for pair in ALIASES):
        return []
    return [f"rope_type is {new!r} and type is {old!r}; {new!r} is read"]


def _alone(subject: Subject, r: Reading) -> list[str]:
    """YaRN's mscale and mscale_all_dim count together only; one of them alone is dropped."""
    if rope_type(r.settings) != "yarn" or r.settings.get("attention_factor") is not None:
        return []
    pair = {k: r.settings.get(k) for k in ("mscale", "mscale_all_dim")}
    given = [k for k, v in pair.items() if v]
    if len(given) != 1 or (given == ["mscale"] and pair["mscale"] == 1):  # 1 is what the formula has without it
        return []
    if compat.has_word(given[0], subject.host.base):  # DeepSeek's attention reads mscale_all_dim itself
        return []
    return [f"{given[0]}={pair[given[0]]:g} counts only beside {next(k for k in pair if k not in given)}"]


def _lists(r: Reading) -> list[str]:
    """Lists with a number for every pair: another length stops stock code, but for one number, which goes for all."""
    pairs = int(r.sizes.head_dim * turning_share(r.settings)) // 2
    lists = {k: r.settings.get(k) for k in LISTS}
    return [f"{k} has {len(v)} of {pairs} numbers" for k, v in lists.items() if isinstance(v, list) and len(v) != pairs]


def _window(subject: Subject) -> list[str]:
    size = subject.host.unmasked_window
    if size is None:
        return []
    return [
        f"sliding_window is {size!r}: this family masks nothing by it, and caches drop the keys before it; take it "
        f"out, or mask by it with +window:size={size} in the encoding"
    ]


def _mscales(r: Reading) -> list[str]:
    """Amplitudes of a longrope for vLLM and SGLang that are another than stock's."""
    if rope_type(r.settings) != "longrope" or r.meant is None:
        return []
    given = {k: r.settings[k] for k in MSCALES if r.settings.get(k) is not None}
    meant = r.meant.amplitude
    other = {k: v for k, v in given.items() if not (isinstance(v, int | float) and same_amplitude(v, meant))}
    return [f"{k}={v!r}, which vLLM multiplies by, is not the {meant:g} that is meant" for k, v in other.items()]


def _beside_types(subject: Subject) -> list[str]:
    """Flat settings beside those by layer type, where they say something else."""
    if subject.encoding is not None or not subject.host.typed:
        return []
    whole = rope_parameters(subject.config)
    inner = by_layer_type(whole).values()
    flat = {k: v for k, v in whole.items() if not isinstance(v, dict) and v is not None}
    if not inner:
        return []
    other = [k for k, v in flat.items() if k not in subject.host.layer_types and any(i.get(k) != v for i in inner)]
    if not other:
        return []
    return [f"{', '.join(f'{k}={flat[k]!r}' for k in other)} beside the settings by layer type is read by nothing"]


def originals(subject: Subject) -> list[int]:
    """Every original length that the config says, at its top and in its flat rope settings."""
    said: list[Any] = []
    configs: list[Mapping[str, Any]] = [vars(subject.config)]
    if subject.files is not None:
        configs.append(subject.files.text_config)
    for config in configs:
        places = [config, config.get("rope_parameters"), config.get("rope_scaling")]
        said += [p.get("original_max_position_embeddings") for p in places if isinstance(p, Mapping)]
    return sorted({int(n) for n in said if isinstance(n, int | float) and math.isfinite(n) and n})
