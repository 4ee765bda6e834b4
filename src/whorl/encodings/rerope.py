"""ReRoPE and Leaky ReRoPE, rectified rotary position embeddings. Su, 2023, github.com/bojone/rerope.

RoPE at the distance min(i - j, w), or, leaky, at w + leak (i - j - w) past the window w. A model that was trained at w
tokens or more sees no distance that it does not know, and needs no training. Su scales logits besides: rerope+log-n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whorl.encodings.config import require_number
from whorl.encodings.two_rotations import InRange, TwoRotations


class Rectified(TwoRotations):
    """Far keys at the distance of the window, or a little beyond it: the sum of a query's and a key's position."""

    def __init__(self, frequencies: Sequence[float], layout: str, window: int, leak: float) -> None:
        super().__init__(frequencies, layout, window)
        self.leak = leak

    def far(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # counted from the first query, whose numbers are then small enough for any device's floats
        start = query_positions[:, :1]
        beyond = (self.leak * (query_positions - start)).float(), (self.leak * (key_positions - start)).float()
        return beyond[0] + self.window * (1 - self.leak), beyond[1]


@dataclass(frozen=True)
class ReRoPE(InRange):
    """Scores near keys as RoPE does, and all keys past a window as if they stood at its edge. It is for models that
    were trained with RoPE, as they are: longer texts without training. (Su's ReRoPE, compared with others in
    arXiv 2401.01325)

    window        tokens; keys at distances below it are near. A quarter of `train_length` where it is not given
    train_length  the tokens that the model is trained at
    base          as in `RoPE`
    fraction      as in `RoPE`
    leak          by how much of a token distances still grow past the window, the 1/k of Leaky ReRoPE; 0 is ReRoPE
    """

    leak: float = 0.0

    name = "rerope"
    title = "RoPE in which distances stop growing at a window: longer texts without training"
    paper = "2401.01325"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("leak", self.leak)
        if not 0 <= self.leak <= 1:
            raise ValueError(
                f"leak is the part of a token by which distances go on and must be in [0, 1], got {self.leak}"
            )

    def module(self, frequencies: Sequence[float], layout: str, window: int) -> TwoRotations:
        return Rectified(frequencies, layout, window, self.leak)
