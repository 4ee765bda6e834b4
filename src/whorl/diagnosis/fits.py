"""Which rotation the weights were trained with: the loss on a text under the usual bases, layouts and scalings.

A model runs under any base, at a higher loss and without a word. Nothing in the weights says the base; a text does.
Each candidate rotates q and k back from what the settings say and again by itself. The best of them is chosen on some
windows of the text and tested on the others, against the settings as they are, paired per window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from whorl.data.losses import entropy_of_counts
from whorl.diagnosis.answers import Answer, NotApplicable, NotAsked
from whorl.diagnosis.meaning import Turning, meant, other_reading, unscaled
from whorl.diagnosis.reading import Reading
from whorl.diagnosis.subject import Subject
from whorl.diagnosis.texts import Other, Turned, cut, interval, losses, require_text
from whorl.hosts.transformers.rope_settings import rope_type, turning_share
from whorl.results.diagnosis import FAIL, PASS, WARN
from whorl.watching import Layer

BASES = (1e4, 5e4, 1e5, 1.5e5, 5e5, 1e6, 5e6, 1e7)
LINEAR = (2.0, 4.0, 8.0)
SHARES = (0.25, 0.5, 0.75)
PIECES = 12  # windows that are wanted
CHOOSING = 4  # windows that the best candidate is chosen on
MATTERS = 0.02  # nats per token: two bases may read as well as each other
UNASKED = 500_000_000  # parameters past which nobody waits for this without having asked


@dataclass(frozen=True)
class Candidate:
    """Another rotation for the layers of one table. `matter` names the check whose matter the difference is, if any."""

    words: str
    turning: Turning
    layout: str
    settings: dict[str, Any]
    matter: str = ""


def fit(subject: Subject) -> Answer:
    text = require_text(subject)
    readings = [r for r in subject.readings if r.meant is not None]
    parameters = sum(p.numel() for p in subject.host.model.parameters())
    if not subject.text_given and parameters > UNASKED:
        raise NotAsked(f"dozens of forwards of {parameters / 1e9:.1f} billion parameters: give a text with --text")
    if any(r.cause for r in readings):
        raise NotApplicable("the module does not do what the settings say: see the other checks")
    text = cut(text, PIECES)
    if len(text) < 2 * CHOOSING:
        raise NotAsked(f"the text has {text.numel()} tokens: give a longer one with --text")
    found = [_of_table(subject, r, text) for r in readings]
    if not found:
        raise NotApplicable("no rope type that is known here")
    return max(found, key=lambda a: (PASS, WARN, FAIL).index(a.status))


def _of_table(subject: Subject, r: Reading, text: torch.Tensor) -> Answer:
    """The settings of one table against all candidates."""
    layout = "half" if subject.host.rotation is None else subject.host.rotation.layout
    label = f"{r.label}: " if r.label else ""
    choosing, testing = text[:CHOOSING], text[CHOOSING:]
    own = float(losses(subject, choosing, None).mean())
    best: tuple[float, Candidate | None] = (own, None)
    tried = 0
    for around in (_first, _second):
        for candidate in around(r, best[1], layout):
            loss = float(losses(subject, choosing, _in_layers(subject, r, candidate)).mean())
            best = min(best, (loss, candidate), key=lambda scored: scored[0])
            tried += 1
    chosen = best[1]
    if chosen is None:
        unigram = entropy_of_counts(text)
        if own > unigram:
            raise NotApplicable(f"loss {own:.3f}, above {unigram:.3f}, the entropy of single tokens")
        return Answer(
            PASS, f"{label}loss {own:.3f}; none of {tried} other bases, layouts, scalings and shares reads better"
        )
    return _tested(subject, r, chosen, testing, tried, label)


def _tested(subject: Subject, r: Reading, chosen: Candidate, text: torch.Tensor, tried: int, label: str) -> Answer:
    own, other = (losses(subject, text, way).mean(1).double() for way in (None, _in_layers(subject, r, chosen)))
    mean, half = interval(other - own)
    shown = (
        f"{label}loss {own.mean():.3f} as the settings say, {other.mean():.3f} with {chosen.words} (difference "
        f"{mean:+.3f} ± {half:.3f}, 99% over {len(text)} windows that it was not chosen on; the best of {tried})"
    )
    unigram = entropy_of_counts(text)
    if float(other.mean()) > unigram:
        raise NotApplicable(
            f"{shown}: above {unigram:.3f}, the entropy of single tokens; the model does not read this text"
        )
    if mean + half >= -MATTERS:
        return Answer(PASS, f"{shown}: no more than {MATTERS} nats better")
    if chosen.matter in ("layout", "proportional"):
        raise NotApplicable(f"{shown}: see that check")
    if chosen.matter == "extended":
        return Answer(WARN, f"{shown}: an extension that was not trained")
    return Answer(FAIL, shown)


def _in_layers(subject: Subject, r: Reading, candidate: Candidate) -> Other:
    """The candidate in the layers that this table serves."""
    turned = Turned(tuple(candidate.turning.frequencies.tolist()), candidate.layout, candidate.turning.amplitude)

    def other(layer: Layer) -> Turned | None:
        return turned if r.label in ("", subject.host.layer_types[layer.index]) else None

    return other


def _first(r: Reading, best: Candidate | None, layout: str) -> list[Candidate]:
    """One thing changed: the base (also in the other layout), the layout, the scaling, the share of the head."""
    other = "interleaved" if layout == "half" else "half"
    found = [*_made(r, r.settings, other, f"pairs {_said(other)}", "layout")]
    for base in BASES:
        settings = {**r.settings, "rope_theta": base}
        if abs(base / float(r.settings["rope_theta"]) - 1) > 0.01:
            found += _made(r, settings, layout, f"theta {base:,.0f}")
            found += _made(r, settings, other, f"theta {base:,.0f} and pairs {_said(other)}")
    found += _scalings(r, r.settings, layout, "")
    if (exchanged := other_reading(r.settings, r.sizes)) is not None:
        found.append(Candidate("the other reading of its share", exchanged, layout, r.settings, "proportional"))
    for part in SHARES if turning_share(r.settings) == 1 else (1.0,):
        settings = {**r.settings, "partial_rotary_factor": part}
        found += _made(r, settings, layout, f"partial_rotary_factor {part:g}")
    return found


def _second(r: Reading, best: Candidate | None, layout: str) -> list[Candidate]:
    """Around the best so far: another scaling on its base, another base under its scaling."""
    if best is None:
        return []
    if best.settings["rope_theta"] != r.settings["rope_theta"]:
        return list(_scalings(r, best.settings, best.layout, f"{best.words} and "))
    found: list[Candidate] = []
    for base in BASES:
        if abs(base / float(best.settings["rope_theta"]) - 1) > 0.01:
            found += _made(r, {**best.settings, "rope_theta": base}, best.layout, f"theta {base:,.0f} and {best.words}")
    return found


def _scalings(r: Reading, settings: dict[str, Any], layout: str, before: str) -> Iterator[Candidate]:
    """No scaling where there is one, and the usual ones where there is none."""
    if rope_type(settings) not in ("default", "proportional"):
        yield from _made(r, unscaled(settings), layout, f"{before}no scaling", "extended")
        return
    declared = r.sizes.max_position
    for factor in LINEAR if rope_type(settings) == "default" else ():
        original = max(1, int(declared / factor))
        scaled = {**unscaled(settings), "factor": factor, "original_max_position_embeddings": original}
        scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # which llama3 alone reads
        for name in ("linear", "yarn", "llama3"):
            yield from _made(r, {**scaled, "rope_type": name}, layout, f"{before}{name} x {factor:g}")


def _made(r: Reading, settings: dict[str, Any], layout: str, words: str, matter: str = "") -> Iterator[Candidate]:
    """The candidate, where the formula gives one that differs from what there is."""
    try:
        turning = meant(settings, r.sizes)
    except ValueError:  # a base or share that these sizes do not allow
        return
    if turning is not None and len(turning.turning):
        yield Candidate(words, turning, layout, settings, matter)


def _said(layout: str) -> str:
    return "in halves" if layout == "half" else "of neighbours"
