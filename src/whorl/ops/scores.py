"""Scores as an attention is handed them: a module of `whorl.encodings.scores`, with the states of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from whorl.encodings.scores import At, ScoreModule


class BoundScore(NamedTuple):
    """A score and what its `tokens` gave: [B, Q, H or 1, S] and [B, K, H or 1, S], or None for one without a state."""

    module: ScoreModule
    query_state: torch.Tensor | None = None
    key_state: torch.Tensor | None = None

    def at(
        self,
        query_positions: torch.Tensor,
        key_positions: torch.Tensor,
        seen: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> At:
        """With states as attention has q and k, heads before tokens."""
        q_state, k_state = self.query_state, self.key_state
        return At(
            query_positions,
            key_positions,
            None if q_state is None else q_state.transpose(1, 2),
            None if k_state is None else k_state.transpose(1, 2),
            seen,
            scale,
        )

    def part(self, first: int, last: int, keys: int) -> BoundScore:
        """Of the queries first .. last - 1 and the first `keys` keys."""
        q_state, k_state = self.query_state, self.key_state
        return BoundScore(
            self.module,
            None if q_state is None else q_state[:, first:last],
            None if k_state is None else k_state[:, :keys],
        )

    @property
    def by_rows(self) -> bool:
        """Whether it must see all keys of a query at once."""
        return any(self.module.does(step) for step in ("logits", "weights", "values"))


def scored(
    scores: Sequence[BoundScore],
    positions: tuple[torch.Tensor, torch.Tensor] | None,
    seen: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, list[At], list[tuple[torch.Tensor, torch.Tensor]]]:
    """q and k after every score's `inputs`; what each score knows; and the channels, of q and of k, that they add."""
    known: list[At] = []
    added: list[tuple[torch.Tensor, torch.Tensor]] = []
    for score in scores:
        assert positions is not None
        at = score.at(*positions, seen, scale)
        known.append(at)
        if score.module.does("inputs"):
            q, k = score.module.inputs(q, k, at)
        if score.module.does("channels"):
            added.append(score.module.channels(q, k, at))
    return q, k, known, added
