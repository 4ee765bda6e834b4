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
from whorl.pages import kept

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
    for name, _, _, title, _ in known["encodings"]:
        assert {name, *title.split()} <= words
    for name, _, title, _ in known["scalings"]:
        assert {name, *title.split()} <= words


def test_the_list_has_two_lines_at_most_for_each() -> None:
    known = json.loads(Path(list_.__file__).with_name("listing.json").read_text(encoding="utf-8"))
    each = sum(len(known[kind]) for kind in ("encodings", "scalings", "tasks"))
    assert len(shown("list", columns="80").splitlines()) < 2 * each


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_shows_one_of_them_as_its_page_does(columns: int) -> None:
    words = shown("list", "hope", columns=str(columns)).replace("`", "").split()
    page = kept()["hope"]
    for text in (page["does"], page["cited"], page["formula"], *(cell for row in page["arguments"] for cell in row)):
        assert set(text.replace("`", "").split()) <= set(words)
    told = " ".join(words)
    assert "In a sum with all but others that rotate q and k; by layer (hope/nope)." in told
    assert "35 of 35 decoder families and 2 of 2 encoders. Saved in stock terms on 33" in told
    assert "from the start or by healing: attached to one" in told
    assert 'whorl compare rope hope --out runs/hope whorl.attach(model, "hope")' in told


def test_the_list_shows_scalings_tasks_and_families_by_name() -> None:
    assert "a scaling of rotary encodings: NTK by parts" in " ".join(shown("list", "yarn").split())
    assert "pairs=4 pairs at the training length" in " ".join(shown("list", "mqar").split())
    both = " ".join(shown("list", "linear", "llama").split())
    assert "Takes the place of the softmax" in both
    assert "position interpolation" in both
    assert "llama, a model type" in both
    assert "qwen3_vl, a model type: what it takes is in docs/families.md" in " ".join(shown("list", "qwen3_vl").split())
    assert "vit, a model type of transformers, of images: what it takes is in docs/families.md" in " ".join(
        shown("list", "vit").split()
    )
    assert "qwen2_vl_vision, a model type of transformers, of images: what it takes is in docs/images.md" in " ".join(
        shown("list", "qwen2_vl_vision").split()
    )
    assert "Eva, a class of timm's, of images: what it takes is in docs/images.md" in " ".join(
        shown("list", "Eva").split()
    )


def test_encodings_of_images_and_points_say_which_commands_take_them() -> None:
    assert "compare --task images, inspect and doctor of image models; none of those that read text" in " ".join(
        shown("list", "lookhere").split()
    ).replace("Compare", "compare")
    assert "whorl compare axial-rope lookhere --task images" in shown("list", "lookhere")
    assert "compare --task points" in " ".join(shown("list", "spe").split())
    assert "compare --task images" in " ".join(shown("list", "irpe").split())


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("rope+fox", ["rope", "fox"]),
        ("rope~yarn:factor=4+fox/nope", ["rope", "yarn", "fox", "nope"]),
        ("full_attention=nope/sliding_attention=hope:base=5e+2+window:size=24", ["nope", "hope", "window"]),
        ("rope then rope~yarn:factor=4", ["rope", "rope", "yarn"]),
        ("rope", ["rope"]),
    ],
)
def test_a_notation_is_listed_by_what_it_is_made_of(asked: str, names: list[str]) -> None:
    assert list_._parts(asked) == names
    told = shown("list", asked)
    assert all(told.count(shown("list", name).strip()) == 1 for name in names)


def test_a_name_that_is_none_is_refused_before_any_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="there is no encoding, scaling, task or model family 'hpe'; did you mean 'ho"):
        list_.list_encodings(["rope", "hpe"])
    assert not capsys.readouterr().out
