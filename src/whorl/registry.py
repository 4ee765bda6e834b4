"""Registries: a name, and where what it names is found ("module:attribute"), which is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
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
        close = difflib.get_close_matches(str(name).lower().replace("_", "-"), registry, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"{otherwise} (known: {', '.join(registry)})"
        raise ValueError(f"unknown {kind} {shown(name)}; {hint}")
    return registry[name]
