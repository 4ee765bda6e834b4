"""Vectors of a table by relative position, for content to be weighed with: what Shaw's encoding and iRPE share.

For query i and key j with the row r = row(i - j), the tables K, Q and V (whichever there are) give

    logits   s_ij + scale (q_i . K_r + k_j . Q_r)
    output   o_i + sum_j weight_ij V_r

Neither is made of a vector per query and key: q_i meets all rows once, a matrix [queries, rows] of which entries are
gathered, in O(queries rows d + queries keys); and weights are summed by row before they meet V.

A rotary encoding beside them has rotated q and k by their absolute positions, on which those products then depend.
"""

from __future__ import annotations

import torch
from torch import nn

from whorl.encodings.biases import in_full
from whorl.encodings.by_run import ByRun
from whorl.encodings.scores import At, ScoreModule


class RelativeVectors(ScoreModule):
    """Tables [heads or 1, *rows, channels], which start at zero.

    on: the letters of what the tables meet: "k" is added to keys (and meets queries), "q" to queries, "v" to values.
    heads: 1 where heads share them. rows: how many, or the sizes of what `table` makes them of. changes: the distances
    at which another row begins than that of the one before, ascending; None where rows do not go by one distance.
    """

    causal = False

    def __init__(
        self, on: str, heads: int, rows: tuple[int, ...], channels: int, changes: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.on, self.changes = on, changes or ()
        self.runs = 0 if "q" in on or changes is None else len(changes) + 1  # what keys add goes by runs of queries
        self.tables = nn.ParameterDict({letter: torch.zeros(heads, *rows, channels) for letter in on})

    def row(self, distance: torch.Tensor) -> torch.Tensor:
        """The row of each distance, query position - key position: whole numbers of one shape."""
        raise NotImplementedError

    def does(self, step: str) -> bool:
        if step == "logits":
            return "k" in self.on or "q" in self.on
        return super().does(step) and (step != "values" or "v" in self.on)

    def table(self, letter: str) -> torch.Tensor:
        """[heads or 1, rows, channels] of what this letter's table says, in float32 (float64)."""
        return in_full(self.tables[letter])

    def of_each(self, at: At) -> torch.Tensor:
        """The row of each query and key, int64 [B or 1, 1, Q, K]."""
        return self.row(at.query_positions.long()[:, None, :, None] - at.key_positions.long()[:, None, None, :])

    def rows(self, at: At, like: torch.Tensor) -> torch.Tensor:
        """The row of each query and key, for each of `like` [B, H, Q, K]; heads share their memory."""
        return at.once("rows", lambda: self.of_each(at)).expand(like.shape)

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        rows = self.rows(at, s)
        if "k" in self.on:
            s = s + (q @ self.table("k").mT).gather(-1, rows)
        if "q" in self.on:
            s = s + (self.table("q") @ (k * at.scale).mT).gather(-2, rows)
        return s

    def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
        table = self.added_to(v.shape[-1])
        by_row = torch.zeros(*weights.shape[:-1], table.shape[-2], dtype=table.dtype, device=weights.device)
        return by_row.scatter_add(-1, self.rows(at, weights), weights.to(table.dtype)) @ table

    def added_to(self, channels: int) -> torch.Tensor:
        """The table of values [heads or 1, rows, channels]. Raises ValueError where v has other channels."""
        table = self.table("v")
        if table.shape[-1] != channels:
            raise ValueError(
                f"vectors of {table.shape[-1]} channels cannot be added to values of {channels}, which this host's "
                "heads have beside keys of another width; try an encoding that leaves values alone, irpe or t5"
            )
        return table

    def by_run(self, q: torch.Tensor, query_positions: torch.Tensor, least: int, most: int, channels: int) -> ByRun:
        changes = torch.tensor([x for x in reversed(self.changes) if least < x <= most] + [least], device=q.device)
        farthest, rows = changes[None, :-1, None] - 1, self.row(changes)  # each the least distance of its run
        values = self.table("k")[:, rows] @ q.mT if "k" in self.on else None
        return ByRun(farthest, values, vectors=self.added_to(channels)[:, rows] if "v" in self.on else None)
