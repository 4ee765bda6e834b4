"""The states of tokens by which scores go: asked once per token, and kept beside its key in every cache.

`tokens` of a score's module is asked for the tokens of a forward, from the hidden states that the layer's attention is
given, and what it gives stays with the layer of the cache that has their keys (`following`), in float32, whatever the
dtype of keys is. They travel as arguments, never as something left on a module: gradient checkpointing asks again.

A layer of a cache whose keys came past the model that is attached (from a file, by prefix tuning, by hand) has no
states, and nothing tells them: the forward raises.

Shapes: hidden [batch, tokens, width]; states [batch or 1, tokens, heads or 1, S].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from whorl.attaching.following import Kept, keep_beside
from whorl.encodings.scores import ScoreModule
from whorl.numerics import math_dtype, without_autocast
from whorl.ops.axes import seen_by
from whorl.ops.derivatives import exporting
from whorl.ops.scores import BoundScore, check_device


class KeptStates(Kept):
    """The states of one layer's keys: for each score that has any, those of the latest tokens out of `count`."""

    def __init__(self) -> None:
        super().__init__()
        self.of_scores: list[torch.Tensor] = []
        self.count = 0  # the tokens that have been through the layer

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptStates:
        twin = KeptStates()
        twin.of_scores, twin.count = [state.clone() for state in self.of_scores], self.count
        return twin

    def keep(self, count: int) -> None:
        if count < self.count:
            gone = self.count - count
            self.of_scores = [state[:, : max(0, state.shape[1] - gone)] for state in self.of_scores]
            self.count = count

    def rows(self, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.of_scores = [of(state) if state.shape[0] > 1 else state for state in self.of_scores]


class Told(NamedTuple):
    """What a layer's attention was given, as it stands before that layer's keys join the cache."""

    hidden: torch.Tensor
    cache: Any = None
    layer: int = -1
    start: int = 0  # the tokens that have been through that layer of the cache already
    made: list[list[torch.Tensor]] | None = None  # the states, once they are: DiffLlama's layers attend twice


BY_CACHE = "states that scores keep beside the keys of a cache: how many there are depends on what went before"


def told(cache: Any, layer: int, hidden: torch.Tensor) -> Told:
    """What `bound` needs to know of a layer, asked before its keys join the cache.

    cache: the `past_key_values` that the layer got, or None; layer: its number there.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    if layer < 0 or getattr(cache, "layers", None) is None:
        return Told(hidden)
    return _with_cache(cache, layer, hidden)


@torch.compiler.disable(reason=f"whorl: {BY_CACHE}")
def _with_cache(cache: Any, layer: int, hidden: torch.Tensor) -> Told:
    kept = _kept(cache, layer)
    if kept is not None:
        kept.check()
    return Told(hidden, cache, layer, int(cache.get_seq_length(layer)), [])


def _kept(cache: Any, layer: int) -> KeptStates | None:
    return getattr(cache.layers[layer], "whorl_states", None) if layer < len(cache.layers) else None


def bound(
    modules: Sequence[ScoreModule],
    given: Told | None,
    positions: torch.Tensor,
    real: torch.Tensor | None,
    queries: int,
    keys: int,
    named: str,
) -> tuple[BoundScore, ...]:
    """A layer's scores, with the states of the queries and keys that its attention has.

    given: None where no score has states. positions, real: of this forward's tokens, as in `ScoreModule.tokens`. named:
    the layer, for errors. Raises ValueError where the states of cached keys are unknown.
    """
    stateful = [module for module in modules if module.keeps_state]
    if not stateful:
        return tuple(BoundScore(module) for module in modules)
    assert given is not None
    if given.cache is not None:
        states = _from_cache(stateful, given, positions, real, queries, keys, named)
    else:
        if keys != given.hidden.shape[1]:
            raise _unknown(named, keys - given.hidden.shape[1], 0)
        states = [_asked(module, given.hidden, positions, real, None) for module in stateful]
    of = dict(zip(map(id, stateful), states, strict=True))
    return tuple(
        BoundScore(m, of[id(m)][:, -queries:], _handed_out(of[id(m)], keys)) if id(m) in of else BoundScore(m)
        for m in modules
    )


@torch.compiler.disable(reason=f"whorl: {BY_CACHE}")
def _from_cache(
    modules: Sequence[ScoreModule],
    given: Told,
    positions: torch.Tensor,
    real: torch.Tensor | None,
    queries: int,
    keys: int,
    named: str,
) -> list[torch.Tensor]:
    """The states of all tokens that are known, the new ones last; they are left with the cache."""
    if exporting() or torch.jit.is_tracing():
        raise ValueError(
            f"{named} cannot be exported or traced into one graph with a cache: it has {BY_CACHE}. Export without one "
            "(use_cache=False), or whorl.detach(model), and export that"
        )
    if given.made:
        return given.made[0]
    kept = _kept(given.cache, given.layer) or KeptStates()
    rows = len(given.hidden)
    if given.start and (
        kept.count != given.start or kept.exchanged or any(len(s) not in (1, rows) for s in kept.of_scores)
    ):
        raise _unknown(named, given.start, kept.count)
    if not given.start:
        kept.of_scores = []
    before: list[Any] = list(kept.of_scores) or [None] * len(modules)
    states = []
    for module, past in zip(modules, before, strict=True):
        past = None if past is None else past.to(given.hidden.device).expand(rows, *past.shape[1:])
        new = _asked(module, given.hidden, positions, real, past)
        states.append(new if past is None else torch.cat([past, new], 1))
    layer = given.cache.layers[given.layer]
    held = getattr(layer, "keys", None)
    last = keys if held is None or held.ndim != 4 else max(keys, held.shape[2])  # of a window those that it keeps
    kept.of_scores = [state[:, -max(last, m.looks_back) :] for m, state in zip(modules, states, strict=True)]
    kept.count = given.start + given.hidden.shape[1]
    kept.believe(layer)
    keep_beside(layer, "whorl_states", kept)
    if given.made is not None:
        given.made.append(states)
    return states


def _asked(
    module: ScoreModule,
    hidden: torch.Tensor,
    positions: torch.Tensor,
    real: torch.Tensor | None,
    before: torch.Tensor | None,
) -> torch.Tensor:
    """`tokens`, in full precision: in bfloat16 a gate near 1 would be 1."""
    check_device(module, hidden.device)
    device, dtype = hidden.device.type, math_dtype(hidden.dtype)
    with without_autocast(device):
        if before is not None:
            before = before.to(dtype)
        seen = hidden.to(dtype) if module.sees_hidden else None
        state = module.tokens(seen, seen_by(module, positions), real, before)
    return state.expand(hidden.shape[0], *state.shape[1:])


def _handed_out(state: torch.Tensor, keys: int) -> torch.Tensor:
    """Of the keys that a layer of a cache hands out: the latest, or all of them and empty slots of a static cache."""
    if state.shape[1] >= keys:
        return state[:, state.shape[1] - keys :]
    return torch.nn.functional.pad(state, (0, 0, 0, 0, 0, keys - state.shape[1]))


def _unknown(named: str, found: int, known: int) -> ValueError:
    return ValueError(
        f"{named} keeps a state for each key, and of the {found} keys in this cache the states of {known} are known, "
        "in the order in which they were put there: the others came from elsewhere (a file, prefix tuning, another "
        "model), or were exchanged by hand. Give the whole text to a new cache, change a cache only by its own "
        "methods (crop, reorder_cache, batch_select_indices, ...), or run without one (use_cache=False)"
    )
