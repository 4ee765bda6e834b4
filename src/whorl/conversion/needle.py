"""Needle retrieval by depth and length, with the entropy of attention beside it (2406.13282, section 4).

A number is stated once in a text, at some depth, and asked for at its end. Perplexity on ordinary text says little
about whether far context is used; this does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from whorl import finite
from whorl.checking import check_ids
from whorl.data.losses import token_losses
from whorl.data.needle import prompt
from whorl.hosts import open_host, tokens_of
from whorl.results.extension import Needle
from whorl.watching import Attended, watching

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
TRIALS = 8


def check(model: Any, tokenizer: Any, filler: Sequence[int], lengths: Sequence[int], trials: int = TRIALS) -> None:
    """Raises ValueError for what `retrieval` cannot ask: a length that is too short, tokens that the model lacks."""
    vocabulary = tokens_of(open_host(model).model)
    for length in lengths:
        for trial in range(trials):
            ids, _ = prompt(tokenizer, filler, length, DEPTHS[0], trial)
            check_ids("the needle and its question", ids, vocabulary)


@torch.no_grad()
def retrieval(
    model: Any,
    tokenizer: Any,
    filler: Sequence[int],
    lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS,
    trials: int = TRIALS,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Needle, ...]:
    """One row per length and depth, means over `trials` numbers.

    Raises ValueError for logits that are not finite: none of them is the first choice.
    """
    inner = open_host(model).model
    inner.eval()
    rows = []
    for length in lengths:
        for depth in depths:
            sums = {"found": 0.0, "loss": 0.0, "without": 0.0, "entropy": 0.0}
            for trial in range(trials):
                ids, answer = prompt(tokenizer, filler, length, depth, trial)
                entropies: list[float] = []

                def watch(attended: Attended, answer: int = answer, entropies: list[float] = entropies) -> None:
                    last = attended.q.shape[2] - 1
                    entropies.append(float(attended.entropy(0, last - answer, last).mean()))

                with watching(model, watch):
                    logits = inner(input_ids=ids[None].to(inner.device), use_cache=False).logits.cpu()
                finite.check_values(
                    logits[0, -answer - 1 :], f"the logits at {length:,} tokens are not finite", model, ids[None]
                )
                chosen = logits[0, -answer - 1 : -1].argmax(-1)
                sums["found"] += float((chosen == ids[-answer:]).all())
                sums["loss"] += float(token_losses(logits, ids[None])[0, -answer:].mean())
                sums["entropy"] += float(np.mean(entropies))
                blank, _ = prompt(tokenizer, filler, length, depth, trial, stated=False)
                logits = inner(input_ids=blank[None].to(inner.device), use_cache=False).logits.cpu()
                sums["without"] += float(token_losses(logits, blank[None])[0, -answer:].mean())
            rows.append(Needle(length, depth, **{name: total / trials for name, total in sums.items()}))
            advance()
    return tuple(rows)
