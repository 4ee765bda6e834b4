"""DaRoPE, rotations that content decides in part. "RoPE is Dead, Long Live RoPE", Meta and Inria, 2026.

The K pairs that turn fully in the training length L, 2 pi / theta_j <= L, turn as RoPE's. The slow ones turn by
c theta_j, where c in (0, L) is a position that each token chooses per head:

    c = L sigmoid(w_h . x_m + alpha_h beta_m),   beta_m = logit(clip(m + 1/2, eps L, (1 - eps) L) / L),  eps = 1e-6

x_m is what the layer projects q and k from. w starts at N(0, 0.1^2) and alpha at 0.5. HoPE is the same without the
slow pairs' turning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, angles_of, cos_sin_of, exact, numbers
from whorl.encodings.biases import in_full
from whorl.encodings.config import of_host, require_positive_int
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.spectrum import rope_frequencies, turns_fully
from whorl.numerics import math_dtype

EDGE = 1e-6  # the paper's eps


class ChosenPositions(AngleModule):
    """A token's state is the position that it chooses in each head, in (0, L)."""

    sees_hidden = True
    keeps_state = True
    causal = False

    def __init__(self, frequencies: tuple[float, ...], train_length: int, shape: Shape) -> None:
        super().__init__(shape.layout)
        self.frequencies, self.train_length = frequencies, train_length
        self.fast = sum(turns_fully(f, train_length) for f in frequencies)
        self.weight = nn.Parameter(0.1 * torch.randn(shape.heads, shape.width, generator=shape.generator()))
        self.alpha = nn.Parameter(torch.full((shape.heads,), 0.5))

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        dtype = math_dtype(hidden.dtype)
        content = nn.functional.linear(hidden.to(dtype), in_full(self.weight).to(dtype))
        at = ((exact(positions) + 0.5) / self.train_length).clamp(EDGE, 1 - EDGE)
        beta = torch.logit(at).to(dtype)[..., None]  # [B or 1, T, 1]
        chosen = torch.sigmoid(content + in_full(self.alpha).to(dtype) * beta)
        return self.train_length * chosen[..., None]

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert state is not None
        frequencies = numbers(self.frequencies, state)
        fast = cos_sin_of(angles_of(positions, frequencies[: self.fast]), dtype)
        slow = cos_sin_of(exact(state) * frequencies[self.fast :], dtype)
        cos, sin = (torch.cat([f.expand(*s.shape[:-1], -1), s], -1) for f, s in zip(fast, slow, strict=True))
        return cos, sin


@dataclass(frozen=True)
class DaRoPE(OfPairs):
    """Turns the fast pairs by positions, as HoPE does, and the slow ones by a position that each token chooses in each
    head. What it chooses lies within the training length, so that no slow pair gets to an angle that is new.

    train_length  the tokens that the model is trained at, not the length of a run
    base          as in `RoPE`
    fraction      as in `RoPE`; the cut is made in the pairs that turn
    """

    train_length: int | None = of_host()
    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()

    name = "darope"
    title = "the pairs that HoPE does not rotate turn by a position that the token's content chooses"
    paper = "RoPE is Dead, Long Live RoPE"
    not_relative = "what a token chooses goes by its own position too"
    kinds = ("rotate", "score")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_length is not None:
            require_positive_int("train_length", self.train_length, " tokens")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        length = self.needed("train_length", "the length that the model is trained at", 4096)
        frequencies = rope_frequencies(self.argument("base"), self.width(shape.head_dim))
        return (Score(ChosenPositions(frequencies, length, shape)),)
