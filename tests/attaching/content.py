"""The least encodings that multiply logits, keep a state, and turn by angles that tokens choose; for tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from whorl.encodings import Effect, Encoding, Scale, Score, Shape
from whorl.encodings.biases import in_full
from whorl.encodings.scores import At, ScoreModule


class Logarithm(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads))

    def forward(self, counts: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return in_full(self.weight)[None, :, None] * counts.double().log().to(in_full(self.weight).dtype)[:, None]


class Gates(ScoreModule):
    """Sums of log sigmoid gates, as in FoX: the logit of i and j gets what the gates of j + 1 .. i forget."""

    sees_hidden = keeps_state = True

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(heads, width, generator=torch.Generator().manual_seed(1)))

    def tokens(self, hidden, positions, real, before):  # type: ignore[no-untyped-def]
        gates = nn.functional.logsigmoid(hidden @ in_full(self.weight).T + 2)
        if real is not None:
            gates = gates * real[..., None]
        sums = gates.cumsum(1)
        return (sums if before is None else sums + before[:, -1:, :, 0])[..., None]

    def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        assert at.query_state is not None
        assert at.key_state is not None
        one = torch.ones_like(at.query_state), -torch.ones_like(at.key_state)
        return torch.cat([at.query_state, one[0]], -1), torch.cat([one[1] * 0 + 1, -at.key_state], -1)


class Angles(ScoreModule):
    """Turns the first pair of neighbours by the sum of the angles that tokens chose."""

    sees_hidden = keeps_state = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, width, generator=torch.Generator().manual_seed(2)))

    def tokens(self, hidden, positions, real, before):  # type: ignore[no-untyped-def]
        angles = (hidden @ in_full(self.weight).T).tanh()
        if real is not None:
            angles = angles * real[..., None]
        sums = angles.cumsum(1)
        return (sums if before is None else sums + before[:, -1:, :, 0])[..., None]

    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        assert at.query_state is not None
        assert at.key_state is not None
        return _turned(q, at.query_state), _turned(k, at.key_state)


def _turned(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    a, b = x[..., :1], x[..., 1:2]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), x[..., 2:]], -1)


class Instead(ScoreModule):
    """Takes the place of the softmax, and makes its own logits."""

    scores_anew = True

    def logits(self, s, q, k, at):  # type: ignore[no-untyped-def]
        return q @ k.transpose(-1, -2)

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        return s.sigmoid()


@dataclass(frozen=True)
class Grows(Encoding):
    name = "grows"
    title = "logits grow with the logarithm of the keys"
    paper = "2501.19399"
    kinds = ("scale",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Scale(Logarithm(shape.heads), shared=False),)


@dataclass(frozen=True)
class Forgets(Encoding):
    name = "forgets"
    title = "gates that forget"
    paper = "2503.02130"
    kinds = ("score",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Score(Gates(shape.heads, shape.width)),)


@dataclass(frozen=True)
class Turns(Encoding):
    name = "turns"
    title = "angles that tokens choose"
    paper = "2511.17388"
    kinds = ("rotate", "score")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Score(Angles(shape.width)),)


@dataclass(frozen=True)
class Replaces(Encoding):
    name = "replaces"
    title = "no softmax"
    paper = "2410.17980"
    kinds = ("score", "softmax")

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Score(Instead()),)


HERE = {c.name: f"{c.__module__}:{c.__name__}" for c in (Grows, Forgets, Turns, Replaces)}
