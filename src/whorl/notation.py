"""How things with arguments are written, everywhere alike: `name:key=value,key=value`.

Encodings, scalings and tasks are written so, on the command line, in results and in reports.
"""

from __future__ import annotations


def name_and_arguments(text: str) -> tuple[str, dict[str, int | float | str]]:
    """`p-rope:p=0.5,keep=fastest` -> ("p-rope", {"p": 0.5, "keep": "fastest"}); numbers are read as numbers.

    Raises ValueError for an argument that is not written `key=value`, and for one that stands twice.
    """
    name, colon, rest = text.partition(":")
    arguments: dict[str, int | float | str] = {}
    for item in rest.split(",") if colon else []:
        key, equals, value = item.partition("=")
        if not (key and equals and value):
            raise ValueError(f"cannot read {item!r} in {text!r}; write arguments as {name}:key=value,key=value")
        if key in arguments:
            raise ValueError(f"{key!r} stands twice in {text!r}; give it once")
        arguments[key] = _value(value)
    return name, arguments


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
