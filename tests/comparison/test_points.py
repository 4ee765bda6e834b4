"""A comparison on clouds of points, from its settings to its report, with a model that has no tokens."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from whorl.comparison import TrialsFailed, load_trial
from whorl.points import PointTransformer
from whorl.training import trainer

from .small_runs import BATCH, STEPS

POINTS = 16
SPE = "spe:radius=0.5,neighbours=6"


@pytest.fixture
def chosen(tmp_path: Path) -> dict[str, Any]:
    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps({"width": 16, "layers": 2, "heads": 2}))
    return {
        "task": "points:turned=z", "model": str(sizes), "train_length": POINTS, "lengths": ("0.5x", "1x", "2x"),
        "tokens": STEPS * BATCH * POINTS, "batch_size": BATCH, "windows": 12, "precision": "fp32", "quiet": True,
        "learning_rate": 2e-3,
    }  # fmt: skip


def test_clouds_are_compared_to_the_report(chosen: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = whorl.compare([SPE, "euclidean-alibi:unit=0.1", "nope"], out=out, **chosen)
    assert results.config.data.task == "points"
    assert len(results.trials) == 3
    assert (results.near("points"), results.far("points")) == ([POINTS], [POINTS // 2, 2 * POINTS]), "thinner, denser"
    row = results.trials[0].row("points", POINTS)
    assert row is not None
    assert list(row.values) == ["accuracy", "upright", "about_z", "all_turns", "moved", "hands"]
    assert row.values["accuracy"] == row.values["about_z"]
    blind = results.trials[2].row("points", POINTS)
    assert blind is not None
    assert set(blind.values.values()) == {1 / 12, 0.5}, "without an encoding all clouds are one"
    report = (out / "report.md").read_text()
    for said in (
        "Three positional encodings at other densities than in training",
        "Solids from points (points:turned=z), trained at 16 points",
        "No encoding learnt the points task in range (at least 75 % of the clouds right at 16, on any seed)",
        "so nothing here about clouds of other densities means anything",
        " points a trial · Seeds: 0",
        "| encoding | seeds | points | final loss | points per second | time |",
        "Trained and tested in other turns, at 16 points",
        "| encoding | accuracy | upright | turned about z | turned anyhow | moved | hands |",
        "| guessing | 8.3 % | 8.3 % | 8.3 % | 8.3 % | 8.3 % | 50.0 % |",
        "Turned anyhow by length in points",
    ):
        assert said in report, said
    model = load_trial(out / "trials" / results.trials[0].id)
    assert isinstance(model, PointTransformer)
    assert str(whorl.encoding_of(model)) == SPE
    task = results.trials[0].evaluations["points"]
    again = whorl.compare([SPE], out=tmp_path / "twin", **chosen)
    assert again.trials[0].evaluations["points"] == task, "the same by the seed"


def test_without_encodings_the_task_says_which(chosen: dict[str, Any], tmp_path: Path) -> None:
    found = whorl.compare(out=tmp_path / "out", only="report", **chosen)
    assert found.config.trials_planned == 3


@pytest.mark.full
def test_a_training_that_was_stopped_goes_on(
    chosen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whorl.compare([SPE], out=tmp_path / "whole", **chosen).trials[0]
    monkeypatch.setattr(trainer, "MIN_STEPS", 5)
    saved = trainer.complete

    def stops(folder: Path, step: int, seconds: float, *more: Any) -> None:
        saved(folder, step, seconds, *more)
        if step == 5:
            raise RuntimeError("stopped")

    with monkeypatch.context() as once:
        once.setattr(trainer, "complete", stops)
        with pytest.raises(TrialsFailed, match="stopped"):
            whorl.compare([SPE], out=tmp_path / "out", **chosen)
    steps: list[int] = []
    item = PointTransformer.forward

    @functools.wraps(item)
    def counted(self: PointTransformer, *args: Any, **how: Any) -> Any:
        steps.extend([1] if self.training else [])
        return item(self, *args, **how)

    monkeypatch.setattr(PointTransformer, "forward", counted)
    parts = whorl.compare([SPE], out=tmp_path / "out", **chosen).trials[0]
    assert len(steps) == STEPS - 5
    assert parts.evaluations == whole.evaluations
    assert parts.train.losses == whole.train.losses


def test_what_is_no_point_transformer_is_refused(chosen: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trains whorl's own point transformer, and '.*' is no config of one"):
        whorl.compare([SPE], out=tmp_path / "out", **{**chosen, "model": str(tmp_path)})
    (tmp_path / "other.json").write_text('{"widht": 3}')
    with pytest.raises(ValueError, match="'widht'"):
        whorl.compare([SPE], out=tmp_path / "out", **{**chosen, "model": str(tmp_path / "other.json")})
    with pytest.raises(ValueError, match="a position in PointTransformer has 3"):
        whorl.compare(["rope"], out=tmp_path / "out", **chosen)
    assert not (tmp_path / "out").exists()


def test_a_preset_is_halved(chosen: dict[str, Any]) -> None:
    from whorl.training.models import build_model
    from whorl.training.settings import Settings

    with torch.device("meta"):
        model = build_model(Settings(task="points"), 12, 0)
    sizes = model.sizes
    assert (sizes.classes, sizes.width, sizes.layers, sizes.heads) == (12, 64, 2, 4)


def test_where_no_clouds_wind_their_hands_are_not_asked_for(chosen: dict[str, Any], tmp_path: Path) -> None:
    """Solids come in order, and the two that wind are the last: of two clouds there is no share, and none diverged."""
    results = whorl.compare(["nope"], out=tmp_path / "out", **chosen | {"windows": 2})
    row = results.trials[0].row("points", POINTS)
    assert row is not None
    assert "hands" not in row.values
    assert "diverged" not in (tmp_path / "out" / "report.md").read_text()
