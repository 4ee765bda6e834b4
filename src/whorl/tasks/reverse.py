"""Reversing, counted in items: the three forms of 2305.19466. Version 1.

    mc      x_1 ... x_n            x_n ... x_1
    mc2x    x_1 ... x_n            x_n ... x_1 next x_n ... x_1
    mcrv    x_1 ... x_n            x_n ... x_1 next x_1 ... x_n

Items are uniform and independent, out of `symbols`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whorl.encodings.config import choices
from whorl.tasks.base import argument
from whorl.tasks.problems import AGAIN, Answer, OfItems, Problem, Prompt

VARIANTS = ("mc", "mc2x", "mcrv")


@dataclass(frozen=True)
class ReverseArguments(OfItems):
    """Which reversal is asked for."""

    name = "reverse"

    variant: str = argument("mc", ", ".join(VARIANTS))

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("variant", self.variant, VARIANTS)


class Reverse(Problem):
    """n items, the last one first."""

    name = evaluation = "reverse"
    title = "Reversing items"
    version = 1
    takes = ReverseArguments

    def symbols(self) -> Sequence[str]:
        return [*self.arguments.items, *([] if self.arguments.variant == "mc" else [AGAIN])]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        order = rng.integers(self.arguments.symbols, size=size)
        items, backwards = ([f"x{i}" for i in some] for some in (order, order[::-1]))
        second = {"mc": [], "mc2x": [AGAIN, *backwards], "mcrv": [AGAIN, *items]}
        return items, [*backwards, *second[self.arguments.variant]]

    def solve(self, prompt: Prompt) -> Answer:
        backwards = list(reversed(prompt))
        match self.arguments.variant:
            case "mc2x":
                return [*backwards, AGAIN, *backwards]
            case "mcrv":
                return [*backwards, AGAIN, *prompt]
            case _:
                return backwards
