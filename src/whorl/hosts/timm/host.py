"""The host of an image model of timm: `opening` finds it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from whorl.encodings import Encoding, Known, Spectrum
from whorl.encodings.learned_2d import Learned2D
from whorl.encodings.nope import NoPE
from whorl.hosts.protocol import Host, Method
from whorl.hosts.timm.calls import (
    ATTENDS,
    attends_by,
    forward_features,
    forward_intermediates,
    patches_of_any_size,
    set_attention,
    stock_forward,
)
from whorl.hosts.timm.rotations import rotation_of


@dataclass(frozen=True, kw_only=True)
class TimmHost(Host):
    """See `whorl.hosts.Host`. Its layers turn q and k nowhere but in the attention function, whatever they did."""

    @property
    def named(self) -> str:
        return f"timm's {type(self.model).__name__}"

    @property
    def stock(self) -> str:
        return f"stock timm's {type(self.model).__name__}"

    @property
    def methods(self) -> tuple[Method, ...]:
        return (
            Method(self.base, "forward_features", forward_features),
            Method(self.base, "forward_intermediates", forward_intermediates),
            Method(self.embed, "forward", patches_of_any_size),
        )

    def hidden_of(self, pixels: torch.Tensor, resampled: bool = True) -> torch.Tensor:
        hidden: torch.Tensor = self.base.forward_features(pixels)
        return hidden

    def rebound(self, index: int, rotate: Callable[..., Any]) -> Callable[..., Any]:
        raise AssertionError("it has no rotation")

    @property
    def attention(self) -> str:
        return attends_by(self.attentions[0])

    def set_attention(self, implementation: str | None) -> None:
        for attention in self.attentions:
            set_attention(attention, implementation)

    def stock_forward(self, index: int) -> Callable[..., Any]:
        return stock_forward

    def carry(self, implementation: str, attend: Callable[..., Any]) -> None:
        ATTENDS[implementation] = attend

    @property
    def own_vectors(self) -> torch.Tensor | None:
        table: torch.Tensor | None = self.base.pos_embed
        return None if table is None else table.view(-1, table.shape[-1])

    def own_encoding(self) -> Encoding:
        """Raises ValueError for a rotation that no encoding says."""
        assert self.patches is not None
        grid, rope = self.patches.trained, getattr(self.base, "rope", None)
        parts: list[Encoding] = []
        if self.own_vectors is not None:
            parts.append(Learned2D((grid.height, grid.width), antialias=True))
        if rope is not None:
            parts.append(rotation_of(rope))
        return functools.reduce(operator.add, parts) if parts else NoPE()

    def own_frequencies(self, index: int) -> torch.Tensor | None:
        rope: Any = getattr(self.base, "rope", None)
        if type(rope).__name__ != "RotaryEmbeddingMixed":
            return None
        frequencies: torch.Tensor = rope.freqs.detach()[:, index]
        return frequencies if rope.grid_indexing == "xy" else frequencies.flip(0)

    def own_spectrum(self, index: int) -> Spectrum | None:
        own = self.own_encoding()
        turning = (part for part in getattr(own, "parts", (own,)) if "rotate" in part.kinds)
        return next((part.spectrum(self.shapes[index].head_dim) for part in turning), None)

    def says(self, index: int) -> Known:
        assert self.patches is not None
        grid = self.patches.trained
        base = getattr(getattr(self.base, "rope", None), "temperature", None)
        return Known(
            base=None if base is None else float(base),
            train_length=self.patches.prefix + grid.height * grid.width,
            grid=(grid.height, grid.width),
        )
