"""What a positional encoding is: a frozen, JSON-able config with one or more effects on a transformer.

Nothing here knows a model or a kernel. An encoding answers one question, `effects(shape)`: given the
sizes of a host model, what must be added (to the embedding), turned (in q and k) or biased (in the logits)?
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from whorl.encodings.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
class Known:
    """What a host, or a run, says of the arguments that an encoding leaves unset; None where it says nothing.

    base          the rotary base of the host's own encoding, before any scaling
    train_length  tokens that the model is trained at
    fraction      the share of `Shape.head_dim` that the host's own encoding turns, where that is less than all of it
    part          the same, and 1 where the host turns a part of its heads and lets no other channels turn (Phi)
    """

    base: float | None = None
    train_length: int | None = None
    fraction: float | None = None
    part: float | None = None


def of_host(default: float | None = None, known: str | None = None) -> Any:
    """The field of an argument that a host can fill: unset (None) until it is given.

    default: the registry's, where nothing fills it; None where there is none. known: which of `Known` fills it, by
    default the one of the field's own name.
    """
    return dataclasses.field(default=None, metadata={"of_host": known, "default": default})


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

    def filled(self, known: Known) -> Encoding:
        """The same encoding with the arguments that are unset taken from `known`, where it says them."""
        return self.rebuilt(lambda part: part._with({f.name: known_as(f, known) for f in part._unset()}))

    def with_defaults(self) -> Encoding:
        """The same encoding with the arguments that are unset at the registry's defaults, where there are any."""
        return self.rebuilt(lambda part: part._with({f.name: f.metadata["default"] for f in part._unset()}))

    def without_defaults(self) -> Encoding:
        """The same encoding with the arguments that are at the registry's defaults unset."""

        def opened(part: Encoding) -> Encoding:
            fields = [f for f in dataclasses.fields(part) if "of_host" in f.metadata]
            usual = [f for f in fields if getattr(part, f.name) == f.metadata["default"]]
            return replace(part, **{f.name: None for f in usual})

        return self.rebuilt(opened)

    def argument(self, name: str) -> Any:
        """An argument's value, or the registry's default where it is unset (outside of any model)."""
        value = getattr(self, name)
        field = next(f for f in dataclasses.fields(self) if f.name == name)
        return field.metadata.get("default") if value is None else value

    def rebuilt(self, change: Callable[[Encoding], Encoding]) -> Encoding:
        """The same composition of changed parts; of an encoding that is no composition, `change(self)`."""
        return change(self)

    def _unset(self) -> list[dataclasses.Field[Any]]:
        return [f for f in dataclasses.fields(self) if "of_host" in f.metadata and getattr(self, f.name) is None]

    def _with(self, values: dict[str, Any]) -> Encoding:
        given = {name: value for name, value in values.items() if value is not None}
        return replace(self, **given) if given else self

    def __add__(self, other: Encoding) -> Encoding:
        from whorl.encodings.composition import Sum

        if isinstance(other, str):
            raise ValueError(f"{self} + {other!r} adds text to an encoding; try whorl.parse('{self}+{other}')")
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
        """The JSON form: {"name": ..., argument: value, ...}; `whorl.encodings.from_dict` reads it back.

        An argument that is unset is left out.
        """
        unset = self._unset()
        return {
            "name": self.name,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f not in unset},
        }


def known_as(field: dataclasses.Field[Any], known: Known) -> Any:
    """What fills the argument of this field (see `of_host`), or None."""
    return getattr(known, field.metadata["of_host"] or field.name)


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
    """Refuses what is not a real number (True is not one), or a whole one past what a float holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{argument} must be a number, got {value!r}")
    if isinstance(value, int) and value.bit_length() > 1000:
        raise ValueError(f"{argument} must be a number of at most 300 digits, got one of {len(str(abs(value)))}")


def require_positive_int(argument: str, value: object, hint: str = "") -> None:
    """Refuses what is not a whole number of at least 1, or is past what a float holds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{argument} must be a whole number of at least 1, got {value!r}{hint}")
    require_number(argument, value)


def choices(argument: str, value: object, allowed: Sequence[str]) -> None:
    """Refuses a word that is not in `allowed`."""
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
