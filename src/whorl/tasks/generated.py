"""What the tasks of random symbols share whose length is a number of tokens: copy, recall and the retrieval tasks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from whorl.tasks.base import IGNORED, Arguments, Example, TaskSettings
from whorl.tasks.graded import BOS, EVALUATION, PAD, SEP, SPECIAL, TRAINING, Graded

__all__ = ["BOS", "EVALUATION", "PAD", "SEP", "SPECIAL", "TRAINING", "Generated", "Keyed"]


@dataclass(frozen=True)
class Sized(Arguments):
    """Arguments of such a task, by which it goes how short a sequence can be."""

    @property
    @abstractmethod
    def shortest(self) -> int:
        """Tokens of the shortest sequence that can be evaluated."""


class Generated(Graded):
    """Random symbols between bos, separator and padding, with labels at the tokens to be predicted.

    Padding comes after all else, so that a causal model needs no mask. `shortest` is the length in tokens of the
    shortest sequence that can be evaluated, where the task's arguments do not say it. Raises ValueError for a length
    below it.
    """

    shortest: ClassVar[int]

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        arguments = cls.asked(settings.arguments)
        shortest = arguments.shortest if isinstance(arguments, Sized) else cls.shortest
        for length in (settings.train_length, *settings.lengths):
            if length < shortest:
                raise ValueError(
                    f"a sequence of the {cls.name} task has {shortest} tokens or more, got {length}; "
                    f"try --train-length {max(2 * shortest, 32)}"
                )

    @abstractmethod
    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        """Writes one sequence into `ids` [length], all padding before, and its targets into `labels` [length]."""

    def _evaluated(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, i: int) -> None:
        """Writes sequence `i` of an evaluation, in the same way."""
        self._write(rng, ids, labels, training=False)

    def evaluation_set(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(input_ids, labels), int64 [windows, length]; a sequence depends on (data_seed, length, its index) only."""
        rows = []
        for i in range(self.settings.windows):
            row = _begun(length)
            self._evaluated(np.random.default_rng((EVALUATION, self.settings.data_seed, length, i)), *row, i)
            rows.append(row)
        ids, labels = zip(*rows, strict=True)
        return torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(labels))

    def example(self, rng: np.random.Generator) -> Example:
        ids, labels = _begun(self.settings.train_length)
        self._write(rng, ids, labels, training=True)
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


class Keyed(Generated):
    """A task that states values by their keys and asks for those of keys that stand right before the targets."""

    @abstractmethod
    def stated(self, ids: np.ndarray) -> dict[int, int]:
        """The values of an evaluation sequence [tokens] by their keys, in the order of their statements."""

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        solved, stated = ids.copy(), self.stated(ids)
        for place in np.flatnonzero(ids == IGNORED):
            solved[place] = stated[int(ids[place - 1])]
        return solved

    def guess(self, rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
        """Any of the values that are stated, not of all that there are."""
        return np.where(ids == IGNORED, rng.choice(list(self.stated(ids).values()), size=len(ids)), ids)


def by_key(keys: np.ndarray, values: np.ndarray) -> dict[int, int]:
    """Values by their keys, ids both."""
    return dict(zip(keys.tolist(), values.tolist(), strict=True))


def ask(
    rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, begin: int, keys: np.ndarray, values: np.ndarray
) -> None:
    """Writes queries from `begin` to the end: keys drawn with replacement, each with its value, which is a target."""
    asked = rng.integers(len(keys), size=(len(ids) - begin) // 2)
    end = begin + 2 * len(asked)
    ids[begin:end:2] = keys[asked]
    ids[begin + 1 : end : 2] = labels[begin + 1 : end : 2] = values[asked]


def target_repeats(labels: np.ndarray, keys: np.ndarray, values: np.ndarray) -> None:
    """Makes targets of the second statements, where each pair stands twice in a row, the first ones right after bos."""
    end = 1 + 4 * len(keys)
    labels[3:end:4], labels[4:end:4] = keys, values


def _begun(length: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of bos and padding, and labels without a target."""
    ids = np.full(length, PAD, dtype=np.int64)
    ids[0] = BOS
    return ids, np.full(length, IGNORED, dtype=np.int64)
