"""The loss of the same tokens with more and more text before them, and by position. Version 1.

Every window of the text is as long as the longest length. Its last `tail` tokens are the targets. At length l the model
reads the last l tokens of the window: the targets are the same at every length, and only the context before them grows.
`tail` is their mean negative log-likelihood in nats per token, `mean` that of all l - 1 tokens that are predicted.

By position: the mean over the windows of the loss at each place of the l tokens that are read, in at most `BINS` bins.
Which tokens stand at a place is the text's doing: only the tail compares lengths.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from whorl.data.losses import window_losses
from whorl.evaluation.base import Measured, Probe, Progress
from whorl.results.evaluation import Position
from whorl.results.trial import Row
from whorl.tasks.base import of_samples

BINS = 64


class Loss(Probe):
    name = "loss"
    version = 1

    @property
    def steps(self) -> int:
        return len(self.material.windows)

    def measure(self, model: Any, length: int, progress: Progress) -> Measured:
        tail = self.material.tail
        if length <= tail:
            raise ValueError(f"{length:,} tokens do not hold the {tail:,} targets (--tail) and one before them")
        windows = self.material.windows[:, -length:]
        losses = window_losses(model, windows, model.config.get_text_config().vocab_size, progress=progress).double()
        of_each = losses[:, -tail:].mean(1)
        values = {"tail": float(of_each.mean()), "mean": float(losses.mean())}
        row = Row(length, values, windows=len(windows), tokens=tail * len(windows), **of_samples(of_each))
        return Measured(row, by_position(losses.mean(0)))


def by_position(losses: torch.Tensor) -> tuple[Position, ...]:
    """Losses [tokens - 1], the first of which is of position 1, in bins that are as wide as one another, to a token."""
    last = len(losses)
    edges = [last * i // min(BINS, last) for i in range(min(BINS, last) + 1)]
    return tuple(Position(start + 1, stop, float(losses[start:stop].mean())) for start, stop in pairwise(edges))
