"""Randomized positions: training on short texts shows positions of long ones. Ruoss et al., arXiv 2305.16843.

Of 0 .. L - 1, as many positions as a text has tokens are drawn without replacement, and sorted: the order of tokens
stays, and their distances are random. Each row of a batch has a draw of its own.

The paper draws in evaluation too. Here evaluation goes by plain positions: those of keys that a cache holds cannot make
room for the tokens that follow. Below L all of them, and all distances, have been seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from whorl.encodings.base import Encoding
from whorl.encodings.config import require_positive_int
from whorl.encodings.effects import Effect, Reposition, Shape

COUNT = "draws"  # its name in a state dict
BY_DRAW = "positions that are drawn at random, outside of the graph"


class RandomPositions(nn.Module):
    """Positions [batch or 1, tokens] -> in training, those that are drawn for them, [rows, tokens]; else as they are.

    Position p of a row becomes the p-th of its draw, so that packed documents and padding keep their order. One draw
    serves a forward: `begin` says that the next one comes.

    Draws follow from torch's seed and from how many there were, which goes with the weights: a training that is resumed
    draws on, and torch's own random numbers (dropout, the order of the data) stay as they are. Of processes that share
    a batch out, each draws for its own rows, in the order of the processes' numbers: together they draw as one does.

    The count is a number and no buffer, which a model that is made on the meta device would not have.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.draws = 0
        self.alike = 1  # processes that have the same rows: those that split layers between them, one after another
        self.drawn: torch.Tensor | None = None  # of this forward: [rows, the largest position + 1]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + COUNT] = torch.tensor([self.draws], device="cpu")

    def _load_from_state_dict(self, state: Any, prefix: str, *how: Any) -> None:
        self.draws = int(state.get(prefix + COUNT, self.draws))  # weights without an encoding have none
        super()._load_from_state_dict({k: v for k, v in state.items() if k != prefix + COUNT}, prefix, *how)

    def begin(self) -> None:
        self.drawn = None

    def forward(self, positions: torch.Tensor, rows: int) -> torch.Tensor:
        return self._drawn(positions, rows) if self.training else positions

    @torch.compiler.disable(reason=f"whorl: {BY_DRAW}")
    def _drawn(self, positions: torch.Tensor, rows: int) -> torch.Tensor:
        if self.drawn is None:
            self.drawn = self._draw(rows, int(positions.max()) + 1).to(positions.device)
        at = positions.clamp(min=0).expand(self.drawn.shape[0], -1)  # OPT gives padding the position -1
        return self.drawn.to(positions.device).gather(1, at)

    def _draw(self, rows: int, count: int) -> torch.Tensor:
        """Sorted and without repetition, [rows, count]. Raises ValueError for more than there are."""
        if count > self.length:
            raise ValueError(
                f"randomized:length={self.length} draws from {self.length} positions, and this text has {count}; "
                f"shorten it, or attach randomized:length={count} or more (the longest text that is to be read)"
            )
        self.draws += 1
        # Neighbouring seeds, of two runs or of two draws, are kept apart.
        seed = (torch.initial_seed() * 0x9E3779B97F4A7C15 + self.draws) % (1 << 63)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(_number() // self.alike):
            torch.rand(rows, self.length, generator=generator)  # those of the processes before this one
        order = torch.rand(rows, self.length, generator=generator)
        return order.topk(count, sorted=False).indices.sort().values


def _number() -> int:
    """Of this process among those that train together."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


@dataclass(frozen=True)
class Randomized(Encoding):
    """In training, shows random positions to the encoding beside it: sorted, and from a range longer than the text. So
    a model that is trained on short texts has met the positions of long ones; in evaluation they are plain.
    (arXiv 2305.16843)

    length  positions that are drawn from; that of the longest text that is to be read
    """

    length: int = 2048

    name = "randomized"
    title = "in training, the encoding beside it sees sorted random positions below `length`"
    paper = "2305.16843"
    kinds = ("positions",)
    alone_but_for = ("rotate", "add", "bias", "scale")
    by_order = True

    def __post_init__(self) -> None:
        require_positive_int("length", self.length, " positions")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Reposition(RandomPositions(self.length)),)
