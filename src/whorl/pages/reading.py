"""What an encoding's file says of it.

The module's docstring begins with a citation, and goes on with the formula. The class's begins with what the encoding
does, and has a line for each argument: its name, two spaces or more, its meaning. Those that are `as in` another class
are read there.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from typing import Any

from whorl.encodings.config import format_value

ARXIV = re.compile(r"\b(?:arXiv )?(\d{4}\.\d{5})\b")


def cited(cls: Any) -> str:
    """The first paragraph of the module's docstring: title, authors, paper, equation."""
    return " ".join(_module(cls)[0].split())


def formula(cls: Any) -> str:
    """The rest of it, as it stands there; empty where there is no more."""
    return "\n\n".join(_module(cls)[1:])


def does(cls: Any) -> str:
    """What it does, without the paper."""
    first = " ".join(_paragraphs(cls)[0].split())
    return re.sub(r" \([^()]*(?:arXiv|Large 4)[^()]*\)$", "", first)


def notes(cls: Any) -> str:
    """What the class's docstring says besides, in one paragraph."""
    return " ".join(" ".join(p.split()) for p in _paragraphs(cls)[1:] if not _arguments(p))


def arguments(cls: Any) -> list[tuple[str, str, str]]:
    """(name, default, meaning) of each argument. Raises ValueError for one whose meaning is not told."""
    found = []
    for field in dataclasses.fields(cls):
        meaning = _meaning(cls, field.name)
        if meaning is None:
            raise ValueError(f"the docstring of {cls.__name__} has no line for its argument {field.name}")
        found.append((field.name, _default(field), meaning))
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if "of_host" in field.metadata:
        usual = field.metadata["default"]
        return "the model's own" + ("" if usual is None else f", else {format_value(usual)}")
    if field.default is dataclasses.MISSING:
        return "has to be given"
    return "unset" if field.default is None else format_value(field.default) or "none"


def _meaning(cls: Any, name: str) -> str | None:
    own = next((found[name] for p in _paragraphs(cls) if name in (found := _arguments(p))), None)
    if own is None or not (told := re.match(r"as in `(\w+)`", own)):
        return own
    there = _meaning(_class_named(told[1], cls), name)
    return None if there is None else there + own[told.end() :]


def _class_named(name: str, cls: Any) -> Any:
    """A class that this one's module, or a base's, knows by its name."""
    modules = [sys.modules[base.__module__] for base in cls.__mro__]
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def _arguments(paragraph: str) -> dict[str, str]:
    """The meaning of each argument that a paragraph has a line for; lines that go on are indented."""
    found: dict[str, str] = {}
    for line in paragraph.split("\n"):
        if begins := re.match(r"(\w+) {2,}(\S.*)", line):
            found[begins[1]] = begins[2]
        elif found and line.startswith("   "):
            found[list(found)[-1]] += " " + line.strip()
        else:
            return {}
    return found


def _module(cls: Any) -> list[str]:
    return (inspect.getdoc(sys.modules[cls.__module__]) or cls.title).split("\n\n")


def _paragraphs(cls: Any) -> list[str]:
    return (inspect.cleandoc(cls.__doc__ or cls.title)).split("\n\n")
