"""What Self-Extend and ReRoPE share: near keys are scored as RoPE does, far ones at other positions, in range.

Both are for a model that was trained with RoPE, as it is: no distance that it is shown is one that it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whorl.encodings.angles import turned
from whorl.encodings.base import Encoding
from whorl.encodings.config import of_host, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import RoPE
from whorl.encodings.scores import At, ScoreModule, refuse_encoders
from whorl.encodings.turns import cos_sin


class TwoRotations(ScoreModule):
    """Scores q and k, which arrive unturned, twice: turned by their own positions, for keys at distances below
    `window`, and by those that `far` gives, for the others.

    frequencies: radians per token of the pairs of the first channels. layout: which channels are a pair.
    """

    scores_anew = as_trained = True

    def __init__(self, frequencies: Sequence[float], layout: str, window: int) -> None:
        super().__init__()
        self.frequencies, self.layout, self.window = tuple(frequencies), layout, window

    def far(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The positions of queries and of keys that are far from one another; they may be real numbers."""
        raise NotImplementedError

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        own = at.query_positions, at.key_positions
        near, far = (
            self._turned(q, of_q) @ self._turned(k, of_k).transpose(-1, -2) for of_q, of_k in (own, self.far(*own))
        )
        distance = at.query_positions.long()[:, None, :, None] - at.key_positions.long()[:, None, None, :]
        return torch.where(distance < self.window, near, far)

    def _turned(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """x [batch, heads, tokens, channels] turned by positions [batch or 1, tokens]."""
        cos, sin = (table[:, None] for table in cos_sin(positions, self.frequencies, x.dtype))
        return turned(x, cos, sin, self.layout)


@dataclass(frozen=True)
class InRange(Encoding):
    """What the two encodings share. `window` (tokens) is a quarter of `train_length` where it is not given;
    `train_length`, `base` and `fraction` (as in `RoPE`) are the model's own where they are unset."""

    window: int | None = None
    train_length: int | None = of_host(2048)
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()

    kinds = ("rotate", "score")

    def __post_init__(self) -> None:
        RoPE(self.base, self.fraction)  # says what is wrong with them
        for name in ("window", "train_length"):
            if getattr(self, name) is not None:
                require_positive_int(name, getattr(self, name), " tokens")

    def module(self, frequencies: Sequence[float], layout: str, window: int) -> TwoRotations:
        raise NotImplementedError

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "moves keys that are far before a query")
        window = max(1, self.argument("train_length") // 4) if self.window is None else self.window
        frequencies = RoPE(self.argument("base"), self.argument("fraction")).spectrum(shape.head_dim).frequencies
        return (Score(self.module(frequencies, shape.layout, window), shared=True),)
