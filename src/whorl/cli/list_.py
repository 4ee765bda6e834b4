"""`whorl list`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from whorl.console import console, said
from whorl.pages import kept
from whorl.registry import closest

EPILOG = """
[bold]Examples[/]

 whorl list                                                 everything, a line each\n
 whorl list hope                                            what it does, formula, arguments, what it goes with\n
 whorl list yarn recall                                     a scaling, a task\n
 whorl list rope~yarn:factor=4+fox                          what it is made of: rope, yarn and fox
"""
ASK = "`whorl list NAME` says more of one: its arguments, formula, paper, what it goes with"


def list_encodings(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Encodings, scalings, tasks or model families.", show_default=False),
    ] = None,
) -> None:
    """List the encodings, scalings, tasks and models, or show what one of them is.

    One is written name:key=value,key=value (p-rope:p=0.5); both effects as A+B (rope+window:size=64).

    Over the layers in turn: A/B (rope+window:size=64/nope); by layer type: TYPE=A/TYPE=B.

    A rotary encoding, scaled: A~SCALING (rope~yarn:factor=4,original=2048).

    An argument with a * is the model's own where it is not given; its default is of comparisons from scratch.
    """
    known = json.loads(Path(__file__).with_name("listing.json").read_text(encoding="utf-8"))
    terminal = console(soft_wrap=False)
    if names:
        parts = dict.fromkeys(part for name in names for part in _parts(name))
        shown = [(name, _of(known, name)) for name in parts]  # all of them are looked up before any is shown
        for name in names:
            _check(known, name)
        for name, kinds in shown:
            for kind in kinds:
                _SHOWN[kind](terminal, known, name)
    else:
        _overview(terminal, known)


def _parts(name: str) -> list[str]:
    """The names in a notation (rope~yarn:factor=4+fox: rope, yarn and fox); a name as it is."""
    found = [re.sub(r"^\w+=|:.*", "", part) for part in re.split(r" then |/|(?<!\de)\+|~", name)]
    return [part for part in found if part] if len(found) > 1 or ":" in name else [name]


def _check(known: Mapping[str, Any], name: str) -> None:
    """Raises ValueError for a notation of encodings that has an unknown argument, or does not go together."""
    first = _parts(name)[0]
    if first != name and "encodings" in _of(known, first):
        from whorl.comparison.planning import written

        written(name)


def _of(known: Mapping[str, Any], name: str) -> list[str]:
    """The kinds of thing that have this name. Raises ValueError, with what may have been meant, for none."""
    every = {kind: [row[0] for row in known[kind]] for kind in ("encodings", "scalings")}
    every |= {kind: list(known[kind]) for kind in ("tasks", "families", "multimodal", "images", "towers", "timm")}
    found = [kind for kind, names in every.items() if name in names]
    if not found:
        likest = closest(name.partition(":")[0], [n for names in every.values() for n in names])
        hint = f"did you mean {likest!r}?" if likest else "`whorl list` names them all"
        raise ValueError(f"there is no encoding, scaling, task or model family {name!r}; {hint}")
    return found


def _overview(terminal: Console, known: Mapping[str, Any]) -> None:
    lines: dict[str, list[tuple[str, str]]] = {}
    for name, _, effect, title, _ in known["encodings"]:
        lines.setdefault(effect.partition(",")[0], []).append((name, title))
    tasks = [(name, row["title"]) for name, row in known["tasks"].items()]
    wide = max(len(name) for rows in lines.values() for name, _ in rows)
    for effect, rows in lines.items():
        _lines(terminal, f"encodings: {effect}", rows, wide)
    _lines(terminal, "scalings of rotary encodings", [(name, title) for name, _, title, _ in known["scalings"]], wide)
    _lines(terminal, "tasks of whorl compare", tasks, wide)
    terminal.print(
        said(
            "\ncompose: ", ("rope+window:size=64", "bold"), " both effects; ", ("rope+window:size=64/nope", "bold"),
            " cycled over the layers; ", ("full_attention=nope/sliding_attention=rope", "bold"), " by layer type; ",
            ("rope~yarn:factor=4,original=2048", "bold"), " scaled",
        ),
        said("\n", (ASK, "bold")),
        said(
            "\nmodels: ", (", ".join(known["families"]), "bold"),
            ", by their model type, and families that look like one of them, which are proved by a forward first",
        ),
        said(
            "of texts and images: ",
            (", ".join(name for name in known["multimodal"] if not name.endswith("_text")), "bold"),
            " (M-RoPE)",
        ),
        said("towers: ", (", ".join(name.removesuffix("_vision") for name in known["towers"]), "bold")),
        said("of images: ", (", ".join(known["images"]), "bold"), ", for encodings of a grid (axial-rope, ...)"),
        said("of timm: ", (", ".join(known["timm"]), "bold"), ", and classes that derive from them, for the same"),
        sep="\n",
    )  # fmt: skip


def _lines(terminal: Console, heading: str, rows: Iterable[tuple[str, str]], wide: int) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=wide, style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    terminal.print(said(("\n" + heading, "dim")), Padding(table, (0, 0, 0, 1)))


def _encoding(terminal: Console, known: Mapping[str, Any], name: str) -> None:
    """Its page; of one that has none, what the registry says."""
    page = kept().get(name)
    if page is None:
        (row,) = (row for row in known["encodings"] if row[0] == name)
        terminal.print(said("\n", (name, "bold"), f": {row[3]} ({row[4]})"))
        if row[1]:
            terminal.print(f"arguments: {row[1]}")
        return
    terminal.print(said("\n", (name, "bold"), f": {_plain(page['does'])}\n"), f"{page['cited']}\n", sep="\n")
    if page["formula"]:
        terminal.print(Padding(Text(_flowing(page["formula"]), "cyan"), (0, 0, 1, 4)))
    rows = [(argument, default, _plain(meaning)) for argument, default, meaning in page["arguments"]]
    _table(terminal, ["argument", "default", "meaning"], rows)
    labels = ["past the training length", *[""] * len(page["measured"])]
    facts = [*page["facts"], *zip(labels, page["measured"], strict=False)]
    _table(terminal, [], [(label, _plain(text)) for label, text in facts])
    if page["notes"]:
        terminal.print(f"{page['notes']}\n")
    terminal.print(*filter(None, (page["command"], page["python"])), sep="\n", style="bold")
    terminal.print(f"with its figure: docs/encodings/{name}.md")


def _scaling(terminal: Console, known: Mapping[str, Any], name: str) -> None:
    (row,) = (row for row in known["scalings"] if row[0] == name)
    terminal.print(said("\n", (name, "bold"), f", a scaling of rotary encodings: {row[2]} ({row[3]})"))
    first = re.match(r"\w+", row[1])
    example = f"rope~{name}" + (f":{first[0]}=..." if first else "")
    terminal.print(f"arguments: {row[1] or 'none'}", f"written after a rotary encoding and a ~: {example}", sep="\n")


def _task(terminal: Console, known: Mapping[str, Any], name: str) -> None:
    row = known["tasks"][name]
    terminal.print(said("\n", (name, "bold"), f", a task of whorl compare: {row['title']}"))
    terminal.print(f"lengths are in {row['unit']}")
    _table(terminal, ["argument", "meaning"], list(row["arguments"].items()))
    if row["options"]:
        terminal.print(f"options of whorl compare that it reads: {', '.join(row['options'])}")
    terminal.print(f"whorl compare {' '.join(row['encodings'])} --task {name} --out runs/{name}", style="bold")
    terminal.print("how it is made and graded: docs/tasks.md")


def _family(terminal: Console, known: Mapping[str, Any], name: str) -> None:
    terminal.print(said("\n", (name, "bold"), ", a model type: what it takes is in docs/families.md"))


def _images(terminal: Console, known: Mapping[str, Any], name: str) -> None:
    where = "a class of timm's" if name in known["timm"] else "a model type of transformers"
    page = "docs/families.md" if name in known["images"] else "docs/images.md"
    terminal.print(said("\n", (name, "bold"), f", {where}, of images: what it takes is in {page}"))


_SHOWN = {
    "encodings": _encoding, "scalings": _scaling, "tasks": _task, "families": _family, "multimodal": _family,
    "images": _images, "towers": _images, "timm": _images,
}  # fmt: skip


def _plain(text: str) -> str:
    """Markdown without quotes and links, and without what is in brackets to be a link."""
    return re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", re.sub(r" \(\[[^]]+\]\([^)]*\)\)", "", text)).replace("`", "")


def _flowing(text: str) -> str:
    """The same, with paragraphs of long lines in one line each, for the terminal to wrap; formulas stay as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        prose = all(len(line) > 80 and line[0] != " " for line in lines[:-1])
        paragraphs.append(" ".join(lines) if prose else paragraph)
    return "\n\n".join(paragraphs)


def _table(terminal: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Lines under these headings, if any; nothing where there are no lines."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(columns), header_style="dim")
    for column in columns or [""] * len(rows[0]):
        table.add_column(column, overflow="fold", no_wrap=False)
    table.columns[0].no_wrap, table.columns[0].style = len(rows[0][0]) < 30, "bold"
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    terminal.print(table, "")
