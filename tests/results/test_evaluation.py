"""An evaluation as a file: read back, and what a damaged one is told."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reports.test_evaluation_report import evaluation
from whorl.evaluation.probes import ASKS, PROBES
from whorl.results.evaluation import ABOUT, Evaluation
from whorl.results.trial import Row


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    found = evaluation(Row(256, unreachable="the model has 128 positions, and no more"))
    found.write(tmp_path / "results.json")
    assert Evaluation.read(tmp_path / "results.json") == found
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["rows"]["segment-copy"][1]["accuracy"] == 0.75
    assert "vocab_size" not in kept, "as in results of earlier versions"
    (tmp_path / "results.json").write_text(json.dumps(kept | {"vocab_size": 0}))
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        Evaluation.read(tmp_path / "results.json")
    del kept["asked"]["seed"]
    (tmp_path / "results.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="results.json is damaged, it has no asked.seed"):
        Evaluation.read(tmp_path / "results.json")


def test_values_and_what_is_missing() -> None:
    found = evaluation()
    assert found.value("segment-copy", "accuracy", 128) == 0.75
    assert found.value("segment-copy", "accuracy", 99) is None
    assert found.reference == 128
    assert found.missing == ()
    nothing = replace(found, rows={})
    assert nothing.missing[:3] == (("loss", 64), ("segment-copy", 64), ("loss", 128)), "shorter lengths first"
    assert [line.split("  ")[0] for line in repr(found).splitlines()][1] == "loss of the same last tokens"
    far = evaluation(replace(found.rows["loss"][2], values={"tail": math.nan, "mean": 1.0}))
    assert "not finite" in repr(far)
    assert found.records()[3] == {"probe": "segment-copy", "length": 64, **found.rows["segment-copy"][0].values} | {
        "stderr": 0.05
    }


def test_what_is_told_of_probes_is_of_those_that_there_are() -> None:
    assert list(ABOUT) == list(PROBES) == list(ASKS)
