"""What `whorl evaluate` measures: DIR/results.json. Losses are in nats per token, lengths in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from whorl.checking import check_numbers
from whorl.results.schema import Keyed
from whorl.results.showing import Shown
from whorl.results.trial import Machine, Row


@dataclass(frozen=True)
class Quantity:
    """A number that a probe's rows have: its key there, its name, and what it is in.

    chance: what one has who guesses; None where it is next to nothing, or not known.
    """

    key: str
    label: str
    unit: Literal["share", "nats"]
    chance: float | None = None


@dataclass(frozen=True)
class About:
    """What a report says of a probe: its title, what its rows have, the telling one first, and what is asked."""

    title: str
    measured: tuple[Quantity, ...]
    asked: str


ABOUT = {
    "loss": About(
        "Loss",
        (
            Quantity("tail", "loss of the same last tokens", "nats"),
            Quantity("mean", "loss of all tokens read", "nats"),
        ),
        "The same last {tail} tokens of every window with more and more of the text before them: above its value in "
        "range, context hurts; below, the model gains from it.",
    ),
    "segment-copy": About(
        "Going on with a segment",
        (
            Quantity("accuracy", "copied right, four tokens known", "share"),
            Quantity("after_one", "copied right, one token known", "share"),
            Quantity("loss", "loss of the copied tokens", "nats"),
            Quantity("unseen", "loss of the same tokens unseen", "nats"),
        ),
        "Sixteen tokens in an order that no text taught stand at the beginning, and again at the end: which of them "
        "does the model go on with, at that distance?",
    ),
    "decoy": About(
        "Telling a statement from a recent decoy",
        (
            Quantity("prefers", "first statement's word above the decoy's", "share", 1 / 2),
            Quantity("margin", "log-odds of its word against the decoy's", "nats"),
            Quantity("nearest", "the last statement's, where it is asked for", "share", 1 / 2),
        ),
        "Two statements of the same form, the first far back and the last right before a question about the first. A "
        "model that goes by what it read last has none of these, and all of the questions about the last one.",
    ),
    "niah": About(
        "A needle in the text",
        (
            Quantity("found", "number found", "share"),
            Quantity("early", "stated in the first third", "share"),
            Quantity("middle", "in the second third", "share"),
            Quantity("late", "in the last third", "share"),
            Quantity("loss", "loss of the number", "nats"),
            Quantity("unstated", "loss of a number that is not stated", "nats"),
        ),
        "A number is stated once, at depths that are evenly spread over the text, and asked for at the end.",
    ),
}
"""By the names of probes (`whorl.evaluation.probes`)."""


@dataclass(frozen=True)
class Position:
    """Mean loss of the tokens at positions first to last, both among them; the first token of a text is at 0."""

    first: int
    last: int
    loss: float


@dataclass(frozen=True)
class Asked:
    """What an evaluation was asked for: with the same, a run goes on, and with other answers it is another.

    encoding  that was attached in the place of the model's own; None: none was
    windows   of text; sequences: of each probe that writes its own; tail: targets at the end of a window
    material  SHA-256 of what the weights and the text are
    """

    encoding: str | None
    text: str
    train_length: int
    lengths: tuple[int, ...]
    windows: int
    sequences: int
    tail: int
    seed: int
    material: str

    def __post_init__(self) -> None:
        check_numbers(
            train_length=self.train_length, windows=self.windows, sequences=self.sequences, tail=self.tail,
            seed=self.seed,
        )  # fmt: skip
        for length in self.lengths:
            check_numbers(length=length)


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation(Keyed, Shown):
    """What probes found on a checkpoint, by length.

    model              by name; parameters: how many it has
    vocab_size         of what it predicts; None: results of earlier versions do not tell
    encoding           what it was read with; trained_with: its own, where another was attached
    train_length_from  where the training length comes from, in words
    probes             that were asked for
    rows               of each probe that has any, ascending by length
    positions          the loss by position at the longest length that was reached
    heldout            whether the text is what a trial was not trained on
    versions           of packages; probe_versions: of the probes' definitions

    >>> found = whorl.evaluate("path/to/model", probes=["loss"])
    >>> found.row("loss", 4096).values["tail"]
    2.31
    """

    schema: ClassVar[int] = 1

    whorl: str
    created: str
    model: str
    parameters: int
    encoding: str
    trained_with: str | None
    train_length_from: str
    asked: Asked
    machine: Machine
    versions: dict[str, str]
    probes: tuple[str, ...]
    probe_versions: dict[str, int]
    rows: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    positions: tuple[Position, ...] = ()
    heldout: bool = False
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if self.vocab_size is not None and self.vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {self.vocab_size}")

    @property
    def train_length(self) -> int:
        return self.asked.train_length

    @property
    def reference(self) -> int | None:
        """The longest length in range, which longer ones are held against."""
        return max((n for n in self.asked.lengths if n <= self.train_length), default=None)

    @property
    def guessing(self) -> float | None:
        """The loss of one who takes each token of the vocabulary to be as likely as any other, in nats per token."""
        return None if self.vocab_size is None else math.log(self.vocab_size)

    @property
    def missing(self) -> tuple[tuple[str, int], ...]:
        """(probe, length) of what was asked for and is not there, by length: shorter lengths are read first."""
        there = {(probe, row.length) for probe, rows in self.rows.items() for row in rows}
        every = ((probe, length) for length in self.asked.lengths for probe in self.probes)
        return tuple(one for one in every if one not in there)

    def row(self, probe: str, length: int) -> Row | None:
        """The row of a probe at a length, or None."""
        return next((row for row in self.rows.get(probe, ()) if row.length == length), None)

    def value(self, probe: str, key: str, length: int) -> float | None:
        """One number of a row; None where it is not there, NaN where it was not finite."""
        row = self.row(probe, length)
        return None if row is None else row.value(key)

    def quantities(self) -> list[tuple[str, Quantity]]:
        """(probe, what it measures), of the probes that have rows."""
        return [(probe, one) for probe, about in ABOUT.items() if self.rows.get(probe) for one in about.measured]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A row per quantity, a column per length."""
        lengths = self.asked.lengths
        rows = [(one.label, *(self.cell(probe, one, length) for length in lengths)) for probe, one in self.quantities()]
        return (self.model, *(f"{n:,}" for n in lengths)), rows

    def cell(self, probe: str, one: Quantity, length: int) -> str:
        """A number as a table shows it."""
        row = self.row(probe, length)
        if row is None:
            return ""
        if row.unreachable:
            return "out of reach"
        value = row.value(one.key)
        if value is None:  # a third of niah's depths in which no sequence has its needle
            return "no sequence"
        if not math.isfinite(value):
            return "not finite"
        return f"{100 * value:.1f} %" if one.unit == "share" else f"{value:.3f}"

    def records(self) -> list[dict[str, Any]]:
        """A row per probe and length."""
        return [
            {"probe": probe, "length": row.length} | row.values | {"stderr": row.stderr}
            for probe, rows in self.rows.items()
            for row in rows
        ]  # fmt: skip
