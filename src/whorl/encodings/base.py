"""What a positional encoding is: a frozen, JSON-able config with one or more effects on a transformer.

Nothing here knows a model or a kernel. An encoding answers one question, `effects(shape)`: given the
sizes of a host model, what must be added (to the embedding), turned (in q and k) or biased (in the logits)?
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from whorl.encodings.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence


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


def in_full(parameter: torch.Tensor) -> torch.Tensor:
    """A bias's parameter as it is reckoned with: float32, whatever the model's dtype (float64 for float64)."""
    return parameter if parameter.dtype == torch.float64 else parameter.float()


class RelativeBias(nn.Module):
    """A bias that depends on distance alone, which is all that a kernel needs to know of it.

    `reach`: keys at this distance or beyond are hidden (a window), or None.
    """

    reach: int | None = None

    def of_distance(self, distance: torch.Tensor) -> torch.Tensor:
        """The bias at integer distances [...], query position - key position: float32 [heads or 1, ...]."""
        raise NotImplementedError

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        """[batch, heads or 1, queries, keys] for positions [batch, queries] and [batch, keys]."""
        distance = query_positions.long()[:, :, None] - key_positions.long()[:, None, :]  # of int32, it may not be one
        return self.of_distance(distance).movedim(0, 1)


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
class Encoding:
    """Base of every encoding. Subclasses are frozen dataclasses whose fields are the paper's arguments.

    Equal configs are equal encodings, so an encoding can be a dictionary key. `a + b` composes effects.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
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

    def with_train_length(self, train_length: int) -> Encoding:
        """The same encoding with an unset training length filled in (HoPE's cut depends on it)."""
        return self

    def __add__(self, other: Encoding) -> Encoding:
        from whorl.encodings.composition import Sum

        if not isinstance(other, Encoding):
            return NotImplemented
        return Sum((self, other))

    def __str__(self) -> str:
        """The command line's notation, e.g. `p-rope:p=0.5`; `whorl.encodings.parse` reads it back."""
        given = [
            f"{f.name}={format_value(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (":" + ",".join(given) if given else "")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: {"name": ..., argument: value, ...}; `whorl.encodings.from_dict` reads it back."""
        return {"name": self.name, **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}}


def format_value(value: object) -> str:
    """A number, word or list as the notation writes it: `10000`, `0.5`, `5e5`, `log`, `1@0.1@0.01` (never a `+`)."""
    if isinstance(value, tuple):
        return "@".join(map(format_value, value))
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value).replace("e+", "e")
    return str(value)


def check_base(base: float) -> None:
    """Refuses a rotary or sinusoidal base that gives no spectrum."""
    require_number("base", base)
    if not (math.isfinite(base) and base > 1):
        raise ValueError(f"base must be a finite number above 1, got {base}; RoPE's is 10000")


def require_number(argument: str, value: object) -> None:
    """Refuses what is not a real number (True is not one)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{argument} must be a number, got {value!r}")


def require_positive_int(argument: str, value: object, hint: str = "") -> None:
    """Refuses what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}{hint}")


def choices(argument: str, value: object, allowed: Sequence[str]) -> None:
    """Refuses a word that is not in `allowed`."""
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
