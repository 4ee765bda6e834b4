"""What biases and scores add to the logits of one layer, beside q.k; by what gates keys fade; what scales multiply by.

A logit is content + added: content is scale q.k (with a scale's factor, and capped where the host caps), and added is
all the rest. Where a score makes logits anew of q and k (PaTH's turns, Self-Extend's), added is what it changes.
"""

from __future__ import annotations

import torch

from whorl.inspection.streaming import Reader, Skewed
from whorl.watching import Attended, Block


def _apart(block: Block) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is added, content, and 1 for each pair that counts, [heads, queries, keys]: 0 where a key is hidden, and at
    the first token, which is left out of all means by distance."""
    assert block.content is not None
    counts = (block.logits > -torch.inf).to(block.content.dtype)
    if block.k0 == 0:
        counts[..., 0] = 0
    added = (block.logits - block.content).masked_fill_(counts == 0, 0)
    return added, block.content * counts, counts


class Added(Reader):
    """What is added at each distance, summed over queries, each by a share of its own (None: 1); and how many pairs."""

    kept = 2

    def __init__(self, attended: Attended, batch: int, share: torch.Tensor | None = None) -> None:
        """share: [heads, tokens]."""
        super().__init__(attended, batch)
        self.share = torch.ones_like(self.sums[0]) if share is None else share

    def read(self, block: Block, own: torch.Tensor) -> None:
        added, _, counts = _apart(block)
        share = self.share[block.heads, block.q0 : block.q1]
        for kept, x, of_row in ((0, added, share), (1, counts, torch.ones_like(share))):
            skewed = Skewed(x)
            skewed.values.copy_(x)
            own[kept, :, : x.shape[-1]] += skewed.by_distance(of_row)

    def means(self) -> torch.Tensor:
        """[heads, tokens]: NaN at distances at which every key is hidden, 0 where there is no key but the first."""
        total, count = self.sums
        there = torch.arange(total.shape[-1], device=total.device) < total.shape[-1] - 1
        return (total / count.clamp_min(1)).where((count > 0) | ~there, torch.nan)


class Shares(Reader):
    """How far what is added, and content, set the keys of a query apart.

    A softmax does not feel what it adds to all keys of a query alike. So each query's mean over its keys is taken from
    both parts before their sizes |.| are summed by distance, and the rest is variance over keys:

    spread  [3, heads, tokens]: of each query, the variance of what is added, of content, and their covariance
    moved   [heads, tokens]: of each query, the part of its attention that would be elsewhere by content alone, half of
            the sum of |weight - weight by content| over keys, the first and what a sink takes among them
    """

    kept = 2  # |added| and |content|

    def __init__(self, attended: Attended, batch: int) -> None:
        super().__init__(attended, batch)
        self.spread = torch.zeros(3, *self.sums.shape[1:], device=self.sums.device)
        self.moved = torch.zeros_like(self.spread[0])

    def read(self, block: Block, own: torch.Tensor) -> None:
        self.moved[block.heads, block.q0 : block.q1] = self._moved(block)
        added, content, counts = _apart(block)
        keys = counts.sum(-1, keepdim=True).clamp_min(1)
        added, content = ((x - x.sum(-1, keepdim=True) / keys).mul_(counts) for x in (added, content))
        products = (added * added, content * content, added * content)
        self.spread[:, block.heads, block.q0 : block.q1] = torch.stack([x.sum(-1) for x in products]) / keys[..., 0]
        for kept, x in enumerate((added, content)):
            skewed = Skewed(x)
            torch.abs(x, out=skewed.values)
            own[kept, :, : x.shape[-1]] += skewed.by_distance(torch.ones_like(x[..., 0]))

    def _moved(self, block: Block) -> torch.Tensor:
        assert block.content is not None
        alone = block._replace(logits=block.content.masked_fill(block.logits == -torch.inf, -torch.inf))
        made = []
        for each in (block, alone):
            weights = self.attended.weights(self.batch, each)
            made.append(self.attended.softmax(each) if weights is None else weights)
        apart = made[0] - made[1]
        return (apart.abs().sum(-1) + apart.sum(-1).abs()) / 2


class AddedAt(Reader):
    """What is added to the logits of some queries and keys [count]: `found` [heads, count]."""

    kept = 0

    def __init__(self, attended: Attended, batch: int, query: torch.Tensor, key: torch.Tensor) -> None:
        super().__init__(attended, batch)
        self.query, self.key = query, key
        self.found = torch.zeros(attended.q.shape[1], len(query), device=self.sums.device)

    def read(self, block: Block, own: torch.Tensor) -> None:
        assert block.content is not None
        here = ((block.q0 <= self.query) & (self.query < block.q1)).nonzero().flatten()
        at = (slice(None), self.query[here] - block.q0, self.key[here] - block.k0)
        added = block.logits[at] - block.content[at]
        self.found[block.heads, here] = added.masked_fill(added == -torch.inf, 0)  # of a key that the mask hides


def gates(attended: Attended, batch: int) -> torch.Tensor | None:
    """Of the gates by which keys fade, means over the tokens past the first (before which no key fades): of the gate's
    logarithm, of the gate, and how many are below 1/2. [heads, 3]; None without gates."""
    states = [(score.module, score.key_state) for score in attended.scores if score.key_state is not None]
    fading = [x for module, state in states if (x := module.fading(state, attended.scale)) is not None]
    if not fading:
        return None
    sums = torch.stack(fading).sum(0)
    logs = sums[batch if len(sums) > 1 else 0].double().diff(dim=0)  # [tokens - 1, heads or 1]
    gate = logs.exp()
    means = torch.stack([x.mean(0) for x in (logs, gate, (gate < 0.5).double())], -1)
    return means.expand(attended.q.shape[1], -1)
