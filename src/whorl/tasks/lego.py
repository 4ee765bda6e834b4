"""LEGO: following a chain of signs (2305.19466, after 2206.04301). Version 1.

    c = + 1 , k = - c , a = + k ? k  ->  - 1
    in c = + 1 comp out + 1 re k = - c # in k = - c comp - + 1 out - 1 re

n clauses over different letters, each + or - the one before, all signs uniform; the first is + or - 1. Asked for is the
value of one of the later letters, the clause ceil(n / 2) to n - 1, counted from 0, each as often as another. A guess is
right half of the time. There are 26 letters, and so no more clauses.

The steps are those that are needed, clause by clause; the first has nothing to compute, and there are no variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase as LETTERS

import numpy as np

from whorl.tasks.problems import Answer, Problem, Prompt, joined
from whorl.tasks.scratchpad import Step, WithScratchpad

ONE = {1: "+1", -1: "-1"}
SIGN = {1: "+", -1: "-"}


@dataclass(frozen=True)
class LegoArguments(WithScratchpad):
    """Which steps are written."""

    name = "lego"


class Lego(Problem):
    """The value of a letter in a chain of n clauses."""

    name = evaluation = "lego"
    title = "A chain of signs"
    version = 1
    takes = LegoArguments
    unit = "clauses"
    trained = 8
    largest = len(LETTERS)

    def symbols(self) -> Sequence[str]:
        return [*LETTERS, *ONE.values(), *SIGN.values(), "=", ",", "?"]

    def answers(self) -> Sequence[str]:
        return list(ONE.values())

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        letters = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:size]]
        signs = rng.choice([1, -1], size=size).tolist()
        asked = int(rng.integers((size + 1) // 2, size))
        return _prompt(letters, signs, asked), [ONE[int(np.prod(signs[: asked + 1]))]]

    def longest(self, size: int) -> Prompt:
        return _prompt(LETTERS[:size], [1] * size, size - 1)

    def solve(self, prompt: Prompt) -> Answer:
        *_, last = self.steps(prompt)
        return last.out

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        *_, asked = prompt
        clauses = [tuple(clause.split()) for clause in " ".join(prompt[:-2]).split(" , ")]
        needed = clauses[: [clause[0] for clause in clauses].index(asked) + 1]
        value = 1
        for place, clause in enumerate(needed):
            computed = (clause[2], ONE[value]) if place else ()
            value = int(clause[2]) if place == 0 else value * int(f"{clause[2]}1")
            yield Step(clause, computed, (ONE[value],), left=joined(",", needed[place + 1 :]))


def _prompt(letters: Sequence[str], signs: Sequence[int], asked: int) -> list[str]:
    first = (letters[0], "=", ONE[signs[0]])
    others = [
        (letter, "=", SIGN[sign], before)
        for before, letter, sign in zip(letters[:-1], letters[1:], signs[1:], strict=True)
    ]
    return [*joined(",", [first, *others]), "?", letters[asked]]
