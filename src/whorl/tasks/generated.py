"""What the tasks of random symbols share whose length is a number of tokens: copy and recall."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch

from whorl.tasks.base import IGNORED, Example, TaskSettings
from whorl.tasks.graded import BOS, EVALUATION, PAD, SEP, SPECIAL, TRAINING, Graded

__all__ = ["BOS", "EVALUATION", "PAD", "SEP", "SPECIAL", "TRAINING", "Generated"]


class Generated(Graded):
    """Random symbols between bos, separator and padding, with labels at the tokens to be predicted.

    Padding comes after all else, so that a causal model needs no mask. `shortest` is the length in tokens of the
    shortest sequence that can be evaluated. Raises ValueError for a length below it.
    """

    shortest: ClassVar[int]

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        for length in (settings.train_length, *settings.lengths):
            if length < cls.shortest:
                raise ValueError(
                    f"a sequence of the {cls.name} task has {cls.shortest} tokens or more, got {length}; "
                    f"try --train-length {max(2 * cls.shortest, 32)}"
                )

    @abstractmethod
    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        """Writes one sequence into `ids` [length], all padding before, and its targets into `labels` [length]."""

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
