"""How timm's VisionTransformerRelPos is called while an encoding is attached: as `calls` has it for the others.

Its blocks hand no mask to their attention, but relative biases that layers may share: what an encoding hands to them
goes in their place. Vectors are added to patches where these are made.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from whorl.hosts.timm.calls import Asked, Handed, Seen, checkpointed, turns_of


class Shared(NamedTuple):
    """In the place of the biases that layers share."""

    handed: Handed

    def get_bias(self) -> Handed:
        return self.handed


class Placed(Seen):
    """What makes patches of pixels, and adds the encoding's vectors to them."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.seen(pixels)
        return patches + self.vectors(patches)


def forward_features(self: Any, x: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = type(self).forward_features(_handing(self, x), x)
    return features


def forward_intermediates(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward_intermediates(_handing(self, x), x, *args, **kwargs)


def _handing(model: Any, pixels: torch.Tensor) -> Seen:
    handed = Handed(None, turns_of(model, pixels))
    embed = Placed(model.patch_embed, vectors=partial(model.whorl_vectors, handed.turns.grid))
    blocks = checkpointed(model)
    return Seen(model, blocks=blocks, grad_checkpointing=False, shared_rel_pos=Shared(handed), patch_embed=embed)


def stock_forward(self: Any, hidden: torch.Tensor, shared_rel_pos: Any = None) -> Any:
    """The forward of its attention, with its own biases, by the implementation by which it attends."""
    own = shared_rel_pos if self.rel_pos is None else self.rel_pos.get_bias()
    return self.whorl_forward(Seen(self, fused_attn=True, rel_pos=None), hidden, Asked(self, own))
