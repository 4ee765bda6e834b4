"""The encodings' registry and the notation. A new encoding adds one file and one line here.

The notation (on the command line, in results and reports) is what `str(encoding)` prints:

    rope                                  an encoding; its base is the model's own
    p-rope:p=0.5,base=5e5                 with arguments
    rope+window:size=32                   the effects of both
    rope+window:size=32/nope              cycled over the layers: local rotary, global position-free, ...
    full_attention=nope/sliding_attention=rope+window:size=32     by the host's layer types
    rope~yarn:factor=4,original=2048      scaled: yarn of rope's spectrum; more may follow, each after a ~

`~` binds tighter than `+`, and `+` tighter than `/`. The `+` of a number's exponent (`rope:base=1e+06`) is no sum.

Arguments that a host can fill (`base`, `train_length`, `fraction`, ...) are unset until they are given: on a model,
they are the model's own (`whorl.attaching.filling`); outside of any, or in a comparison from scratch, the registry's
defaults.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from whorl.checking import shown
from whorl.encodings.base import Encoding, Sum
from whorl.encodings.config import Known
from whorl.encodings.effects import Add, Bias, Effect, Reposition, Rotate, Scale, Score, Shape
from whorl.encodings.layers import Layers
from whorl.encodings.scaled import Scaled
from whorl.encodings.scalings import SCALINGS, Scaling
from whorl.encodings.spectrum import Spectrum
from whorl.notation import name_and_arguments
from whorl.registry import entry, look_up

REGISTRY = {
    "rope": "whorl.encodings.rope:RoPE",
    "hope": "whorl.encodings.hope:HoPE",
    "taper": "whorl.encodings.taper:Taper",
    "p-rope": "whorl.encodings.p_rope:PRoPE",
    "partial-rope": "whorl.encodings.partial_rope:PartialRoPE",
    "learned-rope": "whorl.encodings.learned_rope:LearnedRoPE",
    "grape-m": "whorl.encodings.grape_m:GRAPEM",
    "fope": "whorl.encodings.fope:FoPE",
    "pope": "whorl.encodings.pope:PoPE",
    "xpos": "whorl.encodings.xpos:XPos",
    "darope": "whorl.encodings.darope:DaRoPE",
    "selective-rope": "whorl.encodings.selective_rope:SelectiveRoPE",
    "repo": "whorl.encodings.repo:RePo",
    "axial-rope": "whorl.encodings.axial_rope:AxialRoPE",
    "hope-2d": "whorl.encodings.hope_2d:HoPE2D",
    "p-rope-2d": "whorl.encodings.p_rope_2d:PRoPE2D",
    "mixed-rope": "whorl.encodings.mixed_rope:MixedRoPE",
    "dinov3-rope": "whorl.encodings.dinov3_rope:DINOv3RoPE",
    "liere": "whorl.encodings.liere:LieRE",
    "frequencies": "whorl.encodings.frequencies:Frequencies",
    "nope": "whorl.encodings.nope:NoPE",
    "sinusoidal": "whorl.encodings.sinusoidal:Sinusoidal",
    "learned": "whorl.encodings.learned:Learned",
    "sincos-2d": "whorl.encodings.sincos_2d:SinCos2D",
    "learned-2d": "whorl.encodings.learned_2d:Learned2D",
    "alibi": "whorl.encodings.alibi:ALiBi",
    "euclidean-alibi": "whorl.encodings.euclidean_alibi:EuclideanALiBi",
    "alibi-2d": "whorl.encodings.alibi_2d:ALiBi2D",
    "lookhere": "whorl.encodings.lookhere:LookHere",
    "t5": "whorl.encodings.t5:T5Bias",
    "kerple": "whorl.encodings.kerple:Kerple",
    "fire": "whorl.encodings.fire:FIRE",
    "sandwich": "whorl.encodings.sandwich:Sandwich",
    "cope": "whorl.encodings.cope:CoPE",
    "shaw": "whorl.encodings.shaw:Shaw",
    "irpe": "whorl.encodings.irpe:IRPE",
    "dape": "whorl.encodings.dape:DAPE",
    "path": "whorl.encodings.path:PaTH",
    "path-fox": "whorl.encodings.path:PaTHFoX",
    "stick-breaking": "whorl.encodings.stick_breaking:StickBreaking",
    "linear": "whorl.encodings.linear:Linear",
    "window": "whorl.encodings.window:Window",
    "soft-window": "whorl.encodings.soft_window:SoftWindow",
    "randomized": "whorl.encodings.randomized:Randomized",
    "log-n": "whorl.encodings.log_n:LogN",
    "ssmax": "whorl.encodings.ssmax:SSMax",
    "llama4-scale": "whorl.encodings.llama4_scale:Llama4Scale",
    "mistral-scale": "whorl.encodings.mistral_scale:MistralScale",
    "head-scale": "whorl.encodings.head_scale:HeadScale",
    "fox": "whorl.encodings.fox:FoX",
    "grape-a": "whorl.encodings.grape_a:GrapeA",
    "pape": "whorl.encodings.pape:PaPE",
    "pape-ri": "whorl.encodings.pape_ri:PaPERI",
    "spe": "whorl.encodings.spe:SPE",
    "self-extend": "whorl.encodings.self_extend:SelfExtend",
    "rerope": "whorl.encodings.rerope:ReRoPE",
}

HINT = "`whorl list` shows what they do"
SUM = re.compile(r"(?<![0-9.][eE])\+")  # a plus, but for that of 1e+06

__all__ = [
    "REGISTRY",
    "SCALINGS",
    "Add",
    "Bias",
    "Effect",
    "Encoding",
    "Known",
    "Layers",
    "Reposition",
    "Rotate",
    "Scale",
    "Scaled",
    "Scaling",
    "Score",
    "Shape",
    "Spectrum",
    "Sum",
    "from_dict",
    "get",
    "get_scaling",
    "parse",
]


def get(name: str) -> type[Encoding]:
    """The encoding class of a registry name. Raises ValueError with a suggestion when there is none."""
    if name in SCALINGS and name not in REGISTRY:
        raise ValueError(f"{name} is no encoding but a scaling of one; write rope~{get_scaling(name).example}")
    return look_up("encoding", name, REGISTRY, HINT)


def get_scaling(name: str) -> type[Scaling]:
    """The scaling class of a name in `SCALINGS`. Raises ValueError with a suggestion when there is none."""
    if name in REGISTRY and name not in SCALINGS:
        raise ValueError(f"{name} is an encoding, and after a '~' comes a scaling (known: {', '.join(SCALINGS)})")
    return look_up("scaling", name, SCALINGS, HINT)


def build(name: str, arguments: Mapping[str, Any]) -> Encoding:
    """The encoding `name` with these arguments. Raises ValueError for an argument that it does not have or lacks."""
    shared = name in REGISTRY and name in SCALINGS
    if shared and arguments.keys() & {f.name for f in dataclasses.fields(get_scaling(name))}:
        raise ValueError(f"with {', '.join(arguments)}, {name} is a scaling; write rope~{get_scaling(name).example}")
    return get(name).of_arguments(arguments)


def parse(notation: str | Encoding) -> Encoding:
    """Reads the notation. Raises ValueError saying what was asked, what was found and what to try.

    >>> parse("p-rope:p=0.5")
    PRoPE(p=0.5, base=None, keep='fastest', fraction=None)
    """
    if isinstance(notation, Encoding):
        return notation
    if not isinstance(notation, str):
        raise ValueError(f"an encoding is a config or its notation, got {_what(notation)}")
    if "then" in notation.split():
        raise ValueError(
            f"{notation!r} is two encodings, to train with and to read with, which whorl compare takes; give one"
        )
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


def _what(given: Any) -> str:
    """What was given in the place of an encoding, and what to try."""
    if isinstance(given, type) and issubclass(given, Encoding):
        needed = [f.name for f in dataclasses.fields(given) if f.default is dataclasses.MISSING and f.init]
        return f"the class {given.__name__}; try {given.__name__}({', '.join(f'{name}=...' for name in needed)})"
    if isinstance(given, list | tuple):
        return f"{shown(given)}; try one of them, or Layers([...]), which cycles over the layers"
    if isinstance(given, Mapping):
        return f"{shown(given)}; try whorl.encodings.from_dict, which reads the JSON form"
    return f'{shown(given)}; try "rope", "hope" or whorl.HoPE()'


def check_names(notation: str) -> None:
    """Raises ValueError for a name in a notation that no encoding or scaling has. Nothing is imported, so that this can
    be asked before the seconds that PyTorch takes; what else is wrong, `parse` says."""
    for rule in "".join(notation.split()).split("/"):
        typed = _layer_type(rule)
        for term in SUM.split(rule if typed is None else typed[1]):
            name, *scalings = (part.partition(":")[0] for part in term.split("~"))
            if name and name not in SCALINGS:  # (a scaling in an encoding's place is told apart by `parse`)
                entry("encoding", name, REGISTRY, HINT)
            for scaling in scalings:
                if scaling not in REGISTRY:
                    entry("scaling", scaling, SCALINGS, HINT)


def from_dict(config: Mapping[str, Any]) -> Encoding:
    """Builds an encoding from its JSON form (`Encoding.to_dict`). Raises ValueError for what is none.

    An argument that is not there is unset. Files written before arguments could be so have all of them but `fraction`,
    and where it lacks, the whole head turned: `whorl.attaching.filling.completed` says so on a model.
    """
    name, arguments = _record("an encoding", config)
    if name == "sum":
        return Sum(tuple(from_dict(p) for p in _only(name, arguments, parts=list)["parts"]))
    if name == "scaled":
        given = _only(name, arguments, inner=Mapping, scalings=list)
        return Scaled(from_dict(given["inner"]), [_scaling_from_dict(s) for s in given["scalings"]])
    if name == "layers":
        rules = _only(name, arguments, rules=(list, Mapping))["rules"]
        if isinstance(rules, Mapping):
            return Layers({t: from_dict(r) for t, r in rules.items()})
        return Layers([from_dict(r) for r in rules])
    return build(name, arguments)


def _scaling_from_dict(config: Mapping[str, Any]) -> Scaling:
    name, arguments = _record("a scaling", config)
    return get_scaling(name).of_arguments(arguments)


def _record(what: str, config: Any) -> tuple[str, dict[str, Any]]:
    """The name in a JSON form, and the rest of it."""
    if not isinstance(config, Mapping) or not isinstance(config.get("name"), str):
        raise ValueError(f"{what}'s JSON form is an object with a 'name', got {config!r}")
    return config["name"], {k: v for k, v in config.items() if k != "name"}


def _only(name: str, arguments: dict[str, Any], **kinds: Any) -> dict[str, Any]:
    """The arguments, if they are these and of these kinds."""
    if arguments.keys() != kinds.keys() or not all(isinstance(arguments[k], kinds[k]) for k in kinds):
        raise ValueError(f"the JSON form of {name!r} holds {' and '.join(kinds)}, got {arguments!r}")
    return arguments


def _layer_type(rule: str) -> tuple[str, str] | None:
    """`full_attention=rope:base=5e5` -> ("full_attention", "rope:base=5e5"); None where no layer type is named.

    Raises ValueError for a number in the encoding's place: an argument that no colon stands before.
    """
    match = re.match(r"([a-z_][a-z0-9_]*)=(.*)", rule)
    if match and re.match(r"[-+.]?\d", match[2]):
        raise ValueError(
            f"{rule!r} gives layers of type {match[1]!r} the encoding {match[2]!r}, which is a number; arguments "
            "follow a colon, as in hope:train_length=4096"
        )
    return (match[1], match[2]) if match else None


def _parse_sum(text: str) -> Encoding:
    parts = [_parse_one(part) for part in SUM.split(text)]
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _parse_one(text: str) -> Encoding:
    encoding, *scalings = text.split("~")
    inner = build(*name_and_arguments(encoding))
    if not scalings:
        return inner
    if not all(scalings):
        raise ValueError(f"a scaling is missing after a '~' in {text!r}; write rope~yarn:factor=4,original=2048")
    read = [(get_scaling(name), arguments) for name, arguments in map(name_and_arguments, scalings)]
    return Scaled(inner, [scaling.of_arguments(arguments) for scaling, arguments in read])
