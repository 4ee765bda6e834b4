"""What is found by asking an encoding, and a tiny Llama that it is attached to.

Sentences are Markdown, with links as from a page in docs/encodings.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from whorl.attaching import attach
from whorl.encodings import REGISTRY, Encoding, Known, Score, Shape, get, parse
from whorl.encodings.rope import Rotary
from whorl.encodings.scores import ScoreModule
from whorl.hosts.transformers.tiny import tiny_model
from whorl.numerics import logits_and_budget, max_error
from whorl.reports.formatting import listing

VERBS = {  # of which a sum has one
    "rotate": "rotate q and k",
    "add": "add to the embedding",
    "softmax": "take the softmax's place",
    "window": "are windows",
}
BESIDE = {"window", "scale", "positions"}  # what does nothing by itself, but to another encoding or beside one
HEADS, CHANNELS = 12, 64
MODEL = Shape(CHANNELS, HEADS, HEADS * CHANNELS)  # for which what is learned is counted
LENGTH = 512  # tokens at which it is trained
GRID = (14, 14)  # patches, where it reads images


def notation(name: str) -> str:
    """The shortest that says the encoding."""
    example = getattr(get(name), "example", None)
    return example or (f"{name}:size=64" if name == "window" else name)


def in_use(name: str) -> str:
    """As it is used: beside rope, where it is nothing by itself."""
    kinds = set(get(name).kinds)
    alone = name != "soft-window" and not (kinds and kinds <= BESIDE)  # a soft window is 0 within the training length
    return notation(name) if alone else f"rope+{notation(name)}"


def effects(encoding: str, model: Shape = MODEL) -> tuple[Any, ...]:
    """Its effects on a model of these sizes, whose base is 10,000 and which is trained at 512 tokens; where a decoder
    of text cannot have it, on an encoder of images (two axes) or of points (three)."""
    filled = parse(encoding).filled(Known(base=10000.0, train_length=LENGTH, third=0)).with_defaults()
    if not attaches(encoding):
        filled = parse(encoding).filled(Known(grid=GRID)).with_defaults()
        for axes in (2, 3):
            with suppress(ValueError):
                return filled.effects(replace(model, bidirectional=True, axes=axes))
    return filled.effects(model)


def scored(name: str, model: Shape = MODEL) -> ScoreModule | None:
    """The module by which it goes by content, if any."""
    return next((e.module for e in effects(notation(name), model) if isinstance(e, Score)), None)


@cache
def _tiny() -> tuple[Any, torch.Tensor, torch.Tensor, float]:
    """A tiny Llama, tokens, its own logits on them and how far rounding moves those."""
    model = tiny_model("llama")
    tokens = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model, tokens, *logits_and_budget(model, tokens)


@cache
def refusal(encoding: str) -> str:
    """Why a Llama does not take it; empty where it does."""
    try:
        attach(_tiny()[0], encoding)
    except ValueError as error:
        return str(error).partition(";")[0]
    return ""


def attaches(encoding: str) -> bool:
    """Whether a Llama takes it."""
    return not refusal(encoding)


def of_text(name: str) -> bool:
    """Whether a decoder of text can have it, or only models of images or points."""
    return attaches(in_use(name))


@torch.no_grad()
def changes(encoding: str) -> bool:
    """Whether a Llama reads otherwise with it, before it is trained and within its training length."""
    model, tokens, own, budget = _tiny()
    return max_error(attach(model, encoding)(tokens).logits, own) > budget


def together(name: str, other: str) -> bool:
    """Whether the two go together; beside rope, where neither turns."""
    kinds = {*get(name).kinds, *get(other).kinds}
    alone = {name, other} == {"nope", "randomized"}  # rope would be what randomized is for
    return attaches("+".join(["rope"] * ("rotate" not in kinds and not alone) + [notation(name), notation(other)]))


@cache
def not_with() -> dict[str, set[str]]:
    """What each encoding cannot be in a sum with."""
    names = [name for name in REGISTRY if of_text(name)]
    found: dict[str, set[str]] = {name: set() for name in names}
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            if not together(name, other):
                found[name].add(other)
                found[other].add(name)
    return found


def goes_with(name: str) -> str:
    """Which others it can be in a sum with, and whether layers can differ in it."""
    if not of_text(name):
        return f"a decoder of text does not take it: {refusal(notation(name))}."
    refused, others = not_with()[name], not_with().keys() - {name}
    if len(refused) > len(others) // 2:
        words = f"in a sum with {listing([f'`{other}`' for other in sorted(others - refused)])}"
    else:
        left, excluded = set(refused), []
        for kind, verb in VERBS.items():
            alike = {other for other in others if kind in get(other).kinds}
            if kind in get(name).kinds and alike and alike <= refused:
                excluded.append(f"others that {verb}")
                left -= alike
        excluded += [f"`{other}`" for other in sorted(left)]
        words = "in a sum with all" + (f" but {listing(excluded)}" if excluded else "")
    by_layer = f"{in_use(name)}/{'rope' if name == 'nope' else 'nope'}"
    return f"{words}; {'by' if attaches(by_layer) else 'not by'} layer (`{by_layer}`)."


def training(name: str) -> str:
    """What training it asks for."""
    used, found = in_use(name), effects(notation(name))
    learned = sum(p.numel() for e in found for m in e.modules for p in m.parameters() if p.requires_grad)
    module = scored(name)
    if module is not None and module.as_trained:
        return "none: it is for a model that was trained with RoPE, as it is."
    if "window" in get(name).kinds:
        return "none: it shows a model no distance that it does not know ([measured](../extend.md))."
    counted = ""
    if learned:
        shared = all(e.shared for e in found if e.modules)
        where = "for all layers" if shared or "add" in get(name).kinds else "in each layer"
        counted = f" It learns {learned:,} numbers {where}, with {HEADS} heads of {CHANNELS} channels."
    if not of_text(name):
        return f"a model must be trained with it.{counted}"
    if not changes(used):
        if "positions" in get(name).kinds:
            return "it does nothing but in training; in evaluation a model gives what it gave."
        if not learned:
            return f"none: a short text reads as it did before `{used}`."
        return f"it starts where a model with RoPE reads as it did, and has to be trained to do more.{counted}"
    beside = f"rope+{notation(name)}"
    if learned and used != beside and "rotate" not in get(name).kinds and attaches(beside) and not changes(beside):
        return (
            f"beside the model's own rotation (`{beside}`) it starts where nothing changes; in its place the model "
            f"must be trained with it, or [healed](../extend.md).{counted}"
        )
    return (
        "a model must be trained with it, from the start or by [healing](../extend.md): attached to one that was "
        f"trained otherwise it reads worse.{counted}"
    )


def caching(name: str) -> str:
    """What holds with a cache and with padding, and what is kept beside keys."""
    if "positions" in get(name).kinds:
        return "a cache is refused in training, and everything holds in evaluation ([more](../randomized.md))."
    if not of_text(name):
        return "there is no cache: it is for models that see all tokens at once."
    told = ""
    if get(name).not_relative:  # a plain forward counts positions from the first token, padding or not
        told = (
            " where `position_ids` do not count it, as in `generate`; with a mask alone, padding on the left moves the "
            "text"
        )
    held = f"cached decoding equals a full forward, and padding changes nothing{told} ([the contract](../families.md))"
    size, other = state_size(name), state_size(name, Shape(CHANNELS // 2, HEADS, MODEL.width))
    if not size:
        return f"{held}. Nothing is kept beside the keys."
    each, heads = size
    with_heads = "" if size == other else f", with {HEADS} heads of {CHANNELS} channels"
    numbers = f"{each:,} float32 numbers are" if each > 1 else "one float32 number is"
    return f"{held}. Beside each key {numbers} kept {'per head' if heads > 1 else 'for all heads'}{with_heads}."


def state_size(name: str, model: Shape = MODEL) -> tuple[int, int] | None:
    """(numbers, heads that have their own) of the state that is kept beside each key, or None."""
    module = scored(name, model)
    if module is None or not module.keeps_state:
        return None
    with torch.no_grad():
        state = module.tokens(torch.zeros(1, 1, model.width), torch.zeros(1, 1, dtype=torch.long), None, None)
    return state.shape[3], state.shape[2]


def shifting(name: str) -> str:
    """Why moving all positions by a constant changes something, or that it does not."""
    encoding: type[Encoding] = get(name)
    if encoding.not_relative:
        return f"moving all positions by a constant changes something: {encoding.not_relative}."
    if why := encoding.not_relative_along_several:
        return f"moving all positions by a constant changes nothing in a text, and something on a grid: {why}."
    if encoding.by_order:
        return "positions are not what it goes by: the order of the tokens is."
    return "moving all positions by a constant changes nothing."


def turns_by_a_spectrum(name: str) -> bool:
    return issubclass(get(name), Rotary)
