"""The positions of the keys that a cache holds: kept beside the keys, never guessed.

A bias, a window and a rotation after the cache need to know where each key stands, and what a cache hands out are keys
alone. So the positions of every forward are kept on one layer of the cache, in the order in which the keys came: slot
by slot. What is done to that layer (`crop`, `reorder_cache`, `batch_select_indices`, ...) is done to them, by methods
on the instance. A layer hands out its latest keys or all of them, with room behind them where it is static; so the
number of keys says which slots they are.

Some caches have no such record: one that was filled elsewhere (from a file, by prefix tuning), and one whose keys were
taken out or put in another order by hand (`layer.keys = layer.keys[[1, 0]]`), which holds another tensor than the
record was made for, with other values. There positions are counted from the attention mask: a query at position p that
sees p + 1 keys sees the positions 0 to p, each once. Where the numbers say otherwise the positions are unknown, and the
forward raises; so they are where positions have axes, which no mask can tell. A deep copy of a cache is believed to
hold the same keys.

Shapes: positions are [batch or 1, tokens], or [batch or 1, tokens, axes] where they have several; real numbers stay so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.attaching.following import Kept, keep_beside
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.interface import HostMask, how_made

ROOM = 1 << 8  # slots that a static cache's positions get at once, where the cache does not say how many it will hold
TRY = (
    "give position_ids that count the tokens that the attention mask shows (mask.cumsum(-1) - 1); change a cache only "
    "by its own methods (crop, reorder_cache, batch_select_indices, ...); or run without a cache (use_cache=False)"
)


class KeptPositions(Kept):
    """The positions of one cache's keys, by slot, [batch or 1, slots] or with axes. All layers share them, once per
    forward."""

    def __init__(self) -> None:
        super().__init__()
        self.slots: torch.Tensor | None = None  # of a static cache with room at the end, always at one address
        self.count: int | torch.Tensor = 0  # how many of them are known; a tensor where a compiled call counts on
        self.call: torch.Tensor | None = None  # the query positions of the latest forward,
        self.start: int = 0  # the keys that were there before it,
        self.asked: set[int] = set()  # the layers that have asked in it,
        self.settled = False  # whether its positions are among the slots,
        self.given: dict[tuple[int, torch.device], torch.Tensor] = {}  # and what layers got, by their number of keys

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptPositions:
        twin = KeptPositions()
        if self.slots is not None:
            twin.slots = self.slots.clone()
            twin.count = self.count.clone() if isinstance(self.count, torch.Tensor) else self.count
        return twin

    def keep(self, count: int) -> None:
        self.call = None
        if int(self.count) <= count:
            return
        if isinstance(self.count, torch.Tensor):
            self.count.fill_(count)
        else:
            self.count = count

    def rows(self, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.call = None
        if self.slots is not None and self.slots.shape[0] > 1:
            self.slots = of(self.slots)


class Call(NamedTuple):
    """One layer's attention in a forward, as it stands before that layer's keys join the cache."""

    positions: torch.Tensor  # of all tokens of this forward; some hosts go on with the last queries alone
    layer: int
    cache: Any = None
    kept: KeptPositions | None = None  # None without a cache, and where a compiled call has none to go by
    start: int | torch.Tensor = 0  # the keys that are there already


def asked(cache: Any, layer: int, positions: torch.Tensor) -> Call:
    """What `key_positions` needs to know of a layer, asked before its keys join the cache.

    cache: the `past_key_values` that the layer got, or None. positions: of the forward's tokens.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    layers = getattr(cache, "layers", None)
    if layers is None:
        return Call(positions, layer)
    kept = None
    for one in layers:  # no generator: dynamo of torch 2.11 cannot trace it
        kept = getattr(one, "whorl_positions", None)
        if kept is not None:
            break
    if torch.compiler.is_compiling():
        if kept is None or not isinstance(kept.count, torch.Tensor):
            return Call(positions, layer, cache)
        return Call(positions, layer, cache, kept, _start(cache, layer, positions.shape[1]))
    if kept is None:
        kept = KeptPositions()
    if not _goes_on(kept, cache, layer, positions):
        kept.check()
        kept.start = int(cache.get_seq_length(layer))
        kept.call, kept.asked, kept.settled = positions, set(), False
    kept.asked.add(layer)
    return Call(positions, layer, cache, kept, kept.start)


def _start(cache: Any, layer: int, queries: int) -> int | torch.Tensor:
    """The keys that were there before a compiled forward. A layer without keys of its own takes those of a layer before
    it, which this forward's have joined; layers with a window count in plain numbers, by which its slots are found."""
    if hasattr(_layer(cache, layer), "get_seq_length"):
        start: int | torch.Tensor = cache.get_seq_length(layer)
        return start.clone() if isinstance(start, torch.Tensor) else start
    counts = [one.get_seq_length() for one in cache.layers if hasattr(one, "get_seq_length")]
    plain = [count for count in counts if isinstance(count, int)]
    joined: int | torch.Tensor = (plain or counts)[0]
    return joined - queries


def _goes_on(kept: KeptPositions, cache: Any, layer: int, positions: torch.Tensor) -> bool:
    """Whether this is one more layer of the forward that asked last: each asks once, with the same positions."""
    if kept.call is None or layer in kept.asked:
        return False
    if kept.call is positions:
        return True
    if not hasattr(_layer(cache, layer), "get_seq_length"):
        return True  # it has no keys of its own, and takes those of a layer before it
    # On a model over several devices the positions are copied on the way.
    same = kept.call.shape == positions.shape and int(cache.get_seq_length(layer)) == kept.start
    return same and torch.equal(kept.call, positions.to(kept.call.device))


def _layer(cache: Any, layer: int) -> Any:
    return cache.layers[layer] if layer < len(cache.layers) else None


def key_positions(call: Call, mask: torch.Tensor | HostMask | None, keys: int) -> torch.Tensor:
    """The positions [batch or 1, keys] (and axes) of the keys that a layer's queries attend to.

    mask: True where a key is seen, bool [batch or 1, heads or 1, queries, keys], or the host's own.

    Raises ValueError where positions are unknown: of keys that came or went past the cache's methods, unless the mask
    proves them; and where packed documents meet a cache, since transformers then lets them see one another.
    """
    positions, kept = call.positions, call.kept
    if torch.compiler.is_compiling():
        return _compiled(call, mask, keys)
    if kept is None:
        if keys == positions.shape[1]:
            return positions
        return torch.cat(_alike(_counted(mask, keys - positions.shape[1], 0, positions), positions), 1)
    if not kept.settled:
        _settle(call, kept, mask)
    given = kept.given.get((keys, positions.device))
    if given is None:
        assert kept.slots is not None
        count = kept.start + positions.shape[1]
        first = max(0, count - keys)
        _check_layer(call, mask, keys, first, count)
        given = kept.slots[:, first : first + keys].to(positions.device)
        if given.shape[1] < keys:  # empty slots of a static cache, which no query sees
            given = _with_room(given, keys - given.shape[1])
        kept.given[keys, positions.device] = given
    return given


def _settle(call: Call, kept: KeptPositions, mask: torch.Tensor | HostMask | None) -> None:
    """Puts the positions of this forward after those of the keys that are there already."""
    positions, start = call.positions, kept.start
    known = kept.slots is not None and int(kept.count) == start and not kept.exchanged
    if known and kept.slots is not None and kept.slots.shape[0] > 1 and positions.shape[0] not in (1, len(kept.slots)):
        known = False  # rows came or went past the cache's methods
    if start == 0:
        slots = positions.clone()  # the caller may go on counting in this very tensor
    else:
        if known:
            assert kept.slots is not None
            past = kept.slots[:, :start].to(positions.device)
        else:
            past = _counted(mask, start, int(kept.count), positions)
        slots = torch.cat(_alike(past, positions), 1)
    unsaid = isinstance(mask, HostMask) and mask.how.get("attention_mask") is None and positions.shape[1] > 1
    if unsaid and positions.dim() == 2:  # on a grid, positions go back with every row
        _refuse_packed(slots[:, max(0, start - 1) :])
    layer = _layer(call.cache, call.layer)
    if getattr(layer, "is_compileable", False):
        _keep_in_place(kept, slots, call.cache.get_max_length())
    else:
        kept.slots, kept.count = slots, slots.shape[1]
    kept.settled, kept.given = True, {}
    kept.believe(layer)
    if layer is not None:
        keep_beside(layer, "whorl_positions", kept)


def _keep_in_place(kept: KeptPositions, slots: torch.Tensor, room: int) -> None:
    """For a static cache: where a compiled call will count on, which wants tensors that stay where they are."""
    own, count = kept.slots, slots.shape[1]
    fits = own is not None and len(own) == len(slots) and own.device == slots.device and own.shape[1] >= count
    if own is None or not (fits and own.shape[2:] == slots.shape[2:] and torch.can_cast(slots.dtype, own.dtype)):
        own = kept.slots = _with_room(slots[:, :0], max(room, count + ROOM * (count > room)))
        compat.keep_address(own)
    if not isinstance(kept.count, torch.Tensor):
        kept.count = torch.zeros((), dtype=torch.int64, device=slots.device)
        compat.keep_address(kept.count)
    own[:, :count] = slots
    kept.count.fill_(count)


def _compiled(call: Call, mask: torch.Tensor | HostMask | None, keys: int) -> torch.Tensor:
    """The same in a compiled call, which cannot look at numbers and choose: a static cache's positions are written on
    where the cache itself counts on, and others are counted from the mask, asserted and not chosen."""
    positions, kept, start = call.positions, call.kept, call.start
    queries = positions.shape[1]
    if kept is None:
        return positions if keys == queries else _counted_compiled(mask, positions, keys)
    assert kept.slots is not None
    assert isinstance(kept.count, torch.Tensor)
    count = start + queries
    compat.assert_in_graph((kept.count == start) | (kept.count == count), f"the keys' positions are unknown; {TRY}")
    if isinstance(count, int) and count > kept.slots.shape[1]:
        kept.slots = _with_room(kept.slots, count + ROOM)
    at = torch.arange(queries, device=positions.device) + start
    kept.slots.index_copy_(1, at, positions.expand(kept.slots.shape[0], *positions.shape[1:]))
    kept.count.fill_(count)
    first = 0 if isinstance(start, torch.Tensor) else max(0, count - keys)
    return kept.slots[:, first : first + keys]


def _counted_compiled(mask: torch.Tensor | HostMask | None, positions: torch.Tensor, keys: int) -> torch.Tensor:
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"{positions.shape[1]} queries and {keys} keys without a mask: their positions are unknown")
    _refuse_to_count(positions, "keys of the cache were there before this call")  # a number would make a graph for each
    how = how_made(mask)
    if how is None:
        seen = mask[:, :, -1].any(1)
        proven = (seen.sum(-1, keepdim=True) - 1 == positions[:, -1:]).all()
        counted = seen.cumsum(-1) - 1
    else:
        proven, counted = _counted_by_padding(how, positions)
    compat.assert_in_graph(proven, f"the keys' positions are unknown; {TRY}")
    return counted


def _counted_by_padding(how: dict[str, Any], positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether every query at p is the token p of those that are no padding; and which of them each key is [batch or 1,
    keys]. So it is known of a window, too, whose mask shows its latest keys alone."""
    first, queries = how.get("kv_offset", 0), how["q_length"]
    slots = first + how["kv_length"]
    own = torch.arange(queries, device=positions.device) + how.get("q_offset", 0)
    padding = how.get("attention_mask")
    if padding is None:
        counted = torch.arange(slots, device=positions.device)[None]
        return (own == positions).all(), counted[:, first:]
    real = padding[:, :slots].to(positions.device).long()
    real = nn.functional.pad(real, (0, slots - real.shape[1]))
    counted = real.cumsum(1) - 1
    right = counted.index_select(1, own) == positions
    return (right | (real.index_select(1, own) == 0)).all(), counted[:, first:].clamp(min=0)


def _check_layer(call: Call, mask: torch.Tensor | HostMask | None, keys: int, first: int, count: int) -> None:
    """Raises ValueError for a layer with another number of keys than were put into it."""
    layer = _layer(call.cache, call.layer)
    short = first > 0 and hasattr(layer, "get_seq_length") and not getattr(layer, "is_sliding", False)
    expected = keys if not isinstance(mask, HostMask) else mask.how["kv_length"]
    if short or keys != expected:
        raise ValueError(
            f"layer {call.layer} attends to {keys} keys where its cache was given {count}: some were taken out past "
            f"the cache's own methods, and the positions of the others are unknown; {TRY}"
        )


def _refuse_packed(positions: torch.Tensor) -> None:
    back = positions.diff(dim=1) <= 0
    if bool(back.any()):
        row, at = (int(i) for i in back.nonzero()[0])
        before, after = positions[row, at : at + 2].tolist()
        raise ValueError(
            f"position_ids go from {before} to {after} within a row, as packed documents do, in a call that fills a "
            "cache: transformers keeps packed documents apart only without one. Pass use_cache=False (or set "
            "model.config.use_cache=False); for one document, pass an attention_mask of ones"
        )


def _counted(mask: torch.Tensor | HostMask | None, start: int, known: int, positions: torch.Tensor) -> torch.Tensor:
    """The positions [batch or 1, start] of the keys before this call, where the mask proves them: every query at p sees
    p + 1 keys, all positions up to its own. Raises ValueError where it does not."""
    queries = positions.shape[1]
    found = f"{start} keys of the cache came, went or changed places past whorl, which knows the positions of {known}"
    _refuse_to_count(positions, found)
    if isinstance(mask, HostMask):
        padding = mask.how.get("attention_mask")
        if padding is None:
            padding = positions.new_ones(1, start + queries)
        real = nn.functional.pad(padding[:, : start + queries].long(), (0, max(0, start + queries - padding.shape[1])))
        own, past = real[:, start:].bool(), real[:, :start]
        total = real.cumsum(1)[:, start:]
    elif mask is None or mask.shape[-1] < start + queries:
        raise ValueError(f"{found}, and the mask does not show them all; {TRY}")
    else:
        seen = mask.any(1)[..., : start + queries]
        own, total = seen[:, :, start:].diagonal(dim1=1, dim2=2), seen.sum(-1)
        past = seen[:, :, :start].any(1).long()
        # A query that sees fewer of them has a mask of its own kind.
        total = total.where(seen[:, :, :start].sum(-1) == past.sum(-1, keepdim=True), -1)
    wrong = own & (total - 1 != positions)
    if bool(wrong.any()):
        row, at = (int(i) for i in wrong.nonzero()[0])
        shown, p = int(total[row, at]), int(positions.expand(len(wrong), -1)[row, at])
        shows = f"shows {shown} keys to a query" if shown >= 0 else "hides some of them from a query"
        raise ValueError(f"{found}, and the mask {shows} at position {p}, so they cannot be counted; {TRY}")
    return (past.cumsum(1) - 1).clamp(min=0)


def _refuse_to_count(positions: torch.Tensor, found: str) -> None:
    if positions.dim() == 3:
        raise ValueError(
            f"{found}, and positions of {positions.shape[2]} axes are not to be counted from a mask; change a cache "
            "only by its own methods (crop, reorder_cache, batch_select_indices, ...), or run without one "
            "(use_cache=False)"
        )


def _alike(past: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with as many rows as the larger."""
    rows = max(len(past), len(positions))
    return past.to(positions.dtype).expand(rows, *past.shape[1:]), positions.expand(rows, *positions.shape[1:])


def _with_room(positions: torch.Tensor, slots: int) -> torch.Tensor:
    """The same with so many slots more, zeros."""
    return torch.cat([positions, positions.new_zeros(len(positions), slots, *positions.shape[2:])], 1)
