"""A killed convert or extend --tune goes on where it was, to the numbers of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import whorl
from whorl.conversion import converting, folders, resuming
from whorl.conversion.resuming import Diverged, clear, working, written
from whorl.locking import LOCK, alone
from whorl.outputs import MARKER
from whorl.training import trainer as training
from whorl.training.checkpoints import MARKER as WHOLE

LENGTH = 32
STEPS = 13
CONVERT: dict[str, Any] = {
    "to": "p-rope:p=0.25", "heal": STEPS * 4 * LENGTH, "batch_size": 4, "windows": 4, "gradual": 0.8,
    "learning_rate": 1e-3,
}  # fmt: skip
KILLED = """
import json, os, signal, sys, torch
import whorl.training.trainer as training
from pathlib import Path
import whorl
training.MIN_STEPS = 2
torch.set_num_threads(int(sys.argv[4]))
def update(step, steps):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
whorl.convert(sys.argv[1], out=Path(sys.argv[2]), stage=lambda name: update, **json.loads(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MIN_STEPS", 2)  # a checkpoint at every second step


def seen(steps: list[tuple[str, int]], interrupt: tuple[str, int] | None = None) -> Callable:
    """A `stage` that notes the steps of trainings, and interrupts one of them as Ctrl-C does."""

    def stage(name: str) -> Callable[[int, int], None]:
        def update(step: int, of: int) -> None:
            if name.startswith("loss"):
                return
            steps.append((name, step))
            if (name, step) == interrupt:
                raise KeyboardInterrupt

        return update

    return stage


@pytest.mark.full
def test_kill_9_and_the_same_command_give_the_undisturbed_conversion(trial: tuple[Path, str], tmp_path: Path) -> None:
    """Killed in the gradual change of the healing, then interrupted in the control."""
    folder = str(trial[0])
    whorl.convert(folder, out=tmp_path / "undisturbed", **CONVERT)
    place = tmp_path / "place"
    command = [sys.executable, "-c", KILLED, folder, str(place / "out"), json.dumps(CONVERT)]
    assert subprocess.run([*command, str(torch.get_num_threads())]).returncode == -9
    assert os.listdir(place) == [".out.work"]
    steps: list[tuple[str, int]] = []
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        whorl.convert(folder, out=place / "out", **CONVERT, stage=seen(steps, ("control", 5)), say=said.append)
    assert steps[0] == ("healing", 5), "after the checkpoint at step 4"
    assert f"going on from the checkpoints that an interrupted run left in {place / '.out.work'}" in said
    steps.clear()
    whorl.convert(folder, out=place / "out", **CONVERT, stage=seen(steps))
    assert steps == [("control", step) for step in range(5, STEPS + 1)], "the healing was over"
    facts, other = (json.loads((p / "conversion.json").read_text()) for p in (place / "out", tmp_path / "undisturbed"))
    assert facts == other
    weights, others = (load_file(p / "model.safetensors") for p in (place / "out", tmp_path / "undisturbed"))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert os.listdir(place) == ["out"], "nothing is left"


def test_steps_that_take_minutes_have_checkpoints_by_time(
    trial: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that ends when the last checkpoint is too long ago has one, whatever its number."""
    monkeypatch.setattr(training, "MIN_STEPS", 1000)
    monkeypatch.setattr(training, "MAX_SECONDS", 0.0)
    steps: list[tuple[str, int]] = []
    how = {**CONVERT, "control": False, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        whorl.convert(str(trial[0]), **how, stage=seen(steps, ("healing", 4)))
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        whorl.convert(str(trial[0]), **how, stage=seen(steps, ("healing", 5)))
    assert steps == [("healing", 4), ("healing", 5)], "step 3 had one"


def test_losses_are_measured_once(trial: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before an interruption are what they were; of a real model they take longer than the training."""
    undisturbed = whorl.convert(str(trial[0]), out=tmp_path / "undisturbed", **CONVERT, control=False)
    measured: list[str] = []
    evaluated = converting.evaluated

    def measuring(model: Any, *how: Any) -> Any:
        measured.append(str(whorl.encoding_of(model)).partition(":")[0])
        return evaluated(model, *how)

    monkeypatch.setattr(converting, "evaluated", measuring)
    how = {**CONVERT, "control": False, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        whorl.convert(str(trial[0]), **how, stage=seen([], ("healing", 5)))
    assert measured == ["rope", "p-rope"]
    assert whorl.convert(str(trial[0]), **how) == undisturbed
    assert measured == ["rope", "p-rope", "p-rope"], "healed"


@pytest.mark.full
def test_an_interrupted_tuning_of_adapters_goes_on(trial: tuple[Path, str], tmp_path: Path) -> None:
    def run(out: str, stage: Callable, learning_rate: float = 3e-3) -> Any:
        return whorl.extend(
            str(trial[0]), 2 * LENGTH, method="base=20000", windows=4, tune=STEPS * 4 * 2 * LENGTH, lora=4,
            learning_rate=learning_rate, batch_size=4, out=tmp_path / out, stage=stage,
        )  # fmt: skip

    undisturbed = run("undisturbed", seen([]))
    with pytest.raises(KeyboardInterrupt):
        run("out", seen([], ("tuning", 5)))
    methods: list[tuple[str, int]] = []
    with pytest.raises(ValueError, match=r"holds checkpoints of other work \(learning_rate differs\)"):
        run("out", seen(methods), learning_rate=1e-3)
    assert not methods, "it is refused before anything is measured"
    steps: list[tuple[str, int]] = []
    found = run("out", seen(steps))
    assert next(step for name, step in steps if name == "tuning") == 5
    assert found == undisturbed
    assert found.best.past != found.tried[1].past, "it was tuned"
    assert sorted(os.listdir(tmp_path)) == ["out", "undisturbed"]
    assert json.loads((tmp_path / "out" / "extension.json").read_text())["from"] == str(trial[0])


def test_other_work_is_refused_or_begins_anew_and_goes_on_itself(trial: tuple[Path, str], tmp_path: Path) -> None:
    """To an encoding with parameters of its own."""
    steps: list[tuple[str, int]] = []
    said: list[str] = []

    def run(out: str, rate: float, interrupt: tuple[str, int] | None = None, force: bool = False) -> Any:
        steps.clear()
        said.clear()
        return whorl.convert(
            str(trial[0]), out=tmp_path / out, **{**CONVERT, "to": "t5", "gradual": 0.0, "learning_rate": rate},
            control=False, force=force, stage=seen(steps, interrupt), say=said.append,
        )  # fmt: skip

    undisturbed = run("undisturbed", 2e-3)
    with pytest.raises(KeyboardInterrupt):
        run("out", 1e-3, ("healing", 5))
    with pytest.raises(ValueError, match=r"holds checkpoints of other work \(learning_rate differs\); the command as"):
        run("out", 2e-3)
    assert (tmp_path / ".out.work" / "healing").is_dir()
    with pytest.raises(KeyboardInterrupt):
        run("out", 2e-3, ("healing", 7), force=True)
    assert steps[0] == ("healing", 1)
    (line,) = (line for line in said if ".out.work" in line)
    assert line.endswith(
        ".out.work was left by other work (learning_rate differs): it is removed, and the training begins anew"
    )
    report = run("out", 2e-3)
    assert steps[0] == ("healing", 7)
    assert report == undisturbed
    assert sorted(os.listdir(tmp_path)) == ["out", "undisturbed"]


@pytest.mark.parametrize(
    ("command", "run", "options", "words"),
    [
        ("convert", "convert", ["--to=hope", "--heal=100"], "goes on from the last checkpoint of its training"),
        ("extend", "extend", ["--to=100", "--tune=100"], "goes on from the last checkpoint of its training"),
        ("extend", "extend", ["--to=100"], "nothing was written"),
    ],
)
def test_an_interrupt_says_what_the_same_command_does(
    command: str, run: str, options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whorl.cli import app

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, run, interrupt)
    done = CliRunner().invoke(app, [command, str(tmp_path), *options, f"--out={tmp_path / 'out'}"])
    assert done.exit_code == 130
    assert f"whorl: interrupted; {'the same command ' if 'goes' in words else ''}{words}" in done.output


def checkpoint(work: Path) -> None:
    (work / "healing" / "checkpoint-3").mkdir(parents=True)
    (work / "healing" / "checkpoint-3" / WHOLE).write_text("{}")


def interrupted(out: Path, error: BaseException, after: Callable[[Path], None]) -> None:
    def work() -> None:
        with working(out, "convert", {"seed": 0}, lambda line: None) as folder:
            after(folder)
            raise error

    with pytest.raises(type(error)):
        work()


def test_only_what_can_go_on_is_left(tmp_path: Path) -> None:
    out, work = tmp_path / "out", tmp_path / ".out.work"
    interrupted(out, KeyboardInterrupt(), lambda work: None)
    interrupted(out, ValueError("the model has it already"), lambda work: (work / "healing").mkdir())
    interrupted(out, Diverged("nan"), checkpoint)
    assert os.listdir(tmp_path) == []
    interrupted(out, KeyboardInterrupt(), checkpoint)
    assert sorted(os.listdir(work)) == [MARKER, "healing"]
    clear(out)
    assert work.exists(), "it has not been written"
    interrupted(out, KeyboardInterrupt(), written)
    clear(out)
    assert work.exists(), "nor has what was written its name"
    out.mkdir()
    with alone(work, "convert"), pytest.raises(ValueError, match="is being written by whorl convert"):
        clear(out)
    clear(out)
    assert os.listdir(tmp_path) == ["out"]
    interrupted(out, KeyboardInterrupt(), checkpoint)
    clear(out, finished=False)
    assert os.listdir(tmp_path) == ["out"]


def test_a_run_that_was_killed_as_it_began_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".out.work").mkdir()
    (tmp_path / ".out.work" / LOCK).touch()
    resuming.check(tmp_path / "out", "extend", {"lora": 4})
    with working(tmp_path / "out", "extend", {"lora": 4}, print):
        pass


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / ".out.work"
    work.mkdir()
    (work / "thesis.tex").write_text("precious")
    with (
        pytest.raises(ValueError, match="holds what whorl did not write; move it away"),
        working(tmp_path / "out", "convert", {}, lambda line: None),
    ):
        pass
    clear(tmp_path / "out", finished=False)
    assert os.listdir(work) == ["thesis.tex"]


def test_the_digest_of_a_model_is_of_its_config_encoding_and_weights() -> None:
    import whorl
    from whorl.testing import tiny_model

    found = resuming.digest(tiny_model("llama"))
    assert resuming.digest(tiny_model("llama")) == found
    assert resuming.digest(tiny_model("llama", rms_norm_eps=1e-3)) != found
    assert resuming.digest(whorl.attach(tiny_model("llama"), "hope:train_length=40")) != found
    moved = tiny_model("llama").bfloat16()
    other = resuming.digest(moved)
    with torch.no_grad():
        moved.lm_head.weight[0, 0] += 1
    assert resuming.digest(moved) != other
