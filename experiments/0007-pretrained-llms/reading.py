"""What the study reads: two models from their GGUF files, two texts as windows of tokens, and losses on them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import whorl
from whorl.data import corpus
from whorl.data.losses import evaluating

FILES = {"smollm2": "smollm2-135m-instruct.gguf", "gemma3": "gemma-3-270m.gguf"}
TRAINED = {"smollm2": 8192, "gemma3": 32768}
"""Tokens that the files say the models were trained at."""
TEXTS = ("code", "prose")
TOKENS = 600_000  # of a text, at most
HEAD_TOKENS = 1024  # whose logits are held at once


def load_model(models: Path, name: str) -> Any:
    """The quantised weights, as float32."""
    return whorl.load(models / FILES[name], dtype=torch.float32)


def load_tokenizer(models: Path, name: str) -> Any:
    return corpus.load_tokenizer(str(models / FILES[name]))


def documents(text: str) -> list[str]:
    """code: the standard library's files, shuffled. prose: Python's language reference, as `help()` shows it."""
    if text == "prose":
        return [topics[key] for key in sorted(topics)]
    found = corpus.read_documents("stdlib")
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def token_stream(tokenizer: Any, text: str) -> tuple[np.ndarray[Any, Any], str]:
    """The documents one after the other as int32 ids, without special tokens; and the sha256 of what was encoded."""
    ids: list[int] = []
    digest = hashlib.sha256()
    for document in documents(text):
        digest.update(document.encode("utf-8", "surrogatepass"))
        ids += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= TOKENS:
            break
    return np.array(ids[:TOKENS], dtype=np.int32), digest.hexdigest()


def windows(stream: np.ndarray[Any, Any], first: int, length: int, count: int) -> torch.Tensor:
    """At most `count` windows [windows, length], evenly spread and disjoint, each with the token `first` before it."""
    body = length - 1
    places = len(stream) // body
    count = min(count, places)
    starts = [(2 * i + 1) * places // (2 * count) * body for i in range(count)]
    rows = np.stack([np.concatenate([[first], stream[at : at + body]]) for at in starts])
    return torch.from_numpy(rows.astype(np.int64))


def first_token(tokenizer: Any) -> int:
    return corpus.bos_id(tokenizer)


def losses(model: Any, ids: torch.Tensor, every: int = 1) -> np.ndarray[Any, Any]:
    """Nats of every token but the first, float32 [windows, length - 1], one window and few logits at a time; of the
    second token and `every` that many after it alone, NaN between."""
    head, found = model.get_output_embeddings(), np.full((len(ids), ids.shape[1] - 1), np.nan, dtype=np.float32)
    with evaluating(model):
        for i, row in enumerate(ids):
            hidden = model.get_decoder()(input_ids=row[None], use_cache=False).last_hidden_state[0, :-1:every]
            parts = zip(hidden.split(HEAD_TOKENS), row[1::every].split(HEAD_TOKENS), strict=True)
            found[i, ::every] = torch.cat([cross_entropy(head(h).float(), y, reduction="none") for h, y in parts])
    return found


def interval(differences: Any, resamples: int = 4000) -> tuple[float, float, float]:
    """Mean, and its 95 % interval over windows drawn with replacement."""
    x = np.asarray(differences, dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))
    low, high = np.quantile(x[drawn].mean(1), [0.025, 0.975])
    return float(x.mean()), float(low), float(high)
