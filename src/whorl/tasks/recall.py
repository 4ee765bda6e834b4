"""Associative recall at a distance: key-value pairs, noise, then queries. Version 1.

    bos (k_1 v_1 k_1 v_1) ... (k_n v_n k_n v_n) noise ... sep k_a v_a k_b v_b ...

Each pair is stated twice in a row. The keys of a sequence are different, out of `KEYS`; the values and the noise are
uniform and independent, out of `VALUES` and `NOISE` symbols of their own. Queries ask for keys drawn with
replacement, so that the last ones cannot be answered by elimination. The values after the separator are scored.

Evaluation at length l: `PAIRS` pairs, `QUERIES` queries, and as much noise between them as fills the length: a longer
sequence is a longer way back, not a harder choice. Giving any of the values stated is right once in PAIRS times, and in
one of VALUES of the others.
Training: n uniform between 1 and PAIRS, noise of uniform length, and queries to the end; the second statement of each
pair has a loss too.

Why so: with as many pairs as fit, each stated once, no tiny model learnt more than elimination within 1,500 steps; the
second statement, being predicted, teaches the heads that look one token back, on which the matching is built
(experiments/0003-recall/LOG.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from whorl.tasks.generated import SEP, SPECIAL, Keyed, ask, by_key, target_repeats
from whorl.tasks.metrics import EXACT_MATCH, TOKEN_ACCURACY

KEYS, VALUES, NOISE = 16, 16, 32
PAIRS = 4
QUERIES = 8


class Recall(Keyed):
    """Pairs, noise and queries; the ids after the special ones are KEYS keys, VALUES values and NOISE noise symbols."""

    name = evaluation = "recall"
    title = "Recalling values by their keys"
    version = 1
    metrics = (replace(TOKEN_ACCURACY, chance=1 / PAIRS + (1 - 1 / PAIRS) / VALUES), EXACT_MATCH)
    shortest = 2 + 4 * PAIRS + 2 * QUERIES
    vocab_size = SPECIAL + KEYS + VALUES + NOISE
    guesses = np.arange(SPECIAL + KEYS, SPECIAL + KEYS + VALUES)

    def _write(self, rng: np.random.Generator, ids: np.ndarray, labels: np.ndarray, training: bool) -> None:
        pairs = int(rng.integers(1, PAIRS + 1)) if training else PAIRS
        noise = len(ids) - 2 - 4 * pairs - 2 * QUERIES
        if training:
            noise = int(rng.integers(noise + 1))
        keys = SPECIAL + rng.permutation(KEYS)[:pairs]
        values = SPECIAL + KEYS + rng.integers(VALUES, size=pairs)
        stated, separator = 1 + 4 * pairs, 1 + 4 * pairs + noise
        ids[1:stated] = np.stack([keys, values, keys, values], axis=1).ravel()
        ids[stated:separator] = SPECIAL + KEYS + VALUES + rng.integers(NOISE, size=noise)
        ids[separator] = SEP
        ask(rng, ids, labels, separator + 1, keys, values)
        if training:
            target_repeats(labels, keys, values)

    def stated(self, ids: np.ndarray) -> dict[int, int]:
        end = 1 + 4 * PAIRS
        return by_key(ids[1:end:4], ids[2:end:4])

    def _facts(self) -> dict[str, Any]:
        return {
            "pairs": PAIRS,
            "queries": QUERIES,
            "noise": {str(length): length - self.shortest for length in self.settings.lengths},
        }
