"""One layer's logits over a window, block by block: what needs them is streamed, and no matrix of tokens x tokens made.

`stream` makes each block of logits once, and hands it to every reader: the softmax's, and those of what is added.
"""

from __future__ import annotations

import numpy as np
import torch

from whorl.inspection.measures import KEY_BINS, Bins, at_once
from whorl.results.inspection import Array
from whorl.watching import Attended, Block

BLOCK_NUMBERS = 1 << 18  # logits of a block: what stays in a core's own cache
SMALL = 1 << 24  # logits of all heads that are not worth threads of their own
FEWEST, MOST = 16, 512  # queries of a block
# The fewest where the tokens between turn logits: each block solves the triangles of all chunks before it, which take
# most of its time if queries are few, and as much memory as the logits of about 100 queries.
FEWEST_TURNED = 64
LEAST = -60.0  # exp() far below takes ten times as long, for numbers that no sum feels


class Reader:
    """Reads blocks, and adds up `kept` numbers for each head and distance (or key): `sums` [kept, heads, tokens]."""

    kept = 1

    def __init__(self, attended: Attended, batch: int) -> None:
        self.attended, self.batch = attended, batch
        self.sums = torch.zeros(self.kept, *attended.q.shape[1:3], device=attended.q.device)

    def read(self, block: Block, own: torch.Tensor) -> None:
        """own: sums of some blocks of the same heads [kept, heads of the block, tokens], which this one joins."""
        raise NotImplementedError


def stream(attended: Attended, batch: int, *readers: Reader) -> None:
    """Hands the logits of one window to the readers, of which the last may write over them."""
    tokens, device = attended.q.shape[2], attended.q.device
    units = attended.units
    together = units[0].stop - units[0].start

    def work(item: tuple[slice, list[tuple[int, int]]]) -> list[torch.Tensor]:
        heads, blocks = item
        own = [reader.sums.new_zeros(reader.kept, together, tokens) for reader in readers]
        for q0, q1 in blocks:
            block = attended.block(batch, heads, q0, q1)
            for reader, sums in zip(readers, own, strict=True):
                reader.read(block, sums)
        return own

    fewest = FEWEST_TURNED if any(score.module.does("turns_between") for score in attended.scores) else FEWEST
    blocks = _blocks(tokens, together, attended.layer.window or tokens, fewest)
    turns = min(len(blocks), torch.get_num_threads())
    items = [(heads, blocks[turn::turns]) for heads in units for turn in range(turns)]
    small = attended.q.shape[1] * tokens**2 < SMALL
    for (heads, _), own in zip(items, at_once(work, items, device, small), strict=True):
        for reader, sums in zip(readers, own, strict=True):
            reader.sums[:, heads] += sums


def _blocks(tokens: int, heads: int, window: int, fewest: int) -> list[tuple[int, int]]:
    """Ranges of queries of about BLOCK_NUMBERS logits, or `fewest`; none holds queries on both sides of `settled`."""
    blocks, q0, last = [], 0, settled(tokens)
    while q0 < tokens:
        keys = min(q0 + 64, window + 64)
        step = max(fewest, min(MOST, BLOCK_NUMBERS // (heads * keys)))
        q1 = min(tokens, q0 + step, last if q0 < last else tokens)
        blocks.append((q0, q1))
        q0 = q1
    return blocks


def settled(tokens: int) -> int:
    """The first query of the last eighth."""
    return tokens - max(1, tokens // 8)


class Skewed:
    """Room for numbers [heads, queries, keys], to be written to `values`, whose sums by distance are then a product.

    Zeros on the right of each row and before the first one: a view whose rows start one number further on each time
    then has a distance in each column.
    """

    def __init__(self, like: torch.Tensor) -> None:
        heads, self.rows, self.width = like.shape
        self.room = torch.empty(heads, self.rows - 1 + self.rows * (self.width + self.rows), device=like.device)
        self.room[:, : self.rows - 1] = 0
        padded = self.room[:, self.rows - 1 :].view(heads, self.rows, self.width + self.rows)
        padded[..., self.width :] = 0
        self.values = padded[..., : self.width]

    def by_distance(self, share: torch.Tensor) -> torch.Tensor:
        """Sums over queries of share x values, [heads, distances], for share [heads, queries]."""
        rows, width, found = self.rows, self.width, []
        for room, each in zip(self.room, share, strict=True):
            skewed = room.as_strided((rows, width + rows - 1), (width + rows + 1, 1), room.storage_offset())
            found.append((each @ skewed).flip(0)[rows - 1 :])
        return torch.stack(found)


class Softmax(Reader):
    """What attention does with a window's queries, per head.

    entropy  [heads, tokens]: of each query's weights, what a sink takes among them, in nats
    first    [heads, tokens]: each query's attention on the first token
    """

    kept = 2  # attention at each distance, summed over queries; and on each key, of the last eighth of the queries

    def __init__(self, attended: Attended, batch: int) -> None:
        super().__init__(attended, batch)
        self.entropy, self.first = torch.zeros(2, *self.sums.shape[1:], device=self.sums.device)

    def read(self, block: Block, own: torch.Tensor) -> None:
        """Writes over the block's logits."""
        heads, q0, q1, k0, s, _ = block
        last = settled(self.sums.shape[-1])
        weights = self.attended.weights(self.batch, block)
        skewed = Skewed(s)
        if weights is None:
            share = self._exponentials(block, skewed.values)
        else:
            self.entropy[heads, q0:q1] = self.attended.spread(weights)
            skewed.values.copy_(weights)
            share = torch.ones_like(weights[..., 0])
        e = skewed.values
        if k0 == 0:
            self.first[heads, q0:q1] = e[..., 0] * share
        own[0, :, : q1 - k0] += skewed.by_distance(share)
        if q0 >= last:
            for r, each in enumerate(share):
                own[1, r, k0:q1] += each @ e[r]

    def _exponentials(self, block: Block, e: torch.Tensor) -> torch.Tensor:
        """Writes those of the logits into e, and gives 1 / their sum, [heads, queries]."""
        heads, q0, q1, _, s, _ = block
        top = s.amax(-1, keepdim=True)
        sink = None
        if self.attended.sinks is not None:
            sink = self.attended.sinks[heads].float()[:, None, None]
            top = torch.maximum(top, sink)
        s.sub_(top).clamp_min_(LEAST)
        torch.exp(s, out=e)
        total, inside = e.sum(-1), s.mul_(e).sum(-1)
        if sink is not None:
            sunk = (sink - top)[..., 0]
            total, inside = total + sunk.exp(), inside + sunk.exp() * sunk
        self.entropy[heads, q0:q1] = total.log() - inside / total
        return 1 / total

    @property
    def by_distance(self) -> Array:
        """[heads, tokens]: attention at each distance, summed over queries."""
        return self.sums[0].cpu().numpy()

    @property
    def last_keys(self) -> Array:
        """[heads, KEY_BINS]: mean attention by relative key position, of the last eighth of the queries."""
        tokens = self.sums.shape[-1]
        edges = np.linspace(0, tokens, KEY_BINS + 1).round().astype(int)
        return Bins(edges[:-1], edges[1:]).sum((self.sums[1] / (tokens - settled(tokens))).cpu().numpy())


def softmax(attended: Attended, batch: int) -> Softmax:
    """Streams one window's attention weights."""
    found = Softmax(attended, batch)
    stream(attended, batch, found)
    return found
