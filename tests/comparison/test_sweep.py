"""Trials in other processes, of a pool or of Ray: the numbers of one process, whatever becomes of some of them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import whorl
from tests.comparison.faults import FAULTS, planted
from tests.comparison.small_runs import SMALL
from whorl.comparison import TrialsFailed
from whorl.results.comparison import Comparison
from whorl.results.failure import FailedTrial

ASKED = ["rope", *FAULTS]
LOST = {  # how it is said that a process ended, and that one was killed
    "jobs": (
        r"its process ended with status 3, in each of 3 tries",
        r"its process was killed by SIGKILL \(out of memory\?\), in each of 3 tries",
    ),
    "ray": (r"its worker was lost, in each of 3 tries \(WorkerCrashedError: .*\)",) * 2,
}
no_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra whorl[ray] is not installed")


@pytest.fixture(params=["jobs", pytest.param("ray", marks=no_ray)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return request.param, {"jobs": {"jobs": 2}, "ray": {"ray": "local"}}[request.param]


def test_a_sweep_with_faults_has_every_record_and_the_next_runs_only_what_failed(
    way: tuple[str, dict[str, Any]], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, how = way
    out, settings = tmp_path / "out", {**SMALL, "text": str(text)}
    with monkeypatch.context() as environment:
        tries = planted(tmp_path / "faults", environment, FAULTS)
        with pytest.raises(TrialsFailed, match="3 of 5 trials failed") as raised:
            whorl.compare(ASKED, out=out, **how, **settings)
    failed = {failure.notation: failure.error for failure in raised.value.failures}
    assert failed.keys() == {"alibi", "nope", "sinusoidal"}
    assert failed["alibi"] == "RuntimeError: a kernel is missing"
    for notation, words in zip(("nope", "sinusoidal"), LOST[name], strict=True):
        assert re.fullmatch(words, failed[notation])
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
    again = whorl.compare(ASKED, out=out, **how, **settings)
    assert ([trial.notation for trial in again.trials], again.failures) == (ASKED, ())
    assert times == {p: p.stat().st_mtime_ns for p in times}
    one = whorl.compare(ASKED, out=tmp_path / "one", **settings)
    assert [trial.evaluations for trial in again.trials] == [trial.evaluations for trial in one.trials]
    assert [trial.train.losses for trial in again.trials] == [trial.train.losses for trial in one.trials]


@pytest.mark.parametrize("ends", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_no_process_outlives_the_command_and_what_is_finished_stays(
    ends: signal.Signals, way: tuple[str, dict[str, Any]], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial is finished and the other waits, when the command is interrupted or killed."""
    _, how = way
    out = tmp_path / "out"
    waits = planted(tmp_path / "faults", monkeypatch, {"alibi": "wait"}).with_name("pid")
    options = {**SMALL, "lengths": "1x", "text": text, "out": out, **how}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name != "quiet"]
    command = [sys.executable, "-m", "whorl", "compare", "rope", "alibi", *given]
    with (tmp_path / "said").open("w+") as said:  # a pipe would be open as long as any process of Ray's is
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
            # which a shell's background ignores
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 200
        while not (waits.exists() and waits.read_text() and (out / "results.json").exists()):
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(ends)
        process.wait(timeout=100)
    while Path("/proc", waits.read_text()).exists():
        assert time.monotonic() < deadline, "the trial is still there"
        time.sleep(0.1)
    if ends == signal.SIGINT:
        assert process.returncode == 130
        assert (tmp_path / "said").read_text().splitlines()[-1].startswith("whorl: interrupted; the same command goes")
        assert not list(out.rglob("progress.json"))
    assert [trial.notation for trial in Comparison.read(out / "results.json").trials] == ["rope"]
    assert not list(out.glob("trials/alibi*/result.json"))
