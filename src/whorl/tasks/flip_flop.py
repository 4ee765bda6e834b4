"""Flip-flop: reading the bit that was written last, past all that is to be ignored. Version 1.

    bos w b i b i b r b i b w b r b ...    after r stands the bit of the last w; the other bits are random

(Flip-flop language modelling, 2306.00946.) The first instruction writes, the last one reads, and those between are i
with probability `ignore`, else w or r, equally. Only the bits that are read have a loss and are scored. Evaluation at
length l keeps the number of writes and reads of the training length, spread over more to ignore: i has the probability
1 - (1 - ignore) train_length / l, so that a longer sequence is a longer way back to the write (the paper's sparse
sequences have 0.98). A length below the training length has the training's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whorl.encodings.config import require_number
from whorl.tasks.base import IGNORED, argument
from whorl.tasks.generated import SPECIAL, Generated, Sized
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

WRITE, READ, IGNORE, ZERO = range(SPECIAL, SPECIAL + 4)


@dataclass(frozen=True)
class Flips(Sized):
    name = "flip-flop"
    ignore: float = argument(0.8, "share of the instructions at the training length whose bit is to be ignored")

    def __post_init__(self) -> None:
        require_number("ignore", self.ignore)
        if not 0 <= self.ignore < 1:
            raise ValueError(f"ignore must be a share from 0 to below 1, got {self.ignore}")

    @property
    def shortest(self) -> int:
        return 5


class FlipFlop(Generated):
    """Instructions w, r, i (ids 3, 4, 5), each followed by a bit (6, 7)."""

    name = evaluation = "flip-flop"
    title = "Reading the bit that was written last"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / 2, of="bits that are read"), EXACT_MATCH)
    takes = Flips
    arguments: Flips
    vocab_size = SPECIAL + 5
    guesses = np.array([ZERO, ZERO + 1])

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        count, ignored = (len(ids) - 1) // 2, self._ignored(len(ids))
        said = rng.choice([IGNORE, WRITE, READ], size=count, p=[ignored, (1 - ignored) / 2, (1 - ignored) / 2])
        said[0], said[-1] = WRITE, READ
        written = np.maximum.accumulate(np.where(said == WRITE, np.arange(count), 0))
        bits = ZERO + rng.integers(2, size=count)
        bits = np.where(said == READ, bits[written], bits)
        end = 1 + 2 * count
        ids[1:end:2], ids[2:end:2] = said, bits
        labels[2:end:2] = np.where(said == READ, bits, IGNORED)

    def _ignored(self, length: int) -> float:
        """The probability of an instruction to ignore at a length."""
        return 1 - (1 - self.arguments.ignore) * min(1.0, self.settings.train_length / length)

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        solved, written = ids.copy(), IGNORED
        for place in range(1, len(ids) - 1, 2):
            if ids[place] == WRITE:
                written = ids[place + 1]
            elif ids[place] == READ:
                solved[place + 1] = written
        return solved

    def _facts(self) -> dict[str, Any]:
        return {"ignored": {str(n): round(self._ignored(n), 6) for n in self.settings.lengths}}
