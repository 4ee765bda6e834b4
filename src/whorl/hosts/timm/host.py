"""The host of an image model of timm: `opening` finds it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from whorl.encodings import Encoding, Known, Spectrum
from whorl.encodings.learned_2d import Learned2D
from whorl.encodings.nope import NoPE
from whorl.hosts.protocol import Host, Method
from whorl.hosts.timm import calls, relative
from whorl.hosts.timm.calls import ATTENDS, attends_by, patches_of_any_size, set_attention
from whorl.hosts.timm.rotations import rotation_of


@dataclass(frozen=True, kw_only=True)
class TimmHost(Host):
    """See `whorl.hosts.Host`. Its layers rotate q and k nowhere but in the attention function, whatever they did.

    relative: as its family has it.
    """

    relative: bool = False

    @property
    def named(self) -> str:
        return f"timm's {type(self.model).__name__}"

    @property
    def stock(self) -> str:
        return f"stock timm's {type(self.model).__name__}"

    @property
    def methods(self) -> tuple[Method, ...]:
        how = relative if self.relative else calls
        return (
            Method(self.base, "forward_features", how.forward_features),
            Method(self.base, "forward_intermediates", how.forward_intermediates),
            Method(self.embed, "forward", patches_of_any_size),
        )

    def hidden_of(self, pixels: torch.Tensor, resampled: bool = True) -> torch.Tensor:
        try:
            hidden: torch.Tensor = self.base.forward_features(pixels)
        except AssertionError as error:  # of its own, about the size
            raise ValueError(
                f"{self.stock} takes images of the size alone that it was built for: {error}; attach an encoding of "
                "whorl's, which goes to any size, or build it with dynamic_img_size=True"
            ) from error
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
        return relative.stock_forward if self.relative else calls.stock_forward

    def carry(self, implementation: str, attend: Callable[..., Any]) -> None:
        ATTENDS[implementation] = attend

    @property
    def own_vectors(self) -> torch.Tensor | None:
        table: torch.Tensor | None = getattr(self.base, "pos_embed", None)
        return None if table is None else table.view(-1, table.shape[-1])

    @property
    def taken_out(self) -> tuple[nn.Parameter, ...]:
        table: nn.Parameter | None = getattr(self.base, "pos_embed", None)
        modules = [getattr(self.base, name, None) for name in ("rope", "shared_rel_pos")]
        modules += [getattr(attention, "rel_pos", None) for attention in self.attentions]
        learned = (p for module in modules if module is not None for p in module.parameters())
        return (*(() if table is None else (table,)), *learned)

    def own_encoding(self) -> Encoding:
        """Raises ValueError for a rotation, and for relative biases, that no encoding says."""
        if self.relative:
            raise ValueError(
                f"this {type(self.model).__name__} adds relative biases of its own to its logits "
                f"({self._biases()}), which no encoding of whorl's says; attaching another takes them out, and "
                "whorl.detach puts them back"
            )
        assert self.patches is not None
        grid, rope = self.patches.trained, getattr(self.base, "rope", None)
        parts: list[Encoding] = []
        if self.own_vectors is not None:
            parts.append(Learned2D((grid.height, grid.width), antialias=True))
        if rope is not None:
            parts.append(rotation_of(rope))
        return functools.reduce(operator.add, parts) if parts else NoPE()

    def _biases(self) -> str:
        """The class that makes its relative biases."""
        shared = self.base.shared_rel_pos
        return type(self.attentions[0].rel_pos if shared is None else shared).__name__

    def own_frequencies(self, index: int) -> torch.Tensor | None:
        rope: Any = getattr(self.base, "rope", None)
        if type(rope).__name__ != "RotaryEmbeddingMixed":
            return None
        frequencies: torch.Tensor = rope.freqs.detach()[:, index]
        return frequencies if rope.grid_indexing == "xy" else frequencies.flip(0)

    def own_spectrum(self, index: int) -> Spectrum | None:
        if getattr(self.base, "rope", None) is None:
            return None
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
