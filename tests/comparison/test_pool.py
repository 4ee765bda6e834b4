"""Trials side by side in processes of this machine. (What becomes of those that fail: test_sweep.py.)"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import whorl
from tests.comparison.small_runs import SMALL
from whorl.comparison import pool as pools


def test_rates_are_the_trials_own(text: Path, tmp_path: Path) -> None:
    results = whorl.compare(["rope"], learning_rates=[1e-3, 2e-3], out=tmp_path, jobs=2, text=str(text), **SMALL)
    found = {(t.learning_rate, t.train.loss) for t in (*results.trials, *results.at_other_rates)}
    assert len({loss for _, loss in found}) == 2
    assert {rate for rate, _ in found} == {1e-3, 2e-3}


def test_threads_and_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools.torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pools.torch.cuda, "is_available", lambda: False)
    three = pools._environments(2, 3)
    assert [(e["OMP_NUM_THREADS"], e["RAYON_NUM_THREADS"]) for e in three] == [("2", "2"), ("2", "2")]
    assert "CUDA_VISIBLE_DEVICES" not in three[0]
    assert three[0]["PATH"] == os.environ["PATH"]
    assert pools._environments(1, 99)[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(pools.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pools.torch.cuda, "device_count", lambda: 2)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in pools._environments(3, 3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in pools._environments(3, 3)] == ["3", "5", "3"]
