"""`whorl list`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from whorl.encodings import REGISTRY, SCALINGS, get, get_scaling
from whorl.encodings.base import format_value

VERBS = {"rotate": "turns q and k", "add": "adds to the embedding", "bias": "biases the logits", "window": "hides keys"}


def rows() -> list[tuple[str, str, str, str, str]]:
    """(name, arguments with defaults, effect, what it does, paper) of every registered encoding."""
    found = []
    for name in REGISTRY:
        cls = get(name)
        effect = ", ".join(VERBS[kind] for kind in cls.kinds) or "nothing"
        found.append((name, arguments(cls), effect, cls.title, f"arXiv {cls.paper}"))
    return found


def scaling_rows() -> list[tuple[str, str, str, str]]:
    """(name, arguments with defaults, what it does, paper) of every scaling."""
    return [(n, arguments(s), s.title, f"arXiv {s.paper}") for n in SCALINGS for s in [get_scaling(n)]]


def arguments(cls: Any) -> str:
    """`size, keep=fastest, base=10000*`: an encoding's or a scaling's arguments, with their defaults.

    A star: the argument is the model's own where it is not given.
    """

    def told(field: dataclasses.Field[Any]) -> str:
        if "of_host" in field.metadata:
            default = field.metadata["default"]
            return f"{field.name}{'' if default is None else f'={format_value(default)}'}*"
        return field.name if field.default in (dataclasses.MISSING, None) else f"{field.name}={field.default}"

    return ", ".join(map(told, dataclasses.fields(cls)))


def list_encodings() -> None:
    """List the encodings and scalings: what they do, their arguments with defaults, and their papers.

    One is written name:key=value,key=value (p-rope:p=0.5); both effects as A+B (rope+window:size=64).

    Over the layers in turn: A/B (rope+window:size=64/nope); by layer type: TYPE=A/TYPE=B.

    A rotary encoding, scaled: A~SCALING (rope~yarn:factor=4,original=2048).

    An argument with a * is the model's own where it is not given; its default is of comparisons from scratch.
    """
    console = Console()
    console.print(filled("whorl's encodings", ("name", "arguments", "effect", "what it does", "paper"), rows()))
    columns = ("name", "arguments", "what it does", "paper")
    console.print(filled("scalings of rotary encodings", columns, scaling_rows()))
    console.print(
        "compose: [bold]rope+window:size=64[/] both effects; [bold]rope+window:size=64/nope[/] cycled over the layers; "
        "[bold]full_attention=nope/sliding_attention=rope[/] by layer type; "
        "[bold]rope~yarn:factor=4,original=2048[/] scaled",
        "*: the model's own where it is not given",
        sep="\n",
        highlight=False,
    )


def filled(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """A table of these lines; names and papers are never broken."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=column in ("name", "paper"), overflow="fold")
    for line in lines:
        table.add_row(*line)
    return table
