"""A training: what came of it, and its loss on the way. `DIR/trials/ID/training.json`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
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
    """What came of a training.

    loss      nats per token, the mean over the last twentieth of the steps
    diverged  the step at which it stopped to be finite, and the training with it
    losses    nats per token by step, each the mean since the one before: some 100 of them. Results of earlier versions
              have none
    """

    tokens: int
    seconds: float
    tokens_per_second: float
    loss: float
    diverged: int | None = None
    losses: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingRecord(Result, Training):
    """A training's own file.

    curve    the losses, with the tokens and the learning rate; `losses` itself is empty here
    weights  size and digest of model.safetensors, which earlier versions did not keep
    """

    schema: ClassVar[int] = 1

    curve: tuple[Step, ...]
    weights: dict[str, Any] | None = None

    def training(self) -> Training:
        """The part that a trial's result has."""
        own = {one.name: getattr(self, one.name) for one in fields(Training)}
        return Training(**own | {"losses": {point.step: point.loss for point in self.curve}})
