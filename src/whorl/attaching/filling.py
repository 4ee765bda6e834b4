"""FILL: the arguments that an encoding leaves unset, by what a host's config says, or else by the registry's defaults.

`hope` attached to a Llama 3 becomes `hope:train_length=8192,base=500000`: a base of 10,000 would move every pair of a
model that was trained at 500,000. What was given stays. A host that turns a part of each head (GPT-NeoX, GLM) fills
`fraction`, so that the pairs that it has are the ones that are cut; `fraction=1` turns whole heads. Where layers have
bases of their own (Gemma 3), the filled encoding is a `Layers`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from whorl.encodings import Encoding, Known, Layers, Scaling, Sum
from whorl.encodings.config import known_as
from whorl.encodings.layers import by_layer
from whorl.encodings.nope import NoPE
from whorl.encodings.rope import OfPairs, Rotary
from whorl.encodings.scaled import Scaled
from whorl.hosts import Host

WORDS = {
    "train_length": "train length",
    "max_positions": "positions",
    "original": "original length",
    "first": "first layer",
}


def filled(
    host: Host, encoding: Encoding, train_length: int | None = None, trained_with: Encoding | None = None
) -> Encoding:
    """The same encoding with its unset arguments as this host's config says them, or else at the registry's defaults.

    train_length: tokens, in place of the config's. trained_with: the encoding that the weights were trained with, whose
    base and turning share come before those of the config. Raises ValueError for an encoding that adds to the embedding
    and would have to differ by layer.
    """
    said = _said(host, train_length, trained_with)
    if isinstance(encoding, Layers):
        return _filled_by_rule(host, encoding, said)
    turning = [i for i, turns in enumerate(host.turns) if turns]
    kinds = dict.fromkeys(encoding.filled(said[i]).with_defaults() for i in turning or range(len(said)))
    if len(kinds) == 1:
        return next(iter(kinds))
    if "add" in encoding.kinds:
        raise ValueError(
            f"the layers of {type(host.model).__name__} turn in {len(kinds)} ways, and {encoding}, which adds to the "
            f"embedding once for all of them, would have to differ by layer; give its base, as rope:base=10000"
        )
    every = range(len(said))
    return by_layer([_of_layer(host, encoding, i).filled(said[i]).with_defaults() for i in every], host.layer_types)


def completed(host: Host, encoding: Encoding) -> Encoding:
    """The same encoding with the registry's defaults where it leaves arguments unset, whatever the host's config says.

    So are records of earlier versions and comparisons from scratch meant: whole heads turn.
    """
    partial = any(one.fraction is not None for one in _said(host))
    return encoding.with_defaults().filled(Known(fraction=1.0 if partial else None))


def what_was_filled(
    host: Host,
    asked: Encoding,
    given: Encoding,
    train_length: int | None = None,
    trained_with: Encoding | None = None,
) -> str:
    """In words, which arguments of `asked` were filled to make `given`, and from where; empty where none were.

    >>> what_was_filled(host, parse("hope"), filled(host, parse("hope")))
    "hope: train length 8,192 and base 500,000 from the model's config"
    """
    said, stated = _said(host, train_length, trained_with), _said(host)
    own = _said(host, trained_with=trained_with)
    found: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {}  # by name, source, argument, value: layer types
    dropped: dict[str, None] = {}
    turned: dict[str, None] = {}
    for index, layer_type in enumerate(host.layer_types):
        for before, after in zip(*(_parts(e.for_layer(index, layer_type)) for e in (asked, given)), strict=False):
            for argument, value, source in _filled(before, after, said[index], stated[index], own[index]):
                values = found.setdefault(before.name, {}).setdefault(source, {}).setdefault(argument, {})
                types = values.setdefault(value, [])
                if layer_type not in types:
                    types.append(layer_type)
                scaling = host.scaling(layer_type)
                if argument == "base" and source == STATED and scaling is not None:
                    dropped[scaling] = None
                if argument == "base" and (more := _turned_besides(host, index, after)):
                    turned[more] = None
    lines = []
    for name, sources in found.items():
        told = []
        for source, arguments in sources.items():
            told.append(f"{_joined([_argument(a, values) for a, values in arguments.items()])} {source}")
        lines.append(f"{name}: {', '.join(told)}")
    if dropped:
        lines[-1] += f", without its {' and '.join(dropped)} scaling"
    if turned:
        lines[-1] += f", and turns {' and '.join(turned)}"
    return "; ".join(lines)


STATED, DEFAULT = "from the model's config", "by default, since the model's config states none"
OF_RUN, OF_SCALED, OF_OWN = "of this run", "as what it scales", "of the encoding that it was trained with"


def _said(host: Host, train_length: int | None = None, trained_with: Encoding | None = None) -> list[Known]:
    """What each layer's config says, asked once for layers that are alike, and how many there are; of the encoding that
    it was trained with, where one is given, the base and the share that turns."""
    kinds: dict[Any, Known] = {}
    layers = len(host.shapes)
    for index, kind in enumerate(zip(host.layer_types, host.shapes, strict=True)):
        if kind not in kinds:
            kinds[kind] = replace(host.says(index), layers=layers, third=layers // 3)
    said = [kinds[kind] for kind in zip(host.layer_types, host.shapes, strict=True)]
    if trained_with is not None:
        rules = [trained_with.for_layer(i, t) for i, t in enumerate(host.layer_types)]
        said = [_as_trained(known, rule) for known, rule in zip(said, rules, strict=True)]
    return said if train_length is None else [replace(one, train_length=train_length) for one in said]


def _as_trained(known: Known, rule: Encoding) -> Known:
    """What is known of a layer that was trained with this encoding."""
    terms = [term.inner if isinstance(term, Scaled) else term for term in rule.terms]
    told = [{name: getattr(term, name, None) for name in ("base", "fraction")} for term in terms]
    found = {name: value for one in told for name, value in one.items() if value is not None}
    return replace(known, **found, **({"part": found["fraction"]} if "fraction" in found else {}))


def _filled_by_rule(host: Host, encoding: Layers, said: list[Known]) -> Encoding:
    """Each rule by what its layers say; where they do not agree, a rule for each layer type or layer."""
    each = [encoding.for_layer(i, t).filled(said[i]).with_defaults() for i, t in enumerate(host.layer_types)]
    rules = []
    for number, rule in enumerate(encoding.rules):
        if encoding.types is None:
            mine = each[number :: len(encoding.rules)]
        else:
            mine = [e for e, t in zip(each, host.layer_types, strict=True) if t == encoding.types[number]]
        kinds = set(mine) or {rule.filled(said[0]).with_defaults()}  # a rule that no layer of this host goes by
        if len(kinds) > 1:
            return by_layer(each, host.layer_types)
        rules.append(kinds.pop())
    return encoding.with_rules(rules)


def _of_layer(host: Host, encoding: Encoding, index: int) -> Encoding:
    """What one encoding for all layers means in this one: a layer that the host does not turn stays so."""
    if host.turns[index]:
        return encoding
    still = [part for part in getattr(encoding, "parts", (encoding,)) if "rotate" not in part.kinds]
    return NoPE() if not still else still[0] if len(still) == 1 else Sum(tuple(still))


def _parts(encoding: Encoding) -> list[Any]:
    """The encodings and scalings of a composition in their order."""
    if isinstance(encoding, Sum):
        return [one for part in encoding.parts for one in _parts(part)]
    return [encoding.inner, *encoding.scalings] if isinstance(encoding, Scaled) else [encoding]


def _filled(before: Any, after: Any, said: Known, stated: Known, own: Known) -> Iterator[tuple[str, str, str]]:
    """(argument, value, source) of every argument that is unset before and set after."""
    if type(before) is not type(after):
        return
    for field in dataclasses.fields(before):
        value = getattr(after, field.name)
        if getattr(before, field.name) is not None or value is None:
            continue
        at, told = known_as(field, said), known_as(field, stated)
        otherwise = OF_SCALED if isinstance(before, Scaling) else DEFAULT
        of_own = OF_OWN if value == known_as(field, own) else OF_RUN
        source = STATED if value == told else of_own if value == at else otherwise
        yield field.name, _shown(value), source


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return f"{value:,.12g}" if isinstance(value, float) else f"{value:,}"


def _turned_besides(host: Host, index: int, encoding: Any) -> str | None:
    """What an encoding turns of a layer that the model's config does not rotate, in words; None for nothing."""
    kept = host.kept(index)
    if kept is None or not isinstance(encoding, OfPairs):
        return None
    head_dim = host.shapes[index].head_dim
    turns = encoding.width(head_dim) // 2
    if isinstance(encoding, Rotary):
        turns = len(encoding.spectrum(head_dim).turning)
    return f"{turns} pairs of {head_dim // 2}, of which the config turns {kept}" if turns > kept else None


def _argument(name: str, values: dict[str, list[str]]) -> str:
    """`base 500,000`, or by layer type where they differ: `base 1,000,000 (full_attention) and 10,000 (...)`."""
    told = list(values) if len(values) == 1 else [f"{value} ({', '.join(types)})" for value, types in values.items()]
    return f"{WORDS.get(name, name)} {' and '.join(told)}"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
