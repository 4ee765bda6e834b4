"""RePo, context re-positioning. ICML 2026, arXiv 2512.14391.

Each token chooses a position per head, a real number, from what the layer projects q and k from,

    z = (swish(h W_g) * (h W_c)) W_z,  W_g and W_c of width d/8, shared by the heads of a layer

and pairs turn by z theta_i, with RoPE's frequencies. Layers before a third of the model's keep RoPE and its integer
positions, as in the official runs (from layer 5 of 16, and 10 of 32, counted from 0). Order and mask are not touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, cos_sin_of, exact, numbers
from whorl.encodings.base import Encoding
from whorl.encodings.biases import in_full
from whorl.encodings.config import of_host
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs, RoPE
from whorl.encodings.spectrum import rope_frequencies
from whorl.numerics import math_dtype

NARROWER = 8  # times, than the hidden states
START = 0.02  # the deviation from which the official runs start all matrices


class FreePositions(AngleModule):
    """A token's state is its position in each head. Its angles are taken in float64."""

    sees_hidden = True
    keeps_state = True
    causal = False

    def __init__(self, frequencies: tuple[float, ...], shape: Shape) -> None:
        super().__init__(shape.layout)
        self.frequencies = frequencies
        heads, width, generator = shape.heads, shape.width, shape.generator()
        inner = max(1, width // NARROWER)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(START * torch.randn(*shape, generator=generator))

        self.gate, self.content, self.position = drawn(inner, width), drawn(inner, width), drawn(heads, inner)

    def tokens(
        self,
        hidden: torch.Tensor | None,
        positions: torch.Tensor,
        real: torch.Tensor | None,
        before: torch.Tensor | None,
    ) -> torch.Tensor:
        assert hidden is not None
        dtype = math_dtype(hidden.dtype)
        gate, content, position = (in_full(w).to(dtype) for w in (self.gate, self.content, self.position))
        x = hidden.to(dtype)
        inner = nn.functional.silu(nn.functional.linear(x, gate)) * nn.functional.linear(x, content)
        return nn.functional.linear(inner, position)[..., None]

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert state is not None
        return cos_sin_of(exact(state) * numbers(self.frequencies, state), dtype)


@dataclass(frozen=True)
class RePo(OfPairs):
    """Gives each token a real number for its position, per head, which the layer makes of the token's hidden state.
    The lower third of the layers keeps RoPE and counts tokens. (arXiv 2512.14391)

    base      as in `RoPE`
    fraction  as in `RoPE`
    first     the first layer that does so, counted from 0; those below have RoPE
    """

    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    first: int | None = of_host(known="third")

    name = "repo"
    title = "upper layers turn by a real position that each token chooses per head; those below have RoPE"
    paper = "2512.14391"
    kinds = ("rotate", "score")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first is not None and (
            isinstance(self.first, bool) or not isinstance(self.first, int) or self.first < 0
        ):
            raise ValueError(f"first must be the number of a layer, from 0, got {self.first!r}")

    def for_layer(self, index: int, layer_type: str | None = None) -> Encoding:
        return self if self.first is None or index >= self.first else RoPE(self.base, self.fraction)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        frequencies = rope_frequencies(self.argument("base"), self.width(shape.head_dim))
        return (Score(FreePositions(frequencies, shape)),)
