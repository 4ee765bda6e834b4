"""An interrupted training goes on from the newest checkpoint that is whole, and names those that are not."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import whorl
from tests.comparison.small_runs import SMALL, STEPS
from whorl.training import trainer as training
from whorl.training.checkpoints import MARKER, complete, damage, discard_damaged, resume_point

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in FILES:
        (made / name).write_bytes(f"{name} after {step} steps".encode() * 9)
    complete(made, step, step / 10)
    return made


def test_the_newest_whole_one_is_taken_and_two_are_kept(tmp_path: Path) -> None:
    assert resume_point(tmp_path) == (None, 0.0)
    for step in (80, 90, 100):
        checkpoint(tmp_path, step)
    assert resume_point(tmp_path) == (tmp_path / "checkpoint-100", 10.0)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-90", "checkpoint-100"}


def test_times_of_files_say_nothing(tmp_path: Path) -> None:
    old, new = checkpoint(tmp_path, 90), checkpoint(tmp_path, 100)
    for path in (new, *new.iterdir()):
        os.utime(path, (1, 1))  # as if the clock had been set back
    discard_damaged(tmp_path)
    checkpoint(tmp_path, 110)
    assert resume_point(tmp_path)[0] == tmp_path / "checkpoint-110"
    assert new.exists()
    assert not old.exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"no {name}": lambda folder, name=name: (folder / name).unlink() for name in (*FILES, MARKER)},
    **{f"half of {name}": lambda folder, name=name: os.truncate(folder / name, 40) for name in (*FILES, MARKER)},
    "another optimizer": lambda folder: (folder / "optimizer.pt").write_bytes(b"optimizer.pt after 99 steps" * 9),
    "a marker without files": lambda folder: (folder / MARKER).write_text('{"step": 100, "seconds": 1.0}'),
    "a marker of another step": lambda folder: shutil.copy(folder.with_name("checkpoint-90") / MARKER, folder),
    "a marker that is a number": lambda folder: (folder / MARKER).write_text("5"),
}


@pytest.mark.parametrize("spoil", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_one_is_named_and_an_older_whole_one_taken(
    spoil: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, damaged = checkpoint(tmp_path, 90), checkpoint(tmp_path, 100)
    spoil(damaged)
    discard_damaged(tmp_path)
    assert resume_point(tmp_path) == (whole, 9.0)
    assert not damaged.exists()
    assert str(damaged) in caplog.text
    assert damage(whole) is None


def interrupted(
    out: Path, text: Path, monkeypatch: pytest.MonkeyPatch, encoding: str = "rope", **limits: float
) -> Path:
    """A trial whose process ended in its training, with checkpoints at half of its steps and later.

    limits: other ones than that, of `training`."""

    class Killed(BaseException):
        pass

    def no_weights(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as killed:
        for name, value in {"MIN_STEPS": STEPS // 4, **limits}.items():
            killed.setattr(training, name, value)
        killed.setattr(training, "save_whole", no_weights)
        with pytest.raises(Killed):
            whorl.compare([encoding], out=out, text=str(text), **SMALL)
    (folder,) = out.glob("trials/*")
    return folder


def test_a_comparison_goes_on_from_the_last_whole_checkpoint(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed = whorl.compare(["rope"], out=tmp_path / "undisturbed", text=str(text), **SMALL).trials[0]
    folder = interrupted(tmp_path / "out", text, monkeypatch)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {f"checkpoint-{s}" for s in (STEPS * 3 // 4, STEPS)}
    (folder / "checkpoints" / f"checkpoint-{STEPS}" / "optimizer.pt").unlink()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="`rope_scaling` is deprecated")  # which we write, for older readers
        resumed = whorl.compare(["rope"], out=tmp_path / "out", text=str(text), **SMALL).trials[0]
    assert f"checkpoint-{STEPS} is not used, and deleted: its optimizer.pt is missing" in caplog.text
    assert resumed.train.loss == undisturbed.train.loss
    assert resumed.evaluations == undisturbed.evaluations

    caplog.clear()
    (folder / "result.json").unlink()
    os.truncate(folder / "model.safetensors", 1000)
    again = whorl.compare(["rope"], out=tmp_path / "out", text=str(text), **SMALL).trials[0]
    assert "model.safetensors is not what was written there" in caplog.text
    assert again.evaluations == undisturbed.evaluations


def test_a_step_that_ends_long_after_the_last_checkpoint_has_one(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(tmp_path / "out", text, monkeypatch, MIN_STEPS=STEPS, MAX_SECONDS=0.0)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {f"checkpoint-{s}" for s in (STEPS - 1, STEPS)}
