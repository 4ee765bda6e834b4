"""`whorl list`."""

from __future__ import annotations

import dataclasses

from rich.console import Console
from rich.table import Table

from whorl.encodings import REGISTRY, get

VERBS = {"rotate": "turns q and k", "add": "adds to the embedding", "bias": "biases the logits", "window": "hides keys"}


def rows() -> list[tuple[str, str, str, str, str]]:
    """(name, arguments with defaults, effect, what it does, paper) of every registered encoding."""
    found = []
    for name in REGISTRY:
        cls = get(name)
        arguments = ", ".join(
            f.name if f.default in (dataclasses.MISSING, None) else f"{f.name}={f.default}"
            for f in dataclasses.fields(cls)
        )
        effect = ", ".join(VERBS[kind] for kind in cls.kinds) or "nothing"
        found.append((name, arguments, effect, cls.title, f"arXiv {cls.paper}"))
    return found


def list_encodings() -> None:
    """List the encodings: what they do, their arguments with defaults, and their papers.

    One is written name:key=value,key=value (p-rope:p=0.5); both effects as A+B (rope+window:size=64).

    Over the layers in turn: A/B (rope+window:size=64/nope); by layer type: TYPE=A/TYPE=B.
    """
    table = Table(title="whorl's encodings", title_justify="left")
    for column in ("name", "arguments", "effect", "what it does", "paper"):
        table.add_column(column, no_wrap=column in ("name", "paper"), overflow="fold")
    for row in rows():
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(
        "compose: [bold]rope+window:size=64[/] both effects; [bold]rope+window:size=64/nope[/] cycled over the layers; "
        "[bold]full_attention=nope/sliding_attention=rope[/] by layer type",
        highlight=False,
    )
