"""What a comparison asks of a task: examples to train on, one row of results per length, and a fingerprint.

A task is written as an encoding is: its name and, after a colon, the arguments that it alone reads
(`addition:scratchpad=full`).
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from whorl.encodings.config import Config, Known
from whorl.results.comparison import Data
from whorl.results.over_seeds import Metric
from whorl.results.trial import Row, Text

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

IGNORED = -100  # the label of a position without loss (Hugging Face's convention)
Example = dict[str, Any]  # of tensors
Progress = Callable[[int], None]


@dataclass(frozen=True)
class TaskSettings:
    """What a person can choose about the data. Every encoding of a comparison gets the same.

    train_length: the longest training example, in the task's unit (tokens, items, digits, ...).
    lengths: those of the evaluation, in the same unit, one row of results each, in this order.
    tail: target tokens at the end of a window (language).
    windows: evaluation windows or sequences per length, at most.
    text, tokenizer: the source of the text and of its tokenizer; None trains one of `vocab_size` tokens (language).
    data_seed: of the document split and the evaluation set, so the same for every trial.
    arguments: those that stand after the task's name, by theirs.
    """

    train_length: int
    lengths: tuple[int, ...]
    tail: int = 64
    windows: int = 96
    text: str = field(default="stdlib", metadata={"option": True})
    tokenizer: str | None = field(default=None, metadata={"option": True})
    vocab_size: int = 1024
    data_seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("train_length", "tail", "windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.data_seed < 0:
            raise ValueError(f"data_seed must be 0 or more, got {self.data_seed}")
        if not self.lengths or min(self.lengths) < 1 or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths must be different positive numbers, got {list(self.lengths)}")


@dataclass(frozen=True)
class Arguments(Config):
    """Base of what one task alone reads, written after its name.

    A dataclass whose `name` is the task's and whose fields are made by `argument`. It refuses nonsense when it is made.
    """


def argument(default: Any, meaning: str) -> Any:
    """The field of an argument: its default, and what the help says of it."""
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Needs:
    """What a model takes to learn a task from scratch.

    tokens, learning_rate  times those of the preset (see `whorl.training.settings.MODELS`)
    tied_embeddings        whether the output shares the embeddings of the input
    initializer_range      standard deviation of the initial weights; None: one over the square root of the width
    """

    tokens: int = 1
    learning_rate: float = 1.0
    tied_embeddings: bool = True
    initializer_range: float | None = 0.02


@dataclass(frozen=True)
class Words:
    """What a report says of a task beside its numbers. Braces are filled from the run's `config`, as {config.tail}.

    measure  what is measured, as a heading
    samples  what a value is taken over: windows, sequences
    caption  below its figure
    table    the title of the table on the terminal
    beside   of a table that has all metrics side by side, at the length {at} in range; none where it is empty
    beyond, others, at_others  what lies out of range: where that is, the examples there, and their lengths
    reading  how to read values past the training length; {at} is the length in range that they are held against
    caveats  what the numbers do not show
    tokens   what the tokens of its models are, of which a budget counts so many
    """

    measure: str
    samples: str
    caption: str
    table: str
    beside: str = ""
    beyond: str = "past the training length"
    others: str = "longer sequences"
    at_others: str = "at longer lengths"
    reading: str = ""
    caveats: tuple[str, ...] = ()
    tokens: str = "tokens"


def of_samples(samples: torch.Tensor, slope: float = 1.0) -> dict[str, Any]:
    """What a row says of one value per window or sequence [n], as `Row` names it: the values, and the standard error
    of what changes by `slope` times as much as their mean (nan for one)."""
    return {
        "samples": tuple(round(x, 6) for x in samples.tolist()),
        "stderr": slope * float(samples.std()) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan,
    }


@dataclass(frozen=True)
class Evaluation:
    """The lengths at which something is measured, and what gives the row of a model at one of them."""

    lengths: tuple[int, ...]
    row: Callable[[torch.nn.Module, int], Row]


class NothingLeft(ValueError):
    """A task's data leave nothing to validate on."""


class Task(ABC):
    """Data and measure of a comparison, prepared once and used by all its trials. It describes itself:

    title       in words, for reports
    version     goes up with every change that can change a number
    evaluation  the key of its rows in a trial's evaluations
    metrics     what a row has (see `whorl.tasks.metrics`), the telling one first
    needs       what a model takes to learn it from scratch
    body        decoder: a token sees those before it; encoder: it sees those after it too; points: it
                classifies clouds of points, and an example is {"coordinates": float32 [points, 3], "labels": int64 []};
                images: it classifies images, {"pixel_values": float32 [3, height, width], "labels": int64 []}
    options     which of `TaskSettings`' options it reads, each with its help for the command line
    takes       the arguments that stand after its name; None: it has none
    unit        what lengths count: tokens, items, digits, ...
    encodings   that are compared where none are named

    An instance says `vocab_size`, the number of ids that a model needs. Raises ValueError for settings that the task
    cannot be made with.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int]
    evaluation: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    needs: ClassVar[Needs] = Needs()
    body: ClassVar[Literal["decoder", "encoder", "points", "images"]] = "decoder"
    options: ClassVar[Mapping[str, str]] = {}
    takes: ClassVar[type[Arguments] | None] = None
    unit: ClassVar[str] = "tokens"
    encodings: ClassVar[tuple[str, ...]] = ("rope", "hope", "p-rope:p=0.5")
    vocab_size: int
    bos_token_id: int
    eos_token_id: int

    def __init__(self, settings: TaskSettings) -> None:
        self.check(settings)
        self.settings = settings

    @classmethod
    def asked(cls, given: Mapping[str, Any]) -> Arguments | None:
        """The arguments that were written after its name. Raises ValueError for one that it does not have."""
        if cls.takes is not None:
            return cls.takes.of_arguments(given)
        if given:
            raise ValueError(f"the {cls.name} task has no argument {next(iter(given))!r}; it takes none")
        return None

    @classmethod
    def default_length(cls, given: Mapping[str, Any]) -> int:
        """The training length where none is given, with these arguments."""
        return 128

    @classmethod
    def default_lengths(cls, given: Mapping[str, Any], train_length: int) -> tuple[str, ...]:
        """The evaluation lengths where none are given, as a person writes them."""
        return ("1x", "2x", "4x", "8x", "16x")

    @classmethod
    def example_tokens(cls, settings: TaskSettings) -> int:
        """Tokens of a training example."""
        return settings.train_length

    @classmethod
    def known(cls, settings: TaskSettings) -> Known:
        """What a model that is trained from scratch says of the arguments that an encoding leaves unset."""
        return Known(train_length=cls.example_tokens(settings))

    @classmethod
    @abstractmethod
    def words(cls) -> Words:
        """What a report says of it."""

    @classmethod
    def measured(cls) -> tuple[Metric, ...]:
        """Its metrics, which say that they are of its evaluation."""
        return tuple(replace(metric, evaluation=cls.evaluation) for metric in cls.metrics)

    @classmethod
    def check(cls, settings: TaskSettings) -> None:
        """Raises ValueError, before any work, for settings that this task cannot be made with, or does not read."""
        cls.asked(settings.arguments)
        unread = [o for o in fields(settings) if o.metadata.get("option") and o.name not in cls.options]
        given = [o.name for o in unread if getattr(settings, o.name) != o.default]
        if given:
            named = " and ".join(f"--{name}" for name in given)
            raise ValueError(f"the {cls.name} task makes its own data and reads no {named}; leave {named} out")

    @abstractmethod
    def describe(self) -> Data:
        """Facts for the report: how much data there is, and of what kind."""

    @abstractmethod
    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        """`examples` items in training order, each {"input_ids", "labels"}, int64 [example_tokens].

        Labels stand at the position of their token, as the models of transformers expect, -100 where there is no
        loss; a decoder predicts it from the tokens before it, an encoder from all. Item i depends on (seed, i) only:
        every encoding sees the same batches, and a resumed run goes on with the item it stopped at.
        """

    @abstractmethod
    def validation_set(self) -> Dataset[Example]:
        """At most `windows` items as those of the training set, that no seed trains on and no evaluation asks for: a
        learning rate is picked by the loss on them. Raises `NothingLeft`, a ValueError, where the data have none."""

    def validation_loss(self, model: torch.nn.Module, batch_tokens: int = 16384) -> float:
        """The loss on the validation set, nats per target; inf or nan for a model that diverged."""
        import torch

        from whorl.data.losses import target_loss

        items = self.validation_set()
        found = [items[i] for i in range(len(items))]  # type: ignore[arg-type]
        ids, labels = (torch.stack([item[key] for item in found]) for key in ("input_ids", "labels"))
        if self.body == "decoder":  # what it says at a token is of the next
            labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        return target_loss(model, ids, labels, self.vocab_size, IGNORED, batch_tokens)

    @abstractmethod
    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        """One row of results at `length`, from at most about `batch_tokens` tokens at a time.

        The model is put in eval mode and back. `progress` is called with the number of windows just done.
        A model that diverged gives inf or nan. Raises ValueError for a length that the task cannot make.
        """

    def evaluations(self) -> dict[str, Evaluation]:
        """What is measured of a trained model, by the name under which its rows stand."""
        return {self.evaluation: Evaluation(self.settings.lengths, self.evaluate)}

    def save_tokenizer(self, folder: str | Path) -> None:
        """Writes the tokenizer beside a model, where the task has one."""
        return None

    def text(self) -> Text | None:
        """The text that it reads, where it reads one."""
        return None

    def fingerprint(self) -> str:
        """sha256, hex, of all that determines the data: equal fingerprints, equal examples and evaluation sets."""
        s = self.settings
        name = str(self.asked(s.arguments) or self.name)
        chosen = [name, self.version, s.train_length, list(s.lengths), s.windows, s.data_seed, self.vocab_size]
        digest = hashlib.sha256(json.dumps(chosen).encode())
        for part in self._content():
            digest.update(part)
        return digest.hexdigest()

    def _content(self) -> Iterator[bytes | memoryview]:
        """What else determines the data of this task, for the fingerprint."""
        return iter(())
