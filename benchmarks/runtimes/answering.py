"""What an engine's script is asked, and how it answers. Runs in each engine's own Python: nothing of whorl is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

# (model, ids, at): what whorl exported, a folder or a GGUF; token ids; positions, ascending.
Answer = Callable[[str, list[int], list[int]], Any]


def answer(log_probabilities: Answer) -> None:
    """Reads the question (JSON, a file named first) and writes the answer (.npy, a file named second).

    The answer: log-probabilities of every token of the vocabulary after ids[: p + 1], for every position p that is
    asked, float32 [positions, tokens].
    """
    question, out = sys.argv[1:]
    with open(question, encoding="utf-8") as file:
        asked = json.load(file)
    np.save(out, np.asarray(log_probabilities(asked["model"], asked["ids"], asked["at"]), dtype=np.float32))


def normalized(logits: Any) -> np.ndarray[Any, Any]:
    """Logits [positions, tokens] as log-probabilities."""
    values = np.asarray(logits, dtype=np.float64)
    values = values - values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def dense(pairs: list[tuple[int, float]]) -> np.ndarray[Any, Any]:
    """(token, log-probability) of every token, as a row."""
    row = np.full(len(pairs), np.nan)
    for token, value in pairs:
        row[token] = value
    return row
