"""What a positional encoding is: a frozen, JSON-able config with one or more effects on a transformer.

Nothing here knows a model or a kernel. An encoding answers one question, `effects(shape)`: given the
sizes of a host model, what must be added (to the embedding), turned (in q and k) or biased (in the logits)?
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from whorl.encodings.config import Config
from whorl.encodings.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass(frozen=True)
class Shape:
    """The sizes of a host that an encoding may depend on.

    `head_dim` is the number of channels per head that the host lets turn, `width` the size of the token
    embedding, `bidirectional` whether a query also sees later keys (an encoder).
    """

    head_dim: int
    heads: int
    width: int
    bidirectional: bool = False


@dataclass(frozen=True)
class Rotate:
    """Turns pairs of q and k channels by position x frequency (radians)."""

    spectrum: Spectrum


@dataclass(frozen=True)
class Add:
    """Adds `module(positions)` to the token embedding.

    positions: integers [batch, tokens]; result: float32 [batch, tokens, width].
    """

    module: nn.Module


@dataclass(frozen=True)
class Bias:
    """Adds `module(query_positions, key_positions)` to the attention logits, after scaling.

    query_positions [batch, queries] and key_positions [batch, keys] are integers; the result is float32,
    [batch, heads or 1, queries, keys]; minus infinity hides a key. `shared`: one module serves all layers.
    """

    module: nn.Module
    shared: bool = False


Effect = Rotate | Add | Bias


@dataclass(frozen=True)
class Encoding(Config):
    """Base of every encoding, a config with effects. `a + b` composes effects."""

    kinds: ClassVar[tuple[str, ...]]  # what it does: any of "rotate", "add", "bias", "window"

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        """The effects on a model of these sizes, with freshly initialised modules where there are any.

        Raises ValueError when the sizes cannot carry the encoding (an odd head dim, say).
        """
        raise NotImplementedError

    def for_layer(self, index: int, layer_type: str | None = None) -> Encoding:
        """The encoding of one layer: `self`, except for `Layers`."""
        return self

    def spectrum(self, head_dim: int) -> Spectrum | None:
        """The rotary spectrum at this head dim, or None where the encoding does not turn anything."""
        return None

    def with_defaults(self) -> Encoding:
        """The same encoding with the arguments that are unset at the registry's defaults, where there are any."""
        return self.rebuilt(lambda part: part.with_values({f.name: f.metadata["default"] for f in part.unset()}))

    def without_defaults(self) -> Encoding:
        """The same encoding with the arguments that are at the registry's defaults unset."""

        def opened(part: Encoding) -> Encoding:
            fields = [f for f in dataclasses.fields(part) if "of_host" in f.metadata]
            usual = [f for f in fields if getattr(part, f.name) == f.metadata["default"]]
            return replace(part, **{f.name: None for f in usual})

        return self.rebuilt(opened)

    def rebuilt(self, change: Callable[[Encoding], Encoding]) -> Encoding:
        """The same composition of changed parts; of an encoding that is no composition, `change(self)`."""
        return change(self)

    def __add__(self, other: Encoding) -> Encoding:
        from whorl.encodings.composition import Sum

        if isinstance(other, str):
            raise ValueError(f"{self} + {other!r} adds text to an encoding; try whorl.parse('{self}+{other}')")
        if not isinstance(other, Encoding):
            return NotImplemented
        return Sum((self, other))
