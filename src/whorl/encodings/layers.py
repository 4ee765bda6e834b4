"""`Layers([...])` gives layers encodings of their own.

`Layers([RoPE() + Window(32), NoPE()])` cycles over the layers (interleaved local rotary and global position-free
layers: RNoPE-SWA, arXiv 2501.18795); `Layers({"full_attention": ..., "sliding_attention": ...})` goes by layer type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whorl.checking import check_list
from whorl.encodings.base import Encoding
from whorl.encodings.config import Known
from whorl.encodings.effects import Effect, Shape


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
    whole_model = True
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

    @property
    def not_relative(self) -> str:  # type: ignore[override]
        return next((rule.not_relative for rule in self.rules if rule.not_relative), "")

    @property
    def by_order(self) -> bool:  # type: ignore[override]
        return all(rule.by_order for rule in self.rules)

    def for_layer(self, index: int, layer_type: str | None = None) -> Encoding:
        if self.types is None:
            return self.rules[index % len(self.rules)].for_layer(index, layer_type)
        if layer_type not in self.types:
            raise ValueError(
                f"layer {index} is of type {layer_type!r}, for which {self} has no rule; it has {', '.join(self.types)}"
            )
        return self.rules[self.types.index(layer_type)].for_layer(index, layer_type)

    def unused(self, layer_types: Sequence[str | None]) -> list[str]:
        """The rules that no layer of a model with these types goes by."""
        if self.types is None:
            return [str(rule) for rule in self.rules[len(layer_types) :]]
        return [f"{t}={rule}" for t, rule in zip(self.types, self.rules, strict=True) if t not in layer_types]

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
