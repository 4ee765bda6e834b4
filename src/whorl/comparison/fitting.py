"""What the encodings of a comparison are on its model: filled, attached once for a look, which pairs turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from whorl.attaching import attach
from whorl.attaching.filling import completed, filled, what_was_filled
from whorl.attaching.reading import stock_encoding
from whorl.comparison.planning import THEN, as_trained, check_asked, from_scratch, halves
from whorl.encodings import Encoding, parse
from whorl.hosts import Host, host_of, trained_length
from whorl.results.trial import ModelFiles
from whorl.training.models import build_model, has_weights
from whorl.training.settings import Settings


def asked_for(
    encodings: Sequence[str | Encoding], seeds: Sequence[int], settings: Settings
) -> tuple[list[Encoding], list[Encoding | None], list[str]]:
    """The encodings that are trained, those that each is read with, where it is another, and what was filled, in words.

    Of "A then B", B has what it leaves unset as A says it, then as `filled_by_model` and `from_scratch` do. Settings
    must be resolved. Raises ValueError where none or one twice is asked for, and for B that is A.
    """
    trained, others = [halves(e)[0] for e in encodings], [halves(e)[1] for e in encodings]
    of_model, words = filled_by_model(trained, settings)
    tested = [
        None if other is None else _read_with(own, parse(asked) if has_weights(settings) else own, other, settings)
        for own, asked, other in zip([from_scratch(e, settings) for e in of_model], trained, others, strict=True)
    ]
    return check_asked(of_model, seeds, settings, tested), tested, words


def _read_with(own: Encoding, says: Encoding, other: str, settings: Settings) -> Encoding:
    """What a model that is trained with `own` is read with. says: what counts of that before what the model says."""
    found = from_scratch(filled_by_model([as_trained(parse(other), says)], settings)[0][0], settings)
    if found == own:
        raise ValueError(f"{own}{THEN}{found} reads with what it was trained with; give {own.without_defaults()} alone")
    return found


def filled_by_model(encodings: Sequence[str | Encoding], settings: Settings) -> tuple[list[Encoding], list[str]]:
    """The encodings with what a model with weights says of their unset arguments, and that in words.

    The training length is the model's own, or the run's where it is longer: the model is trained at both. A config
    without weights says nothing of an encoding that is trained from the start; the words are then of those that would
    be others by it.
    """
    parsed = [parse(e) for e in encodings]
    if settings.preset is not None or settings.task_class.body == "points":
        return parsed, []
    with torch.device("meta"):
        host = host_of(build_model(settings, vocab_size=1, eos_token_id=0, weights=False))
    if not has_weights(settings):
        return parsed, [line for encoding in parsed if (line := _not_by_config(host, encoding, settings))]
    length = max(settings.train_tokens, trained_length(host) or 0)
    given = [filled(host, encoding, length) for encoding in parsed]
    words = (what_was_filled(host, a, b, length) for a, b in zip(parsed, given, strict=True))
    return given, [line for line in words if line]


def _not_by_config(host: Host, asked: Encoding, settings: Settings) -> str | None:
    """What an encoding would be by the model's config, where it is trained as another, in words."""
    if "add" in asked.kinds:  # once for all layers, whatever each of them turns by
        return None
    trained = completed(host, from_scratch(asked, settings))
    by_config = filled(host, asked, settings.train_tokens)
    if by_config == trained:
        return None
    return f"{asked} is trained from the start as {trained}; by the model's config it would be {by_config}"


def attached_to_each(
    encodings: list[Encoding], settings: Settings, files: ModelFiles | None = None
) -> dict[Encoding, Host]:
    """Attaches every encoding to the model without its weights, so that what cannot work fails before any work.

    files: what the model is made of; None: what its path holds.
    """
    hosts = {}
    for encoding in encodings:
        with torch.device("meta"):
            model = build_model(settings, vocab_size=1, eos_token_id=0, weights=False, files=files)
        hosts[encoding] = host_of(attach(model, completed(host_of(model), encoding)))
    return hosts


def turning(encoding: Encoding, host: Host) -> dict[str, Any]:
    """How many pairs turn, of how many, and the wavelength in tokens of each (None: it does not rotate).

    Where layers differ, the counts are a list and the wavelengths are those of the layer in which most pairs turn.
    """
    spectra = [
        encoding.for_layer(i, layer_type).spectrum(shape.head_dim)
        for i, (layer_type, shape) in enumerate(zip(host.layer_types, host.shapes, strict=True))
    ]
    if all(s is None for s in spectra):
        return {"pairs_turning": None, "pairs": None, "wavelengths": None}
    counts = [0 if s is None else len(s.turning) for s in spectra]
    widest = max((s for s in spectra if s is not None), key=lambda s: len(s.turning))
    return {
        "pairs_turning": counts[0] if len(set(counts)) == 1 else tuple(counts),
        "pairs": max(shape.head_dim for shape in host.shapes) // 2,
        "wavelengths": tuple(w if math.isfinite(w) else None for w in widest.wavelengths),
    }


def own_encoding(model: Any) -> str:
    """What the model's own code does with positions, whatever is attached to it: what its weights were trained with."""
    return str(stock_encoding(host_of(model), at_any_length=False).without_defaults())
