"""What a positional encoding is: a frozen, JSON-able config with one or more effects on a transformer.

Nothing here knows a model or a kernel. An encoding answers one question, `effects(shape)`: given the
sizes of a host model, what must be added (to the embedding), turned (in q and k) or biased (in the logits)?
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from whorl.checking import check_list, shown
from whorl.encodings.config import Config, Known
from whorl.encodings.effects import Effect, Shape
from whorl.encodings.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Callable

# What an encoding may do. One by content that chooses how far q and k turn is of the kinds "rotate" and "score".
KINDS = ("rotate", "add", "bias", "window", "scale", "score", "softmax", "positions")


@dataclass(frozen=True)
class Encoding(Config):
    """Base of every encoding, a config with effects. `a + b` has the effects of both."""

    kinds: ClassVar[tuple[str, ...]]  # what it does: any of the words in `KINDS`
    not_relative: ClassVar[str] = ""  # why moving all positions by a constant changes what it does, where it does
    not_relative_along_several: ClassVar[str] = ""  # the same, where that is so of positions of several axes alone
    on_grid: ClassVar[bool] = False  # it goes by the rows and columns of a grid
    by_order: ClassVar[bool] = False  # positions are not what it goes by: the order of the tokens is
    alone_but_for: ClassVar[tuple[str, ...] | None] = None  # the kinds that it can be in a sum with, where not with all
    whole_model: ClassVar[bool] = False  # it tells layers apart, and is no term of a sum

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        """The effects on a model of these sizes, with freshly initialised modules where there are any.

        Raises ValueError when the sizes cannot carry the encoding (an odd head dim, say).
        """
        raise NotImplementedError

    @property
    def terms(self) -> tuple[Encoding, ...]:
        """What a host is given, one after the other: itself, and of a sum its parts."""
        return (self,)

    def turning(self, rotary: Encoding) -> Encoding | None:
        """What this and an encoding that rotates q and k are together, where it is more than both; None where it is
        not."""
        return None

    def for_layer(self, index: int, layer_type: str | None = None) -> Encoding:
        """The encoding of one layer: `self`, except for `Layers` and what tells layers apart by itself."""
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
        if isinstance(other, str):
            raise ValueError(f"{self} + {other!r} adds text to an encoding; try whorl.parse('{self}+{other}')")
        if not isinstance(other, Encoding):
            return NotImplemented
        return Sum((self, other))


# Of which a sum has one at most.
EXCLUSIVE = {
    "rotate": "rotate q and k",
    "add": "add to the embedding",
    "window": "are windows",
    "softmax": "take the place of the softmax",
}


@dataclass(frozen=True)
class Sum(Encoding):
    """All effects of its parts. Two that turn, two that add, two windows, two in the place of the softmax, or a part
    twice are refused."""

    parts: tuple[Encoding, ...]

    name = "sum"
    title = "the effects of all its parts"
    paper = ""

    def __post_init__(self) -> None:
        flat: list[Encoding] = []
        for part in check_list("a sum's parts", self.parts, "RoPE() + Window(32)"):
            if not isinstance(part, Encoding):
                raise ValueError(f"a sum is of encodings, got {shown(part)}; try RoPE() + Window(32)")
            if part.whole_model:
                raise ValueError(
                    f"{part} chooses by layer and cannot be one term of a sum; add inside it, per layer: "
                    "Layers([RoPE() + Window(32), NoPE()])"
                )
            flat.extend(part.parts if isinstance(part, Sum) else [part])
        if len(flat) < 2:
            raise ValueError(f"a sum needs at least two encodings, got {len(flat)}")
        object.__setattr__(self, "parts", tuple(flat))
        kinds = Counter(kind for part in flat for kind in part.kinds)
        for kind, verb in EXCLUSIVE.items():
            if kinds[kind] > 1:
                culprits = " and ".join(str(p) for p in flat if kind in p.kinds)
                raise ValueError(f"{culprits} both {verb}; keep one of them")
        for part in flat:
            others = [p for p in flat if p is not part and not set(p.kinds) <= set(part.alone_but_for or p.kinds)]
            if others:
                raise ValueError(
                    f"{part} and {' and '.join(map(str, others))} do not go together: {part} goes with encodings that "
                    "rotate q and k by position alone, as rope, hope and p-rope do; keep one of them"
                )
        for name, count in Counter(p.name for p in flat).items():
            if count > 1:
                raise ValueError(f"{name} stands {count} times in {self}; keep one")

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(kind for part in self.parts for kind in part.kinds)

    @property
    def terms(self) -> tuple[Encoding, ...]:
        rotary = next((part for part in self.parts if "rotate" in part.kinds), None)
        for part in self.parts:
            if rotary is not None and (both := part.turning(rotary)) is not None:
                return (both, *(p for p in self.parts if p is not part and p is not rotary))
        return self.parts

    @property
    def not_relative(self) -> str:  # type: ignore[override]
        return next((part.not_relative for part in self.parts if part.not_relative), "")

    @property
    def by_order(self) -> bool:  # type: ignore[override]
        return all(part.by_order for part in self.parts)

    def for_layer(self, index: int, layer_type: str | None = None) -> Encoding:
        return self.rebuilt(lambda part: part.for_layer(index, layer_type))

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return tuple(effect for part in self.parts for effect in part.effects(shape))

    def spectrum(self, head_dim: int) -> Spectrum | None:
        return next((s for p in self.parts if (s := p.spectrum(head_dim)) is not None), None)

    def filled(self, known: Known) -> Sum:
        return Sum(tuple(p.filled(known) for p in self.parts))

    def rebuilt(self, change: Callable[[Encoding], Encoding]) -> Sum:
        return Sum(tuple(p.rebuilt(change) for p in self.parts))

    def __str__(self) -> str:
        return "+".join(map(str, self.parts))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [p.to_dict() for p in self.parts]}
