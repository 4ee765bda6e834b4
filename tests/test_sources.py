"""What commands are pointed at, and what they refuse in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whorl.cli import app
from whorl.diagnosis import doctor
from whorl.hosts import IMAGES
from whorl.sources import read_by, several, source

OUT = ["--out", "out"]
COMMANDS = {
    "evaluate": OUT,
    "export": OUT,
    "extend": [*OUT, "--to", "64"],
    "convert": [*OUT, "--to", "hope", "--heal", "1000"],
}
WHY = (
    "folder reads images, and this is done with models of texts; try whorl inspect folder, whorl doctor folder, whorl "
    "compare --task images"
)


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


def test_an_image_family_that_is_not_known_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "config.json").write_text('{"model_type": "swin", "image_size": 224, "patch_size": 4}')
    done = CliRunner().invoke(app, ["evaluate", "folder", *OUT])
    assert "folder reads images (a 'swin'; the families of images that whorl knows: vit, deit" in str(done.exception)
    assert "tokenizer" not in str(done.exception)


def test_a_model_of_texts_and_images_is_one_of_texts(tmp_path: Path) -> None:
    for config in ({"model_type": "llava", "text_config": {}, "image_size": 1}, {"vocab_size": 3, "image_size": 1}, {}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read_by(str(tmp_path)) == "texts"


def test_an_image_model_of_the_hub_is_told_by_its_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is a folder here: what is asked of it is one file."""
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    monkeypatch.setattr("whorl.sources.check_on_hub", lambda name: None)
    monkeypatch.setattr("whorl.sources.compat.file_of", lambda name, file, hub: str(tmp_path / file))
    with pytest.raises(ValueError, match="someone/a-vit reads images, and this is done with models of texts"):
        source("someone/a-vit")
    assert source("someone/a-vit", "images").name == "someone/a-vit"
    with pytest.raises(ValueError, match="done with models of points; give models of points alone"):
        source("someone/a-vit", "points")


def test_trials_of_one_encoding_and_seed_are_told_apart() -> None:
    trials = Path(__file__).parents[1] / "experiments" / "trials"
    first, second = sorted(p.parent for p in trials.glob("rope-s0-*/result.json"))[:2]
    assert [one.name for one in several([str(first)])] == ["rope, seed 0"]
    both = [one.name for one in several([str(first), str(second)])]
    assert both == [f"rope, seed 0 ({first.name})", f"rope, seed 0 ({second.name})"]


def test_a_tokenizer_that_is_given_is_read_in_place_of_the_models_own() -> None:
    """And counts among what is read: a run with another does not go on after it, and nothing is written over it."""
    trial = next((Path(__file__).parents[1] / "experiments" / "trials").glob("rope-s0-*"))
    own, lent = source(str(trial)), source(str(trial), tokenizer="words")
    assert lent.tokenizer_name == "words"
    assert own.tokenizer_name != "words"
    assert lent.reads == (*own.reads, "words")
    with pytest.raises(ValueError, match=r"no tokenizer at 'words'.*; try a folder that holds tokenizer.json"):
        lent.tokenizer()
    with pytest.raises(ValueError, match="no tokenizer at .*; give one"):
        own.tokenizer()


def test_a_trial_of_points_is_sent_to_what_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("whorl.sources.read_by", lambda name: "points")
    monkeypatch.setattr("whorl.diagnosis.files.read_by", lambda name: "points")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="reads points, .*; try whorl compare --task points, or in Python"):
        source(str(tmp_path))
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(ValueError, match="reads points, and the checks are of models of texts and of images"):
        doctor(str(tmp_path))
