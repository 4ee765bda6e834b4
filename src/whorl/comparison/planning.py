"""Which trials a comparison has: what is asked for is checked, filled and named before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from whorl.checking import check_list, check_numbers
from whorl.encodings import Encoding, Layers, parse
from whorl.encodings.config import Known, format_value
from whorl.encodings.scaled import Scaled
from whorl.gguf_files.header import gguf_at, read_header
from whorl.hub import ADAPTER
from whorl.training.settings import MODELS, Settings

THEN = " then "
RAY_ADDRESS = re.compile(r"auto|local|(ray://)?(?P<host>[\w.-]+|\[[\da-fA-F:]+\]):(?P<port>\d+)")


@dataclass(frozen=True)
class Planned:
    """A trial that is to be run. `id` is a readable name and a digest of everything that determines it.

    `label` is the notation that was asked for ("hope"), `encoding` has its unset arguments filled in. `settings` are
    those of the comparison, but at the trial's own learning rate where several are tried. `tested` is the encoding that
    the trained model is evaluated with, where it is another, and `alike` the id of the trial that is trained alike and
    evaluated as it was trained.
    """

    encoding: Encoding
    seed: int
    id: str
    label: str
    settings: Settings
    tested: Encoding | None = None
    alike: str | None = None


@overload
def halves(asked: str) -> tuple[str, str | None]: ...
@overload
def halves(asked: str | Encoding) -> tuple[str | Encoding, str | None]: ...
def halves(asked: str | Encoding) -> tuple[str | Encoding, str | None]:
    """The encoding that is trained, and that which the trained model is evaluated with, where another is asked for.

    >>> halves("rope then rope~yarn:factor=4")
    ('rope', 'rope~yarn:factor=4')
    """
    if not isinstance(asked, str):
        return asked, None
    trained, _, tested = asked.partition(THEN)
    if THEN in tested:
        raise ValueError(f"{asked!r} has more than one `then`; write TRAINED then TESTED")
    return trained, tested or None


def written(asked: str | Encoding) -> str:
    """What is asked for, as reports call it."""
    trained, tested = halves(asked)
    return str(parse(trained)) if tested is None else f"{parse(trained)}{THEN}{parse(tested)}"


def check_asked(
    encodings: Sequence[str | Encoding],
    seeds: Sequence[int],
    settings: Settings,
    tested: Sequence[Encoding | None] | None = None,
) -> list[Encoding]:
    """The encodings of a run, with what they leave unset: its training length, and the registry's defaults.

    tested: that which each is evaluated with, where it is another. Raises ValueError when none or one twice is asked
    for.
    """
    parsed = [from_scratch(e, settings) for e in encodings]
    pairs = list(zip(parsed, tested or [None] * len(parsed), strict=True))
    for name, items in (("encoding", pairs), ("seed", list(seeds))):
        twice = next((i for n, i in enumerate(items) if i in items[:n]), None)
        if twice is not None:
            shown = THEN.join(str(e.without_defaults()) for e in twice if e) if isinstance(twice, tuple) else twice
            raise ValueError(f"the {name} {shown} is asked for twice; give it once")
        if not items:
            raise ValueError(f"no {name} was given; try {'rope hope' if name == 'encoding' else '--seeds 0'}")
    return parsed


def check_rates(rates: Sequence[float], one: float | None = None) -> list[float]:
    """The learning rates that are asked for, lowest first. Raises ValueError for one that is none, for one twice, and
    where `one` is given beside them."""
    found = check_list("learning_rates", rates, "[5e-4, 1e-3, 2e-3]")
    for rate in found:
        check_numbers(learning_rate=rate)
        if found.count(rate) > 1:
            raise ValueError(f"the learning rate {rate:g} is asked for twice; give it once")
    if found and one is not None:
        raise ValueError(f"both learning_rate ({one:g}) and learning_rates are given; give one of them")
    return sorted(map(float, found))


def from_scratch(encoding: str | Encoding, settings: Settings) -> Encoding:
    """The encoding with what it leaves unset, where no host says it."""
    return parse(encoding).filled(settings.known).with_defaults()


def as_trained(other: Encoding, trained: Encoding) -> Encoding:
    """What a model is read with, with the base and the turning share that it is trained with, where it leaves them
    unset. Raises ValueError where the model has several of them and the other leaves it open which."""
    known = Known(base=_trained_at("base", trained, other), fraction=_trained_at("fraction", trained, other))
    return other.filled(known)


def _trained_at(argument: str, trained: Encoding, asked: Encoding) -> float | None:
    """What the parts of one encoding have of an argument that another leaves unset; None where none has it."""
    found: list[float] = sorted({x for part in _parts(trained) if (x := getattr(part, argument, None)) is not None})
    if len(found) > 1 and any(getattr(part, argument, 0) is None for part in _parts(asked)):
        values = " and ".join(format_value(x) for x in found)
        raise ValueError(
            f"{trained} is trained with {argument} {values}, and {asked}, with which it is to be read, leaves open "
            f"which; give it, by layer if need be, as rope:{argument}={format_value(found[0])}/rope:{argument}=..."
        )
    return found[0] if len(found) == 1 else None


def _parts(encoding: Encoding) -> list[Encoding]:
    """Those of all layers, without their scalings."""
    rules = encoding.rules if isinstance(encoding, Layers) else (encoding,)
    return [term.inner if isinstance(term, Scaled) else term for rule in rules for term in rule.terms]


def plan_trials(
    encodings: Sequence[str | Encoding],
    seeds: Sequence[int],
    settings: Settings,
    data_fingerprint: str,
    labels: Sequence[str] | None = None,
    learning_rates: Sequence[float] = (),
    tested: Sequence[Encoding | None] | None = None,
) -> list[Planned]:
    """The trials in the order in which they run: all encodings of the first seed, each at all rates, then of the next.
    What is evaluated with another encoding comes last of a seed, and finds its model trained where that is asked for.

    settings must be resolved, encodings, seeds and learning rates checked. labels: the notations that were asked for,
    where the encodings have been filled since. learning_rates: without any, that of the settings. tested: that which
    each is evaluated with, where it is another.
    """
    labels = labels or [str(parse(e)) for e in encodings]
    parsed = [from_scratch(e, settings) for e in encodings]
    at_rates = [replace(settings, learning_rate=rate) for rate in learning_rates] or [settings]
    trials = []
    asked = list(zip(parsed, tested or [None] * len(parsed), labels, strict=True))
    for seed in seeds:
        for encoding, other, label in sorted(asked, key=lambda one: one[1] is not None):
            for own in at_rates:
                name = _id(encoding, None, seed, own, data_fingerprint)
                if other is None:
                    trials.append(Planned(encoding, seed, name, label, own))
                else:
                    whole = _id(encoding, other, seed, own, data_fingerprint)
                    trials.append(Planned(encoding, seed, whole, label, own, other, alike=name))
    return trials


def _id(encoding: Encoding, tested: Encoding | None, seed: int, settings: Settings, data_fingerprint: str) -> str:
    what = {"encoding": encoding.to_dict(), "seed": seed, "settings": settings.to_dict(), "data": data_fingerprint}
    if tested is not None:
        what["tested"] = tested.to_dict()
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
    shown = THEN.join(str(e.without_defaults()) for e in (encoding, tested) if e is not None)
    slug = re.sub(r"[^a-z0-9.]+", "-", shown)[:48].strip("-")
    return f"{slug}-s{seed}-{digest}"


def check_model(model: str) -> None:
    """Refuses a model that is neither a preset nor a path that is there, a GGUF file that is not whole, and a folder
    with an adapter, which stock code would put on the model. Hub names have exactly one slash."""
    if model in MODELS:
        return
    if (file := gguf_at(model)) is not None:
        read_header(file)
    elif not Path(model).exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError(
            f"model {model!r} is neither {', '.join(MODELS)} nor a path that is there; "
            "give a preset, a Hugging Face config.json, a model directory or a .gguf file"
        )
    elif (Path(model) / ADAPTER).exists():
        raise ValueError(
            f"{model} holds a PEFT adapter, and a comparison trains whole models; give the merged one "
            "(model.merge_and_unload().save_pretrained(directory)), or a folder without the adapter"
        )
