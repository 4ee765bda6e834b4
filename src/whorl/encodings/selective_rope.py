"""Selective RoPE, angles that accumulate by content. ICLR 2026, arXiv 2511.17388.

Pair i of head h turns by tau_i x sum of phi_hi over the tokens up to this one, tau_i = 500000^(-2i/d) fixed:

    phi = conv(W_up W_down x),  x: what the layer projects q and k from, each head's share of it of length 1

with a rank of 16 and a causal convolution over 4 tokens in each channel by itself, as the official code has by default
(no gate, no bias, no activation). Only differences of sums matter. Padding adds nothing to a sum, and the convolution
does not reach back over the first token of a text, in packed and in padded rows too: a token at position p takes p
tokens before it, three at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, cos_sin_of, exact, numbers
from whorl.encodings.biases import in_full
from whorl.encodings.config import check_base, of_host, require_positive_int
from whorl.encodings.earlier import latest_real, reached
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.scores import refuse_encoders
from whorl.encodings.spectrum import rope_frequencies
from whorl.numerics import math_dtype

TAPS = 4  # tokens that the convolution sees


class AccumulatedAngles(AngleModule):
    """A token's state [heads x pairs + rank + 1]: its angles, in [0, 2 pi), W_down x, for the convolution after it, and
    whether it is no padding (1, or 0): W_down x may be zeros of a token, too.

    Sums are taken in float64, since they grow with the text, and only what is left of whole turns is kept.
    """

    sees_hidden = True
    keeps_state = True
    looks_back = TAPS - 1

    def __init__(self, temperatures: tuple[float, ...], rank: int, shape: Shape) -> None:
        super().__init__(shape.layout)
        self.temperatures, self.heads, self.rank = temperatures, shape.heads, rank
        width, channels, generator = shape.width, shape.heads * len(temperatures), shape.generator()
        # PyTorch's own starts of a linear layer and of a convolution in each channel by itself
        self.down = nn.Parameter(_uniform(rank, width, width, generator))
        self.up = nn.Parameter(_uniform(channels, rank, rank, generator))
        self.taps = nn.Parameter(_uniform(channels, TAPS, TAPS, generator))  # of tokens t - 3 .. t

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        dtype, (batch, _, width) = math_dtype(hidden.dtype), hidden.shape
        shares = self.heads if width % self.heads == 0 else 1
        x = nn.functional.normalize(hidden.to(dtype).unflatten(-1, (shares, -1)), dim=-1).flatten(-2)
        low = nn.functional.linear(x, in_full(self.down).to(dtype))
        if real is not None:
            low = low * real[..., None]
        past = low.new_zeros(batch, TAPS - 1, self.rank)
        if before is not None:
            seen = before[:, :, 0, -self.rank - 1 : -1].to(dtype)
            if real is not None:
                seen = latest_real(seen, before[:, :, 0, -1] > 0, TAPS - 1)
            seen = seen[:, 1 - TAPS :]
            past = torch.cat([past[:, seen.shape[1] :], seen], 1)
        phi = self._convolved(torch.cat([past, low], 1), positions, real)
        if real is not None:
            phi = phi * real[..., None]
        temperatures = numbers(self.temperatures, phi).repeat(self.heads)
        angles = (exact(phi) * temperatures).cumsum(1)
        if before is not None:
            angles = angles + exact(before[:, -1:, 0, : -self.rank - 1])
        there = torch.ones_like(low[..., :1]) if real is None else real[..., None].to(dtype).expand(batch, -1, -1)
        return torch.cat([angles.remainder(2 * math.pi).to(dtype), low, there], -1).unsqueeze(2)

    def _convolved(self, low: torch.Tensor, positions: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """phi [B, T, heads x pairs] for W_down x [B, 3 + T, rank] of these tokens and of the three before them."""
        inputs = nn.functional.linear(low, in_full(self.up).to(low.dtype))
        taps, phi = in_full(self.taps).to(low.dtype), torch.zeros_like(inputs[:, TAPS - 1 :])
        for back, there in enumerate(reached(inputs, positions, real, TAPS)):
            phi = phi + taps[:, -1 - back] * there
        return phi

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert state is not None
        angles = state[:, 0, :, : -self.rank - 1].unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return cos_sin_of(angles, dtype)


def _uniform(rows: int, columns: int, fan: int, generator: torch.Generator) -> torch.Tensor:
    return (2 * torch.rand(rows, columns, generator=generator) - 1) / math.sqrt(fan)


@dataclass(frozen=True)
class SelectiveRoPE(OfPairs):
    """Lets each token say, per head and pair, by how much angles grow, and adds that up along the text. So two tokens
    are as far apart as those between them decide. (arXiv 2511.17388)

    base      of the fixed temperatures; the paper's, and never the model's own
    fraction  as in `RoPE`
    rank      of the projection of hidden states that the angles come from
    """

    base: float = 500000.0
    fraction: float | None = of_host()
    rank: int = 16

    name = "selective-rope"
    title = "angles that accumulate from token to token, by as much as the token's content says"
    paper = "2511.17388"
    by_order = True
    kinds = ("rotate", "score")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_base(self.base)
        require_positive_int("rank", self.rank)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        refuse_encoders(self, shape, "adds up what the tokens up to each one say")
        temperatures = rope_frequencies(self.base, self.width(shape.head_dim))
        return (Score(AccumulatedAngles(temperatures, self.rank, shape)),)
