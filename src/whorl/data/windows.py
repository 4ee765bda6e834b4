"""Windows of a text: rows of as many token ids each, every one within one document where documents are long enough."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whorl.data import corpus
from whorl.data.tokens import first_of, ids_of

log = logging.getLogger(__name__)

PER_DOCUMENT = 4  # windows, so that one long document is not all that is read


def text_windows(
    text: str, documents: Sequence[str], tokenizer: Any, length: int, windows: int, heldout: bool = False, seed: int = 0
) -> torch.Tensor:
    """Token ids [windows or fewer, length] of a text, each window within one document where documents are long enough.

    text: its name; documents: what it holds. heldout: of the documents that `whorl compare` holds out alone.
    Raises ValueError for a text that is shorter than a window.
    """
    if heldout:
        documents = corpus.split_documents(documents)[1]
    order = np.random.default_rng(seed).permutation(len(documents))
    first = first_of(tokenizer)
    found: list[np.ndarray[Any, Any]] = []
    encoded: list[np.ndarray[Any, Any]] = []
    for i in order:
        document = np.array(first + ids_of(tokenizer, documents[i]), dtype=np.int64)
        encoded.append(document)
        whole = min(len(document) // length, PER_DOCUMENT, windows - len(found))
        found += list(document[: whole * length].reshape(whole, length))
        if len(found) == windows:
            break
    if len(found) < windows:  # documents too short: one after the other
        joined = np.concatenate(encoded)
        if len(joined) < length:
            raise ValueError(
                f"{text!r} gives {len(joined):,} tokens, fewer than one window of {length:,}; give a longer text or a "
                f"shorter length"
            )
        whole = min(len(joined) // length, windows)
        found = list(joined[: whole * length].reshape(whole, length))
        if whole < windows:
            log.warning("%s gives %d windows of %s tokens, of %d asked for", text, whole, f"{length:,}", windows)
    return torch.from_numpy(np.stack(found))


def window_ends(documents: list[np.ndarray], length: int, tail: int) -> list[tuple[int, int]]:
    """(document, end) of all windows of `length` tokens within one document whose last `tail` tokens are disjoint."""
    return [(d, end) for d, tokens in enumerate(documents) for end in range(length, len(tokens) + 1, tail)]


def ends_between(
    documents: list[np.ndarray], taken: list[tuple[int, int]], taken_length: int, length: int
) -> list[tuple[int, int]]:
    """(document, end) of windows of `length` tokens beside one another, none of which has a token of those that are
    taken: windows of `taken_length` tokens, by their (document, end)."""
    found = []
    for d, tokens in enumerate(documents):
        free = 0  # where the tokens begin that are not taken
        for start, end in [*sorted((end - taken_length, end) for of, end in taken if of == d), (len(tokens), 0)]:
            found += [(d, at) for at in range(free + length, start + 1, length)]
            free = max(free, end)
    return found


def spread(ends: list[tuple[int, int]], windows: int) -> list[tuple[int, int]]:
    """At most `windows` of them, evenly spread, hence over all documents in proportion to their length."""
    count = min(windows, len(ends))
    return [ends[(2 * i + 1) * len(ends) // (2 * count)] for i in range(count)]


def cut_windows(documents: list[np.ndarray], ends: list[tuple[int, int]], length: int) -> torch.Tensor:
    """The windows [windows, length], int64."""
    return torch.from_numpy(np.stack([documents[d][end - length : end] for d, end in ends]).astype(np.int64))
