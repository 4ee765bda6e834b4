"""Which keys may be seen by which queries, without a matrix of queries by keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")
KEPT = 8  # things made by one function for the layers that share a mask
ROWS_AT_ONCE = 1 << 22  # entries of a mask that are looked at together


class Runs(NamedTuple):
    """A mask in which every query sees one run of neighbouring keys, or none: first <= key < end.

    first, end: int64 [batch or 1, queries]; both are 0 where nothing is seen.
    """

    first: torch.Tensor
    end: torch.Tensor


class Visible:
    """Which keys may be seen, asked block by block. What was found is remembered, since layers share a mask."""

    of_one_forward = False  # whether it is made anew for each, in which positions and parameters stay as they are

    def __init__(self, queries: int, keys: int) -> None:
        self.queries, self.keys = queries, keys
        self.ahead = keys - queries  # the last query stands at the last key
        self.kinds: dict[tuple[int, ...], str] = {}
        self.found_runs: list[Runs | None] = []
        self.of_layers: dict[Callable[..., Any], list[tuple[torch.Tensor, torch.Tensor, tuple[Any, ...], Any]]] = {}
        self.again: dict[Any, Any] = {}  # what layers of one forward do alike: see `biased_attention`

    def block(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
        """True where a key is seen, [batch or 1, heads or 1, queries, keys]."""
        raise NotImplementedError

    def mod(self) -> Callable[..., torch.Tensor]:
        """The same as a function of index tensors (batch, head, query, key), as FlexAttention asks."""
        raise NotImplementedError

    def kind(self, *block: int) -> str:
        """ "none" or "all" of the block is seen, what is "causal" (no key after the query's own), or "some"."""
        kind = self.kinds.get(block)
        if kind is None:
            seen = self.block(*block)
            if bool(seen.all()):
                kind = "all"
            elif not bool(seen.any()):
                kind = "none"
            else:
                q0, q1, k0, k1 = block
                own = torch.arange(q0, q1, device=seen.device)[:, None] + self.ahead
                causal = torch.arange(k0, k1, device=seen.device) <= own
                kind = "causal" if bool((seen == causal).all()) else "some"
            self.kinds[block] = kind
        return kind

    @property
    def known(self) -> str | None:
        """The whole mask's kind where that is known without looking at it: "all", "causal" or None."""
        return None

    def runs(self) -> Runs | None:
        """The mask as one run of keys for each query, or None where a query sees several, or heads differ."""
        if not self.found_runs:
            self.found_runs.append(self._find_runs())
        return self.found_runs[0]

    def derived(
        self, make: Callable[..., T], query_positions: torch.Tensor, key_positions: torch.Tensor, *settings: Any
    ) -> T:
        """`make(self, query_positions, key_positions, *settings)`, and the same again for the layers that ask again."""
        kept = self.of_layers.setdefault(make, [])
        for q_at, k_at, known, found in kept:
            if known == settings and _same(q_at, query_positions) and _same(k_at, key_positions):
                return found
        found = make(self, query_positions, key_positions, *settings)
        held = (query_positions, key_positions)
        if not self.of_one_forward:
            held = (_copy(query_positions), _copy(key_positions))
        kept[:] = [*kept, (*held, settings, found)][-KEPT:]
        return found

    def dense(self) -> torch.Tensor:
        """All of it, where each dimension may also be 1."""
        return self.block(0, self.queries, 0, self.keys)

    def _find_runs(self) -> Runs | None:
        if self.queries == 0 or self.keys == 0:
            return Runs(*torch.zeros(2, 1, self.queries, dtype=torch.int64))
        found = []
        step = max(1, ROWS_AT_ONCE // max(1, self.keys))
        for q0 in range(0, self.queries, step):
            seen = self.block(q0, min(q0 + step, self.queries), 0, self.keys)
            if seen.shape[1] > 1 or seen.is_meta:
                return None
            seen = seen[:, 0]
            if self.queries == 1 and bool(seen.all()):  # nearly always, in decoding
                return Runs(*torch.tensor([0, self.keys]).expand(len(seen), 2).T[..., None])
            count = seen.sum(-1)
            first = seen.byte().argmax(-1)  # of several largest, the first
            end = (self.keys - seen.flip(-1).byte().argmax(-1)).where(count > 0, 0)
            if bool((count != end - first).any()):
                return None
            found.append(torch.stack([first, end]))
        return Runs(*torch.cat(found, -1))


def seen_runs(mask: Visible | None, queries: int, keys: int, causal: bool) -> Runs | str:
    """The keys that each query sees under a mask, and of those, where `causal`, the ones up to its own; or the reason
    why they are no runs. Of a query that sees nothing, end <= first."""
    runs = Runs(*torch.tensor([[0], [keys]]).expand(2, queries)[:, None]) if mask is None else mask.runs()
    if runs is None:
        return "the mask shows a query more than one run of keys, or differs from head to head"
    if not causal:
        return runs
    return Runs(runs.first, torch.minimum(runs.end, torch.arange(queries) + 1 + keys - queries))


class DenseVisible(Visible):
    """A bool tensor broadcastable to [batch, heads, queries, keys]."""

    def __init__(self, mask: torch.Tensor, queries: int, keys: int) -> None:
        super().__init__(queries, keys)
        self.given = mask
        self.mask = mask.expand(*mask.shape[:2], queries, keys)

    def block(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
        return self.mask[:, :, q0:q1, k0:k1]

    def dense(self) -> torch.Tensor:
        return self.given

    def mod(self) -> Callable[..., torch.Tensor]:
        mask = self.mask
        return lambda b, h, i, j: mask[b if mask.shape[0] > 1 else 0, h if mask.shape[1] > 1 else 0, i, j]


def _copy(positions: torch.Tensor) -> torch.Tensor:
    """What they hold now: a caller may count on in this very tensor, and a mask of one query is kept beyond a call. All
    other masks are made anew in each, and elsewhere to compare numbers would wait for the device."""
    return positions.clone() if positions.is_cpu and type(positions) is torch.Tensor else positions


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))
