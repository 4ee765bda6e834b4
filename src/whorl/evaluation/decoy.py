"""Telling a statement from a later one of the same form: a recent decoy. Version 1.

    bos  A report: codeword = v.  text ...  B report: codeword = w.  Summary of A: codeword =

(After the "return from digression" of "RoPE is Dead, Long Live RoPE", the paper of DaRoPE.) Names and words are drawn
from `NAMES` and `WORDS`; the text between the statements fills the length, and the decoy stands right before the
question, however long the way back is. Nothing is generated: the logits at the first token in which the two words
differ are read.

Sequences come in fours, from the same draw: A and B have their words, and each other's, so that no word wins by being
likelier; and each time the question is asked of A, and, as a control, of B.

prefers  share of the questions of A in which its word is likelier than the decoy's
margin   mean log-odds of its word against the decoy's there, nats
nearest  share of the questions of B in which its word is likelier: a model that goes by what it read last has all of
         these, and none of those of A; one that cannot tell names apart has as many of one as it lacks of the other
"""

from __future__ import annotations

import math
from typing import Any

import torch

from whorl.checking import check_ids
from whorl.data.losses import logits_at
from whorl.data.tokens import shared
from whorl.evaluation.base import Measured, Probe, Progress
from whorl.tasks.graded import row_of

STATED = "\n{name} report: codeword = {word}.\n"
ASKED = "\nSummary of {name}: codeword ="
NAMES = ("Alder", "Birch", "Cedar", "Hazel", "Juniper", "Laurel", "Maple", "Willow")
WORDS = ("quartz", "lantern", "copper", "violin", "harbor", "pepper", "marble", "saddle", "candle", "falcon", "velvet",
         "anchor", "walnut", "ribbon", "thunder", "garden")  # fmt: skip
FOUR = 4


class Decoy(Probe):
    name = "decoy"
    version = 1

    @property
    def steps(self) -> int:
        """Whole fours."""
        return FOUR * -(-self.material.sequences // FOUR)

    def sequence(self, length: int, i: int) -> tuple[torch.Tensor, int, int]:
        """Token ids [length], what goes on with the right word, and what with the other one.

        Raises ValueError for a length that does not hold both statements and the question.
        """
        random = self.material.random(self.name, i // FOUR)
        a, b = (NAMES[at] for at in random.permutation(len(NAMES))[:2])
        v, w = (WORDS[at] for at in random.permutation(len(WORDS))[:2])
        of_first, swapped = asks_first(i), i % FOUR >= 2
        if swapped:
            v, w = w, v
        name, right, other = (a, v, w) if of_first else (b, w, v)
        asked, right_id, other_id = self._question(name, right, other)
        first, second = (self.material.ids(STATED.format(name=n, word=word)) for n, word in ((a, v), (b, w)))
        begun = [*self.material.first, *first]
        room = length - len(begun) - len(second) - len(asked)
        if room < 0:
            raise ValueError(f"{length:,} tokens do not hold two statements and a question of {length - room} tokens")
        filler = self.material.filler(i // FOUR, room)
        return torch.tensor([*begun, *filler, *second, *asked]), right_id, other_id

    def _question(self, name: str, right: str, other: str) -> tuple[list[int], int, int]:
        """The question up to where the two words differ, and the tokens with which they do."""
        asked = ASKED.format(name=name)
        a, b = (self.material.ids(f"{asked} {word}") for word in (right, other))
        at = shared(a, b)
        return a[:at], a[at], b[at]

    def measure(self, model: Any, length: int, progress: Progress) -> Measured:
        last = torch.tensor([length - 1])
        margins: dict[bool, list[float]] = {True: [], False: []}
        for i in range(self.steps):
            ids, right, other = self.sequence(length, i)
            logits = logits_at(model, ids, last)[0].double()
            check_ids("the words", torch.tensor([right, other]), len(logits))
            finite = bool(logits.isfinite().all())
            margins[asks_first(i)].append(float(logits[right] - logits[other]) if finite else math.nan)
            progress(1)
        of_first, of_second = (torch.tensor(margins[which], dtype=torch.float64) for which in (True, False))
        prefers, nearest = ((x > 0).double().where(x.isfinite(), torch.nan) for x in (of_first, of_second))
        values = {"prefers": prefers.mean(), "margin": of_first.mean(), "nearest": nearest.mean()}
        return Measured(row_of(length, {key: float(value) for key, value in values.items()}, prefers))


def asks_first(i: int) -> bool:
    """Whether a sequence asks for the first statement."""
    return i % 2 == 0
