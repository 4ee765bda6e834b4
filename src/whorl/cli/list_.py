"""`whorl list`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def list_encodings() -> None:
    """List the encodings and scalings (what they do, their arguments with defaults, their papers), and the models.

    One is written name:key=value,key=value (p-rope:p=0.5); both effects as A+B (rope+window:size=64).

    Over the layers in turn: A/B (rope+window:size=64/nope); by layer type: TYPE=A/TYPE=B.

    A rotary encoding, scaled: A~SCALING (rope~yarn:factor=4,original=2048).

    An argument with a * is the model's own where it is not given; its default is of comparisons from scratch.
    """
    known = json.loads(Path(__file__).with_name("listing.json").read_text(encoding="utf-8"))
    console = Console()
    console.print(
        filled("whorl's encodings", ("name", "arguments", "effect", "what it does", "paper"), known["encodings"])
    )
    columns = ("name", "arguments", "what it does", "paper")
    console.print(filled("scalings of rotary encodings", columns, known["scalings"]))
    console.print(
        "compose: [bold]rope+window:size=64[/] both effects; [bold]rope+window:size=64/nope[/] cycled over the layers; "
        "[bold]full_attention=nope/sliding_attention=rope[/] by layer type; "
        "[bold]rope~yarn:factor=4,original=2048[/] scaled",
        "*: the model's own where it is not given",
        f"models: [bold]{', '.join(known['families'])}[/], by their model type, and families that look like one of "
        "them, which are proved by a forward first",
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
