"""A needle in a haystack of natural text: a number stated once, at some depth, and asked for at the end. Version 1.

    bos text ... The secret number of Oslo is 48213. ... text  The secret number of Oslo is | 48213

(RULER's niah, 2404.06654, in form alone, as the task niah-tiny: no number from here is a RULER score.) The sequence is
that of `whorl.data.needle`. The needle of sequence i of n stands at the depth i / (n - 1) of the text, from its
beginning to right before the question. All tokens of the number are read with the true ones before them, so that it is
found exactly when greedy generation would give it.

found                share of the sequences in which every token of the number is the likeliest
early, middle, late  the same of the needles in the first, second and last third of the depths
loss                 of the number, nats per token
unstated             of the same number where it is nowhere stated, with more text in its place: what a guess costs
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from whorl.data.losses import logits_at
from whorl.data.needle import prompt
from whorl.evaluation.base import Measured, Probe, Progress
from whorl.tasks.graded import row_of

THIRDS = ("early", "middle", "late")


class Niah(Probe):
    name = "niah"
    version = 1

    @property
    def steps(self) -> int:
        return self.material.sequences

    def sequence(self, length: int, i: int, stated: bool = True) -> tuple[torch.Tensor, int]:
        """Token ids [length], and how many of the last ones are the number.

        Raises ValueError for a length that does not hold statement and question.
        """
        count = self.material.sequences
        depth = i / max(1, count - 1)
        seed = self.material.seed * count + i
        return prompt(self.material.tokenizer, self.material.text(i), length, depth, seed, stated)

    def measure(self, model: Any, length: int, progress: Progress) -> Measured:
        found, losses = [], []
        for i in range(self.steps):
            right, loss = self._read(model, *self.sequence(length, i))
            _, unstated = self._read(model, *self.sequence(length, i, stated=False))
            found.append(right)
            losses.append((loss, unstated))
            progress(1)
        each = torch.tensor(found, dtype=torch.float64)
        values = {"found": float(each.mean())}
        third = torch.arange(len(each)) * len(THIRDS) // len(each)
        values |= {name: float(each[third == at].mean()) for at, name in enumerate(THIRDS) if (third == at).any()}
        loss, unstated = torch.tensor(losses, dtype=torch.float64).mean(0).tolist()
        return Measured(row_of(length, values | {"loss": loss, "unstated": unstated}, each))

    def _read(self, model: Any, ids: torch.Tensor, answer: int) -> tuple[float, float]:
        """Whether every token of the number is the likeliest (NaN: a logit is not finite), and their mean loss."""
        targets = ids[-answer:]
        logits = logits_at(model, ids, torch.arange(len(ids) - answer - 1, len(ids) - 1))
        right = float((logits.argmax(-1) == targets).all()) if logits.isfinite().all() else math.nan
        return right, float(cross_entropy(logits, targets))
