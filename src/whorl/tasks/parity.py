"""Parity: whether the number of ones among n bits is even (2305.19466). Version 1.

    0 1 1  ->  Yes
    in 0 comp 0 ** par = 0 ** 0 out 0 var par 0 re 1 1 # in 1 comp 1 ** par = 1 ** 0 out 1 var par 1 re 1 # ...

Bits are uniform and independent, at least three of them. Guessing is right half of the time, and so 50 % past the
training length is failure. The steps are the paper's, a running parity (`**` stands for exclusive or).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whorl.tasks.problems import Answer, Problem, Prompt
from whorl.tasks.scratchpad import Step, WithScratchpad

EVEN, ODD = "Yes", "No"


@dataclass(frozen=True)
class ParityArguments(WithScratchpad):
    """Which steps are written."""

    name = "parity"


class Parity(Problem):
    """Whether the ones are even."""

    name = evaluation = "parity"
    title = "Parity of bits"
    version = 1
    takes = ParityArguments
    unit = "bits"
    smallest = 3
    trained = 8

    def symbols(self) -> Sequence[str]:
        return ["0", "1", EVEN, ODD, *(["par", "**", "="] if self.parts else [])]

    def answers(self) -> Sequence[str]:
        return [EVEN, ODD]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        bits = rng.integers(2, size=size)
        return [str(bit) for bit in bits], [ODD if bits.sum() % 2 else EVEN]

    def solve(self, prompt: Prompt) -> Answer:
        *_, last = self.steps(prompt)
        return [EVEN if last.out == ("0",) else ODD]

    def steps(self, prompt: Prompt) -> Iterable[Step]:
        parity = 0
        for i, bit in enumerate(prompt):
            before, parity = parity, parity ^ int(bit)
            yield Step(
                given=(bit,),
                computed=(bit, "**", "par", "=", bit, "**", str(before)),
                out=(str(parity),),
                variables=("par", str(parity)),
                left=tuple(prompt[i + 1 :]),
            )
