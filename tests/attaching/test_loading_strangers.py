"""Checkpoints of strangers: what cannot be read is one ValueError with the reason, and no code of theirs runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import whorl
from whorl.attaching.loading import configuration
from whorl.sources import source
from whorl.testing import tiny_model
from whorl.training.models import build_model
from whorl.training.settings import Settings


def as_load(folder: Path) -> None:
    whorl.load(folder)


def as_source(folder: Path) -> None:
    """As inspect, extend, convert and export read a model."""
    source(str(folder)).model()


def as_streamed(folder: Path) -> None:
    source(str(folder)).model(stream_layers=True)


def as_compare(folder: Path) -> None:
    build_model(Settings(model=str(folder)), vocab_size=97, eos_token_id=2)


def as_whole_numbers(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = {name: (100 * weight).to(torch.int8) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def config(**entries: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def with_code(folder: Path) -> None:
    """A model type that only code in the folder knows; running it leaves a trace."""
    (folder / "theirs.py").write_text(
        "from pathlib import Path\n(Path(__file__).parent / 'ran').touch()\nPath('RAN').touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class C(LlamaConfig): model_type = 'theirs'\nclass M(LlamaForCausalLM): config_class = C\n"
    )
    config(model_type="theirs", auto_map={"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"})(folder)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "half of the weights": (lambda f: os.truncate(f / "model.safetensors", 20000), "."),
    "no weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "."),
    "weights that are pickled": (pickled, "its weights are pickled"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "."),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "."),
    "a string for the base": (config(rope_parameters={"rope_type": "default", "rope_theta": "ten"}), "."),
    "an unknown rope_type": (config(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}), "spiral"),
    "another shape": (config(hidden_size=32, head_dim=8), r"\[\d+, 64\]"),
    "whole numbers": (as_whole_numbers, "are whole numbers, and its config says no quantization: .*I8"),
    "a negative size": (config(intermediate_size=-5), "."),
    "an unknown model type": (config(model_type="mystery"), "mystery"),
    "code of its own": (with_code, r"needs code that comes with it.*trust_remote_code=True"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("sound")
    tiny_model("llama").save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(sound: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound checkpoint to spoil, in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in sound.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("load", [as_load, as_source, as_streamed, as_compare])
@pytest.mark.parametrize(("spoil", "words"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_is_one_error(
    load: Callable[[Path], None],
    spoil: Callable[[Path], object],
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    spoil(folder)
    with pytest.raises(ValueError, match=words) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert len(str(error.value)) < 1000
    assert not list(tmp_path.rglob("[rR][aA][nN]"))


def test_code_runs_where_it_is_asked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_code(folder)
    assert whorl.load(folder, trust_remote_code=True).config.model_type == "theirs"


def test_a_name_that_is_no_folder_is_asked_for_before_it_is_loaded(monkeypatch, caplog) -> None:
    from whorl.attaching import loading

    monkeypatch.setattr(loading.compat, "file_of", lambda *_: pytest.fail("stock code asks for a minute"))
    with pytest.raises(ValueError, match="there is no folder nosuchname here, and the hub cannot be asked"):
        whorl.load("nosuchname")
    assert "there is no folder nosuchname here; the hub is asked" in caplog.text


def test_a_config_by_its_path_that_is_damaged_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama",')
    for where in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(ValueError, match="is not a valid JSON file"):
            configuration(where)


def test_a_folder_without_a_config_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"it holds no config\.json: it is no model$"):
        whorl.load(tmp_path)
