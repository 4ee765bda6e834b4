"""What the tasks share whose length is the size of a problem: items, digits, actions, and not a number of tokens.

    bos prompt sep [steps] answer end [pad ...]

A problem is written in words, and every word is one id: `vocabulary` has those of the task, after the special ones.
All that comes after the separator has a loss and is scored, the end too, so that an answer is right only where it stops
(as 2305.19466 grades, but on ids). With a scratchpad, all its steps must be right as well.

Training: sizes up to `train_length`, each as often as another (a task that differs says so), padded to the longest
sequence that there is. Evaluation at length n: problems of size n, and of no other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from whorl.encodings.config import require_positive_int
from whorl.tasks import scratchpad
from whorl.tasks.base import IGNORED, Arguments, Example, TaskSettings, Words, argument
from whorl.tasks.graded import BOS, EVALUATION, PAD, SEP, SPECIAL, Graded
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY
from whorl.tasks.scratchpad import Step, WithScratchpad

END = SPECIAL  # after the answer
FIRST_WORD = SPECIAL + 1
DIGITS = tuple("0123456789")
AGAIN = "next"  # between two answers
Prompt = Sequence[str]
Answer = Sequence[str]


def joined(by: str, parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The words of these parts, with the word `by` between them."""
    return tuple(word for part in parts for word in (by, *part))[1:]


def digits(number: int) -> tuple[str, ...]:
    """A number in words: `-`, where it is below zero, and its digits."""
    return tuple(str(number))


@dataclass(frozen=True)
class OfItems(Arguments):
    """Base of the arguments of a task whose items are symbols."""

    symbols: int = argument(100, "how many different items there are")

    def __post_init__(self) -> None:
        require_positive_int("symbols", self.symbols)
        if self.symbols < 2:
            raise ValueError(f"symbols must be 2 or more, got {self.symbols}")

    @property
    def items(self) -> list[str]:
        """The words of the items: x0, x1, ..."""
        return [f"x{i}" for i in range(self.symbols)]


class Problem(Graded):
    """Prompts and their answers in words. A subclass draws them, and solves a prompt by reading it.

    smallest  the size of the smallest problem, and `largest` that of the largest, where there is one
    trained   the training length where none is given

    Raises ValueError for a length that no problem has.
    """

    metrics = (replace(EXACT_MATCH, learnt=0.95, has_stderr=True), TOKEN_ACCURACY)
    unit = "items"
    smallest: ClassVar[int] = 2
    largest: ClassVar[int | None] = None
    trained: ClassVar[int] = 20

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        self.parts = self.arguments.parts if isinstance(self.arguments, WithScratchpad) else ()
        self.vocabulary = (*self.symbols(), *(scratchpad.MARKS if self.parts else ()))
        self.ids = {word: FIRST_WORD + i for i, word in enumerate(self.vocabulary)}
        assert len(self.ids) == len(self.vocabulary), "every word is one id"
        self.vocab_size = FIRST_WORD + len(self.ids)
        answers = self.vocabulary if self.parts else self.answers()
        self.guesses = np.array([self.ids[word] for word in answers])

    @abstractmethod
    def symbols(self) -> Sequence[str]:
        """The words of all prompts, steps and answers, but for those that every scratchpad has."""

    def answers(self) -> Sequence[str]:
        """The words of all answers, of which one who guesses takes any."""
        return self.symbols()

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        """A problem of this size, and its answer by the numbers that it was made of."""

    @abstractmethod
    def solve(self, prompt: Prompt) -> Answer:
        """The answer by reading the prompt; in a task with steps, what they come to."""

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        """The steps to the answer, in a task that has a scratchpad."""
        raise NotImplementedError

    def longest(self, size: int) -> Prompt:
        """A prompt whose sequence is as long as one of this size can be; by default all are equally long."""
        return self.draw(np.random.default_rng(0), size)[0]

    def training_size(self, rng: np.random.Generator) -> int:
        """The size of a training problem."""
        return int(rng.integers(self.smallest, self.settings.train_length + 1))

    def training_problem(self, rng: np.random.Generator) -> tuple[Prompt, Answer]:
        """One that is trained on."""
        return self.draw(rng, self.training_size(rng))

    @classmethod
    def default_length(cls, given: Mapping[str, Any]) -> int:
        return cls.trained

    @classmethod
    def default_lengths(cls, given: Mapping[str, Any], train_length: int) -> tuple[str, ...]:
        """Half of the training length, all of it, and on to twice as much, as far as there are problems."""
        sizes = {max(cls.smallest, round(train_length * eighth / 8)) for eighth in (4, 8, 9, 10, 11, 12, 14, 16)}
        if cls.largest is not None:
            sizes = {min(cls.largest, size) for size in sizes}
        return tuple(map(str, sorted(sizes)))

    @classmethod
    def example_tokens(cls, settings: TaskSettings) -> int:
        return cls(settings).tokens(settings.train_length)

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        for size in (settings.train_length, *settings.lengths):
            if size < cls.smallest:
                raise ValueError(
                    f"a problem of the {cls.name} task has {cls.smallest} {cls.unit} or more, got {size}; "
                    f"try --train-length {cls.trained}"
                )
            if cls.largest is not None and size > cls.largest:
                raise ValueError(
                    f"a problem of the {cls.name} task has at most {cls.largest} {cls.unit}, got {size}; "
                    f"try --train-length {cls.trained}"
                )

    @classmethod
    def words(cls) -> Words:
        return replace(
            super().words(),
            caption="The share of answers that are right as a whole, to the end, and of tokens that are right.",
            table=f"{cls.metrics[0].label}, by {cls.unit}",
        )

    @cached_property
    def _train_tokens(self) -> int:
        return self.tokens(self.settings.train_length)

    def tokens(self, size: int) -> int:
        """Tokens of the longest sequence of this size."""
        prompt = self.longest(size)
        return len(self.sequence(prompt, self.solve(prompt))[0])

    def sequence(self, prompt: Prompt, answer: Answer) -> tuple[list[int], int]:
        """The ids of a problem, with its steps where they are written, and where its targets begin."""
        steps = scratchpad.written(self.steps(prompt), self.parts) if self.parts else []
        asked = [BOS, *(self.ids[word] for word in prompt), SEP]
        return [*asked, *(self.ids[word] for word in (*steps, *answer)), END], len(asked)

    def evaluation_set(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(input_ids, labels), int64 [problems, tokens of the longest]; each problem of size `length`."""
        return self._padded([self.sequence(*problem) for problem in self.evaluation_problems(length)])

    def evaluation_problems(self, size: int) -> list[tuple[Prompt, Answer]]:
        """The problems of this size that are asked; each depends on (data_seed, size, its index) only."""
        seeds = [(EVALUATION, self.settings.data_seed, size, i) for i in range(self.settings.windows)]
        return [self.draw(np.random.default_rng(seed), size) for seed in seeds]

    def example(self, rng: np.random.Generator) -> Example:
        return self.written(self.training_problem(rng))

    def written(self, problem: tuple[Prompt, Answer]) -> Example:
        """A problem as an item to train on."""
        ids, labels = self._padded([self.sequence(*problem)], self._train_tokens)
        return {"input_ids": ids[0], "labels": labels[0]}

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        start = int(np.flatnonzero(ids == SEP)[0]) + 1
        prompt = [self.vocabulary[i - FIRST_WORD] for i in ids[1 : start - 1]]
        solved, whole = ids.copy(), self.sequence(prompt, self.solve(prompt))[0]
        solved[start : len(whole)] = whole[start:]
        return solved

    def guess(self, rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
        """Any of the words that answers are made of at each of their tokens, and the end where it is."""
        guessed = super().guess(rng, ids)
        guessed[np.flatnonzero(ids == IGNORED)[-1]] = END
        return guessed

    def chance(self, length: int) -> dict[str, float]:
        """What one has on the evaluation set who knows how long each answer is and guesses its words."""
        targets = (self.evaluation_set(length)[1] != IGNORED).sum(1).double()
        words, chance = targets - 1, 1 / len(self.guesses)
        of_each = {EXACT_MATCH.key: chance**words, TOKEN_ACCURACY.key: (words * chance + 1) / targets}
        return {key: float(values.mean()) for key, values in of_each.items()}

    def _facts(self) -> dict[str, Any]:
        return dict(vars(self.arguments)) if self.arguments is not None else {}

    def _padded(self, sequences: list[tuple[list[int], int]], tokens: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = tokens or max(len(ids) for ids, _ in sequences)
        ids = torch.full((len(sequences), tokens), PAD, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        for row, (written, start) in enumerate(sequences):
            ids[row, : len(written)] = torch.tensor(written)
            labels[row, start : len(written)] = ids[row, start : len(written)]
        return ids, labels
