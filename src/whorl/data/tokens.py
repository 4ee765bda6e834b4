"""The token ids of texts that probes write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, without special ones."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def first_of(tokenizer: Any) -> list[int]:
    """What a sequence begins with: bos, for a tokenizer that has one."""
    bos = tokenizer.bos_token_id
    return [] if bos is None else [int(bos)]


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with that are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
