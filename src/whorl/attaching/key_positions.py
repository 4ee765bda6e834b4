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
from whorl.ops.derivatives import exporting

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
        self.counted: torch.Tensor | None = None  # of a static cache, how many of them are known; None: all
        self.call: torch.Tensor | None = None  # the query positions of the latest forward,
        self.start: Any = 0  # the keys that were there before it,
        self.asked: set[int] = set()  # the layers that have asked in it,
        self.settled = False  # whether its positions are among the slots,
        self.given: dict[tuple[int, torch.device], torch.Tensor] = {}  # and what layers got, by their number of keys

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptPositions:
        twin = KeptPositions()
        twin.slots = None if self.slots is None else self.slots.clone()
        twin.counted = None if self.counted is None else self.counted.clone()
        return twin

    @property
    def count(self) -> int:
        """How many positions are known."""
        if self.counted is not None:
            return int(self.counted)
        return 0 if self.slots is None else self.slots.shape[1]

    def begin(self, positions: torch.Tensor, start: int | torch.Tensor) -> None:
        """A forward over tokens at these positions, after so many keys."""
        self.check()
        self.call, self.start, self.asked, self.settled, self.given = positions, start, set(), False, {}

    def keep(self, count: int) -> None:
        self.call, self.asked = None, set()
        if self.counted is not None:
            self.counted.clamp_(max=count)
        elif self.slots is not None:
            self.slots = self.slots[:, :count]

    def rows(self, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.call, self.asked = None, set()
        if self.slots is not None and self.slots.shape[0] > 1:
            self.slots = of(self.slots)


class Call(NamedTuple):
    """One layer's attention in a forward, as it stands before that layer's keys join the cache."""

    positions: torch.Tensor  # of all tokens of this forward; some hosts go on with the last queries alone
    layer: int
    cache: Any = None
    kept: KeptPositions | None = None  # None without a cache, and in an export
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
    if exporting() and (kept is None or kept.counted is None):  # a graph of this leaves no record
        return Call(positions, layer, cache, None, _start(cache, layer, positions.shape[1]))
    if kept is None:
        kept = KeptPositions()
    if torch.compiler.is_compiling():
        start = _start(cache, layer, positions.shape[1])
        if not kept.asked or layer in kept.asked:
            kept.begin(positions, start)
        kept.asked.add(layer)
        return Call(positions, layer, cache, kept, start)
    if not _goes_on(kept, cache, layer, positions):
        kept.begin(positions, int(cache.get_seq_length(layer)))
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
    known = kept.count == start and _believed(kept, positions)
    if start == 0:
        slots = positions.clone()  # the caller may go on counting in this very tensor
    else:
        if known:
            assert kept.slots is not None
            past = kept.slots[:, :start].to(positions.device)
        else:
            past = _counted(mask, start, kept.count, positions)
        slots = torch.cat(_alike(past, positions), 1)
    if _may_be_packed(mask, positions):
        _refuse_packed(slots[:, max(0, start - 1) :])
    layer = _layer(call.cache, call.layer)
    if getattr(layer, "is_compileable", False):
        _keep_in_place(kept, slots, start + positions.shape[1], call.cache.get_max_length())
    else:
        kept.slots, kept.counted = slots, None
    _believe(kept, layer)


def _believed(kept: KeptPositions, positions: torch.Tensor) -> bool:
    """Whether the slots are those of the rows and keys that are there, as far as their order goes."""
    if kept.slots is None or kept.exchanged:
        return False
    rows = kept.slots.shape[0]
    return rows == 1 or positions.shape[0] in (1, rows)  # rows that came or went past the cache's methods


def _believe(kept: KeptPositions, layer: Any) -> None:
    kept.settled = True
    kept.believe(layer)
    if layer is not None:
        keep_beside(layer, "whorl_positions", kept)


def _keep_in_place(kept: KeptPositions, slots: torch.Tensor, count: int | torch.Tensor, room: int) -> None:
    """For a static cache: where a compiled call will count on, which wants tensors that stay where they are."""
    own, written = kept.slots, slots.shape[1]
    fits = own is not None and len(own) == len(slots) and own.device == slots.device and own.shape[1] >= written
    if own is None or not (fits and own.shape[2:] == slots.shape[2:] and torch.can_cast(slots.dtype, own.dtype)):
        own = kept.slots = _with_room(slots[:, :0], max(room, written + ROOM * (written > room)))
        compat.keep_address(own)
    if kept.counted is None:
        kept.counted = torch.zeros((), dtype=torch.int64, device=slots.device)
        compat.keep_address(kept.counted)
    own[:, :written] = slots
    kept.counted.fill_(count)


def _compiled(call: Call, mask: torch.Tensor | HostMask | None, keys: int) -> torch.Tensor:
    """The same in a compiled call, which cannot look at numbers and choose: where positions have to be counted from the
    mask, that this may be done is asserted, and a static cache's are written on where the cache itself counts on."""
    positions, kept, start = call.positions, call.kept, call.start
    queries = positions.shape[1]
    if kept is None:
        if keys == queries:
            return positions
        slots = _counted_in_graph(mask, keys - queries if call.cache is None else start, positions)
        return slots[:, slots.shape[1] - keys :]
    layer, count = _layer(call.cache, call.layer), start + queries
    in_place = kept.counted is not None or getattr(layer, "is_compileable", False)
    if not kept.settled and in_place:
        _settle_in_place(call, kept, mask)
    elif not kept.settled:
        if isinstance(start, int) and start == 0:
            slots = positions.clone()
        elif _believed(kept, positions) and kept.slots is not None and kept.slots.shape[1] == start:
            slots = torch.cat(_alike(kept.slots, positions), 1)
        else:
            slots = torch.cat(_alike(_counted_in_graph(mask, start, positions)[:, :start], positions), 1)
        _assert_not_packed(mask, slots[:, max(0, start - 1) :], positions)
        kept.slots = slots
    if not kept.settled:
        _believe(kept, layer)
    assert kept.slots is not None
    if not in_place and kept.slots.shape[1] != count:
        raise ValueError(f"layer {call.layer} has {count} keys, and its cache was given {kept.slots.shape[1]}; {TRY}")
    first = 0 if isinstance(count, torch.Tensor) else max(0, count - keys)
    return kept.slots[:, first : first + keys]


def _settle_in_place(call: Call, kept: KeptPositions, mask: torch.Tensor | HostMask | None) -> None:
    """Writes the positions of a compiled forward on in a static cache's slots."""
    positions, start = call.positions, call.start
    queries = positions.shape[1]
    count = start + queries
    if isinstance(start, int) and start == 0:
        _keep_in_place(kept, positions, count, call.cache.get_max_length())
        _assert_not_packed(mask, positions, positions)
        return
    if kept.counted is None or not _believed(kept, positions):
        past = _counted_in_graph(mask, start, positions)
        _keep_in_place(kept, past, start, call.cache.get_max_length())
    assert kept.slots is not None
    assert kept.counted is not None
    compat.assert_in_graph(kept.counted == start, f"the keys' positions are unknown; {TRY}")
    if isinstance(count, int) and count > kept.slots.shape[1]:
        kept.slots = _with_room(kept.slots, count + ROOM)
    if len(positions) > len(kept.slots):
        kept.slots = kept.slots.repeat(len(positions), *[1] * (kept.slots.dim() - 1))
    at = torch.arange(queries, device=positions.device) + start
    last = kept.slots.index_select(1, (at[:1] - 1).clamp(min=0))
    last = torch.where(at[0] == 0, positions[:, :1] - 1, last)
    _assert_not_packed(mask, torch.cat(_alike(last, positions), 1), positions)
    kept.slots.index_copy_(1, at, positions.to(kept.slots.dtype).expand(len(kept.slots), *positions.shape[1:]))
    kept.counted.fill_(count)


def _counted_in_graph(
    mask: torch.Tensor | HostMask | None, start: int | torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    _refuse_to_count(positions, "keys of the cache were there before this call")  # a number would make a graph for each
    counted, wrong, _ = _by_mask(mask, start, positions)
    compat.assert_in_graph(~wrong.any(), f"the keys' positions are unknown; {TRY}")
    return counted


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


def _may_be_packed(mask: torch.Tensor | HostMask | None, positions: torch.Tensor) -> bool:
    """Whether transformers would take positions that go back for packed documents, if there were no cache."""
    how = None if mask is None else how_made(mask)
    said = how is None or how.get("attention_mask") is not None
    return not said and positions.shape[1] > 1 and positions.dim() == 2  # on a grid, they go back with every row


PACKED = (
    "as packed documents do, in a call that fills a cache: transformers keeps packed documents apart only without one. "
    "Pass use_cache=False (or set model.config.use_cache=False); for one document, pass an attention_mask of ones"
)


def _assert_not_packed(mask: torch.Tensor | HostMask | None, slots: torch.Tensor, positions: torch.Tensor) -> None:
    if _may_be_packed(mask, positions):
        compat.assert_in_graph((slots.diff(dim=1) > 0).all(), f"position_ids go back within a row, {PACKED}")


def _refuse_packed(positions: torch.Tensor) -> None:
    if positions.is_meta:
        return
    back = positions.diff(dim=1) <= 0
    if bool(back.any()):
        row, at = (int(i) for i in back.nonzero()[0])
        before, after = positions[row, at : at + 2].tolist()
        raise ValueError(f"position_ids go from {before} to {after} within a row, {PACKED}")


def _counted(mask: torch.Tensor | HostMask | None, start: int, known: int, positions: torch.Tensor) -> torch.Tensor:
    """The positions [batch or 1, start] of the keys before this call, where the mask proves them. Raises ValueError
    where it does not."""
    found = f"{start} keys of the cache came, went or changed places past whorl, which knows the positions of {known}"
    _refuse_to_count(positions, found)
    counted, wrong, total = _by_mask(mask, start, positions, found)
    if bool(wrong.any()):
        row, at = (int(i) for i in wrong.nonzero()[0])
        shown, p = int(total[row, at]), int(positions.expand(len(wrong), -1)[row, at])
        shows = f"shows {shown} keys to a query" if shown >= 0 else "hides some of them from a query"
        raise ValueError(f"{found}, and the mask {shows} at position {p}, so they cannot be counted; {TRY}")
    return counted[:, :start]


def _by_mask(
    mask: torch.Tensor | HostMask | None,
    start: int | torch.Tensor,
    positions: torch.Tensor,
    found: str = "the keys' positions are unknown",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the mask counts the first keys to be, where every query at p sees p + 1 of them, all up to its own: their
    positions [batch or 1, keys]; which queries it is wrong of, and how many keys each sees, both [batch or 1, queries].
    """
    queries = positions.shape[1]
    at = torch.arange(queries, device=positions.device) + start
    how = None if mask is None else how_made(mask)
    if how is not None:
        slots = start + queries if isinstance(start, int) else how.get("kv_offset", 0) + how["kv_length"]
        padding = how.get("attention_mask")
        if padding is None:
            padding = positions.new_ones(1, slots)
        real = padding[:, :slots].to(positions.device).long()
        real = nn.functional.pad(real, (0, slots - real.shape[1]))
        own, total = real.index_select(1, at) > 0, real.cumsum(1).index_select(1, at)
    elif not isinstance(mask, torch.Tensor) or (isinstance(start, int) and mask.shape[-1] < start + queries):
        raise ValueError(f"{found}, and the mask does not show them all; {TRY}")
    else:
        seen = mask.any(1)
        before = seen & (torch.arange(mask.shape[-1], device=mask.device) < start)
        real = seen.any(1).long()
        own, total = seen.index_select(2, at).diagonal(dim1=1, dim2=2), seen.sum(-1)
        # A query that sees fewer of them has a mask of its own kind.
        total = total.where(before.sum(-1) == before.any(1).sum(-1, keepdim=True), -1)
    return (real.cumsum(1) - 1).clamp(min=0), own & (total - 1 != positions), total


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
