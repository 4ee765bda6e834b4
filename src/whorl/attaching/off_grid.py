"""Tokens before an image's patches stand nowhere: what goes by distances changes nothing between them and others.

Their positions say so by a third number (`whorl.encodings.grid`). Modules are handed rows and columns alone, but for
those that have something of their own for such tokens (`sees_prefix`), which are handed all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from whorl.attaching.parallel import is_here
from whorl.attaching.seams import LayerSeam
from whorl.encodings.grid import nowhere
from whorl.encodings.learned_2d import GridTable
from whorl.encodings.mixed_rope import MixedAngles
from whorl.encodings.scores import At, ScoreModule
from whorl.hosts import Host
from whorl.ops.axes import seen_by


def fit_to_grid(host: Host, add: nn.Module | None, seams: Sequence[LayerSeam]) -> None:
    """Fits modules to a host of images: what is learned starts from the host's own, distances are those of patches."""
    own, grid = host.own_vectors, host.table_grid
    if isinstance(add, GridTable) and own is not None and grid is not None and is_here(own):
        add.start_from(own.to(add.weight), grid)
    if host.patches is None:  # nothing but turning goes by places there
        return
    for index, seam in enumerate(seams):
        learned = host.own_frequencies(index)
        if learned is None or not is_here(learned):
            continue
        for score in seam.scores:
            if isinstance(score, MixedAngles) and score.rotate:
                score.start_from(learned.to(score.frequency_bias))
    if host.patches.prefix:
        for seam in seams:
            seam.biases = tuple(b if getattr(b, "sees_prefix", False) else BiasOnGrid(b) for b in seam.biases)
            seam.scores = tuple(score if score.sees_prefix else ScoreOnGrid(score) for score in seam.scores)


class BiasOnGrid(nn.Module):
    """A bias of two patches; 0 where one of the two tokens is none."""

    axis = "all"

    def __init__(self, bias: nn.Module) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        of_queries, of_keys = (seen_by(self.bias, at[..., :-1]) for at in (query_positions, key_positions))
        bias: torch.Tensor = self.bias(of_queries, of_keys)
        return bias.masked_fill(nowhere(query_positions, key_positions), 0.0)


OF_POSITIONS = {"axis", "axes", "runs"}  # what a score declares of positions; these here have a number more


class ScoreOnGrid(ScoreModule):
    """A score of two patches; logits are what they were where one of the two tokens is none."""

    axis = "all"

    def __init__(self, score: ScoreModule) -> None:
        super().__init__()
        self.score = score
        for name in ScoreModule.__annotations__.keys() - OF_POSITIONS:
            setattr(self, name, getattr(score, name))

    def does(self, step: str) -> bool:
        """What the score does and is handed on here."""
        return super().does(step) and self.score.does(step)

    def tokens(self, hidden: Any, positions: torch.Tensor, real: Any, before: Any) -> torch.Tensor:
        return self.score.tokens(hidden, seen_by(self.score, positions[..., :-1]), real, before)

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        return self.score.inputs(q, k, self._of_patches(at))

    def turning(
        self, positions: torch.Tensor, state: torch.Tensor | None, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.score.turning(seen_by(self.score, positions[..., :-1]), state, dtype)

    def along(self) -> torch.Tensor:
        return self.score.along()

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        return self.score.channels(q, k, self._of_patches(at))

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        changed = self.score.logits(s, q, k, self._of_patches(at))
        if self.scores_anew:
            return changed
        return torch.where(nowhere(at.query_positions, at.key_positions), s, changed)

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        return self.score.weights(s, self._of_patches(at))

    def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
        return self.score.values(weights, v, self._of_patches(at))

    def _of_patches(self, at: At) -> At:
        of_queries = seen_by(self.score, at.query_positions[..., :-1])
        same = at.key_positions is at.query_positions
        of_keys = of_queries if same else seen_by(self.score, at.key_positions[..., :-1])
        return at._replace(query_positions=of_queries, key_positions=of_keys)
