"""One trial of a comparison: an encoding trained from one seed and evaluated. `DIR/trials/ID/result.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from whorl.checking import check_numbers
from whorl.results.schema import REST, Result
from whorl.results.training import Training

DIVERGED = 1e30
"""A value past it has diverged, though a float can hold it: as a perplexity, it is a loss of 69 nats per token."""


@dataclass(frozen=True)
class Row:
    """What a task measured at one length, in tokens.

    values       by the keys of the task's metrics; NaN where a value is not finite
    windows      how many windows or sequences they are over, and `tokens`, how many targets
    samples      the windows' (or sequences') own values, in one order for all trials, so that differences can be paired
    stderr       the standard error of the first metric over windows or sequences
    unreachable  why there are no values: the encoding does not reach that length
    """

    length: int
    values: dict[str, float] = field(default_factory=dict, metadata=REST)
    windows: int | None = None
    sequences: int | None = None
    tokens: int | None = None
    samples: tuple[float, ...] = ()
    stderr: float | None = None
    unreachable: str | None = None

    def __post_init__(self) -> None:
        check_numbers(length=self.length, windows=self.windows, sequences=self.sequences, tokens=self.tokens)

    def value(self, key: str) -> float | None:
        """One of `values`, infinite past `DIVERGED`; None where it has none."""
        found = self.values.get(key)
        return math.inf if found is not None and found > DIVERGED else found

    @property
    def error(self) -> float | None:
        """`stderr`; None where it is not finite, or past `DIVERGED`."""
        return self.stderr if self.stderr is not None and self.stderr <= DIVERGED else None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One encoding trained from one seed, as results.json has it.

    notation       as it was asked for ("hope"); `encoding` is its name, `parameters` its arguments, filled
    pairs_turning  channel pairs per head that turn, of `pairs`: one number, or one per layer where they differ; None
                   for an encoding that is not rotary
    wavelengths    tokens of one turn of each pair of the layer in which most turn; None: it does not rotate. A list
                   that is shorter than `pairs` has the first ones
    pretrained     the encoding that the weights which it began with were trained with; None for random ones
    evaluations    rows by the name of the evaluation ("perplexity")
    learning_rate  the peak
    validation     the loss, in nats per target, on examples as those of the training that no seed trains on and no
                   evaluation asks for (`whorl.tasks.base.Task.validation_set`); by it a learning rate is picked. None
                   where there are none, and in results of earlier versions
    """

    id: str
    encoding: str
    notation: str
    parameters: dict[str, Any]
    seed: int
    pairs_turning: int | tuple[int, ...] | None
    pairs: int | None
    wavelengths: tuple[float | None, ...] | None
    pretrained: str | None = None
    train: Training
    evaluations: dict[str, tuple[Row, ...]]
    learning_rate: float | None = None
    validation: float | None = None

    def __post_init__(self) -> None:
        check_numbers(pairs=self.pairs)
        turning = self.pairs_turning
        if turning == ():
            raise ValueError("pairs_turning must have a number per layer, got an empty list")
        for count in turning if isinstance(turning, tuple) else () if turning is None else (turning,):
            if not 0 <= count <= (count if self.pairs is None else self.pairs):
                raise ValueError(f"pairs_turning must be from 0 to pairs ({self.pairs}), got {count}")

    def row(self, evaluation: str, length: int) -> Row | None:
        """The row of an evaluation at a length, or None."""
        return next((row for row in self.evaluations.get(evaluation, ()) if row.length == length), None)


@dataclass(frozen=True)
class Machine:
    """What a trial ran on: see `whorl.provenance.machine`. (Earlier versions kept no `instructions`.)"""

    cpu: str
    cores: int | None
    memory_gib: float | None
    device: str
    platform: str
    threads: int | None = None
    instructions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """`source`: an absolute path, or the name of the text; `sha256` of its documents."""

    source: str
    sha256: str


@dataclass(frozen=True)
class ModelFiles:
    """What a model that is no preset was made of. Its path may hold another one later.

    config   as JSON
    weights  the sha256 of its weights, or the commit of a hub's; None where there were none, and training began from
             random ones
    """

    config: dict[str, Any]
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class FinishedTrial(Result, Trial):
    """A trial's own file, which is written last of all and says what it takes to load and to trust it.

    config     the encoding's JSON
    tested     that of the encoding which the trained model was evaluated with, where it is another
    settings   the fields of `whorl.training.settings.Settings`
    data       the fingerprint of the task's data, and of a model that is no preset
    model      what such a model was made of; None for a preset, and in results of earlier versions
    text       what it was trained on; None for a task that makes its own
    """

    schema: ClassVar[int] = 1

    config: dict[str, Any]
    settings: dict[str, Any]
    data: str
    text: Text | None
    vocab_size: int
    eos_token_id: int
    machine: Machine
    versions: dict[str, str]
    tested: dict[str, Any] | None = None
    model: ModelFiles | None = None

    @classmethod
    def upgraded(cls, value: dict[str, Any], schema: int) -> dict[str, Any]:
        return {"text": None, **value}  # the first versions did not keep it

    def trial(self) -> Trial:
        """The part that results.json has."""
        shared = {own.name: getattr(self, own.name) for own in fields(Trial)}
        return Trial(**shared | {"learning_rate": self.settings.get("learning_rate")})
