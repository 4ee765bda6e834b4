"""Self-Extend. Jin et al., ICML 2024, arXiv 2401.01325.

Keys at distances below the window w are scored as RoPE does. Farther ones are in groups of G tokens that share a
position: query at floor(i / G) + w - floor(w / G), key at floor(j / G). So a model that was trained at L tokens sees
none at a distance that it does not know up to (L - w) G + w tokens, and needs no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whorl.encodings.config import require_positive_int
from whorl.encodings.two_rotations import InRange, TwoRotations


class Grouped(TwoRotations):
    """Far keys by the positions of groups of `group` tokens, which begin after the near ones."""

    def __init__(self, frequencies: Sequence[float], layout: str, window: int, group: int) -> None:
        super().__init__(frequencies, layout, window)
        self.group = group

    def far(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        of_q, of_k = (torch.div(p, self.group, rounding_mode="floor") for p in (query_positions, key_positions))
        return of_q + self.window - self.window // self.group, of_k


@dataclass(frozen=True)
class SelfExtend(InRange):
    """Scores near keys as RoPE does, and far ones by the positions of groups of tokens, so that no distance is larger
    than training has shown. It is for models that were trained with RoPE, as they are: longer texts without
    training. (arXiv 2401.01325)

    window        tokens; keys at distances below it are near. A quarter of `train_length` where it is not given
    train_length  the tokens that the model is trained at
    base          as in `RoPE`
    fraction      as in `RoPE`
    group         tokens that share a position
    """

    group: int = 8

    name = "self-extend"
    title = "RoPE for near keys, and for far ones positions in groups: longer texts without training"
    paper = "2401.01325"
    not_relative = "the groups of far keys begin at multiples of their size"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive_int("group", self.group, " tokens")

    def module(self, frequencies: Sequence[float], layout: str, window: int) -> TwoRotations:
        return Grouped(frequencies, layout, window, self.group)
