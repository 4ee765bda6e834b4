"""`whorl list`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from whorl.console import console, said


def list_encodings() -> None:
    """List the encodings and scalings (what they do, their arguments with defaults, their papers), tasks and models.

    One is written name:key=value,key=value (p-rope:p=0.5); both effects as A+B (rope+window:size=64).

    Over the layers in turn: A/B (rope+window:size=64/nope); by layer type: TYPE=A/TYPE=B.

    A rotary encoding, scaled: A~SCALING (rope~yarn:factor=4,original=2048).

    An argument with a * is the model's own where it is not given; its default is of comparisons from scratch.
    """
    known = json.loads(Path(__file__).with_name("listing.json").read_text(encoding="utf-8"))
    terminal = console(soft_wrap=False)
    for title, columns, lines in (
        ("whorl's encodings", ["name", "arguments", "effect", "what it does", "arXiv"], known["encodings"]),
        ("scalings of rotary encodings", ["name", "arguments", "what it does", "arXiv"], known["scalings"]),
    ):
        terminal.print(filled(title, columns, lines, narrow=terminal.width < 120))
    columns = ["name", "what is asked, and of what lengths", "arguments"]
    terminal.print(filled("tasks of whorl compare", columns, map(_task, known["tasks"], known["tasks"].values())))
    terminal.print(
        said(
            "compose: ", ("rope+window:size=64", "bold"), " both effects; ", ("rope+window:size=64/nope", "bold"),
            " cycled over the layers; ", ("full_attention=nope/sliding_attention=rope", "bold"), " by layer type; ",
            ("rope~yarn:factor=4,original=2048", "bold"), " scaled",
        ),
        "*: the model's own where it is not given",
        said(
            "models: ", (", ".join(known["families"]), "bold"),
            ", by their model type, and families that look like one of them, which are proved by a forward first",
        ),
        sep="\n",
    )  # fmt: skip


def _task(name: str, row: Mapping[str, Any]) -> list[str]:
    arguments = "\n".join(f"{written}: {meaning}" for written, meaning in row["arguments"].items())
    return [name, f"{row['title']}, in {row['unit']}", arguments]


def filled(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]], narrow: bool = False) -> Table:
    """A table of these lines. narrow: the effects take a word a line, and papers stand below what is said of them, so
    that no word of the others is broken."""
    table = Table(title=title, title_justify="left")
    rows = [[cell.removeprefix("arXiv ") for cell in line] for line in lines]
    if narrow and columns[-1] == "arXiv":
        columns = [*columns[:-2], f"{columns[-2]}, arXiv"]
        rows = [[*row[:-2], "\n".join(row[-2:])] for row in rows]
    for column, *cells in zip(columns, *rows, strict=True):
        longest = max(len(word) for cell in (column, *cells) for word in cell.split())
        most = longest if narrow and column == "effect" else None
        table.add_column(column, no_wrap=column in ("name", "arXiv"), overflow="fold", max_width=most)
    for row in rows:
        table.add_row(*row)
    return table
