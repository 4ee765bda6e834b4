"""Repeating what stood a fixed number of items before: the positive control. Version 1.

    bos x_1 y_1 x_2 y_2 ...    y_i = x_(i - back), and sep where there is none yet

The x are uniform and independent, out of `SYMBOLS`. Every y that repeats an x has a loss and is scored: a model is to
attend 2 `back` tokens before the x that it reads, whatever stands there. Sequences fill the length, in training and
evaluation; a longer one asks for no other distance. A model that is poor at it cannot tell positions apart, and what
it scores on tasks that need content as well says nothing about content.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whorl.encodings.config import require_positive_int
from whorl.tasks.base import IGNORED, argument
from whorl.tasks.generated import SEP, SPECIAL, Generated, Sized
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

SYMBOLS = 64


@dataclass(frozen=True)
class Offset(Sized):
    name = "fixed-offset"
    back: int = argument(4, "how many items before the one that is repeated stands")

    def __post_init__(self) -> None:
        require_positive_int("back", self.back)

    @property
    def shortest(self) -> int:
        return 3 + 2 * self.back


class FixedOffset(Generated):
    """Every second token repeats the one `back` items before; the ids of the symbols are 3 to 2 + SYMBOLS."""

    name = evaluation = "fixed-offset"
    title = "Repeating what stood a fixed distance before"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / SYMBOLS), EXACT_MATCH)
    takes = Offset
    arguments: Offset
    vocab_size = SPECIAL + SYMBOLS
    guesses = np.arange(SPECIAL, SPECIAL + SYMBOLS)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        back, items = self.arguments.back, (len(ids) - 1) // 2
        first, end = 2 + 2 * back, 1 + 2 * items
        ids[1:end:2] = SPECIAL + rng.integers(SYMBOLS, size=items)
        ids[2:first:2] = SEP
        ids[first:end:2] = labels[first:end:2] = ids[1 : end - 2 * back : 2]

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        solved = ids.copy()
        for place in np.flatnonzero(ids == IGNORED):
            solved[place] = ids[place - 1 - 2 * self.arguments.back]
        return solved

    def _facts(self) -> dict[str, Any]:
        return {"back": self.arguments.back, "symbols": SYMBOLS}
