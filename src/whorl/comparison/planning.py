"""Which trials a comparison has: what is asked for is checked, filled and named before anything runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whorl.checking import check_list, check_numbers
from whorl.encodings import Encoding, Known, parse
from whorl.training.settings import MODELS, Settings

DEFAULT_ENCODINGS = ("rope", "hope", "p-rope:p=0.5")


@dataclass(frozen=True)
class Planned:
    """A trial that is to be run. `id` is a readable name and a digest of everything that determines it.

    `label` is the notation that was asked for ("hope"), `encoding` has its unset arguments filled in. `settings` are
    those of the comparison, but at the trial's own learning rate where several are tried.
    """

    encoding: Encoding
    seed: int
    id: str
    label: str
    settings: Settings


def check_asked(encodings: Sequence[str | Encoding], seeds: Sequence[int], settings: Settings) -> list[Encoding]:
    """The encodings of a run, with what they leave unset: its training length, and the registry's defaults.

    Raises ValueError when none or one twice is asked for.
    """
    parsed = [from_scratch(e, settings) for e in encodings]
    for name, items in (("encoding", parsed), ("seed", list(seeds))):
        twice = next((i for n, i in enumerate(items) if i in items[:n]), None)
        if twice is not None:
            shown = twice.without_defaults() if isinstance(twice, Encoding) else twice
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
    return parse(encoding).filled(Known(train_length=settings.train_tokens)).with_defaults()


def plan_trials(
    encodings: Sequence[str | Encoding],
    seeds: Sequence[int],
    settings: Settings,
    data_fingerprint: str,
    labels: Sequence[str] | None = None,
    learning_rates: Sequence[float] = (),
) -> list[Planned]:
    """The trials in the order in which they run: all encodings of the first seed, each at all rates, then of the next.

    settings must be resolved, encodings, seeds and learning rates checked. labels: the notations that were asked for,
    where the encodings have been filled since. learning_rates: without any, that of the settings.
    """
    labels = labels or [str(parse(e)) for e in encodings]
    parsed = [from_scratch(e, settings) for e in encodings]
    at_rates = [replace(settings, learning_rate=rate) for rate in learning_rates] or [settings]
    trials = []
    for seed in seeds:
        for encoding, label in zip(parsed, labels, strict=True):
            slug = re.sub(r"[^a-z0-9.]+", "-", str(encoding.without_defaults()))[:48].strip("-")
            for own in at_rates:
                what = {
                    "encoding": encoding.to_dict(),
                    "seed": seed,
                    "settings": own.to_dict(),
                    "data": data_fingerprint,
                }
                digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
                trials.append(Planned(encoding, seed, f"{slug}-s{seed}-{digest}", label, own))
    return trials


def check_model(model: str) -> None:
    """Refuses a model that is neither a preset nor a path that is there. Hub names have exactly one slash."""
    if model in MODELS or Path(model).exists() or re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return
    raise ValueError(
        f"model {model!r} is neither {', '.join(MODELS)} nor a path that is there; "
        "give a preset, a Hugging Face config.json, a model directory or a .gguf file"
    )
