"""Registries: a name, and where what it names is found ("module:attribute"), which is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from whorl.checking import shown

T = TypeVar("T")


def look_up(kind: str, name: str, registry: Mapping[str, str], otherwise: str) -> Any:
    """What a registry has under a name. Raises ValueError as `entry` does."""
    module, _, attribute = entry(kind, name, registry, otherwise).partition(":")
    return getattr(importlib.import_module(module), attribute)


def entry(kind: str, name: str, registry: Mapping[str, T], otherwise: str) -> T:
    """What a table has under a name. Raises ValueError with the name that is likest, or else with `otherwise`, a hint,
    and all names."""
    if not isinstance(name, str) or name not in registry:
        likest = closest(str(name), registry)
        hint = f"did you mean {likest!r}?" if likest else f"{otherwise} (known: {', '.join(registry)})"
        raise ValueError(f"unknown {kind} {shown(name)}; {hint}")
    return registry[name]


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is likest to this one, which may be a slip of it; of those as like one of the same letters.
    None where none is like it.

    >>> closest("hpoe", ["pope", "hope"])
    'hope'
    """
    meant, names = name.lower().replace("_", "-"), list(known)
    same = [n for n in names if sorted(n) == sorted(meant)]
    found = difflib.get_close_matches(meant, same or names, n=1, cutoff=0.5)
    return found[0] if found else None
