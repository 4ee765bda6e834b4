"""Compositions: `A + B` has the effects of both, `Layers([...])` gives layers encodings of their own.

`Layers([RoPE() + Window(32), NoPE()])` cycles over the layers (interleaved local rotary and global position-free
layers: RNoPE-SWA, arXiv 2501.18795); `Layers({"full_attention": ..., "sliding_attention": ...})` goes by layer type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whorl.checking import check_list, shown
from whorl.encodings.base import Effect, Encoding, Shape
from whorl.encodings.config import Known
from whorl.encodings.spectrum import Spectrum


@dataclass(frozen=True)
class Sum(Encoding):
    """All effects of its parts. Two that turn, two that add, two windows, or a part twice are refused."""

    parts: tuple[Encoding, ...]

    name = "sum"
    title = "the effects of all its parts"
    paper = ""

    def __post_init__(self) -> None:
        flat: list[Encoding] = []
        for part in check_list("a sum's parts", self.parts, "RoPE() + Window(32)"):
            if not isinstance(part, Encoding):
                raise ValueError(f"a sum is of encodings, got {shown(part)}; try RoPE() + Window(32)")
            if isinstance(part, Layers):
                raise ValueError(
                    f"{part} chooses by layer and cannot be one term of a sum; add inside it, per layer: "
                    "Layers([RoPE() + Window(32), NoPE()])"
                )
            flat.extend(part.parts if isinstance(part, Sum) else [part])
        if len(flat) < 2:
            raise ValueError(f"a sum needs at least two encodings, got {len(flat)}")
        object.__setattr__(self, "parts", tuple(flat))
        kinds = Counter(kind for part in flat for kind in part.kinds)
        for kind, verb in (("rotate", "turn q and k"), ("add", "add to the embedding"), ("window", "are windows")):
            if kinds[kind] > 1:
                culprits = " and ".join(str(p) for p in flat if kind in p.kinds)
                raise ValueError(f"{culprits} both {verb}; keep one of them")
        for name, count in Counter(p.name for p in flat).items():
            if count > 1:
                raise ValueError(f"{name} stands {count} times in {self}; keep one")

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(kind for part in self.parts for kind in part.kinds)

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


def by_layer(rules: Sequence[Encoding], layer_types: Sequence[str]) -> Encoding:
    """The shortest encoding that gives layer i `rules[i]`: one for all, by layer type, or by the shortest cycle."""
    if len(set(rules)) == 1:
        return rules[0]
    by_type = dict(zip(layer_types, rules, strict=True))
    if len(by_type) > 1 and all(by_type[t] == rule for t, rule in zip(layer_types, rules, strict=True)):
        return Layers(by_type)
    period = next(p for p in range(1, len(rules) + 1) if all(r == rules[i % p] for i, r in enumerate(rules)))
    return Layers(rules[:period])


@dataclass(frozen=True, init=False)
class Layers(Encoding):
    """An encoding per layer: a sequence is cycled over the layers, a mapping goes by the host's layer types."""

    rules: tuple[Encoding, ...]
    types: tuple[str, ...] | None

    name = "layers"
    title = "an encoding per layer (cycled) or per layer type"
    paper = ""

    def __init__(self, rules: Sequence[Encoding] | Mapping[str, Encoding]) -> None:
        if not isinstance(rules, Mapping):
            rules = check_list("rules", rules, "Layers([RoPE(), NoPE()]), or whorl.parse('rope/nope')")
        if isinstance(rules, Mapping):
            rules = dict(sorted(rules.items()))  # the order says nothing, and equal rules are equal encodings
        types = tuple(rules) if isinstance(rules, Mapping) else None
        encodings = tuple(rules.values()) if isinstance(rules, Mapping) else tuple(rules)
        if not encodings:
            raise ValueError("Layers needs at least one encoding, got none")
        for encoding in encodings:
            if not isinstance(encoding, Encoding) or isinstance(encoding, Layers):
                hint = f"; try whorl.parse({encoding!r})" if isinstance(encoding, str) else ""
                raise ValueError(f"Layers takes encodings that are not themselves Layers, got {encoding!r}{hint}")
            if "add" in encoding.kinds:
                raise ValueError(
                    f"{encoding} adds to the token embedding, which happens once and not per layer; "
                    "attach it alone, or choose encodings that turn or bias"
                )
        object.__setattr__(self, "rules", encodings)
        object.__setattr__(self, "types", types)

    @property
    def kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(kind for rule in self.rules for kind in rule.kinds))

    def for_layer(self, index: int, layer_type: str | None = None) -> Encoding:
        if self.types is None:
            return self.rules[index % len(self.rules)]
        if layer_type not in self.types:
            raise ValueError(
                f"layer {index} is of type {layer_type!r}, for which {self} has no rule; it has {', '.join(self.types)}"
            )
        return self.rules[self.types.index(layer_type)]

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        raise ValueError(f"{self} differs by layer; ask for_layer(index, layer_type).effects(shape)")

    def filled(self, known: Known) -> Layers:
        return self.with_rules([r.filled(known) for r in self.rules])

    def rebuilt(self, change: Callable[[Encoding], Encoding]) -> Layers:
        return self.with_rules([r.rebuilt(change) for r in self.rules])

    def with_rules(self, rules: Sequence[Encoding]) -> Layers:
        """The same choice of layers with other encodings, in the order of `rules`."""
        return Layers(rules if self.types is None else dict(zip(self.types, rules, strict=True)))

    def __str__(self) -> str:
        if self.types is None:
            return "/".join(map(str, self.rules)) + ("/" if len(self.rules) == 1 else "")
        return "/".join(f"{t}={r}" for t, r in zip(self.types, self.rules, strict=True))

    def to_dict(self) -> dict[str, Any]:
        rules = [r.to_dict() for r in self.rules]
        return {"name": self.name, "rules": rules if self.types is None else dict(zip(self.types, rules, strict=True))}
