"""The token ids of texts, and of those that probes write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, without special ones."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def ids_known(tokenizer: Any, text: str) -> list[int]:
    """The same of a text that a probe writes. Raises ValueError where the tokenizer does not know a part of it: two
    words that are both the unknown token cannot be told apart, and a number that is none can be guessed."""
    found = ids_of(tokenizer, text)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in found:
        raise ValueError(f"the tokenizer does not know all of {text.strip()!r}, which would be asked about")
    return found


def first_of(tokenizer: Any) -> list[int]:
    """What a sequence begins with: bos, for a tokenizer that has one."""
    bos = tokenizer.bos_token_id
    return [] if bos is None else [int(bos)]


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with that are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
