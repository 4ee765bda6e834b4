"""What reaches the layers: cos and sin as the model runs them, against float64.

The model itself is run, and no copy: in its own dtype, under its own autocast, through its own hooks. A few tokens
stand at positions up to the length that the config declares, and on both sides of every border, past which frequencies
change (dynamic, longrope) or must not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from whorl.diagnosis.answers import Answer, NotApplicable, judged
from whorl.diagnosis.meaning import Turning, meant, precision
from whorl.diagnosis.reading import UNINITIALISED, Reading, undisturbed
from whorl.diagnosis.subject import Subject
from whorl.hosts.transformers.rope_settings import length_dependent, rope_type, unscaled_up_to

UNDECLARED = 2048  # tokens that are tried where the config declares no length


class Handed(NamedTuple):
    """One call of the rotary module: tables [tokens, channels or pairs] in float64, and the dtype that they came in."""

    label: str
    cos: torch.Tensor
    sin: torch.Tensor
    dtype: torch.dtype


class Off(NamedTuple):
    """The worst of one call: how far off, in units of what is allowed, and the words for it."""

    ratio: float
    words: str


def angles(subject: Subject) -> Answer:
    readings = {r.label: r for r in subject.readings if len(r.done.frequencies)}
    if any(r.cause == UNINITIALISED for r in readings.values()):
        raise NotApplicable("the frequencies are not initialised")
    if isinstance(subject.first_run, Exception):
        raise NotApplicable("the model does not run") from subject.first_run
    worst = Off(0.0, "")
    contexts = sorted({n for r in readings.values() for n in _contexts(subject, r)})
    for tokens in contexts:
        positions = _positions(tokens)
        for handed in as_it_runs(subject, positions):
            if handed.label in readings and tokens in _contexts(subject, readings[handed.label]):
                worst = max(worst, _off(readings[handed.label], handed, positions, tokens))
    if not worst.words:
        raise NotApplicable("no table of a known rope type reaches a layer")
    return judged(worst.ratio <= 1, worst.words)


@torch.no_grad()
def as_it_runs(subject: Subject, positions: list[int]) -> list[Handed]:
    """What the rotary module gives in a forward of the model itself with tokens at these positions."""
    rotary, model = subject.host.rotary, subject.host.model
    found: list[Handed] = []

    def keep(module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        label = kwargs.get("layer_type", args[2] if len(args) > 2 else "")
        cos, sin = (out.real, out.imag) if isinstance(out, torch.Tensor) else out
        cosines, sines = (t.detach().reshape(len(positions), -1).double().cpu() for t in (cos, sin))
        found.append(Handed(label if subject.host.typed else "", cosines, sines, cos.dtype))

    ids = torch.full((1, len(positions)), int(subject.ordinary_tokens[0]), device=model.device)
    # With a mask: to some hosts, positions alone that do not follow each other look like packed documents.
    arguments = {"position_ids": torch.tensor([positions], device=model.device), "attention_mask": torch.ones_like(ids)}
    handle = rotary.register_forward_hook(keep, with_kwargs=True)
    try:
        with undisturbed(rotary):
            subject.forward(model, ids, **arguments)
    finally:
        handle.remove()
    return found


def _positions(tokens: int) -> list[int]:
    """A few, from 0 to the last of so many tokens."""
    return sorted({p for p in (0, 1, tokens // 7, tokens // 3, tokens - 2, tokens - 1) if p >= 0})


def _contexts(subject: Subject, r: Reading) -> list[int]:
    """The numbers of tokens that are tried: around the original length and up to the declared one; past it as well
    where the frequencies are meant to change there."""
    declared = subject.context or UNDECLARED
    at = unscaled_up_to(r.settings, r.sizes.max_position) or declared
    tried = [at - 1, at, at + 1, declared - 1, declared]
    changing = length_dependent(r.settings)
    if changing:
        tried.append(2 * at)
    if r.meant is None or (changing and r.cause):  # what it should do past a border is not known, or another check's
        tried = [n for n in tried if n <= at]
    return sorted({n for n in tried if 2 <= n <= (max(declared, 2 * at) if changing else declared)})


def _off(r: Reading, handed: Handed, positions: list[int], tokens: int) -> Off:
    """How far tables are off what this many tokens should see; the frequencies at hand are another check's matter."""
    wanted = r.done
    if length_dependent(r.settings) and r.meant is not None and not r.cause:
        wanted = meant(r.settings, r.sizes, tokens) or r.done
    angle = np.outer(positions, wanted.frequencies)
    allowed = wanted.amplitude * (
        np.minimum(2.0, np.abs(angle) * precision(r.settings, r.meant)) + torch.finfo(handed.dtype).eps
    )
    error = np.maximum(
        _error(handed.cos.numpy(), wanted.amplitude * np.cos(angle)),
        _error(handed.sin.numpy(), wanted.amplitude * np.sin(angle)),
    )
    at, pair = np.unravel_index(int((error / allowed).argmax()), error.shape)
    ratio = float(error[at, pair] / allowed[at, pair])
    dtype = str(handed.dtype).removeprefix("torch.")
    shown = f"cos and sin in {dtype} off by {error[at, pair]:.2g} (allowed {allowed[at, pair]:.2g})"
    shown += f" at position {positions[at]:,} of {tokens:,} tokens"
    label = f"{r.label}: " if r.label else ""
    return Off(ratio if np.isfinite(ratio) else float("inf"), label + shown + _meaning(r, wanted, tokens, ratio))


def _error(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The difference by position and pair; where a table has both channels of a pair, the larger, in the arrangement
    (halves, or neighbours) that fits."""
    pairs = wanted.shape[1]
    if found.shape[1] == pairs:
        return _distance(found, wanted)
    if found.shape[1] != 2 * pairs:
        return np.full(wanted.shape, np.inf)
    halves = np.maximum(_distance(found[:, :pairs], wanted), _distance(found[:, pairs:], wanted))
    neighbours = np.maximum(_distance(found[:, ::2], wanted), _distance(found[:, 1::2], wanted))
    return halves if halves.max() <= neighbours.max() else neighbours


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.abs(a - b), nan=np.inf)


def _meaning(r: Reading, wanted: Turning, tokens: int, ratio: float) -> str:
    """Of a fault: which frequencies were meant there."""
    if ratio <= 1 or not length_dependent(r.settings):
        return ""
    return f", where {rope_type(r.settings)} means a slowest frequency of {wanted.turning.min():.3g}"
