"""The last digit of a sum of n values (2305.19466). Version 1.

    3 + 9 + 4  ->  6
    in 3 comp 3 + sum = 3 + 0 = out 3 var sum 3 = 3 re 9 + 4 # in 9 comp 9 + sum = 9 + 3 = out 1 2 var sum 1 2 = 2 ...

Values are uniform in 1 to 9; the answer is their sum modulo 10, and a guess among the ten digits is right one time in
ten. The steps are the paper's: what comes out is not reduced, and the variable is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whorl.tasks.problems import DIGITS, Answer, Problem, Prompt, digits, joined
from whorl.tasks.scratchpad import Step, WithScratchpad

MODULUS = 10


@dataclass(frozen=True)
class SumArguments(WithScratchpad):
    """Which steps are written."""

    name = "sum"


class Sum(Problem):
    """The sum of n values, modulo 10."""

    name = evaluation = "sum"
    title = "The last digit of a sum"
    version = 1
    takes = SumArguments
    unit = "terms"
    trained = 8

    def symbols(self) -> Sequence[str]:
        return [*DIGITS, "+", *(["sum", "="] if self.parts else [])]

    def answers(self) -> Sequence[str]:
        return DIGITS

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        values = rng.integers(1, 10, size=size)
        return joined("+", map(digits, values)), [str(values.sum() % MODULUS)]

    def longest(self, size: int) -> Prompt:
        return joined("+", ["9"] * size)  # of any other values, no more running totals have two digits

    def solve(self, prompt: Prompt) -> Answer:
        *_, last = self.steps(prompt)
        assert last.variables is not None
        return [last.variables[-1]]

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        total = 0
        for place in range(0, len(prompt), 2):
            value, before = prompt[place], total
            out = int(value) + before
            total = out % MODULUS
            yield Step(
                given=(value,),
                computed=(value, "+", "sum", "=", value, "+", str(before), "="),
                out=digits(out),
                variables=("sum", *digits(out), "=", str(total)),
                left=tuple(prompt[place + 2 :]),
            )
