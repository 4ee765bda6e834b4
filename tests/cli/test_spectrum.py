"""`whorl spectrum`: its table, its facts, its figure, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from whorl.cli import spectrum

app = typer.Typer()
app.command(epilog=spectrum.EPILOG)(spectrum.spectrum)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def shown(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def pairs(output: str) -> list[list[str]]:
    """The table's rows: pair, frequency, wavelength, turns, state."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]


def fact(output: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)} {{2,}}(.+?) *$", output, flags=re.MULTILINE)
    assert found, output
    return found[1]


def test_the_table_has_every_pair() -> None:
    output = shown("rope")
    rows = pairs(output)
    assert output.startswith("rope, head dim 128, L = 4,096 tokens")
    assert [row[0] for row in rows] == [str(i) for i in range(64)]
    assert rows[0] == ["0", "1", "6.3", "651.90", "turns fully"]
    assert rows[45] == ["45", "0.00153993", "4,080.2", "1.00", "turns fully"]
    assert rows[46] == ["46", "0.00133352", "4,711.7", "0.87", "never turns fully in L"]
    assert {row[4] for row in rows[:46]} == {"turns fully"}
    assert {row[4] for row in rows[46:]} == {"never turns fully in L"}


def test_the_facts_are_those_of_theory() -> None:
    output = shown("rope")
    assert fact(output, "turn fully in 4,096 tokens") == "46 of 64 pairs"
    assert fact(output, "turn, and never fully") == "18 of 64 pairs: 46-63"
    assert fact(output, "do not rotate") == "0 of 64 pairs"
    assert fact(output, "largest context by B(m)") == "1,707 tokens: the first m with B(m) < 0"
    assert fact(output, "distances below L with B(m) < 0") == "419 of 4,096"
    assert fact(output, "HoPE for 4,096 tokens") == "K = 46 of 64 pairs; p-rope:p=0.71875"
    assert fact(output, "critical dimension") == "92 of 128 channels"
    assert fact(output, "extrapolation bound") == "4,096 tokens, trained with base 10000"


def test_a_base_and_a_length_are_taken() -> None:
    output = shown("rope", "--base", "1e6")
    assert output.startswith("rope:base=1000000, head dim 128")
    assert fact(output, "largest context by B(m)").startswith("27,115 tokens")
    assert fact(output, "extrapolation bound") == (
        "4,096 tokens, trained with base 1000000; 129,027 tokens, trained with base 10000 and tuned with 1000000"
    )
    assert shown("rope:base=1e6") == output
    assert fact(shown("rope", "--base", "5e5", "--train-length", "8192"), "critical dimension") == "70 of 128 channels"


def test_pairs_that_stand_still_are_shown_so() -> None:
    output = shown("hope", "--head-dim", "64", "--train-length", "1024")
    rows = pairs(output)
    assert output.startswith("hope:train_length=1024, head dim 64")
    assert [row[4] for row in rows] == ["turns fully"] * 18 + ["does not rotate"] * 14
    assert rows[18] == ["18", "0", "-", "0", "does not rotate"]
    assert fact(output, "turn, and never fully") == "none"
    assert fact(output, "largest context by B(m)") == "no B(m) < 0 up to m = 1,048,576"
    assert fact(output, "extrapolation bound") == "none: no pair is out of range"
    # HoPE's own length stays, and L is what the model is trained at
    assert fact(shown("hope:train_length=8192"), "turn, and never fully") == "4 of 64 pairs: 46-49"
    assert fact(shown("hope+window:size=64"), "do not rotate") == "18 of 64 pairs"


def test_channels_in_no_pair_are_counted() -> None:
    output = shown("partial-rope:fraction=0.5+window:size=64")
    assert len(pairs(output)) == 32
    assert fact(output, "do not rotate") == "0 of 64 pairs, and 64 channels in no pair"
    assert fact(output, "critical dimension") == "46 of 64 channels"


def test_a_list_of_frequencies_has_no_base() -> None:
    output = shown("frequencies:values=1e-3@0@0.9@1e-4", "--head-dim", "16")
    assert fact(output, "turn, and never fully") == "2 of 8 pairs: 0, 3"
    assert fact(output, "HoPE, critical dimension").startswith("follow from a base")
    assert "extrapolation" not in output


@pytest.mark.parametrize("encoding", ["rope", "hope", "partial-rope:fraction=0.5", "partial-rope:fraction=0"])
def test_the_figure_is_drawn(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "spectrum.png"
    assert f"drawn: {path}" in shown(encoding, "--train-length", "512", "--figure", str(path)).replace("\n", "")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


REFUSED = [
    (["alibi"], "alibi turns nothing and has no spectrum; try rope, hope or p-rope:p=0.5"),
    (["hoppe"], "unknown encoding 'hoppe'; did you mean 'hope'?"),
    (["rope+window:size=32/nope"], "differs by layer; ask for one of its encodings: rope+window:size=32"),
    (["rope:base=5e5", "--base", "1e4"], "the base stands in 'rope:base=5e5' and in --base 10000; give it once"),
    (["frequencies:values=1", "--base", "1e4"], "--base 10000 was given, and frequencies has no base; leave it out"),
    (["rope", "--base", "0.5"], "base must be a finite number above 1, got 0.5"),
    (["rope", "--head-dim", "15"], "even head dim of at least 2, got 15"),
    (["rope", "--train-length", "0"], "train-length must be a whole number from 1 to 2,147,483,648 (tokens), got 0"),
    (["axial-rope", "--figure", "a.png"], "--figure draws what goes by one axis, of tokens, and axial-rope goes by"),
    (["rope", "--figure", "a.svg"], "--figure draws a PNG, got 'a.svg'; try a.png"),
    (["rope", "--figure", ""], "--figure draws a PNG, got '.'; try spectrum.png"),
    (["rope", "--figure", "no/such/a.png"], "cannot write the figure"),
]


def test_an_encoding_of_images_counts_patches_along_each_side() -> None:
    output = shown("hope-2d:grid=14@40", "--head-dim", "16")
    assert output.startswith("hope-2d:grid=14@40, head dim 16, trained on 14 x 40 patches")
    assert "token" not in output
    assert [row[:6] for row in pairs(output)] == [
        ["0", "columns", "1", "6.3", "6.4", "turns fully"],
        ["1", "columns", "0.316228", "19.9", "2", "turns fully"],
        *([i, "columns", "0", "-", "0", "does not rotate"] for i in "23"),
        ["4", "rows", "1", "6.3", "2.2", "turns fully"],
        *([i, "rows", "0", "-", "0", "does not rotate"] for i in "567"),
    ]
    assert fact(output, "turn fully in the grid") == "3 of 8 pairs"
    assert fact(output, "do not rotate") == "5 of 8 pairs"
    plain = shown("axial-rope", "--head-dim", "16")
    assert fact(plain, "turn, and never fully") == "6 of 8 pairs"
    assert pairs(shown("axial-rope:scale=14@14", "--head-dim", "16")) == pairs(plain), "shares of the sides it names"
    assert " 14 x 20 patches" in shown("axial-rope:scale=14@20", "--head-dim", "16")
    # Of an image that goes from -1 to 1 a pair of wavelength 1 turns twice, whatever its patches.
    assert pairs(shown("dinov3-rope", "--head-dim", "16"))[0][3:5] == ["7.0", "2"]


@pytest.mark.parametrize("name", ["mixed-rope", "darope", "selective-rope", "repo", "grape-m"])
def test_angles_that_no_list_of_frequencies_tells_are_refused_in_words(name: str) -> None:
    error = run(name).exception
    assert isinstance(error, ValueError)
    assert "has no list of frequencies to show" in str(error)


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_is_refused_before_anything_is_printed(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)
    assert result.output == ""


def test_help_shows_real_commands() -> None:
    assert "whorl spectrum hope --head-dim 64 --train-length 1024" in shown("--help")
