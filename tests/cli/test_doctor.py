"""`whorl doctor`: its words, its JSON and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import whorl
from whorl.diagnosis import CHECKS, IMAGE_CHECKS
from whorl.testing import tiny_image_model, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path)
    return tmp_path


def run(*arguments: str) -> Any:
    import typer
    from typer.testing import CliRunner

    from whorl.cli.doctor import doctor as command

    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def test_the_command(folder: Path) -> None:
    done = run(str(folder))
    assert done.exit_code == 0, done.output
    assert "Cached decoding equals a full forward" in done.output
    checks = [line for line in done.stderr.splitlines() if line.startswith("checks")]  # where there is no terminal
    assert checks[0].startswith(f"checks: 1 of {len(CHECKS)}, ")
    assert checks[-1].startswith(f"checks: {len(CHECKS)} of {len(CHECKS)}, ")
    done = run(str(folder), "--length", "100")
    assert done.exit_code == 1
    assert "asked for 100 tokens, and the config declares 64" in " ".join(done.output.split())
    assert "why:" in done.output
    done = run(str(folder), "--length", "100", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [f["check"] for f in found["findings"] if f["status"] == "fail"] == ["length"]
    assert not found["healthy"]


def test_an_image_model_has_checks_of_its_own(tmp_path: Path) -> None:
    tiny_image_model("vit").save_pretrained(tmp_path)
    done = run(str(tmp_path))
    assert done.exit_code == 0, done.output
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"checks: {len(IMAGE_CHECKS)} of {len(IMAGE_CHECKS)}, ")


def test_what_was_measured_has_room_in_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    whorl.attach(tiny_image_model("vit"), "axial-rope").save_pretrained(tmp_path)
    lines = run(str(tmp_path)).output.splitlines()
    assert any("up to 1 radians from patch" in line for line in lines), "of the check with the longest title"
    assert max(map(len, lines[-4:])) <= 80


def test_checks_with_nothing_to_ask_are_one_line_until_they_are_asked_for(folder: Path) -> None:
    few, every = (run(str(folder), *arguments) for arguments in ([], ["--all"]))
    idle = [f["check"] for f in json.loads(run(str(folder), "--json").stdout)["findings"] if f["status"] == "n/a"]
    assert len(idle) > 5
    told = " ".join(few.output.split())
    assert f"nothing to ask of this model: {chr(44).join(idle)} (--all shows them)".replace(",", ", ") in told
    assert few.output.count("n/a") == 1, "their number, at the end"
    assert every.output.count("n/a") >= len(idle)
    assert "nothing to ask of this model" not in every.output


def test_the_command_with_a_text(shared: Path, folder: Path) -> None:
    text = str(shared / "fixtures" / "text" / "tinystories_sample.txt")
    done = run(str(shared / "fixtures" / "babyllama-tok105"), "--text", text, "--json")
    assert done.exit_code == 0
    layout = next(f for f in json.loads(done.stdout)["findings"] if f["check"] == "layout")
    assert layout["status"] == "pass"
    with pytest.raises(ValueError, match="text needs the model's own tokenizer"):
        raise run(str(folder), "--text", text).exception


def test_nothing_to_examine_is_one_line_and_status_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unittest.mock import patch

    from whorl.cli import main

    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    with patch("sys.argv", ["whorl", "doctor", str(folder)]), pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "cannot read" in said[0]
