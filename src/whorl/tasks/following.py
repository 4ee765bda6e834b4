"""Following a mapping that the context shows: examples of it, then questions. Version 2.

    bos (x_a f(x_a) x_b f(x_b) ...) (x_b f(x_b) x_a f(x_a) ...) ... noise ... sep x_c f(x_c) ...

The mapping sends `items` different keys, out of `KEYS`, to different values, out of `VALUES`; it is drawn anew for
every sequence. A showing has every key once, in an order of its own, and there are `shots` of them; then come
`QUESTIONS` keys drawn with replacement, whose values are scored. With shots=0 there are as many showings as fit in the
length: a longer sequence shows the same mapping more often, and a model is not to be worse for it. With a number of
shots, noise out of `NOISE` symbols fills the length between them and the questions, and a longer sequence is a longer
way back.

Training: the number of items is uniform between 1 and `items`, that of the showings uniform too, up to as many as fit,
or `shots`, and so is the noise; questions fill the rest. In half of the sequences the first showing states each pair
twice in a row, and the second statement has a loss: see `whorl.tasks.recall` for what that teaches. The other
showings have none: as each has every key once, a model would learn to eliminate, and not to match
(experiments/0003-recall/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whorl.encodings.config import require_positive_int
from whorl.tasks.base import argument
from whorl.tasks.generated import SEP, SPECIAL, Keyed, Sized, ask, by_key, target_repeats
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

KEYS, VALUES, NOISE = 16, 16, 32
QUESTIONS = 8


@dataclass(frozen=True)
class Shown(Sized):
    name = "following"
    items: int = argument(4, f"keys of the mapping, at most {KEYS}")
    shots: int = argument(
        0, "how many times it is shown; 0: as often as fits, and a longer sequence shows it more often"
    )

    def __post_init__(self) -> None:
        require_positive_int("items", self.items)
        if self.items > KEYS:
            raise ValueError(f"items must be at most {KEYS}, the keys that there are, got {self.items}")
        if self.shots != 0:
            require_positive_int("shots", self.shots, ", or 0 for as many as fit")

    @property
    def shortest(self) -> int:
        return 2 + 2 * self.items * max(1, self.shots) + 2 * QUESTIONS


class Following(Keyed):
    """The ids after the special ones are KEYS keys, VALUES values and NOISE noise symbols."""

    name = evaluation = "following"
    title = "Following a mapping shown in context"
    version = 2
    metrics = (replace(TOKEN_ACCURACY, chance=1 / Shown.items), EXACT_MATCH)
    takes = Shown
    arguments: Shown
    vocab_size = SPECIAL + KEYS + VALUES + NOISE
    guesses = np.arange(SPECIAL + KEYS, SPECIAL + KEYS + VALUES)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        room = len(ids) - 2 - 2 * QUESTIONS
        items = int(rng.integers(1, self.arguments.items + 1)) if training else self.arguments.items
        shots = self.arguments.shots or room // (2 * items)
        times = 1
        if training:
            shots, times = int(rng.integers(1, shots + 1)), int(rng.integers(1, 3))
            times = min(times, room // (2 * items) - shots + 1)
        keys = SPECIAL + rng.permutation(KEYS)[:items]
        values = SPECIAL + KEYS + rng.permutation(VALUES)[:items]
        order = np.concatenate(
            [np.repeat(np.arange(items), times), *(rng.permutation(items) for _ in range(shots - 1))]
        )
        shown = 1 + 2 * len(order)
        ids[1:shown:2], ids[2:shown:2] = keys[order], values[order]
        left = 1 + room - shown
        separator = shown + (int(rng.integers(left + 1)) if training else left)
        ids[shown:separator] = SPECIAL + KEYS + VALUES + rng.integers(NOISE, size=separator - shown)
        ids[separator] = SEP
        ask(rng, ids, labels, separator + 1, keys, values)
        if times == 2:
            target_repeats(labels, keys, values)

    def stated(self, ids: np.ndarray) -> dict[int, int]:
        """The mapping, from its first showing."""
        end = 1 + 2 * self.arguments.items
        return by_key(ids[1:end:2], ids[2:end:2])

    def _facts(self) -> dict[str, Any]:
        items, shots = self.arguments.items, self.arguments.shots
        fit = {str(n): (n - 2 - 2 * QUESTIONS) // (2 * items) for n in self.settings.lengths}
        return {"items": items, "questions": QUESTIONS, "shots": shots or fit}

    def chance(self, length: int) -> dict[str, float]:
        return {TOKEN_ACCURACY.key: 1 / self.arguments.items}
