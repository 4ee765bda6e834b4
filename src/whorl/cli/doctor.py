"""`whorl doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Annotated

import typer

from whorl.cli.extend import Tokenizer
from whorl.cli.progress import Stages
from whorl.console import console, said

if TYPE_CHECKING:
    from whorl.results.diagnosis import Diagnosis

EPILOG = """
[bold]Examples[/]

 whorl doctor path/to/model\n
 whorl doctor path/to/model --text book.txt                 which base, layout and scaling reads this text best?\n
 whorl doctor path/to/model --length 32768                  is it prepared for that many tokens?\n
 whorl doctor path/to/model --json > findings.json

Exit status 0: no check failed; 1: at least one did; 2: there was nothing to examine. A warning is no failure.
"""
COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red", "n/a": "dim", "not asked": "yellow"}


def doctor(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's directory, a .gguf file, a hub name, or a trial.")
    ],
    text: Annotated[
        str | None,
        typer.Option(help="A text that the model should read well: a file or a folder.", show_default="a short story"),
    ] = None,
    tokenizer: Tokenizer = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens that you mean to run it at.", show_default="what its config declares")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show the checks that have nothing to ask of this model, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look for what goes wrong with positions without an error.

    Reads JSON, safetensors and GGUF alone: no pickle is opened, no code of the directory is run. Nothing is written.
    """
    from whorl.diagnosis import doctor as examine

    with _progress() as advance:
        found = examine(model, text=text, tokenizer=tokenizer, length=length, advance=advance)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(found, every)
    if not found.healthy:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """What is told of each check, and of how many, before it is asked: a bar on a terminal, with the check's title,
    gone when all are answered; lines elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    terminal, asked = console(stderr=True), count()
    if not terminal.is_terminal:
        with Stages(terminal) as stages:
            update, checks = stages.stage("checks"), 0

            def begun(title: str, of: int) -> None:
                nonlocal checks
                checks = of
                update(next(asked), of)

            yield begun
            update(checks, checks)
        return
    columns = (TextColumn("{task.description:44}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda title, of: bars.update(task, description=title, completed=next(asked), total=of)


def _show(found: Diagnosis, every: bool) -> None:
    """every: with a row for each check that has nothing to ask of this model, and not a line for all of them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"whorl doctor {found.model}", title_justify="left")
    idle = [] if every else list(found.having("n/a"))
    longest = max((len(f.title) for f in found.findings if f.check not in idle), default=0)
    table.add_column("", no_wrap=True)
    table.add_column("check", width=min(longest, 40))  # half of a narrow terminal is for what was measured
    table.add_column("measured", overflow="fold")
    for f in found.findings:
        if f.check in idle:
            continue
        table.add_row(Text(f.status, COLOURS[f.status]), f.title, f.measured)
    terminal = console(soft_wrap=False)
    terminal.print(table)
    if idle:
        terminal.print(f"nothing to ask of this model: {', '.join(idle)} (--all shows them)")
    for f in found.findings:
        if f.status in ("fail", "warn"):
            terminal.print(said("\n", (f.status, COLOURS[f.status]), " ", (f.title, "bold")))
            for name, words in (("measured", f.measured), ("why", f.why), ("try", f.remedy)):
                terminal.print(f"  {name}: {words}")
    for f in found.findings:
        if f.status == "not asked":
            terminal.print(said("\n", (f.status, COLOURS[f.status]), f": {f.title}: {f.measured}"))
    counts = {status: len(found.having(status)) for status in COLOURS}
    terminal.print("\n" + ", ".join(f"{count} {status}" for status, count in counts.items() if count))
