"""Comparisons and trials as files: those of earlier versions load, and one that is none is named with its key."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.results.samples import FINISHED
from whorl.results.comparison import Comparison
from whorl.results.trial import FinishedTrial, Row, Text
from whorl.training.trials import read_result, settings_of

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
OWN = ("0004-u-shape", "0007-pretrained-llms", "0014-feedback")  # studies with results of their own kind
COMMITTED = [p for p in sorted(EXPERIMENTS.glob("*/results*.json")) if p.parent.name not in OWN]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_committed_results_load_and_keep_every_key(path: Path) -> None:
    earlier = json.loads(path.read_text())
    assert "schema" not in earlier
    assert Comparison.read(path).to_json() == {"schema": 1, **earlier}


def test_there_are_results_of_earlier_versions() -> None:
    assert len(COMMITTED) >= 5


def laid(folder: Path, value: Any) -> Path:
    path = folder / "trials" / "rope" / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_a_trial_is_read_by_attribute_and_is_the_same_after_its_file(tmp_path: Path) -> None:
    trial = read_result(laid(tmp_path, FINISHED))
    assert trial.row("perplexity", 32) == Row(32, {"tail": 17.5, "mean": 18.5}, windows=4)
    assert trial.row("perplexity", 64) is None
    assert (trial.text, trial.machine.threads) == (Text("stdlib", "4567"), 1)
    assert settings_of(trial).train_length == 128
    assert trial.to_json() == FINISHED
    assert replace(trial, notation="rope:base=10000").trial().notation == "rope:base=10000"


def test_a_trial_of_the_first_version_loads(tmp_path: Path) -> None:
    """It kept no text and no threads, and its file had no schema."""
    machine = {k: v for k, v in FINISHED["machine"].items() if k != "threads"}
    earlier = {k: v for k, v in FINISHED.items() if k not in ("schema", "text")} | {"machine": machine}
    trial = read_result(laid(tmp_path, earlier))
    assert (trial.text, trial.machine.threads) == (None, None)
    assert FinishedTrial.from_json(trial.to_json()) == trial


WRONG = {
    "nothing": ({}, "it has no id"),
    "a number": (5, "is no FinishedTrial: it holds 5"),
    "another's id": ({**FINISHED, "id": "../../.."}, r"the result of '\.\./\.\./\.\.', another trial"),
    "an id that is no text": ({**FINISHED, "id": ["rope"]}, r"its id must be text, got \['rope'\]"),
    "a record of nothing": ({**FINISHED, "train": {}}, r"it has no train\.tokens"),
    "a record of five": ({**FINISHED, "train": 5}, "its train must be an object, got 5"),
    "rows": ({**FINISHED, "evaluations": {"copy": 5}}, r"its evaluations\.copy must be a list, got 5"),
    "a row": ({**FINISHED, "evaluations": {"copy": [{}]}}, r"it has no evaluations\.copy\[0\]\.length"),
    "a value": (
        {**FINISHED, "evaluations": {"copy": [{"length": 1, "tail": "x"}]}},
        r"its evaluations\.copy\[0\]\.tail must be a number, got 'x'",
    ),
    "settings": ({**FINISHED, "settings": {"train_length": 0}}, "its settings are none: train-length must be"),
    "a setting": ({**FINISHED, "settings": {"length": 0}}, "its settings are none: Settings has no argument 'length'"),
    "a later whorl": ({**FINISHED, "schema": 2}, r"written by a later version of whorl \(schema 2;"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_trial_is_named(wrong: str, tmp_path: Path) -> None:
    value, message = WRONG[wrong]
    with pytest.raises(ValueError, match=rf"trials/rope/result\.json .*{message}"):
        read_result(laid(tmp_path, value))


UNFIT: dict[str, tuple[list[str | int], Any, str]] = {
    "no training length": (["config", "train_length"], 0, "config: train-length must be a whole number from 1 to"),
    "a negative one": (["config", "train_length"], -1, "config: train-length must be a whole number from 1 to"),
    "no tokens": (["config", "tokens"], 0, "config: tokens must be a whole number from 1 to"),
    "a length of 0": (["config", "lengths"], [0], "config: length must be a whole number from 1 to"),
    "a count of more than 64 bits": (["config", "tokens"], 10**400, r"its config\.tokens must be a whole number, got"),
    "an endless unigram": (
        ["config", "data", "unigram"],
        [{"length": 128, "tail": math.inf}],
        r"config\.data: unigram must have finite perplexities, got tail nan at 128 tokens",
    ),
    "no layers": (["trials", 0, "pairs_turning"], [], r"trials\[0\]: pairs_turning must have a number per layer"),
    "more pairs than there are": (
        ["trials", 0, "pairs_turning"],
        [1, 99],
        r"trials\[0\]: pairs_turning must be from 0",
    ),
    "no pairs": (["trials", 0, "pairs"], 0, r"trials\[0\]: pairs must be a whole number from 1 to"),
    "a row of length 0": (
        ["trials", 0, "evaluations", "copy", 0, "length"],
        0,
        r"trials\[0\]\.evaluations\.copy\[0\]: length must be a whole number from 1 to",
    ),
    "less than no sequences": (
        ["trials", 0, "evaluations", "copy", 0, "sequences"],
        -1,
        r"trials\[0\]\.evaluations\.copy\[0\]: sequences must be a whole number from 1 to",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_no_comparison_can_have_measured_is_damaged(unfit: str) -> None:
    keys, value, message = UNFIT[unfit]
    found = place = json.loads((EXPERIMENTS / "0002-copy" / "results.json").read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    with pytest.raises(ValueError, match=rf"^FILE is damaged, {message}.*; restore it, or delete it$"):
        Comparison.from_json(found, "FILE")
