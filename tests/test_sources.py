"""What commands are pointed at, and what they refuse in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whorl.cli import app
from whorl.hosts import IMAGES
from whorl.sources import source

OUT = ["--out", "out"]
COMMANDS = {
    "inspect": OUT,
    "evaluate": OUT,
    "export": OUT,
    "extend": [*OUT, "--to", "64"],
    "convert": [*OUT, "--to", "hope", "--heal", "1000"],
}
WHY = "folder reads images, and this is done with models of texts; try whorl doctor folder, whorl compare --task images"


@pytest.mark.parametrize("config", [*({"model_type": name} for name in IMAGES), {"pretrained_cfg": {}}], ids=str)
def test_folders_of_image_models_are_refused_with_what_takes_them(
    config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=WHY):
        source("folder")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_so_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "config.json").write_text('{"model_type": "vit"}')
    done = CliRunner().invoke(app, [command, "folder", *COMMANDS[command]])
    assert WHY in str(done.exception), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
