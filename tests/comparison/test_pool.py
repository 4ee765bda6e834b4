"""Trials side by side in processes of this machine: the numbers of one process, whatever becomes of some of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import whorl
from tests.comparison.faults import FAULTS, planted
from tests.comparison.small_runs import SMALL
from whorl.comparison import TrialsFailed
from whorl.comparison import pool as pools
from whorl.results.comparison import Comparison
from whorl.results.failure import FailedTrial

ASKED = ["rope", *FAULTS]


def test_a_sweep_with_faults_has_every_record_and_the_next_runs_only_what_failed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "out", {**SMALL, "text": str(text)}
    tries = planted(tmp_path / "faults", monkeypatch, FAULTS)
    with pytest.raises(TrialsFailed, match="3 of 5 trials failed") as raised:
        whorl.compare(ASKED, out=out, jobs=2, **settings)
    monkeypatch.undo()
    failed = {failure.notation: failure.error for failure in raised.value.failures}
    assert failed == {
        "alibi": "RuntimeError: a kernel is missing",
        "nope": "its process ended with status 3, in each of 3 tries",
        "sinusoidal": "its process was killed by SIGKILL (out of memory?), in each of 3 tries",
    }
    assert Counter(tries.read_text().split()) == {"alibi": 1, "nope": 3, "sinusoidal": 3, "t5": 2}
    results = Comparison.read(out / "results.json")
    assert [trial.notation for trial in results.trials] == ["rope", "t5"], "a process that died once is no failure"
    assert results.failures == raised.value.failures
    for failure in results.failures:
        kept = FailedTrial.read(out / "trials" / failure.id / "failure.json")
        assert kept.failure() == failure
        assert kept.versions["whorl"] == whorl.__version__
    assert not list(out.rglob("progress.json")) + list(out.rglob("*.tmp")) + list(out.rglob(".whorl.lock"))

    times = {p: p.stat().st_mtime_ns for t in results.trials for p in (out / "trials" / t.id).rglob("*")}
    again = whorl.compare(ASKED, out=out, jobs=2, **settings)
    assert ([trial.notation for trial in again.trials], again.failures) == (ASKED, ())
    assert times == {p: p.stat().st_mtime_ns for p in times}
    one = whorl.compare(ASKED, out=tmp_path / "one", **settings)
    assert [trial.evaluations for trial in again.trials] == [trial.evaluations for trial in one.trials]
    assert [trial.train.losses for trial in again.trials] == [trial.train.losses for trial in one.trials]


@pytest.mark.parametrize("ends", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_no_process_outlives_the_command_and_what_is_finished_stays(
    ends: signal.Signals, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial is finished and the other waits, when the command is interrupted or killed."""
    out = tmp_path / "out"
    tries = planted(tmp_path / "faults", monkeypatch, {"alibi": "wait"})
    options = {**SMALL, "lengths": "1x", "text": text, "out": out, "jobs": 2}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name != "quiet"]
    command = [sys.executable, "-m", "whorl", "compare", "rope", "alibi", *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tries.exists() and (out / "results.json").exists() and list(out.glob("trials/rope*/result.json"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    at_work = children(process.pid)
    assert len(at_work) == 1, "that of the finished one has ended"
    process.send_signal(ends)
    said = process.communicate(timeout=60)
    while any(Path(f"/proc/{pid}").exists() for pid in at_work):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.1)
    if ends == signal.SIGINT:
        assert (process.returncode, said[1]) == (
            130,
            "whorl: interrupted; the same command goes on where this one stopped\n",
        )
        assert not list(out.rglob("progress.json"))
    assert [trial.notation for trial in Comparison.read(out / "results.json").trials] == ["rope"]
    assert not list(out.glob("trials/alibi*/result.json"))


def test_rates_are_the_trials_own(text: Path, tmp_path: Path) -> None:
    results = whorl.compare(["rope"], learning_rates=[1e-3, 2e-3], out=tmp_path, jobs=2, text=str(text), **SMALL)
    found = {(t.learning_rate, t.train.loss) for t in (*results.trials, *results.at_other_rates)}
    assert len({loss for _, loss in found}) == 2
    assert {rate for rate, _ in found} == {1e-3, 2e-3}


def children(pid: int) -> list[int]:
    """The processes that this one has started and that are at work."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


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
