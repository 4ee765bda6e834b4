"""What a comparison asks of a task: examples to train on, one row of results per length, and a fingerprint."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.data import Dataset

IGNORED = -100  # the label of a position without loss (Hugging Face's convention)
Example = dict[str, torch.Tensor]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class TaskSettings:
    """What a person can choose about the data. Every encoding of a comparison gets the same.

    train_length: tokens of a training example.
    lengths: tokens of the evaluation windows, one row of results each, in this order.
    tail: target tokens at the end of a window (language).
    windows: evaluation windows or sequences per length, at most.
    text, tokenizer: the source of the text and of its tokenizer; None trains one of `vocab_size` tokens (language).
    data_seed: of the document split and the evaluation set, so the same for every trial.
    """

    train_length: int
    lengths: tuple[int, ...]
    tail: int = 64
    windows: int = 96
    text: str = "stdlib"
    tokenizer: str | None = None
    vocab_size: int = 1024
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("train_length", "tail", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.data_seed < 0:
            raise ValueError(f"data_seed must be 0 or more, got {self.data_seed}")
        if not self.lengths or min(self.lengths) < 1 or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths must be different positive numbers of tokens, got {list(self.lengths)}")


class Task(ABC):
    """Data and measure of a comparison, prepared once and used by all its trials.

    `version` goes up with every change that can change a number. `metric` is the key of the rows in results.json.
    `vocab_size` is the number of ids that a model needs.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    metric: ClassVar[str]
    vocab_size: int
    bos_token_id: int
    eos_token_id: int

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Facts for the report, JSON-able: how much data there is, and of what kind."""

    @abstractmethod
    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        """`examples` items in training order, each {"input_ids", "labels"}, int64 [train_length].

        Labels stand at the position of their token, as the models of transformers expect, -100 where there is no
        loss. Item i depends on (seed, i) only: every encoding sees the same batches, and a resumed run goes on with
        the item it stopped at.
        """

    @abstractmethod
    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """One row of results at `length` tokens, from at most about `batch_tokens` tokens at a time.

        The model is put in eval mode and back. `progress` is called with the number of windows just done.
        A model that diverged gives inf or nan. Raises ValueError for a length that the task cannot make.
        """

    def save_tokenizer(self, folder: str | Path) -> None:
        """Writes the tokenizer beside a model, where the task has one."""
        return None

    def text(self) -> dict[str, str] | None:
        """Where the text lies ("source": an absolute path, or its name) and its "sha256"; None for a task without."""
        return None

    def fingerprint(self) -> str:
        """sha256, hex, of all that determines the data: equal fingerprints, equal examples and evaluation sets."""
        s = self.settings
        chosen = [self.name, self.version, s.train_length, list(s.lengths), s.windows, s.data_seed, self.vocab_size]
        digest = hashlib.sha256(json.dumps(chosen).encode())
        for part in self._content():
            digest.update(part)
        return digest.hexdigest()

    def _content(self) -> Iterator[bytes | memoryview]:
        """What else determines the data of this task, for the fingerprint."""
        return iter(())
