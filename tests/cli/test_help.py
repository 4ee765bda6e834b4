"""What --help and list show: every word as it was written, at the width of any terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from whorl.cli import app, list_
from whorl.cli.helping import Command, Group

WIDE = {"COLUMNS": "400", "TERM": "dumb"}
COMMANDS = ["compare", "inspect", "evaluate", "extend", "convert", "export", "doctor", "spectrum", "list"]


def shown(*arguments: str, of: typer.Typer = app, columns: str = "400") -> str:
    done = CliRunner().invoke(of, arguments, env={"COLUMNS": columns, "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


def test_brackets_in_help_are_text_and_paragraphs_flow() -> None:
    strange = typer.Typer(cls=Group, help="Never a [tokens, tokens] matrix.", rich_markup_mode="rich")

    @strange.command(cls=Command)
    def one(
        size: Annotated[int, typer.Option(help="Of [red]each[/].", show_default="[half] of it")] = 1,
        deep: Annotated[bool, typer.Option("--deep", help="[deep] or not.")] = False,
    ) -> None:
        """Reads [batch, tokens] of it.

        A second paragraph with [bold]brackets[/]
        goes on in a new line.
        """

    @strange.command()
    def two() -> None: ...

    assert "Never a [tokens, tokens] matrix." in shown("--help", of=strange)
    assert "Reads [batch, tokens] of it." in shown("--help", of=strange)
    told = shown("one", "--help", of=strange)
    for words in (
        "Reads [batch, tokens] of it.",
        "A second paragraph with [bold]brackets[/] goes on in a new line.",
        "Of [red]each[/].",
        "[half] of it",
        "[deep] or not.",
    ):
        assert words in told


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_a_flag_has_no_type_behind_it_and_other_options_have(command: str | None) -> None:
    told = shown(*filter(None, [command, "--help"]))
    assert "bool" not in told.lower()
    assert command in (None, "list") or "<" in told


def test_every_command_is_asked() -> None:
    assert {command.name for command in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("columns", [80, 100, 120, 300])
def test_the_list_breaks_no_word(columns: int) -> None:
    known = json.loads(Path(list_.__file__).with_name("listing.json").read_text(encoding="utf-8"))
    words = set(shown("list", columns=str(columns)).replace("│", " ").split())
    for line in (*known["encodings"], *known["scalings"]):
        for cell in line:
            assert set(cell.removeprefix("arXiv ").split()) <= words
