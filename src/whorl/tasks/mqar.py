"""Multi-query associative recall: pairs stated once, then queries among noise. Version 1.

    bos k_1 v_1 ... k_n v_n | slots of two tokens: (k_a noise) (noise noise) (noise noise) (k_b noise) ...

(2312.04927, in the form of its generator, zoology.) Keys are different, out of `symbols`, and values too, out of as
many; the noise is uniform out of `NOISE` symbols of its own, so that it never states another pair. Every key is asked
for once, in a slot of its own; slot g = 0, 1, ... is drawn with a probability that goes as (g + 1)^(alpha - 1),
without replacement: alpha=1 is uniform, and zoology's 0.01 puts most queries right behind the pairs. A value is to be
predicted from its key, and stands nowhere but among the pairs: the label of the token after the key is the value, and
the token itself is noise.

Evaluation at length l: with grows=gap as many pairs as ever and more slots, a longer way back; with grows=load `pairs`
l / train_length of them, a harder choice, too. Beside the accuracy of all, `near`, `middle` and `far` are those of the
queries in the first, second and last third of the slots.
Training: n uniform between 1 and what the training length has, and queries, of keys drawn with replacement, in half of
the slots. In half of the sequences each pair is stated twice in a row, and the second statement has a loss: see
`whorl.tasks.recall` for what that teaches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from whorl.encodings.config import choices, require_positive, require_positive_int
from whorl.results.over_seeds import Metric
from whorl.tasks.base import TaskSettings, argument
from whorl.tasks.generated import SPECIAL, Keyed, Sized, by_key, target_repeats
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

NOISE = 32
THIRDS = ("near", "middle", "far")


@dataclass(frozen=True)
class Queries(Sized):
    name = "mqar"
    pairs: int = argument(4, "pairs at the training length")
    symbols: int = argument(16, "keys that there are, and values")
    grows: str = argument("gap", "what a longer sequence has more of: gap (room between) or load (pairs)")
    alpha: float = argument(1.0, "where queries stand: 1 is anywhere, 0.01 mostly right behind the pairs")

    def __post_init__(self) -> None:
        require_positive_int("pairs", self.pairs)
        require_positive_int("symbols", self.symbols)
        choices("grows", self.grows, ("gap", "load"))
        require_positive("alpha", self.alpha, "1 is uniform")

    @property
    def shortest(self) -> int:
        return 1 + 4 * self.pairs

    def pairs_at(self, length: int, train_length: int) -> int:
        """The pairs of an evaluation sequence of this length."""
        return max(1, self.pairs * length // train_length) if self.grows == "load" else self.pairs


class Mqar(Keyed):
    """The ids after the special ones are KEYS keys, VALUES values and NOISE noise symbols."""

    name = evaluation = "mqar"
    title = "Multi-query associative recall"
    version = 1
    metrics = (
        replace(TOKEN_ACCURACY, chance=1 / Queries.pairs),
        EXACT_MATCH,
        *(Metric(third, f"accuracy of {third} queries", "share") for third in THIRDS),
    )
    takes = Queries
    arguments: Queries
    answers_shown = False

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        arguments = Queries.of_arguments(settings.arguments)
        longest = max(settings.lengths)
        most = arguments.pairs_at(longest, settings.train_length)
        if most > arguments.symbols:
            raise ValueError(
                f"the mqar task has {most} pairs at {longest:,} tokens and {arguments.symbols} keys; try symbols={most}"
            )

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        symbols = self.arguments.symbols
        self.vocab_size = SPECIAL + 2 * symbols + NOISE
        self.guesses = np.arange(SPECIAL + symbols, SPECIAL + 2 * symbols)

    def pairs(self, length: int) -> int:
        """The pairs of an evaluation sequence of this length."""
        return self.arguments.pairs_at(length, self.settings.train_length)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        pairs = self.pairs(len(ids))
        times = 1
        if training:
            pairs, times = int(rng.integers(1, pairs + 1)), int(rng.integers(1, 3))
        symbols = self.arguments.symbols
        keys = SPECIAL + rng.permutation(symbols)[:pairs]
        values = SPECIAL + symbols + rng.permutation(symbols)[:pairs]
        stated = 1 + 2 * pairs * times
        ids[1:stated] = np.repeat(np.stack([keys, values], 1), times, axis=0).ravel()
        ids[stated:] = SPECIAL + 2 * symbols + rng.integers(NOISE, size=len(ids) - stated)
        slots = (len(ids) - stated) // 2
        if training:
            taken = rng.permutation(slots)[: slots // 2]
            asked = rng.integers(pairs, size=len(taken))
            if times == 2:
                target_repeats(labels, keys, values)
        else:
            taken = rng.choice(slots, size=pairs, replace=False, p=probabilities(slots, self.arguments.alpha))
            asked = np.arange(pairs)
        ids[stated + 2 * taken] = keys[asked]
        labels[stated + 2 * taken + 1] = values[asked]

    def pieces(self, asked: torch.Tensor) -> dict[str, torch.Tensor]:
        """The targets by third of the slots."""
        stated = 1 + 2 * self.pairs(asked.shape[1])
        slots = (asked.shape[1] - stated) // 2
        third = (torch.arange(asked.shape[1]) - stated) // 2 * len(THIRDS) // slots
        return {name: asked & (third == i) for i, name in enumerate(THIRDS)}

    def stated(self, ids: np.ndarray) -> dict[int, int]:
        end = 1 + 2 * self.pairs(len(ids))
        return by_key(ids[1:end:2], ids[2:end:2])

    def _facts(self) -> dict[str, Any]:
        pairs = {str(n): self.pairs(n) for n in self.settings.lengths}
        return {"pairs": pairs, "symbols": self.arguments.symbols, "alpha": self.arguments.alpha}

    def chance(self, length: int) -> dict[str, float]:
        return dict.fromkeys((TOKEN_ACCURACY.key, *THIRDS), 1 / self.pairs(length))


def probabilities(slots: int, alpha: float) -> np.ndarray:
    """Of each slot, to be the first that is drawn."""
    weights = np.arange(1.0, slots + 1) ** (alpha - 1)
    return weights / weights.sum()
