"""Adding two numbers, digit by digit (2305.19466). Version 1.

    9 0 7 + 9 5  ->  1 0 0 2
    in 7 5 comp 7 + 5 + carry = 1 2 + 0 = 1 2 out 2 var carry 1 re 9 0 + 9 # in 0 9 comp ... thus 1 0 0 2

The size is the number of digits of the longer operand; the other has as many or fewer, each number of digits as often
as another, and either may stand first. Trained on is every pair of numbers of digits as often as another, so that there
are more problems of larger sizes. A number of one digit may be 0, others begin with 1 to 9.

The steps are the paper's: the least digit first, the shorter operand filled up with zeros, one more step where a carry
is left. What remains is written as a number, so that zeros before it vanish.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whorl.tasks.problems import DIGITS, Answer, Problem, Prompt, digits
from whorl.tasks.scratchpad import Step, WithScratchpad


@dataclass(frozen=True)
class AdditionArguments(WithScratchpad):
    """Which steps are written."""

    name = "addition"


class Addition(Problem):
    """The sum of two numbers."""

    name = evaluation = "addition"
    title = "Adding two numbers"
    version = 1
    takes = AdditionArguments
    unit = "digits"
    smallest = 1
    trained = 8

    def symbols(self) -> Sequence[str]:
        return [*DIGITS, "+", *(["carry", "="] if self.parts else [])]

    def answers(self) -> Sequence[str]:
        return DIGITS

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        pairs = 2 * size - 1  # of numbers of digits, one of which is the size
        pair = int(rng.integers(pairs))
        other = min(pair, pairs - 1 - pair) + 1
        a, b = (_number(rng, length) for length in ((size, other) if pair < size else (other, size)))
        return [*digits(a), "+", *digits(b)], digits(a + b)

    def training_size(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1, self.settings.train_length + 1, size=2).max())

    def longest(self, size: int) -> Prompt:
        return [*["9"] * size, "+", *["9"] * size]

    def solve(self, prompt: Prompt) -> Answer:
        return [step.out[0] for step in self.steps(prompt)][::-1]

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        plus = prompt.index("+")
        width = max(plus, len(prompt) - plus - 1)
        a, b = ("".join(number).zfill(width) for number in (prompt[:plus], prompt[plus + 1 :]))
        carry = 0
        while a or carry:
            x, y = a[-1:] or "0", b[-1:] or "0"
            a, b = a[:-1], b[:-1]
            total, before = int(x) + int(y), carry
            carry, out = divmod(total + before, 10)
            yield Step(
                given=(x, y),
                computed=(
                    *(x, "+", y, "+", "carry", "=", *digits(total), "+", str(before)),
                    *("=", *digits(total + before)),
                ),
                out=(str(out),),
                variables=("carry", str(carry)),
                left=(*_without_zeros(a), "+", *_without_zeros(b)),
            )


def _number(rng: np.random.Generator, length: int) -> int:
    """A number of so many digits, each as likely as another."""
    first = int(rng.integers(0 if length == 1 else 1, 10))
    return int("".join(map(str, (first, *rng.integers(10, size=length - 1)))))


def _without_zeros(number: str) -> tuple[str, ...]:
    return digits(int(number)) if number else ()
