"""The encodings' registry and their notation. A new encoding adds one file and one line here.

The notation (on the command line, in results and reports) is what `str(encoding)` prints:

    rope                                  an encoding with its defaults
    p-rope:p=0.5,base=5e5                 with arguments
    rope+window:size=32                   the effects of both
    rope+window:size=32/nope              cycled over the layers: local rotary, global position-free, ...
    full_attention=nope/sliding_attention=rope+window:size=32     by the host's layer types
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
from collections.abc import Mapping
from typing import Any

from whorl.encodings.base import Add, Bias, Effect, Encoding, Rotate, Shape
from whorl.encodings.composition import Layers, Sum
from whorl.encodings.spectrum import Spectrum

REGISTRY = {
    "rope": "whorl.encodings.rope:RoPE",
    "hope": "whorl.encodings.hope:HoPE",
    "p-rope": "whorl.encodings.p_rope:PRoPE",
    "partial-rope": "whorl.encodings.partial_rope:PartialRoPE",
    "frequencies": "whorl.encodings.frequencies:Frequencies",
    "nope": "whorl.encodings.nope:NoPE",
    "sinusoidal": "whorl.encodings.sinusoidal:Sinusoidal",
    "learned": "whorl.encodings.learned:Learned",
    "alibi": "whorl.encodings.alibi:ALiBi",
    "t5": "whorl.encodings.t5:T5Bias",
    "kerple": "whorl.encodings.kerple:Kerple",
    "window": "whorl.encodings.window:Window",
}

__all__ = [
    "REGISTRY",
    "Add",
    "Bias",
    "Effect",
    "Encoding",
    "Layers",
    "Rotate",
    "Shape",
    "Spectrum",
    "Sum",
    "from_dict",
    "get",
    "parse",
]


def get(name: str) -> type[Encoding]:
    """The encoding class of a registry name. Raises ValueError with a suggestion when there is none."""
    if name not in REGISTRY:
        close = difflib.get_close_matches(name.lower().replace("_", "-"), REGISTRY, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "`whorl list` shows what they do"
        raise ValueError(f"unknown encoding {name!r}; {hint} (known: {', '.join(REGISTRY)})")
    module, _, attribute = REGISTRY[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(name: str, arguments: Mapping[str, Any]) -> Encoding:
    """The encoding `name` with these arguments. Raises ValueError for an argument that it does not have or lacks."""
    cls = get(name)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in arguments:
        if key not in fields:
            takes = f"it takes {', '.join(fields)}" if fields else "it takes none"
            raise ValueError(f"{name} has no argument {key!r}; {takes}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in arguments:
            raise ValueError(f"{name} needs {key}; try {name}:{key}=256")
    return cls(**arguments)


def parse(notation: str | Encoding) -> Encoding:
    """Reads the notation. Raises ValueError saying what was asked, what was found and what to try.

    >>> parse("p-rope:p=0.5")
    PRoPE(p=0.5, base=10000.0, keep='fastest')
    """
    if isinstance(notation, Encoding):
        return notation
    text = "".join(notation.split())
    if not text:
        raise ValueError("an empty encoding; try rope, hope or p-rope:p=0.5")
    if "/" not in text and not _layer_type(text):
        return _parse_sum(text)
    rules = text.removesuffix("/").split("/")
    typed = [_layer_type(rule) for rule in rules]
    if not any(typed):
        return Layers([_parse_sum(rule) for rule in rules])
    if not all(typed):
        raise ValueError(f"{notation!r} names a layer type for some layers and not for others; name it for all or none")
    keys = [t for t, _ in filter(None, typed)]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{notation!r} names a layer type twice; give each type one encoding")
    return Layers({t: _parse_sum(rule) for t, rule in filter(None, typed)})


def from_dict(config: Mapping[str, Any]) -> Encoding:
    """Builds an encoding from its JSON form (`Encoding.to_dict`). Raises ValueError for an unknown key."""
    if "name" not in config:
        raise ValueError(f"an encoding's JSON form needs a 'name', got the keys {sorted(config)}")
    arguments = {k: v for k, v in config.items() if k != "name"}
    if config["name"] == "sum":
        return Sum(tuple(from_dict(p) for p in arguments["parts"]))
    if config["name"] == "layers":
        rules = arguments["rules"]
        if isinstance(rules, Mapping):
            return Layers({t: from_dict(r) for t, r in rules.items()})
        return Layers([from_dict(r) for r in rules])
    return build(config["name"], arguments)


def _layer_type(rule: str) -> tuple[str, str] | None:
    """`full_attention=rope:base=5e5` -> ("full_attention", "rope:base=5e5"); None where no layer type is named."""
    match = re.match(r"([a-z_][a-z0-9_]*)=(.*)", rule)
    return (match[1], match[2]) if match else None


def _parse_sum(text: str) -> Encoding:
    parts = [_parse_one(part) for part in text.split("+")]
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _parse_one(text: str) -> Encoding:
    name, colon, rest = text.partition(":")
    arguments: dict[str, Any] = {}
    for item in rest.split(",") if colon else []:
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise ValueError(f"cannot read {item!r} in {text!r}; write arguments as {name}:key=value,key=value")
        if key in arguments:
            raise ValueError(f"{key!r} stands twice in {text!r}; give it once")
        arguments[key] = _value(value)
    return build(name, arguments)


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
