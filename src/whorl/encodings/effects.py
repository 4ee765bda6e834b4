"""The effects of encodings on a transformer, which is all that hosts and kernels know of them.

Positions are integers [batch, tokens], or [batch, tokens, axes] (integers for grids, real numbers for points). The
modules of `Add` and `Bias` say by an attribute `axis` which of several they are handed: a number, that axis as
[batch, tokens]; "all", all of them as [batch, tokens, axes]. Without one they go by positions of one axis, and hosts
whose positions have several refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from whorl.encodings.spectrum import Spectrum

if TYPE_CHECKING:
    import torch
    from torch import nn

    from whorl.encodings.randomized import RandomPositions
    from whorl.encodings.scores import ScoreModule


LAYERS_APART = 1_000_003  # seeds from one layer to the next


@dataclass(frozen=True)
class Shape:
    """The sizes of a host that an encoding may depend on.

    `head_dim` is the number of channels per head that the host lets turn, `width` the size of the token
    embedding, `bidirectional` whether a query also sees later keys (an encoder), `layout` which channels its rotation
    pairs ("half" or "interleaved": see `whorl.ops.rotate`), `channels` the channels of a head of q and k in all, `axes`
    how many numbers a position has, `prefix` the tokens before an image's patches, where vectors are added to both.

    `layer` and `seed` are no sizes: what an encoding draws at random to start from differs by them, and that alone.
    """

    head_dim: int
    heads: int
    width: int
    bidirectional: bool = False
    layout: str = "half"
    channels: int = 0  # head_dim, where it is not given
    axes: int = 1
    prefix: int = 0
    layer: int = field(default=0, compare=False)
    seed: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.channels:
            object.__setattr__(self, "channels", self.head_dim)

    def generator(self) -> torch.Generator:
        """Of the initial numbers of this layer: the same in every run and process, and others in every layer."""
        import torch

        return torch.Generator().manual_seed((self.seed + LAYERS_APART * self.layer) % (1 << 32))


class Effect:
    """Base of all effects. A host that has no place for one refuses it (`whorl.attaching.plan`)."""

    shared: bool = True  # what it is for one layer, it is for all layers of the same sizes

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What it computes with, and learns."""
        return ()


@dataclass(frozen=True)
class Rotate(Effect):
    """Turns pairs of q and k channels by position x frequency (radians)."""

    spectrum: Spectrum


@dataclass(frozen=True)
class Add(Effect):
    """Adds `module(positions)` to the token embedding: float32 [batch, tokens, width].

    A module whose `axis` is "grid" is handed the grid of an image instead (`whorl.encodings.grid`) and a device, and
    gives [1, tokens, width].
    """

    module: nn.Module

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)


@dataclass(frozen=True)
class Bias(Effect):
    """Adds `module(query_positions, key_positions)` to the attention logits, after scaling.

    For positions of queries and of keys the result is float32, [batch, heads or 1, queries, keys]; minus infinity hides
    a key. `shared`: one module serves all layers. An attribute `sees_prefix` of the module is as that of a score.
    """

    module: nn.Module
    shared: bool = False

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)


@dataclass(frozen=True)
class Scale(Effect):
    """Multiplies a query's logits, q.k times the host's own scale, by a number, before biases and a soft cap.

    `module(counts, positions)` gives it, float32 [batch or 1, heads or 1, queries], for the number of keys that each
    query sees, counts [batch or 1, queries] (itself among them; padding and what a window hides are not), and for the
    queries' positions of the same shape. It goes into q, and never into cached keys.
    """

    module: nn.Module
    shared: bool = True

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)


@dataclass(frozen=True)
class Score(Effect):
    """Changes attention by positions and content: a module of `whorl.encodings.scores`, which says how.

    Where it depends on hidden states, those are the ones that the layer's attention is given, in which every layer has
    a module of its own (`shared`: one module serves all).
    """

    module: ScoreModule
    shared: bool = False

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)


@dataclass(frozen=True)
class Reposition(Effect):
    """Changes the positions that all other effects see: `module(positions, rows)` gives [rows or 1, tokens].

    It is one for the whole model, and asked once per forward, for so many rows.
    """

    module: RandomPositions

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.module,)
