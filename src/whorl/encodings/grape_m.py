"""GRAPE-M, multiplicative group encoding. Zhang et al., ICLR 2026, arXiv 2512.07805, section 3.

Position n acts on q and k as G(n) = exp(n sum_j omega_j L_j), L_j = a_j b_j^T - b_j a_j^T, on planes (a_j, b_j) that
commute. For unit vectors a, b at right angles, exp(n omega L) is I + sin(n omega) L + (1 - cos(n omega)) L^2, a turn of
their plane by n omega. As in the official code the planes are those of RoPE's pairs (any others at right angles to one
another are these after a change of basis, which the projections of q and k learn), and omega is learned in each layer:
omega_j = exp(16 w_j), started at RoPE's base^(-2j/d). (The 16 speeds up its learning.) What is kept is how far w_j has
gone from there, which half precision rounds less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from whorl.encodings.angles import AngleModule, angles_of, cos_sin_of, exact, numbers
from whorl.encodings.config import choices, of_host
from whorl.encodings.effects import Effect, Score, Shape
from whorl.encodings.rope import OfPairs
from whorl.encodings.spectrum import rope_frequencies

FASTER = 16.0  # the official code's factor of log frequencies


class LearnedPlanes(AngleModule):
    """The frequency of each plane, learned as its logarithm over 16, less that of RoPE: [heads or 1, pairs]."""

    causal = False

    def __init__(self, frequencies: tuple[float, ...], heads: int, layout: str) -> None:
        super().__init__(layout)
        self.start = tuple(frequencies)  # numbers and no buffer, which model.to(bfloat16) would round
        self.shift = nn.Parameter(torch.zeros(heads, len(frequencies)))

    def frequencies(self) -> torch.Tensor:
        """Radians per token, [heads or 1, pairs], float64."""
        shift = exact(self.shift)
        return numbers(self.start, shift) * (FASTER * shift).exp()

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return cos_sin_of(angles_of(positions, self.frequencies()), dtype)

    def as_now(self, state: dict[str, Any], prefix: str) -> None:
        """Earlier versions kept the whole logarithm, as `log_frequency`; changes the state in place."""
        if (whole := state.pop(prefix + "log_frequency", None)) is not None:
            state[prefix + "shift"] = (whole.double() - numbers(self.start, whole).log() / FASTER).to(whole.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        self.as_now(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *others)


@dataclass(frozen=True)
class GRAPEM(OfPairs):
    """Starts as RoPE and learns the frequency of each pair, in each layer or in each head. The planes that turn are
    learned too, by the projections of q and k. (arXiv 2512.07805)

    base      as in `RoPE`
    fraction  as in `RoPE`
    per       "layer", one set of frequencies for its heads, as the official code has it by default, or "head"
    """

    base: float | None = of_host(10000.0)
    fraction: float | None = of_host()
    per: str = "layer"

    name = "grape-m"
    title = "turns of planes with frequencies that each layer, or head, learns"
    paper = "2512.07805"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("per", self.per, ("layer", "head"))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        frequencies = rope_frequencies(self.argument("base"), self.width(shape.head_dim))
        return (Score(LearnedPlanes(frequencies, shape.heads if self.per == "head" else 1, shape.layout)),)
