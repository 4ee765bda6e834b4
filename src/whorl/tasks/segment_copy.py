"""Going on with a segment from its beginning, which stands again after a distance. Version 1.

    bos noise ... s_1 ... s_n noise ... s_1 ... s_cue | s_(cue+1) ... s_n

All symbols, of the segment and of the noise, are uniform and independent, out of the same `SYMBOLS`: only what stands
before tells where to go on. The first `cue` symbols of the segment are given, the others have a loss and are scored.
With a cue of 1 the beginning stands in the noise too, and what comes first is a guess among the places.

Evaluation at length l: n = `segment`, right after bos, and as much noise between the two as fills the length: a longer
sequence is a longer way back. Training: n uniform between cue + 1 and half of the sequence, noise of uniform length
before and the rest of it between, and the sequence ends with the segment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whorl.encodings.config import require_positive_int
from whorl.tasks.base import IGNORED, argument
from whorl.tasks.generated import SPECIAL, Generated, Sized
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

SYMBOLS = 64


@dataclass(frozen=True)
class Segments(Sized):
    name = "segment-copy"
    segment: int = argument(16, "symbols of the segment in the evaluation")
    cue: int = argument(4, "symbols of it that are given")

    def __post_init__(self) -> None:
        require_positive_int("segment", self.segment)
        require_positive_int("cue", self.cue)
        if self.cue >= self.segment:
            raise ValueError(f"cue must be below segment, {self.segment}, to leave something to copy, got {self.cue}")

    @property
    def shortest(self) -> int:
        return 1 + 2 * self.segment


class SegmentCopy(Generated):
    """A segment, noise, and the segment once more; the ids of the symbols are 3 to 2 + SYMBOLS."""

    name = evaluation = "segment-copy"
    title = "Going on with a segment seen before"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / SYMBOLS), EXACT_MATCH)
    takes = Segments
    arguments: Segments
    vocab_size = SPECIAL + SYMBOLS
    guesses = np.arange(SPECIAL, SPECIAL + SYMBOLS)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        cue, room = self.arguments.cue, len(ids) - 1
        size = int(rng.integers(cue + 1, room // 2 + 1)) if training else self.arguments.segment
        before = int(rng.integers(room - 2 * size + 1)) if training else 0
        ids[1:] = SPECIAL + rng.integers(SYMBOLS, size=room)
        ids[-size:] = ids[1 + before : 1 + before + size]
        labels[cue - size :] = ids[cue - size :]

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        solved, asked = ids.copy(), int((ids == IGNORED).sum())
        cue = self.arguments.cue
        given = ids[-asked - cue : -asked]
        begins = next(i for i in range(len(ids)) if np.array_equal(ids[i : i + cue], given))
        solved[-asked:] = ids[begins + cue : begins + cue + asked]
        return solved

    def _facts(self) -> dict[str, Any]:
        segment = self.arguments.segment
        distance = {str(n): n - 1 - segment for n in self.settings.lengths}
        return {"segment": segment, "cue": self.arguments.cue, "distance": distance}
