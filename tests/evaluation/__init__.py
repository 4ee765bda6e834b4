"""What the tests of evaluation share: a text, a tokenizer, and models whose answers are known."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from whorl.data.corpus import read_documents, train_tokenizer
from whorl.data.windows import text_windows
from whorl.evaluation.base import Material
from whorl.testing import tiny_model

VOCABULARY = 300


def material(
    text: Path, longest: int = 256, windows: int = 2, sequences: int = 4, tail: int = 8, bos: bool = True
) -> Material:
    documents = read_documents(str(text))
    tokenizer = train_tokenizer(documents[:1], VOCABULARY)
    if not bos:
        tokenizer.bos_token = None
    return Material(tokenizer, text_windows(str(text), documents, tokenizer, longest, windows), sequences, tail, 0)


def answering(next_token: Callable[[list[int], int], int | None]) -> Any:
    """A tiny Llama whose likeliest token at each place is `next_token(ids, place)`, which may read all that stands up
    to there; every token is as likely as another where it knows none (None)."""
    model = tiny_model("llama", vocab_size=VOCABULARY).eval()
    stock = model.forward

    def forward(self: Any, input_ids: torch.Tensor, logits_to_keep: Any = 0, **kwargs: Any) -> Any:
        out = stock(input_ids=input_ids[:, :1], **kwargs)
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for row, ids in enumerate(input_ids.tolist()):
            for place in range(len(ids)):
                if (known := next_token(ids[: place + 1], place)) is not None:
                    logits[row, place, known] = 20.0
        out.logits = logits[:, logits_to_keep] if isinstance(logits_to_keep, torch.Tensor) else logits
        return out

    model.forward = types.MethodType(forward, model)
    return model


def looks_up(cue: int, reach: int = 10**9) -> Callable[[list[int], int], int | None]:
    """What stood behind the last `cue` tokens where they stood last, at most `reach` tokens back."""

    def next_token(ids: list[int], place: int) -> int | None:
        given = ids[-cue:]
        for end in range(place, max(cue, place + 1 - reach) - 1, -1):
            if ids[end - cue : end] == given and len(given) == cue:
                return ids[end]
        return None

    return next_token
