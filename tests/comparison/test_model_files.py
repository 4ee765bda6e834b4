"""A model that is a file of its user's: a trial is of what it held when it was trained, whatever it holds later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig

import whorl
from whorl.comparison.display import Silent
from whorl.comparison.failing import TrialsFailed
from whorl.comparison.orders import Order
from whorl.comparison.planning import plan_trials
from whorl.comparison.running import Runner, fingerprint
from whorl.results.comparison import Comparison
from whorl.testing import tiny_model
from whorl.training import models
from whorl.training.models import model_files
from whorl.training.settings import Settings
from whorl.training.trials import load_trial, read_result

COPY: dict[str, Any] = {"task": "copy", "train_length": 16}
IMAGES = {"task": "images:patch=8", "train_length": 40, "windows": 34}
POINTS = {"task": "points", "train_length": 16, "windows": 12}
SHORT = {"tokens": 128, "batch_size": 2, "learning_rate": 1e-3, "precision": "fp32", "lengths": ("1x",)}


def llama(place: Path) -> Path:
    tiny_model("llama").config.save_pretrained(place)
    return place / "config.json"


def checkpoint(place: Path) -> Path:
    tiny_model("llama").save_pretrained(place)
    return place


def vit(place: Path) -> Path:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ViTConfig(**sizes, patch_size=8).save_pretrained(place)
    return place / "config.json"


def points(place: Path) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"width": 16, "layers": 2, "heads": 2}))
    return place / "config.json"


Made = Callable[[Path], Path]
KINDS: dict[str, tuple[Made, dict[str, Any], str, Any]] = {
    "config": (llama, COPY, "rms_norm_eps", 0.1),
    "checkpoint": (checkpoint, COPY, "rms_norm_eps", 0.1),
    "image model": (vit, IMAGES, "num_attention_heads", 1),
    "point transformer": (points, POINTS, "heads", 1),
}


def edit(path: Path, key: str, value: Any) -> None:
    config = path / "config.json" if path.is_dir() else path
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))


def sizes_of(folder: Path) -> dict[str, Any]:
    """What the trained model is, but for the path that it came from."""
    model = load_trial(folder)
    return (getattr(model, "sizes", None) or model.config).to_dict() | {"_name_or_path": None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_is_of_the_model_that_was_trained(kind: str, tmp_path: Path) -> None:
    """Its parameters fit the edited one too, which computes something else."""
    make, task, key, value = KINDS[kind]
    path = make(tmp_path / "model")

    def compare() -> Comparison:
        return whorl.compare(["nope"], out=tmp_path / "out", model=str(path), quiet=True, **task, **SHORT)

    first = compare().trials[0].id
    folder = tmp_path / "out" / "trials" / first
    trained = sizes_of(folder)
    edit(path, key, value)
    assert sizes_of(folder) == trained
    (other,) = compare().trials
    assert other.id != first, "the model is another"
    assert sizes_of(folder.with_name(other.id))[key] == value
    shutil.rmtree(tmp_path / "model")
    assert sizes_of(folder) == trained
    make(tmp_path / "model")
    assert [trial.id for trial in compare().trials] == [first], "found finished"


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    chosen = Settings(model=str(checkpoint(tmp_path / "model")), **COPY)
    before = model_files(chosen)
    assert before == model_files(chosen)
    model = tiny_model("llama")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path / "model")
    after = model_files(chosen)
    assert after.config == before.config
    assert after.weights != before.weights
    task = chosen.make_task()
    assert len({fingerprint(task, files) for files in (None, before, after)}) == 3


def test_weights_that_change_while_a_comparison_runs_are_not_trained_as_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second trial began with the new weights, under the name of the old ones."""
    path = checkpoint(tmp_path / "model")
    make, built = models.build, []

    def build(*args: Any, **how: Any) -> Any:
        if built:
            model = tiny_model("llama")
            with torch.no_grad():
                next(model.parameters()).add_(1)
            model.save_pretrained(path)
        built.append(1)
        return make(*args, **how)

    monkeypatch.setattr("whorl.comparison.running.build", build)
    with pytest.raises(TrialsFailed) as failed:
        whorl.compare(["nope", "alibi"], out=tmp_path / "out", model=str(path), quiet=True, **COPY, **SHORT)
    (failure,) = failed.value.failures
    assert failure.notation == "alibi"
    assert "model holds other weights than when this comparison began" in failure.error


def test_a_model_that_is_another_where_a_trial_is_to_be_run_is_refused(tmp_path: Path) -> None:
    chosen = Settings(model=str(llama(tmp_path / "model")), **COPY, **SHORT).resolve()
    task, files = chosen.make_task(), model_files(chosen)
    data = fingerprint(task, files)
    (trial,) = plan_trials(["rope"], [0], chosen, data)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(json.dumps(chosen.to_dict()))
    order = Order.of(Runner(tmp_path / "out", task, data, 0, files), trial)
    edit(tmp_path / "model" / "config.json", "rms_norm_eps", 0.1)
    ended = order.carry_out()
    assert ended.how == "broken"
    assert "its text, its model, or the version" in ended.words


def test_what_is_left_out_is_said_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = llama(tmp_path / "model")
    how = {"out": tmp_path / "out", "model": str(path), **COPY, **SHORT}
    (first,) = whorl.compare(["nope"], quiet=True, **how).trials
    edit(path, "rms_norm_eps", 0.1)
    whorl.compare(["nope"], **how)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f"{first.id} is left out: of other data") == 1
    assert said.index("is left out") < said.index("done ")


def test_a_trial_that_runs_goes_on_with_the_model_that_it_began_with(tmp_path: Path) -> None:
    path = llama(tmp_path / "model")
    chosen = Settings(model=str(path), **COPY, **SHORT).resolve()
    task, files = chosen.make_task(), model_files(chosen)
    (trial,) = plan_trials(["rope"], [0], chosen, fingerprint(task, files))
    edit(path, "num_hidden_layers", 1)
    runner = Runner(tmp_path / "out", task, fingerprint(task, files), 0, files)
    runner.run(trial, Silent())
    assert runner.result(trial).model == files
    assert load_trial(runner.place(trial)).config.num_hidden_layers == 3


def test_a_trial_of_an_earlier_version_is_read_from_the_path(tmp_path: Path) -> None:
    whorl.compare(["rope"], out=tmp_path / "out", model=str(llama(tmp_path / "model")), quiet=True, **COPY, **SHORT)
    (result,) = (tmp_path / "out").glob("trials/*/result.json")
    told = json.loads(result.read_text())
    del told["model"]
    result.write_text(json.dumps(told))
    assert read_result(result).model is None
    assert load_trial(result.parent).config.num_hidden_layers == 3
