"""A training: what came of it, and its learning curve. `DIR/trials/ID/training.json`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from whorl.results.schema import Result


@dataclass(frozen=True)
class Step:
    """A point of a learning curve: after so many steps and tokens. `loss`: nats per token, since the point before."""

    step: int
    tokens: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Training:
    """`loss`: nats per token, the mean over the last twentieth of the steps. `diverged`: the step at which it stopped
    to be finite, and the training with it."""

    tokens: int
    seconds: float
    tokens_per_second: float
    loss: float
    diverged: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Result, Training):
    """A training's own file. `weights`: size and digest of model.safetensors, which earlier versions did not keep."""

    schema: ClassVar[int] = 1

    curve: tuple[Step, ...]
    weights: dict[str, Any] | None = None

    def training(self) -> Training:
        """The part that a trial's result has."""
        return Training(**{own.name: getattr(self, own.name) for own in fields(Training)})
