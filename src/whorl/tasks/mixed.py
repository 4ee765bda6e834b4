"""Language training into which other tasks are mixed, each as a share of the sequences.

A task's symbols have ids of their own, behind those of the text's tokens and of the tasks before it. Which sequence is
of which task is drawn from the seed and its place alone, so that all encodings see the same batches and a resumed run
goes on with its own; the sequences of text are those that the same places have without a mix. The loss is over all
targets of a batch. Perplexity is taken over all ids; a task is asked at the same lengths, among its own symbols.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from whorl.results.comparison import Data
from whorl.results.trial import Row, Text
from whorl.tasks import TASKS, get, parse, written
from whorl.tasks.base import IGNORED, Evaluation, Example, Progress, Task, TaskSettings, Words
from whorl.tasks.graded import PAD, VALIDATION, Graded
from whorl.tasks.language import Language

DRAWS = 2  # beside the tasks' own streams of random numbers, TRAINING and EVALUATION


@dataclass(frozen=True)
class Share:
    """A task, as it is written, and which share of the training sequences is its."""

    notation: str
    weight: float

    @classmethod
    def read(cls, text: str) -> Share:
        """`mqar:pairs=8=0.1`: a task and its share. Raises ValueError for what is not written so."""
        notation, equals, share = text.rpartition("=")
        try:
            weight = float(share)
        except ValueError:
            weight = np.nan
        if not (equals and 0 < weight < 1):
            raise ValueError(
                f"cannot read the mix {text!r}; write TASK=WEIGHT, the weight being its share of the training "
                "sequences, above 0 and below 1, as mqar=0.1 or mqar:pairs=8=0.1"
            )
        return cls(written(notation), weight)

    def __str__(self) -> str:
        return f"{self.notation}={self.weight:g}"


def shares(mix: Sequence[str]) -> list[Share]:
    """The shares of a mix. Raises ValueError where a task stands twice, and where no text is left."""
    read = [Share.read(text) for text in mix]
    names = [parse(share.notation)[0].name for share in read]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the task {name} is mixed in twice; give it once")
        if name == Language.name:
            raise ValueError("the text is what other tasks are mixed into; give language no weight")
    total = sum(share.weight for share in read)
    if total >= 1:
        raise ValueError(
            f"the weights of the mix are {total:g} together and leave no text; they must be below 1 in all"
        )
    return read


class Mixed(Task):
    """Language, and the tasks of a mix that `check_mix` has not refused, at the same lengths."""

    name = Language.name
    title = Language.title
    version = Language.version
    evaluation = Language.evaluation
    metrics = Language.metrics
    needs = Language.needs
    options = Language.options

    def __init__(self, settings: TaskSettings, mix: Sequence[Share]) -> None:
        super().__init__(settings)
        self.language = Language(settings)
        self.parts: list[Part] = []
        first = self.language.vocab_size
        for share in mix:
            cls, arguments = parse(share.notation)
            part = Part(share, cls(of_part(settings, arguments)), first)
            self.parts.append(part)
            first += part.task.vocab_size
        self.vocab_size = first
        self.bos_token_id, self.eos_token_id = self.language.bos_token_id, self.language.eos_token_id

    @classmethod
    def words(cls) -> Words:
        return Language.words()

    def describe(self) -> Data:
        """The text's, and beside its facts those of each task."""
        data, of_parts = self.language.describe(), [part.task.describe() for part in self.parts]
        mixed = {str(part.share): told.facts for part, told in zip(self.parts, of_parts, strict=True)}
        guessing = tuple(
            Row(row.length, {f"{part.task.evaluation}.{key}": value for key, value in row.values.items()})
            for part, told in zip(self.parts, of_parts, strict=True)
            for row in told.guessing
        )
        return replace(data, vocab_size=self.vocab_size, facts=data.facts | {"mixed": mixed}, guessing=guessing)

    def training_set(self, seed: int, examples: int) -> Dataset[Example]:
        of_parts = [part.task.training_set(seed, examples) for part in self.parts]
        return _Sequences(self, self.language.training_set(seed, examples), of_parts, DRAWS, seed)

    def validation_set(self) -> Dataset[Example]:
        of_parts = [part.task.validation_set() for part in self.parts]
        return _Sequences(self, self.language.validation_set(), of_parts, VALIDATION, self.settings.data_seed)

    def evaluate(
        self,
        model: torch.nn.Module,
        length: int,
        batch_tokens: int = 16384,
        progress: Progress | None = None,
    ) -> Row:
        return self.language.evaluate(model, length, batch_tokens, progress)

    def evaluations(self) -> dict[str, Evaluation]:
        found = self.language.evaluations()
        for part in self.parts:
            found |= part.evaluations()
        return found

    def save_tokenizer(self, folder: str | Path) -> None:
        self.language.save_tokenizer(folder)

    def text(self) -> Text | None:
        return self.language.text()

    def fingerprint(self) -> str:
        told = [self.language.fingerprint(), *(f"{part.share} {part.task.fingerprint()}" for part in self.parts)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


@dataclass(frozen=True)
class Part:
    """One task of a mix, whose ids begin at `first`."""

    share: Share
    task: Task
    first: int

    def example(self, example: Example, length: int) -> Example:
        """A training example of the task as one of the mix, padded to `length`."""
        ids, labels = example["input_ids"] + self.first, example["labels"]
        ids = torch.nn.functional.pad(ids, (0, length - len(ids)), value=self.first + PAD)
        labels = torch.where(labels == IGNORED, labels, labels + self.first)
        return {"input_ids": ids, "labels": torch.nn.functional.pad(labels, (0, length - len(labels)), value=IGNORED)}

    def evaluations(self) -> dict[str, Evaluation]:
        """The task's, of a model of the mix."""

        def of_model(made: Evaluation) -> Evaluation:
            seen = self.first, self.task.vocab_size
            return Evaluation(made.lengths, lambda model, length: made.row(_Own(model, *seen), length))

        return {name: of_model(made) for name, made in self.task.evaluations().items()}


class _Own(torch.nn.Module):
    """A model as one task of the mix sees it: the task's ids, and logits of these alone."""

    def __init__(self, model: torch.nn.Module, first: int, vocab_size: int) -> None:
        super().__init__()
        self.model, self.first, self.vocab_size = model, first, vocab_size

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:
        output = self.model(input_ids=input_ids + self.first, **options)
        output.logits = output.logits[..., self.first : self.first + self.vocab_size]
        return output


class _Sequences(Dataset[Example]):
    """Items of the text's or of a part's set: which one's is drawn by these seeds and the item's number."""

    def __init__(self, mixed: Mixed, text: Dataset[Example], of_parts: list[Dataset[Example]], *seeds: int) -> None:
        self.parts, self.text, self.of_parts, self.seeds = mixed.parts, text, of_parts, seeds
        self.length = mixed.settings.train_length
        self.until = np.cumsum([part.share.weight for part in mixed.parts])

    def __len__(self) -> int:
        return len(self.text)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> Example:
        drawn = int(np.searchsorted(self.until, np.random.default_rng((*self.seeds, i)).random(), side="right"))
        if drawn == len(self.parts):
            return self.text[i]
        return self.parts[drawn].example(self.of_parts[drawn][i], self.length)


def of_part(settings: TaskSettings, arguments: dict[str, Any]) -> TaskSettings:
    """The settings of a task that is mixed into language training of these."""
    return replace(settings, text="stdlib", tokenizer=None, arguments=arguments)


def check_mix(task: type[Task], mix: Sequence[str], settings: TaskSettings) -> None:
    """Raises ValueError, before any work, for a mix that cannot be made with these settings of `task`."""
    if task is not Language:
        raise ValueError(f"tasks are mixed into the language task, and the task here is {task.name}; leave mix out")
    for share in shares(mix):
        cls, arguments = parse(share.notation)
        if cls.unit != "tokens" or not issubclass(cls, Graded):
            counted = [name for name in TASKS if get(name).unit == "tokens" and issubclass(get(name), Graded)]
            raise ValueError(f"the {cls.name} task cannot be mixed in: it {_why(cls)}; try one of {', '.join(counted)}")
        cls.check(of_part(settings, arguments))


def _why(task: type[Task]) -> str:
    return f"counts {task.unit}, and the text tokens" if task.unit != "tokens" else "makes no sequences of its own"
