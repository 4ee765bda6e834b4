"""Numbers that make no sense are refused by every command alike, before a model or a text is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import whorl
from whorl.checking import RANGES, check_numbers, check_there, trials_beside
from whorl.cli.spectrum import spectrum
from whorl.comparison import load_trial
from whorl.inspection.reporting import run as run_inspect
from whorl.sources import source
from whorl.training.settings import Settings

NOWHERE = "no/such/model"


def extend(**arguments: Any) -> object:
    return whorl.extend(NOWHERE, **{"to": 64, "out": Path("out"), **arguments})


def convert(**arguments: Any) -> object:
    return whorl.convert(NOWHERE, **{"to": "hope", "heal": 1000, "out": Path("out"), **arguments})


def inspect(**arguments: Any) -> object:
    return run_inspect([NOWHERE], **arguments)


def compare(**arguments: Any) -> object:
    return whorl.compare(["rope"], out="out", quiet=True, **{"text": "no/such/text", **arguments})


def doctor(**arguments: Any) -> object:
    return whorl.doctor(NOWHERE, **arguments)


def spectrum_of(**arguments: Any) -> None:
    spectrum("rope", **{"head_dim": 128, "base": None, "train_length": 4096, "figure": None, **arguments})


TAKES: dict[Callable[..., object], tuple[str, ...]] = {
    extend: ("to", "windows", "train_length", "tolerance", "tune", "lora", "learning_rate", "batch_size"),
    convert: ("heal", "train_length", "windows", "learning_rate", "batch_size", "gradual", "seed"),
    inspect: ("length", "windows", "train_length", "random_windows", "minutes", "seed"),
    compare: ("train_length", "tokens", "tail", "windows", "batch_size", "learning_rate", "warmup", "weight_decay"),
    Settings: ("train_length", "tokens", "tail", "windows", "batch_size", "learning_rate", "warmup", "weight_decay"),
    doctor: ("length",),
    spectrum_of: ("head_dim", "train_length"),
}
CASES = [(command, name) for command, names in TAKES.items() for name in names]


@pytest.mark.parametrize(("command", "name"), CASES, ids=lambda c: getattr(c, "__name__", c))
def test_nonsense_is_refused_before_any_work(
    command: Callable[..., object], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (-2, math.nan, math.inf, 10**30, 1e300, "many", True):
        with pytest.raises(ValueError, match=rf"^{name.replace('_', '-')} must be a.*, got {re.escape(repr(value))}$"):
            command(**{name: value})
    assert not list(tmp_path.iterdir())


def test_the_ends_of_a_range() -> None:
    check_numbers(train_length=1, lora=0, warmup=0, tolerance=0.0, seed=(1 << 32) - 1, gradual=0.99, windows=None)
    for name, value in (("train_length", 0), ("warmup", 1.0), ("learning_rate", 0.0), ("seed", 1 << 32), ("lora", -1)):
        with pytest.raises(ValueError, match=re.escape(f"must be {RANGES[name]}, got {value!r}")):
            check_numbers(**{name: value})
    assert str(RANGES["warmup"]) == "a number of at least 0 and below 1 (a share of the steps)"


def test_what_one_number_says_of_another() -> None:
    with pytest.raises(ValueError, match="lora=8 is of a tuning, and no tune was asked for"):
        extend(lora=8)
    with pytest.raises(ValueError, match="unknown method 'yarm'"):
        extend(method="yarm")
    with pytest.raises(ValueError, match="base must be a finite number above 1"):
        extend(method="base=nan")
    with pytest.raises(ValueError, match="did you mean 'hope'"):
        convert(to="hoppe")
    with pytest.raises(ValueError, match=r"1,000,000,000,000 tokens are 7,812,500,000 examples of 128"):
        compare(tokens=10**12)
    with pytest.raises(ValueError, match="cosines, one for each pair and distance"):
        spectrum_of(train_length=1 << 31)
    with pytest.raises(ValueError, match=r"cannot read the length '9{400}'"):
        compare(lengths=("9" * 400,))
    with pytest.raises(ValueError, match="seed must be a whole number"):
        compare(seeds=(0, -1))
    with pytest.raises(ValueError, match="snapshots must be a whole number"):
        compare(snapshots=-1)


def test_a_trial_that_there_is_none_of_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    with pytest.raises(ValueError, match="there is nothing at .*/hope; give a model's directory"):
        check_there(str(trials / "hope"))
    for name in ("a-s0-1", "b-s0-1", "hope-cut-2-s0-1", "hope-s0-1", *(f"z{i}" for i in range(6))):
        (trials / name).mkdir(parents=True)
    assert trials_beside(trials / "hope") == "no trial there is finished"
    for place in trials.iterdir():
        (place / "result.json").touch()
    begins = "the finished trials there are hope-cut-2-s0-1, hope-s0-1, a-s0-1, b-s0-1, z0, z1, z2, z3 and 2 more"
    assert trials_beside(trials / "hope") == begins
    assert trials_beside(f"{trials}/hoppe-s0-1").startswith("the finished trials there are hope-s0-1, ")
    check_there(str(trials / "hope-s0-1"))
    assert trials_beside(tmp_path / "hope") == ""
    (trials / "b-s0-1" / "result.json").unlink()
    for read in (load_trial, source):
        with pytest.raises(ValueError, match="no result.json.*; the finished trials there are a-s0-1, hope-s0-1, "):
            read(str(trials / "b-s0-1"))
    with pytest.raises(ValueError, match="hope-s0-1': it is a trial of whorl compare: .* import load_trial"):
        whorl.load(trials / "hope-s0-1")
