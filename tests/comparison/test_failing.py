"""A trial that fails is written down and stops no other; the same call again runs only what failed."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import whorl
from tests.comparison.small_runs import SMALL
from whorl.comparison import TrialsFailed
from whorl.results.comparison import Comparison
from whorl.results.failure import FailedTrial
from whorl.training import trainer

ASKED = ["rope", "alibi", "nope"]


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Trials of alibi raise; what is returned mends them."""
    train = trainer.train

    def trains(model: Any, recipe: Any, dataset: Any, folder: Path, *others: Any) -> Any:
        if folder.name.startswith("alibi"):
            raise error
        return train(model, recipe, dataset, folder, *others)

    monkeypatch.setattr(trainer, "train", trains)
    return lambda: monkeypatch.setattr(trainer, "train", train)


def test_a_failing_trial_is_written_down_and_run_again(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mend, out = failing(RuntimeError("no such\nkernel"), monkeypatch), tmp_path / "out"
    with pytest.raises(TrialsFailed, match="1 of 3 trials failed; the same command runs them again") as raised:
        whorl.compare(ASKED, out=out, text=str(text), **SMALL)
    results = raised.value.results
    assert results == Comparison.read(out / "results.json")
    assert [t.notation for t in results.trials] == ["rope", "nope"]
    (failure,) = raised.value.failures
    assert (failure.notation, failure.seed, failure.error) == ("alibi", 0, "RuntimeError: no such kernel")
    trace = out / str(failure.traceback)
    assert str(trace) in str(raised.value)
    assert trace.read_text().startswith("Traceback (most recent call last)")
    assert "in trains" in trace.read_text()
    kept = FailedTrial.read(trace.with_name("failure.json"))
    assert kept.failure() == failure
    assert kept.machine.threads
    assert {"whorl", "torch", "python"} <= kept.versions.keys()
    report = (out / "report.md").read_text()
    assert "One trial failed: alibi with seed 0 (RuntimeError: no such kernel)." in report
    assert "2 of 3 trials are finished" in report

    earlier = whorl.compare(["rope"], out=out, text=str(text), **SMALL)
    assert earlier.failures == (failure,), "of a run before, which is not what this one was asked for"
    assert earlier.config.trials_planned == 3

    mend()
    times = {p: p.stat().st_mtime_ns for p in (out / "trials").rglob("*") if p.is_file() and "alibi" not in str(p)}
    again = whorl.compare(ASKED, out=out, text=str(text), **SMALL)
    assert [t.notation for t in again.trials] == ASKED
    assert again.failures == ()
    assert times == {p: p.stat().st_mtime_ns for p in times}
    left = sorted(p.name for p in trace.parent.iterdir())
    assert left == ["model.safetensors", "result.json", "tokenizer", "training.json"]
    assert "failed" not in (out / "report.md").read_text()


def test_the_command_ends_with_status_1_and_says_which(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whorl.cli import app

    failing(ValueError("out of [range]"), monkeypatch)
    options = {key.replace("_", "-"): value for key, value in SMALL.items() if key not in ("quiet", "lengths")}
    given = [f"--{key}={value}" for key, value in {**options, "lengths": "1x", "text": text, "out": tmp_path}.items()]
    assert app(["compare", "alibi", *given], standalone_mode=False) == 1
    said = capsys.readouterr()
    (trial,) = (tmp_path / "trials").iterdir()
    assert f"failed {trial.name}: ValueError: out of [range]" in said.out
    assert said.err.startswith("whorl: 1 of 1 trials failed; the same command runs them again, and nothing that is")
    assert f"  {trial.name}: ValueError: out of [range] ({trial / 'traceback.txt'})" in said.err.splitlines()
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["trials"], len(written["failures"])) == ([], 1)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_is_no_trials_own_stops_the_comparison(
    error: BaseException, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(error, monkeypatch)
    with pytest.raises(type(error)):
        whorl.compare(ASKED, out=tmp_path / "out", text=str(text), **SMALL)
    results = Comparison.read(tmp_path / "out" / "results.json")
    assert ([t.notation for t in results.trials], results.failures) == (["rope"], ())
