"""What is measured of one layer's attention, in memory that does not grow with the square of its tokens.

Mean logits by distance are a cross-correlation of q and k over tokens, one per channel, so an FFT gives them for all
distances at once in O(L log L), and the part of every pair with them. What needs the softmax is streamed in blocks of
queries. Everything here takes q and k as attention sees them, turned already.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch

from whorl.results.inspection import Array
from whorl.watching import Attended, Layer

Item = TypeVar("Item")
Made = TypeVar("Made")

BLOCK_NUMBERS = 1 << 18  # logits of a block: what stays in a core's own cache
FFT_CHANNELS = 16  # transformed at a time, for a bound on memory
LEAST = -60.0  # exp() far below takes ten times as long, for numbers that no sum feels
KEY_BINS = 64


@dataclass(frozen=True)
class Bins:
    """Ranges start <= x < stop that cover 0 .. length - 1: of width 1 up to `exact`, then so many to each doubling.

    Those of a shorter length are the first of those of a longer one, the last cut short.
    """

    start: Array
    stop: Array

    @classmethod
    def over(cls, length: int, exact: int, per_doubling: int) -> Bins:
        edges = np.arange(min(exact, length) + 1)
        if length > exact:
            doublings = math.ceil(math.log2(length / exact))
            grown = (exact * 2.0 ** (np.arange(1, doublings * per_doubling + 1) / per_doubling)).round().astype(int)
            edges = np.unique(np.concatenate([edges, grown[grown < length], [length]]))
        return cls(edges[:-1], edges[1:])

    def __len__(self) -> int:
        return len(self.start)

    def sum(self, x: Array) -> Array:
        """Sums of x [..., length] over each range, in float64."""
        total = np.concatenate([np.zeros((*x.shape[:-1], 1)), np.cumsum(x, -1, dtype=np.float64)], -1)
        return total[..., self.stop] - total[..., self.start]


def samples(tokens: int) -> Array:
    """How many (query, key) pairs there are at each distance when the first token is no key: [tokens]."""
    return np.maximum(tokens - 1 - np.arange(tokens), 0)


def pair_norms(x: torch.Tensor, layer: Layer) -> Array:
    """Mean 2-norm of each pair over windows and tokens: x [batch, heads, tokens, head_dim] -> [heads, pairs].

    A rotation keeps these norms (up to YaRN's amplitude), so that of the turned q and k is that of the content
    (2410.06205, section 4).
    """
    a, b = (x[..., c].float() for c in layer.channels().T.to(x.device))
    return torch.hypot(a, b).mean((0, 2)).cpu().numpy()


def curves(
    q: torch.Tensor, k: torch.Tensor, channels: torch.Tensor, scale: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of scale q_i . k_{i-d} over i for each distance d, the first key (j = 0) left out.

    q [heads, tokens, head_dim] and k [key heads, tokens, head_dim] of one window; channels [parts, n] names the
    channels of each part. Returns the whole [heads, tokens] and the parts [heads, parts, tokens], float32.

    The first token is left out since models park attention on it whatever its distance (it is measured by itself);
    in a mean over the few queries that are far from anything else it would be most of what is seen.
    """
    heads, tokens, head_dim = q.shape
    groups, size = k.shape[0], 2 * tokens
    repeats = heads // groups
    rest = torch.ones(head_dim, dtype=torch.bool)
    rest[channels.flatten()] = False
    others = rest.nonzero().flatten()
    step = max(1, FFT_CHANNELS // max(1, channels.shape[1]))
    parts = torch.zeros(heads, len(channels), tokens, device=q.device)

    def transforms(item: tuple[int, range, torch.Tensor]) -> torch.Tensor:
        """The parts `which` of a group's heads, written into `parts`; and their sum, [repeats, tokens]."""
        group, which, chosen = item
        keys = k[group][:, chosen].float().T.contiguous()
        keys[:, 0] = 0
        of_keys = torch.fft.rfft(keys, size).conj()
        made = torch.empty(repeats, tokens, device=q.device)
        for r, h in enumerate(range(group * repeats, (group + 1) * repeats)):
            product = torch.fft.rfft(q[h][:, chosen].float().T * scale, size) * of_keys
            if which:
                product = product.view(len(which), -1, product.shape[-1]).sum(1)
                mine = parts[h, which.start : which.stop]
                mine.copy_(torch.fft.irfft(product, size)[:, :tokens])
                torch.sum(mine, 0, out=made[r])
            else:
                made[r] = torch.fft.irfft(product.sum(0), size)[:tokens]
        return made

    chunks = [(range(i, min(i + step, len(channels))), channels[i : i + step].flatten())
              for i in range(0, len(channels), step)]  # fmt: skip
    chunks += [(range(0), others[i : i + FFT_CHANNELS]) for i in range(0, len(others), FFT_CHANNELS)]
    items = [(group, *chunk) for group in range(groups) for chunk in chunks]
    whole = torch.zeros(heads, tokens, device=q.device)
    for (group, *_), made in zip(items, at_once(transforms, items, q.device), strict=True):
        whole[group * repeats : (group + 1) * repeats] += made
    return whole, parts


def at_once(work: Callable[[Item], Made], items: Iterable[Item], device: torch.device) -> list[Made]:
    """work(item) of every item, on a CPU on as many threads as PyTorch has, each with all its operations to itself.

    Operations on what stays in a core's cache take less time than threads that share one take to meet: on a busy
    machine, several times less.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        return [work(item) for item in items]

    @torch.inference_mode()  # which is a thread's own
    def alone(item: Item) -> Made:
        return work(item)

    return list(_threads(threads).map(alone, items))


@lru_cache(maxsize=1)
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads with one of PyTorch's each, kept: a new one takes milliseconds to get ready, as long as many an item."""

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # at the first of these a thread takes what was set last, by any

    pool, started = ThreadPoolExecutor(count, initializer=start), Barrier(count)
    try:
        list(pool.map(lambda _: started.wait(), range(count)))  # none starts later
    finally:
        started.abort()  # where not all could start, the others would wait
        torch.set_num_threads(count)  # for the caller's threads to come: what one of those set was taken for all
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of them


def standardised(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k of one window whose products are z-scores: each query's logits over all keys but the first have mean 0
    and standard deviation 1.

    q_i is divided by sqrt(q_i . C q_i), with C the keys' covariance, and their mean is taken from the keys.
    """
    repeats = q.shape[0] // k.shape[0]
    keys = k.float()
    centred = keys - keys[:, 1:].mean(1, keepdim=True)
    covariance = centred[:, 1:].transpose(1, 2) @ centred[:, 1:] / (k.shape[1] - 1)
    wide = q.float().unflatten(0, (k.shape[0], repeats))
    spread = torch.einsum("grnd,gde,grne->grn", wide, covariance, wide).clamp_min(1e-20).sqrt()
    return (wide / spread[..., None]).flatten(0, 1), centred


@dataclass
class Softmax:
    """Sums over a window's queries of what attention does, per head."""

    by_distance: Array  # [heads, tokens]: attention at each distance, summed over queries
    entropy: Array  # [heads, tokens]: of each query's weights, nats
    first: Array  # [heads, tokens]: each query's attention on the first token
    last_keys: Array  # [heads, KEY_BINS]: mean attention by relative key position, of the last eighth of the queries


def softmax(attended: Attended, batch: int) -> Softmax:
    """Streams one window's attention weights. Nothing of size [tokens, tokens] is ever made."""
    heads, tokens = attended.q.shape[1], attended.q.shape[2]
    groups, device = attended.k.shape[1], attended.q.device
    repeats = heads // groups
    entropy, first = torch.zeros(2, heads, tokens, device=device)
    last = tokens - max(1, tokens // 8)

    def stream(item: tuple[int, list[tuple[int, int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks of queries of one key head: writes their entropy and first; by distance and by key, their sums."""
        group, blocks = item
        own = slice(group * repeats, (group + 1) * repeats)
        by_distance, last_keys = torch.zeros(2, repeats, tokens, device=device)
        for q0, q1 in blocks:
            s, k0 = attended.logits(batch, group, q0, q1)
            rows, width = q1 - q0, q1 - k0
            top = s.amax(-1, keepdim=True)
            sink = None
            if attended.sinks is not None:
                sink = attended.sinks[own].float()[:, None, None]
                top = torch.maximum(top, sink)
            s.sub_(top).clamp_min_(LEAST)
            # Zeros on the right of each row and before the first one: a view whose rows start one number further on
            # each time then has a distance in each column.
            room = torch.empty(repeats, rows - 1 + rows * (width + rows), device=device)
            room[:, : rows - 1] = 0
            padded = room[:, rows - 1 :].view(repeats, rows, width + rows)
            padded[..., width:] = 0
            e = padded[..., :width]
            torch.exp(s, out=e)
            total, inside = e.sum(-1), s.mul_(e).sum(-1)
            if sink is not None:
                sunk = (sink - top)[..., 0]
                total, inside = total + sunk.exp(), inside + sunk.exp() * sunk
            entropy[own, q0:q1] = total.log() - inside / total
            share = 1 / total
            if k0 == 0:
                first[own, q0:q1] = e[..., 0] * share
            for r in range(repeats):
                skewed = room[r].as_strided((rows, width + rows - 1), (width + rows + 1, 1), room[r].storage_offset())
                by_distance[r, :width] += (share[r] @ skewed).flip(0)[rows - 1 :]
                if q0 >= last:
                    last_keys[r, k0:q1] += share[r] @ e[r]
        return by_distance, last_keys

    blocks = _blocks(tokens, repeats, attended.layer.window or tokens, last)
    turns = min(len(blocks), torch.get_num_threads())
    items = [(group, blocks[turn::turns]) for group in range(groups) for turn in range(turns)]
    sums = torch.zeros(2, heads, tokens, device=device)  # by distance, and of the last queries by key
    for (group, _), made in zip(items, at_once(stream, items, device), strict=True):
        sums[:, group * repeats : (group + 1) * repeats] += torch.stack(made)
    by_distance, last_keys = sums
    edges = np.linspace(0, tokens, KEY_BINS + 1).round().astype(int)
    by_key = Bins(edges[:-1], edges[1:]).sum((last_keys / (tokens - last)).cpu().numpy())
    return Softmax(by_distance.cpu().numpy(), entropy.cpu().numpy(), first.cpu().numpy(), by_key)


def _blocks(tokens: int, repeats: int, window: int, last: int) -> list[tuple[int, int]]:
    """Ranges of queries whose logits are about BLOCK_NUMBERS; none holds queries on both sides of `last`."""
    blocks, q0 = [], 0
    while q0 < tokens:
        keys = min(q0 + 64, window + 64)
        step = max(16, min(512, BLOCK_NUMBERS // (repeats * keys)))
        q1 = min(tokens, q0 + step, last if q0 < last else tokens)
        blocks.append((q0, q1))
        q0 = q1
    return blocks


def norm_products(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """Sums of scale |q_i| |k_{i-d}| over i for each distance, [heads, tokens]: the bound of Cauchy and Schwarz."""
    of_q, of_k = (x.float().norm(dim=-1)[..., None] for x in (q, k))
    return curves(of_q, of_k, torch.empty(0, 1, dtype=torch.long), scale)[0]


def sampled_parts(
    attended: Attended, batch: int, low: int, high: int, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Logits by part of random (query, key) pairs at distances low <= d < high: [heads, count, pairs + 1], the whole
    last. Distances are drawn evenly, then queries evenly from those that have such a key past the first token."""
    layer, tokens = attended.layer, attended.q.shape[2]
    distance = torch.randint(low, high, (count,), generator=generator)
    query = distance + 1 + (torch.rand(count, generator=generator) * (tokens - 1 - distance)).long()
    query = query.clamp_max(tokens - 1)
    q = attended.q[batch][:, query].float() * attended.scale
    k = attended.k[batch][:, query - distance].float().repeat_interleave(q.shape[0] // attended.k.shape[1], 0)
    product = q * k
    parts = product[..., layer.channels()].sum(-1)
    return torch.cat([parts, product.sum(-1, keepdim=True)], -1)


def departure(test: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """1-Wasserstein distance between two samples of equal size over dim 1, in the reference's standard deviations."""
    spread = reference.std(1).clamp_min(1e-12)
    return (test.sort(1).values - reference.sort(1).values).abs().mean(1) / spread
