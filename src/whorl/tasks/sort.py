"""Sorting n items (2305.19466). Version 1.

    single    b17 b3 b8             b3 b8 b17                  of 50 symbols, in the order of their numbers
    multi     2 4 6 , 6 8 , 8 8 1 2      6 8 , 2 4 6 , 8 8 1 2       numbers of two to four digits

    in b17 comp smallest out b3 re b17 b8 # in b17 comp smallest out b8 re b17 # ...

Items are independent and may be equal; the symbols are uniform, and of the numbers each number of digits is as likely
as another. The steps are the paper's selection sort: what comes in is the first of those that remain, what comes out
their smallest, which changes places with it and is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whorl.encodings.config import choices
from whorl.tasks.base import argument
from whorl.tasks.problems import DIGITS, Answer, Problem, Prompt, digits, joined
from whorl.tasks.scratchpad import Step, WithScratchpad

VARIANTS = ("single", "multi")
SYMBOLS = tuple(f"b{i}" for i in range(50))
SMALLEST = "smallest"  # "The minimum of the unsorted portion", in one word


@dataclass(frozen=True)
class SortArguments(WithScratchpad):
    """What is sorted, and which steps are written."""

    name = "sort"

    variant: str = argument("single", "single (50 symbols), multi (numbers of 2 to 4 digits)")

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("variant", self.variant, VARIANTS)


class Sort(Problem):
    """n items, the smallest first."""

    name = evaluation = "sort"
    title = "Sorting items"
    version = 1
    takes = SortArguments
    trained = 8

    def symbols(self) -> Sequence[str]:
        return [*self.answers(), *([SMALLEST] if self.parts else [])]

    def answers(self) -> Sequence[str]:
        return SYMBOLS if self.single else [*DIGITS, ","]

    @property
    def single(self) -> bool:
        return bool(self.arguments.variant == "single")

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        if self.single:
            items = rng.integers(len(SYMBOLS), size=size)
        else:
            least = 10 ** rng.integers(1, 4, size=size)
            items = rng.integers(least, 10 * least)
        return self._written(items.tolist()), self._written(sorted(items.tolist()))

    def longest(self, size: int) -> Prompt:
        return self._written([0 if self.single else 9999] * size)

    def solve(self, prompt: Prompt) -> Answer:
        return self._written([self._read(step.out)[0] for step in self.steps(prompt)])

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        left = self._read(prompt)
        while left:
            first, place = left[0], left.index(min(left))
            smallest, left[place] = left[place], first
            left = left[1:]
            yield Step(
                given=self._written([first]),
                computed=(SMALLEST,),
                out=self._written([smallest]),
                left=self._written(left),
            )

    def _written(self, items: Iterable[int]) -> tuple[str, ...]:
        if self.single:
            return tuple(SYMBOLS[item] for item in items)
        return joined(",", map(digits, items))

    def _read(self, words: Sequence[str]) -> list[int]:
        if self.single:
            return [SYMBOLS.index(word) for word in words]
        return [int(number) for number in "".join(words).split(",") if number]
