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

FFT_CHANNELS = 16  # transformed at a time, for a bound on memory
SMALL = 1 << 19  # numbers of q whose transforms are not worth threads of their own
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

    A rotation keeps these norms (up to YaRN's amplitude), so that of the rotated q and k is that of the content
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
    whole, small = torch.zeros(heads, tokens, device=q.device), q.numel() < SMALL
    for (group, *_), made in zip(items, at_once(transforms, items, q.device, small), strict=True):
        whole[group * repeats : (group + 1) * repeats] += made
    return whole, parts


def at_once(
    work: Callable[[Item], Made], items: Iterable[Item], device: torch.device, small: bool = False
) -> list[Made]:
    """work(item) of every item, on a CPU on as many threads as PyTorch has, each with all its operations to itself.

    Operations on what stays in a core's cache take less time than threads that share one take to meet: on a busy
    machine, several times less. Work that is `small` as a whole goes item by item: PyTorch's own threads, which wait
    for more of the model for milliseconds, would take a core from it.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1 or small:
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


def norm_products(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """Sums of scale |q_i| |k_{i-d}| over i for each distance, [heads, tokens]: the bound of Cauchy and Schwarz."""
    of_q, of_k = (x.float().norm(dim=-1)[..., None] for x in (q, k))
    return curves(of_q, of_k, torch.empty(0, 1, dtype=torch.long), scale)[0]


def drawn(
    tokens: int, low: int, high: int, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pairs at distances low <= d < high: queries and keys, [count] each. Distances are drawn evenly, then
    queries evenly from those that have such a key past the first token."""
    distance = torch.randint(low, high, (count,), generator=generator)
    query = distance + 1 + (torch.rand(count, generator=generator) * (tokens - 1 - distance)).long()
    query = query.clamp_max(tokens - 1)
    return query, query - distance


def parts_at(attended: Attended, batch: int, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """scale q.k of these queries and keys, by part: [heads, count, pairs + 1], the whole last."""
    q = attended.q[batch][:, query].float() * attended.scale
    k = attended.k[batch][:, key].float().repeat_interleave(q.shape[0] // attended.k.shape[1], 0)
    product = q * k
    parts = product[..., attended.layer.channels()].sum(-1)
    return torch.cat([parts, product.sum(-1, keepdim=True)], -1)


def departure(test: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """1-Wasserstein distance between two samples of equal size over dim 1, in the reference's standard deviations."""
    spread = reference.std(1).clamp_min(1e-12)
    return (test.sort(1).values - reference.sort(1).values).abs().mean(1) / spread
