"""What the tasks share that make their own sequences and grade the ids that a model finds likeliest.

Such a task has two solvers, which say what its numbers mean and need no model: an oracle, which scores 100 %, and a
guess, which scores what is called chance. Both are given a sequence whose targets are hidden (`IGNORED`) and fill it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from whorl.data.losses import batch_logits
from whorl.results.comparison import Data
from whorl.results.trial import Row
from whorl.tasks.base import IGNORED, Example, Needs, Progress, Task, TaskSettings, Words, of_samples
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

BOS, SEP, PAD = 0, 1, 2  # the ids of the special tokens; symbols follow
SPECIAL = 3
TRAINING, EVALUATION, VALIDATION = 0, 1, 3  # keep them apart under every seed; `mixed` has 2


class Graded(Task):
    """Sequences with labels at the tokens to be predicted, graded on ids.

    guesses        the ids that one draws from who knows where the targets are and nothing of what they are
    answers_shown  whether a target stands in the input too, where those behind it see it, and not something else
    """

    # Symbols that are never predicted (recall's keys) collapse onto one direction when the embeddings are tied, and at
    # Llama's 0.02 a narrow model takes thousands of steps to match symbols: experiments/0003-recall/LOG.md.
    needs = Needs(tokens=2, tied_embeddings=False, initializer_range=None)
    guesses: np.ndarray
    arguments: Any
    answers_shown: ClassVar[bool] = True
    bos_token_id = BOS
    eos_token_id = BOS

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.arguments = self.asked(settings.arguments)

    @classmethod
    def words(cls) -> Words:
        name = cls.name.capitalize()
        return Words(
            measure=f"{name} accuracy",
            samples="sequences",
            caption="The share of tokens that are right, and of sequences that are right as a whole.",
            table=f"{cls.metrics[0].label}, by length",
            caveats=(
                f"{name} is a synthetic task: a model trained on it alone shows what its encoding lets it learn, not "
                "how a language model behaves on text.",
            ),
        )

    @abstractmethod
    def evaluation_set(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(input_ids, labels), int64 [sequences, tokens]: the same for every trial."""

    @abstractmethod
    def example(self, rng: np.random.Generator) -> Example:
        """An item to train on, by these random numbers."""

    def training_example(self, seed: int, i: int) -> Example:
        """Item i of the training set of this seed; it depends on nothing else."""
        return self.example(np.random.default_rng((TRAINING, seed, i)))

    @abstractmethod
    def oracle(self, ids: np.ndarray) -> np.ndarray:
        """A sequence [tokens] of the evaluation with its targets, `IGNORED` in `ids`, filled in: all of them right."""

    def guess(self, rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
        """The same by one who guesses; its expected score is what the task calls chance."""
        return np.where(ids == IGNORED, rng.choice(self.guesses, size=len(ids)), ids)

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What the report says of the sequences."""

    def describe(self) -> Data:
        facts = {"sequences": self.settings.windows, **self._facts()}
        chances = ((length, self.chance(length)) for length in self.settings.lengths)
        guessing = tuple(Row(length, values) for length, values in chances if values)
        return Data(self.name, self.version, self.vocab_size, facts, unit=self.unit, guessing=guessing)

    def chance(self, length: int) -> dict[str, float]:
        """What one who guesses has at a length, by metric, where it goes by the length or by the task's arguments."""
        return {}

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        return Examples(examples, lambda i: self.training_example(seed, i))

    def validation_set(self) -> Dataset[Example]:
        drawn = (VALIDATION, self.settings.data_seed)
        return Examples(self.settings.windows, lambda i: self.example(np.random.default_rng((*drawn, i))))

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        """The row of what the model finds likeliest at each place, given all true tokens before it (see `graded`)."""
        ids, labels = self.evaluation_set(length)
        predicted, finite = [], True
        for logits in self.next_logits(model, ids, batch_tokens, progress):
            finite = finite and bool(logits.isfinite().all())
            predicted.append(logits.argmax(-1).cpu())
        return self.graded(length, torch.cat([ids[:, :1], torch.cat(predicted)], 1), labels, finite)

    def next_logits(
        self, model: torch.nn.Module, ids: torch.Tensor, batch_tokens: int, progress: Progress | None
    ) -> Iterator[torch.Tensor]:
        """By batches of the sequences, what the model has at each place but the last, for the token behind it."""
        for logits in batch_logits(model, ids, self.vocab_size, batch_tokens, progress, use_cache=False):
            yield logits[:, :-1]

    def graded(self, length: int, predicted: torch.Tensor, labels: torch.Tensor, finite: bool = True) -> Row:
        """The row of the ids that were predicted at each place [sequences, tokens], beside the labels there.

        A token counts where it is its label, a sequence where all its targets do, which is so exactly when greedy
        generation would get them all right (up to its first error it is given the same tokens). `stderr` is the
        standard error over sequences of the task's first metric, nan for one sequence, and `samples` are that metric of
        each. All are nan where a logit was not finite: none of them is the highest.
        """
        asked, right = labels != IGNORED, (predicted == labels).double()
        accuracy = (right * asked).sum(1) / asked.sum(1)
        of_each = {TOKEN_ACCURACY.key: accuracy, EXACT_MATCH.key: (accuracy == 1).double()}
        values = {key: float(shares.mean()) for key, shares in of_each.items()}
        values |= {key: float(right[piece].mean()) for key, piece in self.pieces(asked).items()}
        first = of_each[self.metrics[0].key]
        if not finite:
            values, first = dict.fromkeys(values, math.nan), torch.full_like(first, math.nan)
        return row_of(length, {metric.key: values[metric.key] for metric in self.metrics}, first)

    def pieces(self, asked: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Which of the targets `asked` [sequences, tokens] each further metric is the accuracy of."""
        return {}


def row_of(length: int, values: dict[str, float], shares: torch.Tensor) -> Row:
    """The row of these values, the first of which is the mean of the `shares` of the sequences."""
    return Row(length, values, sequences=len(shares), **of_samples(shares))


class Examples(Dataset[Example]):
    """So many items, made when they are asked for."""

    def __init__(self, examples: int, item: Callable[[int], Example]) -> None:
        self.examples, self.item = examples, item

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.examples:
            raise IndexError(f"item {i} of {self.examples}")
        return self.item(i)
