"""Going on with a segment that stood at the beginning, after a distance of text. Version 1.

    bos s_1 ... s_n  text ...  s_1 ... s_n

The segment is `SEGMENT` different tokens, drawn evenly from those that the text has: in an order that no text taught.
The text between fills the length, so that a longer sequence is a longer way back: l - n - 1 tokens from each token to
its copy. The copy is read with all true tokens before each: what stands at its place j is predicted from j tokens of
it. `loss` and `unseen` are in nats per token.

accuracy   share of the tokens of the copy, from the fifth on (`CUE` of them are known), that are the likeliest
after_one  share of the second tokens that are: one token is known, which may stand in the text too
loss       of those from the fifth on
unseen     of the same ones where they first stand, and nothing foretells them: a loss as high is of nothing copied
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from whorl.data.losses import logits_at
from whorl.evaluation.base import Material, Measured, Probe, Progress
from whorl.tasks.graded import row_of

SEGMENT, CUE = 16, 4


class SegmentCopy(Probe):
    name = "segment-copy"
    version = 1

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        if len(material.known) < SEGMENT:
            raise ValueError(
                f"a segment is of {SEGMENT} different tokens of the text, which has {len(material.known)}; give a "
                "longer one"
            )

    @property
    def steps(self) -> int:
        return self.material.sequences

    def sequence(self, length: int, i: int) -> torch.Tensor:
        """Token ids [length]. Raises ValueError for a length that does not hold the segment twice."""
        first = self.material.first
        room = length - len(first) - 2 * SEGMENT
        if room < 0:
            raise ValueError(f"{length:,} tokens do not hold a segment of {SEGMENT} tokens twice")
        drawn = self.material.random(self.name, i).choice(self.material.known, size=SEGMENT, replace=False).tolist()
        return torch.tensor([*first, *drawn, *self.material.filler(i, room), *drawn])

    def measure(self, model: Any, length: int, progress: Progress) -> Measured:
        begins = len(self.material.first)
        copied, stood = (torch.arange(SEGMENT - 1) + start for start in (length - SEGMENT, begins))
        found = []
        for i in range(self.material.sequences):
            ids = self.sequence(length, i)
            targets = ids[copied + 1]
            logits = logits_at(model, ids, torch.cat([copied, stood]))
            losses = cross_entropy(logits, targets.repeat(2), reduction="none").view(2, -1).double()
            right = (logits[: len(copied)].argmax(-1) == targets).double()
            finite = 1.0 if bool(logits.isfinite().all()) else math.nan  # of NaN none is the highest
            known = slice(CUE - 1, None)
            found.append([right[known].mean() * finite, right[0] * finite, *losses[:, known].mean(1)])
            progress(1)
        table = torch.tensor(found, dtype=torch.float64)
        keys = ("accuracy", "after_one", "loss", "unseen")
        return Measured(row_of(length, dict(zip(keys, table.mean(0).tolist(), strict=True)), table[:, 0]))
