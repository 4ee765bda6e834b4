"""Language modelling: perplexity on the same target tokens, with more and more context before them. Version 1.

Training: windows of `train_length` tokens at random offsets of the training documents, which stand one after the
other, each begun by the bos token. Every token is predicted from those before it in its window.

Evaluation: every window lies within one held-out document and holds max(lengths) tokens. Its last `tail` tokens are the
targets; no two windows share one. At length l the model reads the last l tokens of the window, so that the targets
are the same at every length and only the context before them grows. `tail` is exp of the mean negative log-likelihood
of the targets, `mean` that of all tokens predicted, l - 1 per window (these differ between lengths).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from whorl.data import corpus
from whorl.data.losses import window_losses
from whorl.data.windows import cut_windows, spread, window_ends
from whorl.tasks.base import Example, Progress, Task, TaskSettings


class Language(Task):
    """Reads, splits and encodes the text. Raises ValueError for a text or lengths that give no data."""

    name = "language"
    version = 1
    metric = "perplexity"

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        if settings.tail >= min(settings.lengths):
            raise ValueError(
                f"the shortest length, {min(settings.lengths)} tokens, must exceed the {settings.tail} target tokens "
                "at the end of each window; try a longer length or a smaller tail"
            )
        documents = corpus.read_documents(settings.text)
        self.digest = corpus.digest(documents)
        train, heldout = corpus.split_documents(documents, seed=settings.data_seed)
        if settings.tokenizer is None:
            self.tokenizer = corpus.train_tokenizer(train, settings.vocab_size)
        else:
            self.tokenizer = corpus.load_tokenizer(settings.tokenizer)
        self.vocab_size = 1 + max(self.tokenizer.get_vocab().values())
        self.bos_token_id = corpus.bos_id(self.tokenizer)
        eos = self.tokenizer.eos_token_id
        self.eos_token_id = self.bos_token_id if eos is None else int(eos)
        self.train_documents = len(train)
        self.train_tokens = np.concatenate(corpus.encode(self.tokenizer, train))
        self.heldout = corpus.encode(self.tokenizer, heldout)
        self.heldout_bytes = sum(len(text.encode("utf-8", "replace")) for text in heldout)
        if len(self.train_tokens) < settings.train_length:
            raise ValueError(
                f"{settings.text!r} gives {len(self.train_tokens)} tokens to train on, less than one example of "
                f"{settings.train_length}; try a longer text or a shorter training length"
            )
        ends = window_ends(self.heldout, max(settings.lengths), settings.tail)
        if not ends:
            longest = max(map(len, self.heldout))
            fitting = [length for length in settings.lengths if length <= longest]
            hint = f"lengths up to {longest}, as {', '.join(map(str, fitting))}, or " if fitting else ""
            raise ValueError(
                f"no held-out document of {settings.text!r} has {max(settings.lengths)} tokens, the longest has "
                f"{longest}; try {hint}a text of longer documents"
            )
        self.windows = cut_windows(self.heldout, spread(ends, settings.windows), max(settings.lengths))

    def describe(self) -> dict[str, Any]:
        heldout_tokens = sum(map(len, self.heldout))
        return {
            "task": self.name,
            "version": self.version,
            "text": self.settings.text,
            "tokenizer": self.settings.tokenizer or "byte-level BPE trained on the training documents",
            "vocab_size": self.vocab_size,
            "train_documents": self.train_documents,
            "train_tokens": len(self.train_tokens),
            "heldout_documents": len(self.heldout),
            "heldout_tokens": heldout_tokens,
            "heldout_bytes_per_token": self.heldout_bytes / heldout_tokens,
            "windows": len(self.windows),
            "tail": self.settings.tail,
            "unigram": self.unigram(),
        }

    def unigram(self) -> list[dict[str, Any]]:
        """A row {"length", "tail", "mean"} per length: the perplexities of the same tokens under a model that knows how
        often each occurs in the training documents (one more than counted), and nothing of what stands before it.

        A trained model that is not below it has learnt nothing of context, or is lost without it.
        """
        counts = np.bincount(self.train_tokens, minlength=self.vocab_size) + 1.0
        nll = torch.from_numpy(np.log(counts.sum()) - np.log(counts))[self.windows]
        tail = _exp(nll[:, -self.settings.tail :].mean())
        return [
            {"length": length, "tail": tail, "mean": _exp(nll[:, 1 - length :].mean())}
            for length in self.settings.lengths
        ]

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        offsets = np.random.default_rng(seed).integers(
            len(self.train_tokens) - self.settings.train_length + 1, size=examples
        )
        return _Windows(self.train_tokens, offsets, self.settings.train_length)

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """The row {"length", "tail", "mean", "windows", "tokens", "stderr", "samples"}.

        `tokens` counts the targets, `stderr` is the standard error of `tail` over windows (delta method; nan for one
        window), which does not count the spread over training seeds. `samples` are the windows' own values, nats per
        target: windows are the same at every length and for every encoding, so that differences can be paired.
        """
        tail = self.settings.tail
        if not tail < length <= self.windows.shape[1]:
            raise ValueError(
                f"perplexity at {length} tokens cannot be had from windows of {self.windows.shape[1]} with {tail} "
                f"targets; try one of {list(self.settings.lengths)}"
            )
        nll = window_losses(model, self.windows[:, -length:], self.vocab_size, batch_tokens, progress).double()
        per_window = nll[:, -tail:].mean(1)
        perplexity = _exp(per_window.mean())
        return {
            "length": length,
            "tail": perplexity,
            "mean": _exp(nll.mean()),
            "windows": len(nll),
            "tokens": len(nll) * tail,
            "samples": [round(x, 6) for x in per_window.tolist()],
            "stderr": perplexity * float(per_window.std()) / math.sqrt(len(nll)) if len(nll) > 1 else math.nan,
        }

    def text(self) -> dict[str, str]:
        path = Path(self.settings.text)
        return {"source": str(path.absolute()) if path.exists() else self.settings.text, "sha256": self.digest}

    def save_tokenizer(self, folder: str | Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def _content(self) -> Iterator[bytes | memoryview]:
        yield f"{self.settings.tail} {self.bos_token_id} {self.eos_token_id}".encode()
        yield self.train_tokens.data
        for document in self.heldout:
            yield len(document).to_bytes(8, "little")
            yield document.data


class _Windows(Dataset[Example]):
    """Windows [length] of one stream of tokens, at the given offsets."""

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, length: int) -> None:
        self.tokens, self.offsets, self.length = tokens, offsets, length

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> Example:
        start = self.offsets[i]
        ids = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
        return {"input_ids": ids, "labels": ids.clone()}


def _exp(nats: torch.Tensor) -> float:
    return float(nats.exp())  # a tensor's exp overflows to inf, where math.exp raises
