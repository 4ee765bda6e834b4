"""A training's file: its curve comes back, that of the first version loads, and a loss that was not finite is NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from whorl.results.training import Step, Training, TrainingRecord

EARLIER = {
    "tokens": 1536,
    "seconds": 2.5,
    "tokens_per_second": 614.4,
    "loss": None,
    "curve": [{"step": 1, "tokens": 128, "loss": 3.5, "learning_rate": 0.001}],
    "diverged": 2,
}


def test_the_first_versions_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    path.write_text(json.dumps(EARLIER))
    record = TrainingRecord.read(path)
    assert record.curve == (Step(1, 128, 3.5, 0.001),)
    assert math.isnan(record.loss)
    assert (record.weights, record.diverged) == (None, 2)
    assert isinstance(record.training(), Training)
    assert not isinstance(record.training(), TrainingRecord)
    assert record.training().losses == {1: 3.5}, "what the trial's own file has of the curve"
    record.write(path)
    assert json.loads(path.read_text()) == {"schema": 1, **EARLIER}


def test_half_a_point_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it is damaged, it has no curve\[0\]\.learning_rate"):
        TrainingRecord.from_json({**EARLIER, "curve": [{"step": 1, "tokens": 2, "loss": 3}]}, "it")
