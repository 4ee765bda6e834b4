"""Language modelling: perplexity on the same target tokens, with more and more context before them. Version 1.

Training: windows of `train_length` tokens at random offsets of the training documents, which stand one after the
other, each begun by the bos token. Every token is predicted from those before it in its window.

Evaluation: every window lies within one held-out document and holds max(lengths) tokens. Its last `tail` tokens are the
targets; no two windows share one. At length l the model reads the last l tokens of the window, so that the targets
are the same at every length and only the context before them grows. `tail` is exp of the mean negative log-likelihood
of the targets, `mean` that of all tokens predicted, l - 1 per window (these differ between lengths).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from whorl.data import corpus
from whorl.data.losses import window_losses
from whorl.data.windows import cut_windows, ends_between, spread, window_ends
from whorl.results.comparison import Data
from whorl.results.over_seeds import Metric
from whorl.results.trial import Row, Text
from whorl.tasks.base import Example, NothingLeft, Progress, Task, TaskSettings, Words, of_samples
from whorl.tasks.metrics import MEAN, TAIL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADVICE = "try a folder that holds tokenizer.json, a Hugging Face name, or leave it out to train one on the text"


class ShortDocuments(ValueError):
    """No held-out document has the tokens of the longest length; the longest of them has `longest` tokens."""

    def __init__(self, message: str, longest: int) -> None:
        super().__init__(message)
        self.longest = longest


class Language(Task):
    """Reads, splits and encodes the text. Raises ValueError for a text or lengths that give no data."""

    name = "language"
    title = "Language modelling"
    version = 1
    evaluation = "perplexity"
    metrics: ClassVar[tuple[Metric, ...]] = (TAIL, MEAN)
    options: ClassVar[dict[str, str]] = {
        "text": "stdlib, a text, JSONL or Parquet file, a folder, or hf:DATASET",
        "tokenizer": "A tokenizer's directory or hub name. Without it, one is trained on the text",
    }

    @classmethod
    def words(cls) -> Words:
        return Words(
            measure="Perplexity",
            samples="windows",
            caption="Tail: the same last {config.tail} tokens of every window, with more context before them. Mean: "
            "all tokens of the window.",
            table="perplexity of the same last tokens, by context length",
            reading="Tail perplexity is measured on the same target tokens at every length: the last {config.tail} "
            "tokens of the same windows, with more context before them. So the value at {at} is also what one gets by "
            "simply dropping the far context. An encoding that rises above its own {at} value is hurt by context that "
            "it cannot use; one that falls below it gains from that context.",
            caveats=(
                "Perplexity is not retrieval. Most tokens can be guessed from nearby context, so a value that holds "
                "does not show that the model finds or uses what lies far back. The copy and recall tasks ask for "
                "that.",
            ),
        )

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        super().check(settings)
        shortest = min(settings.lengths)
        if settings.tail >= shortest:
            fitting = f"--tail {shortest // 2}" if shortest > 1 else "longer ones"
            raise ValueError(
                f"tail={settings.tail} tokens do not fit in the shortest length, {shortest}; try {fitting}"
            )

    def __init__(self, settings: TaskSettings) -> None:
        super().__init__(settings)
        documents = corpus.read_documents(settings.text)
        self.digest = corpus.digest(documents)
        train, heldout = corpus.split_documents(documents, seed=settings.data_seed)
        self.tokenizer = self._tokenizer(train)
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
        self.ends = spread(ends, settings.windows)
        if not ends:
            longest = max(map(len, self.heldout))
            fitting = [length for length in settings.lengths if length <= longest]
            hint = f"lengths up to {longest}, as {', '.join(map(str, fitting))}, or " if fitting else ""
            raise ShortDocuments(
                f"no held-out document of {settings.text!r} has {max(settings.lengths)} tokens, the longest has "
                f"{longest}; try {hint}a text of longer documents",
                longest,
            )
        self.windows = cut_windows(self.heldout, self.ends, max(settings.lengths))

    def _tokenizer(self, train: list[str]) -> PreTrainedTokenizerBase:
        """The one that was asked for, or one trained on the training documents."""
        if self.settings.tokenizer is None:
            return corpus.train_tokenizer(train, self.settings.vocab_size)
        return corpus.load_tokenizer(self.settings.tokenizer, ADVICE)

    def describe(self) -> Data:
        heldout_tokens = sum(map(len, self.heldout))
        facts = {
            "text": self.settings.text,
            "tokenizer": self.settings.tokenizer or "byte-level BPE trained on the training documents",
            "train_documents": self.train_documents,
            "heldout_documents": len(self.heldout),
            "heldout_tokens": heldout_tokens,
            "heldout_bytes_per_token": self.heldout_bytes / heldout_tokens,
            "windows": len(self.windows),
            "tail": self.settings.tail,
        }
        return Data(self.name, self.version, self.vocab_size, facts, len(self.train_tokens), self.unigram())

    def unigram(self) -> tuple[Row, ...]:
        """A row of tail and mean per length: the perplexities of the same tokens under a model that knows how often
        each occurs in the training documents (one more than counted), and nothing of what stands before it.

        A trained model that is not below it has learnt nothing of context, or is lost without it.
        """
        nll = self._unigram_losses(self.windows)
        tail = _exp(nll[:, -self.settings.tail :].mean())
        return tuple(
            Row(length, {"tail": tail, "mean": _exp(nll[:, 1 - length :].mean())}) for length in self.settings.lengths
        )

    def _unigram_losses(self, tokens: torch.Tensor) -> torch.Tensor:
        """In nats, float64, of each of these tokens."""
        counts = np.bincount(self.train_tokens, minlength=self.vocab_size) + 1.0
        return torch.from_numpy(np.log(counts.sum()) - np.log(counts))[tokens]

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        offsets = np.random.default_rng(seed).integers(
            len(self.train_tokens) - self.settings.train_length + 1, size=examples
        )
        return _Windows(self.train_tokens, offsets, self.settings.train_length)

    def validation_set(self) -> Dataset[Example]:
        """Windows of `train_length` held-out tokens of which no evaluation reads any, spread over the documents."""
        length, longest = self.settings.train_length, max(self.settings.lengths)
        ends = ends_between(self.heldout, self.ends, longest, length)
        if not ends:
            raise NothingLeft(
                f"the evaluation reads so much of the held-out part of {self.settings.text!r} that no {length} tokens "
                f"in a row are left to validate on; try fewer --windows than {self.settings.windows}, or a longer text"
            )
        windows = cut_windows(self.heldout, spread(ends, self.settings.windows), length)
        return _Windows(windows.flatten().numpy(), np.arange(len(windows)) * length, length)

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        """The row of tail and mean.

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
        return self._row(length, nll[:, -tail:], {"mean": _exp(nll.mean())})

    def _row(self, length: int, targets: torch.Tensor, beside: dict[str, float]) -> Row:
        """The row of the perplexity of the targets, from their losses [windows, targets] in float64, and other values.

        `stderr` and `samples` are as `evaluate` says.
        """
        per_window = targets.mean(1)
        perplexity = _exp(per_window.mean())
        return Row(
            length,
            {self.metrics[0].key: perplexity, **beside},
            windows=len(targets),
            tokens=targets.numel(),
            **of_samples(per_window, slope=perplexity),
        )

    def text(self) -> Text:
        path = Path(self.settings.text)
        return Text(str(path.absolute()) if path.exists() else self.settings.text, self.digest)

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
