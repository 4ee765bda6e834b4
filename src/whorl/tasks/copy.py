"""Copying: a random segment, then the segment again. Version 1.

    bos s_1 ... s_n sep s_1 ... s_n [pad ...]

The symbols are uniform and independent, out of `SYMBOLS`. Only the second copy has a loss and is scored.
Evaluation at length l: n = (l - 2) // 2, so that the segment and its copy fill the length (an odd one but for a token
of padding). Training: the same for half of the sequences, and for the others n uniform between 1 and that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from whorl.tasks.generated import SEP, SPECIAL, Generated
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

SYMBOLS = 64


class Copy(Generated):
    """Copies of random segments; the ids of the symbols are 3 to 2 + SYMBOLS."""

    name = evaluation = "copy"
    title = "Copying a segment"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / SYMBOLS), EXACT_MATCH)
    shortest = 4
    vocab_size = SPECIAL + SYMBOLS
    guesses = np.arange(SPECIAL, SPECIAL + SYMBOLS)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        largest = (len(ids) - 2) // 2
        size = int(rng.integers(1, largest + 1)) if training and rng.random() < 0.5 else largest
        segment = SPECIAL + rng.integers(SYMBOLS, size=size)
        ids[1 : 1 + size] = segment
        ids[1 + size] = SEP
        ids[2 + size : 2 + 2 * size] = segment
        labels[2 + size : 2 + 2 * size] = segment

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        solved, size = ids.copy(), int(np.flatnonzero(ids == SEP)[0]) - 1
        solved[2 + size : 2 + 2 * size] = ids[1 : 1 + size]
        return solved

    def _facts(self) -> dict[str, Any]:
        return {"symbols": {str(length): (length - 2) // 2 for length in self.settings.lengths}}
