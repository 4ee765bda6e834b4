"""Copying, counted in items: the five forms of 2305.19466. Version 1.

The prompt has n items out of `symbols`; the answer is by the variant:

    cmc     x_1 ... x_n            the same                                    copy multiple tokens
    cmc2x   x_1 ... x_n            x_1 ... x_n next x_1 ... x_n                the same twice
    rsc     x ... x                the same                                    one symbol, repeated n times
    rsc2x   x ... x                twice as many
    rdc     a b a ... a            b ... b, n times                            replace a with b

Items are uniform and independent; a and b differ. The paper takes thousands of symbols for rsc and rdc, so that no
sequence of the training is asked again; here those within the training length may be, and none beyond it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whorl.encodings.config import choices
from whorl.tasks.base import argument
from whorl.tasks.problems import AGAIN, Answer, OfItems, Problem, Prompt

VARIANTS = ("cmc", "cmc2x", "rsc", "rsc2x", "rdc")


@dataclass(frozen=True)
class CopyItemsArguments(OfItems):
    """Which copy is asked for."""

    name = "copy-items"

    variant: str = argument("cmc", ", ".join(VARIANTS))

    def __post_init__(self) -> None:
        super().__post_init__()
        choices("variant", self.variant, VARIANTS)


class CopyItems(Problem):
    """Copies of n items."""

    name = evaluation = "copy-items"
    title = "Copying items"
    version = 1
    takes = CopyItemsArguments

    def symbols(self) -> Sequence[str]:
        return [*self.arguments.items, *([AGAIN] if self.arguments.variant == "cmc2x" else [])]

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Prompt, Answer]:
        variant, symbols = self.arguments.variant, self.arguments.symbols
        if variant == "rdc":
            a, b = (f"x{i}" for i in rng.choice(symbols, size=2, replace=False))
            return [a, b, *[a] * size], [b] * size
        if variant.startswith("rsc"):
            item = f"x{rng.integers(symbols)}"
            return [item] * size, [item] * (2 * size if variant == "rsc2x" else size)
        items = [f"x{i}" for i in rng.integers(symbols, size=size)]
        return items, [*items, AGAIN, *items] if variant == "cmc2x" else items

    def solve(self, prompt: Prompt) -> Answer:
        match self.arguments.variant:
            case "rdc":
                return [prompt[1] for item in prompt[2:] if item == prompt[0]]
            case "cmc2x":
                return [*prompt, AGAIN, *prompt]
            case "rsc2x":
                return [*prompt, *prompt]
            case _:
                return prompt
