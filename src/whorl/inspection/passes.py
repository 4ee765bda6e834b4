"""A pass: windows of one length through a model, and what is summed of each layer on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch

from whorl.hosts import open_host
from whorl.inspection import adding, measures
from whorl.inspection.adding import Added, AddedAt, Shares
from whorl.inspection.measures import Bins
from whorl.inspection.streaming import Softmax, stream
from whorl.results.inspection import Array
from whorl.watching import Attended, Layer, forward

BATCH_TOKENS = 2048  # of a forward: what an interrupted pass loses, at most
EXACT, FURTHER = 512, 32  # bins of distances: those of one token each, and those per doubling past them
COARSE_EXACT, COARSE_FURTHER = 64, 12
POSITIONS = 8
OFFSETS = 64  # distances at which a head may be a positional head
SETTLED = 8  # queries before this one have too few keys to say which they prefer


@dataclass
class Sums:
    """What a pass adds up of one layer. Sums over windows, tokens and queries; see `Pass` for their means."""

    layer: Layer
    windows: int = 0
    norms: dict[str, Array] = field(default_factory=dict)
    logit: Array | None = None  # [heads, D]
    by_pair: Array | None = None  # [heads, pairs, C]
    curve: Array | None = None  # [pairs + 1, tokens]: mean over heads, the whole last
    regions: list[Array] = field(default_factory=list)  # per window [3, pairs + 1]: near, middle, far
    first_by_pair: Array | None = None  # [heads, pairs + 1]: logits of the first key
    bound: Array | None = None  # [heads, OFFSETS]
    attention: Array | None = None  # [heads, D]
    entropy: Array | None = None  # [heads, P]
    first: Array | None = None  # [heads, P]
    settled_first: Array | None = None  # [heads]
    last_keys: Array | None = None  # [heads, KEY_BINS]
    added: Array | None = None  # [heads, D]: to logits, beside q.k
    sizes: Array | None = None  # [2, heads, D]: of what is added, and of content, as `adding.Shares` has them
    spread: Array | None = None  # [heads, 3]: variances over keys, mean over queries
    moved: Array | None = None  # [heads]: mean over queries
    gates: Array | None = None  # [heads, 3]
    factor: Array | None = None  # [heads or 1]: at the window's last query
    samples: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # each [heads, count, pairs + 1]


def together(a: Sums | None, b: Sums) -> Sums:
    """The sums of two sets of windows of one layer."""
    if a is None:
        return b
    return replace(b, **{own.name: _plus(getattr(a, own.name), getattr(b, own.name)) for own in fields(b)[1:]})


def _plus(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, dict):
        return {key: _plus(a.get(key), b.get(key)) for key in {**a, **b}}
    return a + b  # numbers and arrays; lists, one after the other


def add(total: Array | None, more: Array) -> Array:
    return more.astype(np.float64) if total is None else total + more


@dataclass
class Pass:
    """Runs windows [windows, tokens] and adds up what is asked for.

    logits: "raw", "standardised" (each query's logits as z-scores over its keys) or None
    regions_over: the length over which near, middle and far are taken (see `u_shape`); None: not taken
    sampled: names and ranges of distances whose logits are sampled, and how many of each
    only: the layers that are read; None: all
    enough: asked after each forward with the windows read; what it says yes to ends the pass
    layers: the sums of the first windows, where they were read before: the pass goes on after them

    A pass that is broken off, by an error or by Ctrl-C, has the sums of the forwards that were finished.
    """

    model: Any
    windows: torch.Tensor
    logits: str | None = "raw"
    norms: bool = False
    attention: bool = False
    regions_over: int | None = None
    sampled: dict[str, tuple[int, int]] = field(default_factory=dict)
    samples: int = 0
    seed: int = 0
    only: frozenset[int] | None = None
    enough: Callable[[int], bool] = lambda windows: False
    advance: Callable[[int], None] = lambda windows: None
    layers: dict[int, Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = self.tokens = self.windows.shape[1]
        self.distances = Bins.over(tokens, EXACT, FURTHER)
        self.coarse = Bins.over(tokens, COARSE_EXACT, COARSE_FURTHER)
        self.positions = Bins.over(tokens, 1, POSITIONS)
        self.counts = measures.samples(tokens)
        self.generator = torch.Generator().manual_seed(self.seed)

    def run(self) -> Pass:
        host = open_host(self.model)  # once for all its forwards
        per_batch = max(1, BATCH_TOKENS // self.tokens)
        for batch in self.windows[self.read :].split(per_batch) if self.read < len(self.windows) else ():
            before, self.layers = self.layers, {}
            try:
                forward(host, batch, self._see)
                before = {i: together(before.get(i), sums) for i, sums in self.layers.items()}
            finally:
                self.layers = before
            self.advance(len(batch))
            if self.enough(self.read):
                break
        return self

    @property
    def read(self) -> int:
        """How many windows have been read."""
        return max((sums.windows for sums in self.layers.values()), default=0)

    def _see(self, attended: Attended) -> None:
        layer = attended.layer
        if self.only is not None and layer.index not in self.only:
            return
        sums = self.layers.setdefault(layer.index, Sums(layer))
        if self.norms and layer.pairs:
            read = {"q": attended.q, "k": attended.k, "v": attended.v}
            read = {name: x for name, x in read.items() if x.shape[-1] == attended.q.shape[-1]}
            for name, x in read.items():  # too little for threads of its own
                norm = measures.pair_norms(x, layer) * len(x)
                sums.norms[name] = add(sums.norms.get(name), norm)
        for window in range(len(attended.q)):
            self._window(sums, attended, window)

    def _window(self, sums: Sums, attended: Attended, window: int) -> None:
        layer = sums.layer
        drawn = self._drawn(layer)
        added = shares = attention = None
        points: dict[str, AddedAt] = {}
        if attended.adds:
            points = {name: AddedAt(attended, window, *at) for name, at in drawn.items()}
            if self.logits is not None:
                added = Added(attended, window, self._shares(attended, window))
            if self.logits == "raw":
                shares = Shares(attended, window)
        if self.attention and layer.distribution:
            attention = Softmax(attended, window)
        if readers := [*filter(None, (added, shares)), *points.values(), *filter(None, (attention,))]:
            stream(attended, window, *readers)
        sums.windows += 1
        if self.logits is not None and layer.has_logits:
            self._logits(sums, attended, window, None if added is None else added.means())
        if shares is not None:
            sizes = self.distances.sum(shares.sums.cpu().numpy())
            sums.sizes = add(sums.sizes, sizes)
            sums.moved = add(sums.moved, shares.moved[:, SETTLED:].mean(-1).cpu().numpy())
            sums.spread = add(sums.spread, shares.spread[..., SETTLED:].mean(-1).T.cpu().numpy())
        if attention is not None:
            self._attention(sums, attention)
        if (gates := adding.gates(attended, window)) is not None:
            sums.gates = add(sums.gates, gates.cpu().numpy())
        if attended.factor is not None:
            factor = attended.factor[window if len(attended.factor) > 1 else 0, :, -1]
            sums.factor = add(sums.factor, factor.double().cpu().numpy())
        for name, at in drawn.items():
            parts = measures.parts_at(attended, window, *at)
            if name in points:
                parts[..., -1] += points[name].found
            sums.samples.setdefault(name, []).append(parts.cpu())

    def _drawn(self, layer: Layer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Queries and keys whose logits are sampled, by the name of their range of distances."""
        found = {}
        for name, (low, far) in self.sampled.items():
            high = far if layer.window is None else min(far, layer.window)
            if layer.has_logits and low < high:  # else the layer's window hides them
                count = -(-self.samples // len(self.windows))
                found[name] = measures.drawn(self.tokens, low, high, count, self.generator)
        return found

    def _shares(self, attended: Attended, window: int) -> torch.Tensor | None:
        """What a logit of each query is multiplied by to be a z-score, [heads, tokens]; None where it stays."""
        if self.logits != "standardised":
            return None
        q = attended.q[window].float().norm(dim=-1) * attended.scale
        return measures.standardised(attended.q[window], attended.k[window])[0].norm(dim=-1) / q.clamp_min(1e-20)

    def _logits(self, sums: Sums, attended: Attended, window: int, added: torch.Tensor | None) -> None:
        """added: mean by distance of what is added to q.k, [heads, tokens]."""
        layer, q, k = sums.layer, attended.q[window], attended.k[window]
        scale = attended.scale
        if self.logits == "standardised":
            q, k = measures.standardised(q, k)
            scale = 1.0
        whole, parts = measures.curves(q, k, layer.channels(), scale)
        bound = measures.norm_products(q, k, scale)[:, :OFFSETS] if self.regions_over is not None else None
        if added is not None:
            total = added * torch.from_numpy(self.counts).to(added)
            sums.added = add(sums.added, self.distances.sum(total.cpu().numpy()))
            whole = whole + total
        if layer.window is not None:
            whole[:, layer.window :], parts[..., layer.window :] = torch.nan, torch.nan
        both = torch.cat([parts.mean(0), whole.mean(0, keepdim=True)]).cpu().numpy()
        sums.logit = add(sums.logit, self.distances.sum(whole.cpu().numpy()))
        sums.by_pair = add(sums.by_pair, self.coarse.sum(parts.cpu().numpy()))
        if bound is not None:
            sums.curve = add(sums.curve, both)
            sums.regions.append(self._regions(both))
            sums.bound = add(sums.bound, bound.cpu().numpy())
            sums.first_by_pair = add(sums.first_by_pair, _first_key(q, k, layer, scale).cpu().numpy())

    def _regions(self, both: Array) -> Array:
        assert self.regions_over is not None
        means = []
        for low, high in regions(self.regions_over):
            count = self.counts[low:high].sum()
            means.append(both[:, low:high].sum(1, dtype=np.float64) / max(count, 1))
        return np.stack(means)

    def _attention(self, sums: Sums, found: Softmax) -> None:
        entropy, first = found.entropy.cpu().numpy(), found.first.cpu().numpy()
        sums.attention = add(sums.attention, self.distances.sum(found.by_distance))
        sums.entropy = add(sums.entropy, self.positions.sum(entropy))
        sums.first = add(sums.first, self.positions.sum(first))
        sums.settled_first = add(sums.settled_first, first[:, SETTLED:].mean(1))
        sums.last_keys = add(sums.last_keys, found.last_keys)

    # --- means --------------------------------------------------------------------------------------------------------

    def of_layers(self, mean: Callable[[Sums], Array | None]) -> list[Array | None]:
        """Of every layer up to the last that was read; None of those that were not."""
        return [mean(self.layers[i]) if i in self.layers else None for i in range(max(self.layers, default=-1) + 1)]

    def norm(self, name: str) -> list[Array | None]:
        return self.of_layers(lambda s: s.norms[name] / s.windows if name in s.norms else None)

    def mean_logit(self, sums: Sums) -> Array | None:
        """[heads, D]: NaN at distances that no query reaches."""
        return None if sums.logit is None else _over(sums.logit, sums.windows * self.distances.sum(self.counts))

    def mean_added(self, sums: Sums) -> Array | None:
        """[heads, D]: what is added to q.k, in logits."""
        return None if sums.added is None else _over(sums.added, sums.windows * self.distances.sum(self.counts))

    def added_share(self, sums: Sums) -> Array | None:
        """[heads, D]: the mean size of what is added over that and content's, both less their query's mean."""
        return None if sums.sizes is None else _over(sums.sizes[0], sums.sizes.sum(0))

    def mean_by_pair(self, sums: Sums) -> Array | None:
        """[heads, pairs, C]."""
        if sums.by_pair is None or not sums.layer.pairs:
            return None
        return _over(sums.by_pair, sums.windows * self.coarse.sum(self.counts))

    def mean_attention(self, sums: Sums) -> Array | None:
        """[heads, D]: mean over the queries that have a key at the distance, the first token among them."""
        if sums.attention is None:
            return None
        return _over(sums.attention, sums.windows * self.distances.sum(self.tokens - np.arange(self.tokens)))

    def by_position(self, total: Array | None, windows: int) -> Array | None:
        return None if total is None else total / (windows * (self.positions.stop - self.positions.start))


def regions(length: int) -> tuple[tuple[int, int], ...]:
    """Distances of near [1, L/8), middle [3L/8, 5L/8) and far [7L/8, L)."""
    return (1, max(2, length // 8)), (3 * length // 8, 5 * length // 8), (7 * length // 8, length)


def _first_key(q: torch.Tensor, k: torch.Tensor, layer: Layer, scale: float) -> torch.Tensor:
    """Mean logit of the first key over the queries after it, by pair and whole: [heads, pairs + 1]."""
    product = q[:, 1:].float().mean(1) * k[:, 0].float().repeat_interleave(q.shape[0] // k.shape[0], 0) * scale
    return torch.cat([product[:, layer.channels()].sum(-1), product.sum(-1, keepdim=True)], -1)


def _over(total: Array, count: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)
