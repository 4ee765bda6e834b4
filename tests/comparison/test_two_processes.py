"""`whorl compare` by torchrun in two processes finds what it finds in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import whorl
from tests.attaching.test_two_processes import by_torchrun
from tests.comparison.small_runs import BATCH, LENGTH, SMALL, STEPS
from whorl.results.comparison import Comparison
from whorl.training import trainer
from whorl.training.processes import processes


def test_two_processes_compare_as_one(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within four times what sharing each step out over two forwards (gradient accumulation) changes in one process."""
    by_torchrun(
        "whorl", "compare", "t5", "--text", str(text), "--out", str(tmp_path / "two"), "--train-length", str(LENGTH),
        "--lengths", "1x,2x", "--tokens", str(STEPS * BATCH * LENGTH), "--batch-size", str(BATCH), "--tail", "8",
        "--windows", "4", "--precision", "fp32",
    )  # fmt: skip
    two = Comparison.read(tmp_path / "two" / "results.json").trials[0]
    one = whorl.compare(["t5"], text=str(text), out=tmp_path / "one", **SMALL).trials[0]
    monkeypatch.setattr(trainer, "at_once", lambda sequences, *_: sequences // 2)
    parts = whorl.compare(["t5"], text=str(text), out=tmp_path / "parts", **SMALL).trials[0]
    assert two.id == one.id == parts.id
    weights = [load_file(tmp_path / of / "trials" / one.id / "model.safetensors") for of in ("one", "two", "parts")]
    rounding = torch.finfo(torch.float32).eps

    def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)

    assert apart(weights[0], weights[1]) <= 4 * (apart(weights[0], weights[2]) + rounding)
    off = abs(one.train.loss - parts.train.loss) + rounding * one.train.loss
    assert abs(one.train.loss - two.train.loss) <= 4 * off


def test_a_comparison_is_not_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"told to shard the model \(FSDP\), and a comparison trains a whole one"):
        processes()
