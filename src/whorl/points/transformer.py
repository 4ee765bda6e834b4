"""A small transformer that classifies clouds of points, of which it knows nothing but what an encoding tells it.

Every point begins as the same learned vector (and features of its own, where it has any), so that without an encoding
all clouds of one size are one to it. What is invariant under an encoding is invariant in the whole model: turned by a
rotation that an encoding does not see, a cloud has the same logits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu

from whorl.checking import check_keywords
from whorl.encodings.config import require_positive_int
from whorl.encodings.point_codes import mean_of
from whorl.points.attention import PointAttention


@dataclass(frozen=True)
class PointConfig:
    """The sizes of a `PointTransformer`. Raises ValueError for those that make none.

    classes       that it tells apart
    features      numbers that each point has beside its place, such as a colour
    intermediate  width of the layers between attentions; 0: twice the width
    """

    classes: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 0
    features: int = 0

    def __post_init__(self) -> None:
        for name in ("classes", "width", "layers", "heads"):
            require_positive_int(name, getattr(self, name))
        for name in ("intermediate", "features"):
            if getattr(self, name) != 0:
                require_positive_int(name, getattr(self, name), "; 0 is allowed too")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PointConfig:
        """What `to_dict` gave. Raises ValueError for a size that there is none of."""
        check_keywords("PointConfig", value, list(cls.__dataclass_fields__))
        return cls(**value)


class Classified(NamedTuple):
    """The mean cross-entropy in nats where labels were given, and logits [clouds, classes]."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class Block(nn.Module):
    """Attention and two linear layers, each on normalised states and added to them."""

    def __init__(self, config: PointConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention = PointAttention(heads, width // heads, width, sinks=True)
        intermediate = config.intermediate or 2 * width
        self.up, self.down = nn.Linear(width, intermediate), nn.Linear(intermediate, width)

    def forward(self, x: torch.Tensor, coordinates: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        hidden, attention = self.before_attention(x), self.attention
        qkv = self.to_qkv(hidden).unflatten(-1, (3, attention.heads, attention.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = x + self.from_heads(attention(hidden, q, k, v, coordinates=coordinates, real=real).flatten(2))
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class PointTransformer(nn.Module):
    """Classifies clouds by the mean and the largest of its points' last states."""

    def __init__(self, config: PointConfig) -> None:
        super().__init__()
        self.sizes = config
        self.point = nn.Parameter(torch.randn(config.width))
        self.of_features = nn.Linear(config.features, config.width) if config.features else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.last = nn.LayerNorm(config.width)
        self.head = nn.Linear(2 * config.width, config.classes)

    def forward(
        self,
        coordinates: torch.Tensor,
        real: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> Classified:
        """coordinates [clouds, points, 3]; real: bool [clouds, points], False for padding, of which nothing is read;
        features [clouds, points, features]; labels: int64 [clouds]. Raises ValueError where features are given and not
        taken, or the other way round."""
        if (features is None) is not (self.of_features is None):
            raise ValueError(
                f"features of {self.sizes.features} numbers are what this model takes with each point, got "
                f"{'none' if features is None else list(features.shape)}"
            )
        if real is not None:  # a weight of 0 does not make NaN nothing
            padding = ~real[..., None]
            coordinates = coordinates.masked_fill(padding, 0.0)
            features = None if features is None else features.masked_fill(padding, 0.0)
        x = self.point.expand(*coordinates.shape[:2], -1)
        if self.of_features is not None:
            x = x + self.of_features(features)
        for block in self.blocks:
            x = block(x, coordinates, real)
        logits = self.head(_pooled(self.last(x), real))
        return Classified(None if labels is None else cross_entropy(logits.float(), labels), logits)


def _pooled(x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Mean and largest of [clouds, points, width], over points that are no padding: [clouds, 2 width]. Zeros for a
    cloud of none."""
    if not x.shape[1]:
        return x.new_zeros(x.shape[0], 2 * x.shape[2])
    mean = mean_of(x, real)[..., 0, :]
    if real is None:
        return torch.cat([mean, x.amax(1)], -1)
    there = real[..., None]
    largest = x.masked_fill(~there, -torch.inf).amax(1).masked_fill(~there.any(1), 0.0)
    return torch.cat([mean, largest], -1)
