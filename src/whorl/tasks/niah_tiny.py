"""A needle in a haystack, tiny: a key and its value somewhere in a long filler, asked for at the end. Version 1.

    bos filler ... needle k v_1 ... v_n filler ... sep needle k | v_1 ... v_n

(RULER's niah, 2404.06654, in form alone: no number from here is a RULER score.) The filler is a walk over `FILLER`
symbols, each of which is followed by one of `NEXT`, the same in all sequences. A key is one of `KEYS`, a value
`VALUE_TOKENS` symbols, uniform and independent out of `VALUES`, which have a loss and are scored. Where there are more
`needles` than one, the others have other keys and stand at places drawn at random (RULER's multi-key).

Evaluation at length l: the needle of sequence i of n stands at the depth i / (n - 1) of the filler, from right after
bos to right before the separator. Beside the accuracy of all, `early`, `middle` and `late` are those of the first,
second and last third of the depths.
Training: needles at places drawn at random, in a filler of random length, with padding behind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from whorl.encodings.config import require_positive_int
from whorl.results.over_seeds import Metric
from whorl.tasks.base import IGNORED, argument
from whorl.tasks.generated import BOS, SEP, SPECIAL, Generated, Sized
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

KEYS, VALUES, FILLER, NEXT = 16, 16, 32, 4
VALUE_TOKENS = 4
SIZE = 2 + VALUE_TOKENS  # tokens of a needle
NEEDLE = SPECIAL
KEY = NEEDLE + 1
VALUE = KEY + KEYS
WALK = VALUE + VALUES
FOLLOWS = np.random.default_rng(0).permuted(np.tile(np.arange(FILLER), (FILLER, 1)), axis=1)[:, :NEXT]
THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class Needles(Sized):
    name = "niah-tiny"
    needles: int = argument(1, f"needles in the filler, one of which is asked for, at most {KEYS}")

    def __post_init__(self) -> None:
        require_positive_int("needles", self.needles)
        if self.needles > KEYS:
            raise ValueError(f"needles must be at most {KEYS}, the keys that there are, got {self.needles}")

    @property
    def shortest(self) -> int:
        return 2 + SIZE * (self.needles + 1)


class NiahTiny(Generated):
    """The ids after the special ones are `needle`, KEYS keys, VALUES values and FILLER filler symbols."""

    name = evaluation = "niah-tiny"
    title = "A needle in a haystack, tiny"
    version = 1
    metrics = (
        replace(TOKEN_ACCURACY, chance=1 / VALUES),
        EXACT_MATCH,
        *(Metric(third, f"accuracy of {third} needles", "share") for third in THIRDS),
    )
    takes = Needles
    arguments: Needles
    vocab_size = WALK + FILLER
    guesses = np.arange(VALUE, VALUE + VALUES)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        self._hide(rng, ids, labels, rng.random(), int(rng.integers(self._filler(len(ids)) + 1)))

    def _evaluated(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, i: int) -> None:
        self._hide(rng, ids, labels, i / max(1, self.settings.windows - 1), self._filler(len(ids)))

    def _filler(self, length: int) -> int:
        """Tokens of filler, at most, in a sequence of this length."""
        return length - 2 - SIZE * (self.arguments.needles + 1)

    def _hide(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, depth: float, filler: int) -> None:
        """Writes a sequence with so many tokens of filler, and the needle that is asked for at this share of them."""
        needles = self.arguments.needles
        depths = np.append(round(depth * filler), rng.integers(filler + 1, size=needles - 1))
        keys = KEY + rng.permutation(KEYS)[:needles]
        values = VALUE + rng.integers(VALUES, size=(needles, VALUE_TOKENS))
        hidden = np.column_stack([np.full(needles, NEEDLE), keys, values])
        order = np.argsort(depths, kind="stable")
        before, *behind = np.split(_walk(rng, filler), depths[order])
        hay = [before, *(part for pair in zip(hidden[order], behind, strict=True) for part in pair)]
        written = np.concatenate([[BOS], *hay, [SEP], hidden[0]])
        ids[: len(written)] = written
        labels[len(written) - VALUE_TOKENS : len(written)] = values[0]

    def pieces(self, asked: torch.Tensor) -> dict[str, torch.Tensor]:
        """The targets by third of the depths, which go by the sequence."""
        third = torch.arange(len(asked))[:, None] * len(THIRDS) // len(asked)
        return {name: asked & (third == i) for i, name in enumerate(THIRDS)}

    def oracle(self, ids: np.ndarray) -> np.ndarray:
        solved, (first, *_) = ids.copy(), np.flatnonzero(ids == IGNORED)
        key = ids[first - 1]
        needle = int(np.flatnonzero((ids[:-1] == NEEDLE) & (ids[1:] == key))[0])
        solved[first : first + VALUE_TOKENS] = ids[needle + 2 : needle + SIZE]
        return solved

    def chance(self, length: int) -> dict[str, float]:
        return dict.fromkeys(THIRDS, 1 / VALUES)

    def _facts(self) -> dict[str, Any]:
        return {"needles": self.arguments.needles, "value_tokens": VALUE_TOKENS}


def _walk(rng: np.random.Generator, length: int) -> np.ndarray:
    """`length` ids of the filler, from a random symbol on."""
    walk, at = np.empty(length, dtype=np.int64), int(rng.integers(FILLER))
    for i, step in enumerate(rng.integers(NEXT, size=length).tolist()):
        walk[i] = at
        at = FOLLOWS[at, step]
    return WALK + walk
