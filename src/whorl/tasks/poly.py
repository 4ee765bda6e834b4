"""The last digit of a polynomial's value (2305.19466). Version 1.

    x = - 2 : - 2 * x ** 2 + 1 * x ** 0  ->  3
    in - 2 * x ** 2 comp - 2 * 4 + sum = - 8 + 0 = - 8 out 2 var sum 2 re 1 * x ** 0 # ...

n terms with uniform coefficients of -3 to 3 and degrees of 0 to 3, at a uniform x of -2 to 2; the answer is the value
modulo 10, from 0 to 9. A guess among the ten digits is right one time in ten. Small values are commoner than others:
who always says 0 is right 24 times in 100 at 2 terms, and 13 at 8.

The steps go term by term with a running sum, which is what comes out, modulo 10. (The paper's own words for them are
others.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whorl.tasks.problems import DIGITS, Answer, Problem, Prompt, digits, joined
from whorl.tasks.scratchpad import Step, WithScratchpad

MODULUS = 10
TERM = ("*", "x", "**")  # what stands between a coefficient and a degree


@dataclass(frozen=True)
class PolyArguments(WithScratchpad):
    """Which steps are written."""

    name = "poly"


class Poly(Problem):
    """The value of a polynomial of n terms, modulo 10."""

    name = evaluation = "poly"
    title = "The last digit of a polynomial"
    version = 1
    takes = PolyArguments
    unit = "terms"
    trained = 8

    def symbols(self) -> Sequence[str]:
        return [*DIGITS, "-", "+", *TERM, "=", ":", *(["sum"] if self.parts else [])]

    def answers(self) -> Sequence[str]:
        return DIGITS

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        x = int(rng.integers(-2, 3))
        coefficients, degrees = rng.integers(-3, 4, size=size).tolist(), rng.integers(4, size=size).tolist()
        value = sum(c * x**d for c, d in zip(coefficients, degrees, strict=True))
        return _prompt(x, list(zip(coefficients, degrees, strict=True))), [str(value % MODULUS)]

    def longest(self, size: int) -> Prompt:
        prompts = _prompt(2, [(-3, 3)] * size), _prompt(-2, [(-3, 2)] * size)  # the longest steps, the longest x
        return max(prompts, key=lambda prompt: len(self.sequence(prompt, self.solve(prompt))[0]))

    def solve(self, prompt: Prompt) -> Answer:
        *_, last = self.steps(prompt)
        return last.out

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        start = prompt.index(":") + 1
        x, total = int("".join(prompt[2 : start - 1])), 0
        terms = " ".join(prompt[start:]).split(" + ")
        for place, term in enumerate(terms):
            words = tuple(term.split())
            coefficient, power = int("".join(words[: words.index("*")])), x ** int(words[-1])
            before, product = total, coefficient * power
            total = (product + before) % MODULUS
            yield Step(
                given=words,
                computed=(
                    *(*digits(coefficient), "*", *digits(power), "+", "sum", "=", *digits(product), "+", str(before)),
                    *("=", *digits(product + before)),
                ),
                out=(str(total),),
                variables=("sum", str(total)),
                left=tuple(" + ".join(terms[place + 1 :]).split()),
            )


def _prompt(x: int, terms: Sequence[tuple[int, int]]) -> list[str]:
    written = ((*digits(coefficient), *TERM, str(degree)) for coefficient, degree in terms)
    return ["x", "=", *digits(x), ":", *joined("+", written)]
