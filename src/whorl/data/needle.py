"""A number that is stated once in a text, at some depth, and asked for at its end: what needle retrieval reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whorl.data.tokens import first_of, ids_known, shared

STATED = "\nThe secret number of {name} is {number}.\n"
ASKED = "\nThe secret number of {name} is"
NAMES = ("Berlin", "Nairobi", "Lima", "Oslo", "Hanoi", "Quito", "Cairo", "Turin")


def prompt(
    tokenizer: Any, filler: Sequence[int], length: int, depth: float, seed: int, stated: bool = True
) -> tuple[torch.Tensor, int]:
    """Token ids [length] that end with the number asked for, and how many of them are that number.

    depth: where the number is stated: 0 at the beginning of the filler, 1 just before the question. Without `stated`
    its place is filled with more text. Raises ValueError for a length that does not hold statement and question.
    """
    random = np.random.default_rng(seed)
    facts = {"name": NAMES[seed % len(NAMES)], "number": int(random.integers(10_000, 100_000))}

    needle = ids_known(tokenizer, STATED.format(**facts)) if stated else []
    question, answer = continued(tokenizer, ASKED.format(**facts), f" {facts['number']}")
    first = first_of(tokenizer)
    room = length - len(first) - len(needle) - len(question) - len(answer)
    if room < 0 or len(filler) < room:
        raise ValueError(
            f"{length} tokens do not hold a statement and a question of {length - room} tokens in {len(filler)} of "
            "text; give a longer length or text"
        )
    start = int(random.integers(len(filler) - room + 1))
    text = list(filler[start : start + room])
    at = round(depth * room)
    return torch.tensor([*first, *text[:at], *needle, *text[at:], *question, *answer]), len(answer)


def continued(tokenizer: Any, text: str, more: str) -> tuple[list[int], list[int]]:
    """The tokens of `text + more`, parted where those of `text` alone end.

    Together, since a tokenizer may put a space before any text (SentencePiece): apart, what goes on would not begin
    with the tokens that it has in the middle of a text.
    """
    alone, whole = (ids_known(tokenizer, x) for x in (text, text + more))
    at = shared(alone, whole)
    return whole[:at], whole[at:]
