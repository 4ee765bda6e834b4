"""Telling a statement from a later one of the same form: a recent decoy. Version 4.

    bos A v A v noise ... B w B w noise ... sep A | v

(After the "return from digression" of "RoPE is Dead, Long Live RoPE", the paper of DaRoPE.) Names are different, out
of `NAMES`, and values too, out of `VALUES`; the noise is uniform out of `NOISE` symbols of its own. The question
begins as both statements do, and the decoy is the nearer one. Nothing is generated. `prefers` is the share of the
sequences in which the right value has a higher logit than every decoy's, and `odds` how many times as likely it is as
the likeliest decoy's, the geometric mean (its logarithm is the mean margin, in nats); `token_accuracy` is the share in
which it is first of all symbols.

Each statement stands twice in a row. Evaluation at length l: the one that is asked for stands right after bos; the
`decoys` stand together behind it, with `NEAR` noise symbols between them and the separator, and the noise before them
fills the length. A longer sequence is a longer way back, past decoys that are as near as ever.
Training: between 1 and 4 statements (or 1 + `decoys`, if more), noise of uniform length, and questions with their
answers to the end, `QUESTIONS` or more, of names drawn with replacement: the nearest statement is right no more often
than another. The second of a statement has a loss: see `whorl.tasks.recall` for what that teaches. In half of the
sequences they stand together right after bos, in the others at places drawn at random: with noise between them in all
sequences, no tiny model learnt the task (experiments/0003-recall/LOG.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from whorl.encodings.config import require_positive_int
from whorl.results.over_seeds import Metric
from whorl.results.trial import Row
from whorl.tasks.base import Progress, Words, argument
from whorl.tasks.generated import SEP, SPECIAL, Keyed, Sized, by_key
from whorl.tasks.graded import row_of
from whorl.tasks.metrics import TOKEN_ACCURACY

NAMES, VALUES, NOISE = 16, 16, 32
NAME = SPECIAL
VALUE = NAME + NAMES
NEAR = 8
QUESTIONS = 8
PREFERS = Metric(
    "prefers", "right value above the decoy's", "share", chance=1 / 2, learnt=0.95, has_stderr=True, of="statements"
)
ODDS = Metric("odds", "odds of the right value against the decoy's", "ratio")


@dataclass(frozen=True)
class Statements(Sized):
    name = "decoy"
    decoys: int = argument(1, f"statements of the same form behind the one that is asked for, at most {NAMES - 1}")

    def __post_init__(self) -> None:
        require_positive_int("decoys", self.decoys)
        if self.decoys >= NAMES:
            raise ValueError(f"decoys must be at most {NAMES - 1}, one name less than there are, got {self.decoys}")

    @property
    def most(self) -> int:
        """Statements of a training sequence, at most."""
        return max(4, 1 + self.decoys)

    @property
    def shortest(self) -> int:
        return 2 + max(4 * self.most + 2 * QUESTIONS, 4 * (1 + self.decoys) + NEAR + 2)


class Decoy(Keyed):
    """The ids after the special ones are `let`, NAMES names, VALUES values and NOISE noise symbols."""

    name = evaluation = "decoy"
    title = "Telling a statement from a recent decoy"
    version = 4
    metrics = (PREFERS, replace(TOKEN_ACCURACY, learnt=None, has_stderr=False), ODDS)
    takes = Statements
    arguments: Statements
    vocab_size = VALUE + VALUES + NOISE
    guesses = np.arange(VALUE, VALUE + VALUES)

    @classmethod
    def words(cls) -> Words:
        return replace(
            super().words(),
            caption="The share of sequences in which the right value is likelier than the decoy's, and in which it is "
            "the likeliest of all symbols.",
        )

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        decoys = self.arguments.decoys
        said = int(rng.integers(1, self.arguments.most + 1)) if training else 1 + decoys
        names, values = NAME + rng.permutation(NAMES)[:said], VALUE + rng.permutation(VALUES)[:said]
        noise, questions = len(ids) - 2 - 4 * said - 2, 1
        if training:
            questions += int(rng.integers(QUESTIONS - 1, noise // 2 + 1))
            noise += 2 - 2 * questions
        question = len(ids) - 2 * questions
        ids[1:question] = VALUE + VALUES + rng.integers(NOISE, size=question - 1)
        ids[question - 1] = SEP
        if training:
            together = rng.integers(2)
            gaps = np.zeros(said, dtype=int) if together else np.sort(rng.integers(noise + 1, size=said))
            places, asked = 1 + gaps + 4 * np.arange(said), rng.integers(said, size=questions)
        else:
            places, asked = np.append(1, question - 1 - NEAR - 4 * np.arange(decoys, 0, -1)), np.zeros(1, dtype=int)
        for i, symbols in enumerate((names, values)):
            ids[places + i] = ids[places + 2 + i] = symbols
            if training:
                labels[places + 2 + i] = symbols
        ids[question::2], ids[question + 1 :: 2] = names[asked], values[asked]
        labels[question + 1 :: 2] = values[asked]

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        """The row of the logits at the question, which is asked once."""
        ids, _ = self.evaluation_set(length)
        last = torch.cat([part[:, -1].float().cpu() for part in self.next_logits(model, ids, batch_tokens, progress)])
        right, *decoys = torch.tensor([list(self.stated(row).values()) for row in ids.numpy()]).T
        margin = last.gather(1, right[:, None])[:, 0] - last.gather(1, torch.stack(decoys, 1)).amax(1)
        return self._row(length, margin > 0, margin, last.argmax(1) == right, bool(last.isfinite().all()))

    def graded(self, length: int, predicted: torch.Tensor, labels: torch.Tensor, finite: bool = True) -> Row:
        """The row of symbols in place of logits: what is right is preferred, and there are no odds."""
        right = predicted[:, -1] == labels[:, -1]
        return self._row(length, right, torch.full(right.shape, math.nan), right, finite)

    def _row(self, length: int, prefers: torch.Tensor, margin: torch.Tensor, first: torch.Tensor, finite: bool) -> Row:
        shares = torch.stack([prefers, first]).double() if finite else torch.full((2, len(first)), math.nan)
        values = {
            PREFERS.key: float(shares[0].mean()),
            TOKEN_ACCURACY.key: float(shares[1].mean()),
            ODDS.key: float(margin.double().mean().exp()),
        }
        return row_of(length, values, shares[0])

    def stated(self, ids: np.ndarray) -> dict[int, int]:
        """Those before the question, that of the statement that is asked for first."""
        before = ids[:-2]
        places = np.flatnonzero((before >= NAME) & (before < VALUE))
        return by_key(ids[places], ids[places + 1])

    def _facts(self) -> dict[str, Any]:
        return {"decoys": self.arguments.decoys, "near": NEAR}

    def chance(self, length: int) -> dict[str, float]:
        return {PREFERS.key: 1 / (1 + self.arguments.decoys)}
