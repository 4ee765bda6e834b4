"""The rows of what engines did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from whorl.runtimes.ran import PATH, Run, forget, keep, ran

ROW = Run("vllm", "0.32.0", "hope:train_length=2048", "right", 7e-5, 9.2, "2026-11-26", "smollm2-135m-instruct")


def test_a_newer_row_of_the_same_run_takes_the_place_of_the_older(tmp_path: Path) -> None:
    path = tmp_path / "ran.json"
    assert ran(path) == []
    refused = replace(ROW, engine="ctranslate2", result="refuses", off=None, why="unknown rope type")
    keep([ROW, refused], path)
    assert ran(path) == [refused, ROW]
    again = replace(ROW, off=6e-5)
    keep([again], path)
    assert ran(path) == [refused, again]


def test_an_engine_has_rows_of_the_versions_that_are_run_now(tmp_path: Path) -> None:
    path = tmp_path / "ran.json"
    oldest, newest = (replace(ROW, engine="transformers", version=version) for version in ("5.17.0", "5.23.0"))
    keep([ROW, replace(oldest, version="5.16.0"), newest, oldest], path)
    forget({"transformers": ["5.17.0", "5.23.0"]}, path)
    assert ran(path) == [oldest, newest, ROW]


@pytest.mark.parametrize(
    "wrong",
    [
        {"result": "fine"},
        {"how": "read"},
        {"off": None},
        {"result": "refuses"},
        {"off": float("nan")},
        {"control_off": -1.0},
    ],
    ids=str,
)
def test_a_row_that_no_run_can_have_had_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="a run was|off is|a difference of logits"):
        replace(ROW, **wrong)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ran.json"
    for text in ("{", "[1]", '[{"engine": "vllm"}]'):
        path.write_text(text)
        with pytest.raises(ValueError, match="ran.json"):
            ran(path)


def test_the_rows_of_the_package_are_read() -> None:
    assert all(isinstance(row, Run) for row in ran(PATH))
