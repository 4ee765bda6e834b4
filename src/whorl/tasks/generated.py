"""What the tasks made of random symbols share: copy and recall."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from whorl.data.losses import batches, evaluating
from whorl.results.comparison import Data
from whorl.results.trial import Row
from whorl.tasks.base import IGNORED, Example, Needs, Progress, Task, TaskSettings, Words

BOS, SEP, PAD = 0, 1, 2  # the ids of the special tokens; symbols follow
SPECIAL = 3
TRAINING, EVALUATION = 0, 1  # keep the two apart under every seed


class Generated(Task):
    """Random symbols between bos, separator and padding, with labels at the tokens to be predicted.

    Padding comes after all else, so that a causal model needs no mask. `shortest` is the length in tokens of the
    shortest sequence that can be evaluated. Raises ValueError for a length below it.
    """

    # Symbols that are never predicted (recall's keys) collapse onto one direction when the embeddings are tied, and at
    # Llama's 0.02 a narrow model takes thousands of steps to match symbols: experiments/0003-recall/LOG.md.
    needs = Needs(tokens=2, tied_embeddings=False, initializer_range=None)
    shortest: ClassVar[int]
    bos_token_id = BOS
    eos_token_id = BOS

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        for length in (settings.train_length, *settings.lengths):
            if length < cls.shortest:
                raise ValueError(
                    f"a sequence of the {cls.name} task has {cls.shortest} tokens or more, got {length}; "
                    f"try --train-length {max(2 * cls.shortest, 32)}"
                )

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
    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        """Writes one sequence into `ids` [length], all padding before, and its targets into `labels` [length]."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What the report says of the sequences."""

    def describe(self) -> Data:
        return Data(self.name, self.version, self.vocab_size, {"sequences": self.settings.windows, **self._facts()})

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        return _Examples(self, seed, examples)

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        """The row of token_accuracy and exact_match.

        A token counts when it has the highest logit, given all true tokens before it; a sequence when all its targets
        do, which is so exactly when greedy generation would get them all right (up to its first error it is given the
        same tokens). `stderr` is the standard error of `token_accuracy` over sequences, nan for one sequence. All are
        nan where a logit is not finite: none of them is the highest. `samples` are the sequences' own accuracies.
        """
        ids, labels = self.evaluation_set(length)
        predicted, finite = [], True
        with evaluating(model) as device:
            for batch in batches(ids, batch_tokens, self.vocab_size):
                logits = model(input_ids=batch.to(device), use_cache=False).logits[:, :-1]
                finite = finite and bool(logits.isfinite().all())
                predicted.append(logits.argmax(-1).cpu())
                if progress is not None:
                    progress(len(batch))
        asked = labels[:, 1:] != IGNORED
        right = (torch.cat(predicted) == labels[:, 1:]) & asked
        accuracy = right.sum(1).double() / asked.sum(1)
        if not finite:
            accuracy = torch.full_like(accuracy, math.nan)
        return Row(
            length,
            {
                "token_accuracy": float(accuracy.mean()),
                "exact_match": float((accuracy == 1).double().mean()) if finite else math.nan,
            },
            sequences=len(accuracy),
            samples=tuple(round(x, 6) for x in accuracy.tolist()),
            stderr=float(accuracy.std()) / math.sqrt(len(accuracy)) if len(accuracy) > 1 else math.nan,
        )

    def evaluation_set(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(input_ids, labels), int64 [windows, length]; a sequence depends on (data_seed, length, its index) only."""
        seeds = [(EVALUATION, self.settings.data_seed, length, i) for i in range(self.settings.windows)]
        examples = [self._example(np.random.default_rng(seed), length, training=False) for seed in seeds]
        return torch.stack([e["input_ids"] for e in examples]), torch.stack([e["labels"] for e in examples])

    def training_example(self, seed: int, i: int) -> Example:
        return self._example(np.random.default_rng((TRAINING, seed, i)), self.settings.train_length, training=True)

    def _example(self, rng: np.random.Generator, length: int, training: bool) -> Example:
        ids = np.full(length, PAD, dtype=np.int64)
        labels = np.full(length, IGNORED, dtype=np.int64)
        ids[0] = BOS
        self._write(rng, ids, labels, training)
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


class _Examples(Dataset[Example]):
    def __init__(self, task: Generated, seed: int, examples: int) -> None:
        self.task, self.seed, self.examples = task, seed, examples

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self.examples:
            raise IndexError(f"item {i} of {self.examples}")
        return self.task.training_example(self.seed, i)
