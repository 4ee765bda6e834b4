"""A comparison as a list of commands: each runs its trial with all settings said, in a folder that others use too."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import whorl
from tests.comparison.small_runs import SMALL
from whorl.comparison import TrialsFailed, job_list
from whorl.locking import Busy, alone
from whorl.results.comparison import Comparison
from whorl.results.trial import FinishedTrial
from whorl.training.settings import Settings

ASKED = ["rope", "alibi"]

CHANGED = Settings(
    task="language", text="a b.txt", tokenizer="tok", model="some/model", train_length=33, lengths=("1x", "66"),
    tokens=99_000, tail=7, windows=5, batch_size=6, learning_rate=1.25e-3, schedule="linear", warmup=0.125,
    weight_decay=0.5, precision="fp32", compile=True, mix=("mqar=0.1", "copy=0.25"),
)  # fmt: skip


def test_every_setting_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is read back by the command line as it was."""
    from whorl import comparison
    from whorl.cli import app

    unchanged = [f.name for f in dataclasses.fields(Settings) if getattr(CHANGED, f.name) == f.default]
    assert unchanged == ["task"], "a new setting is written too: change it in CHANGED"
    told: dict[str, Any] = {}
    monkeypatch.setattr(comparison, "compare", lambda chosen, **how: told.update(how, encodings=chosen), raising=False)
    monkeypatch.setattr("whorl.cli.early.check", lambda *_: None)
    written = job_list.command(CHANGED, Path("runs/my out"), 3, ["hope:cut=2"], [0, 4], only="trials")
    words = shlex.split(written)
    app(words[words.index("compare") :], standalone_mode=False)
    assert Settings(**{f.name: told.pop(f.name) for f in dataclasses.fields(Settings)}) == CHANGED
    assert told == {
        "encodings": ["hope:cut=2"], "seeds": (0, 4), "out": Path("runs/my out"), "snapshots": 3, "only": "trials",
        "jobs": 1, "ray": None, "job_list": None, "learning_rates": (),
    }  # fmt: skip


def test_commands_run_their_trials_side_by_side_and_the_last_makes_the_report(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    jobs = tmp_path / "jobs.txt"
    settings = {**SMALL, "text": str(text), "out": "out"}
    planned = whorl.compare(ASKED, job_list=jobs, **settings | {"quiet": False})
    assert planned.trials == ()
    assert not Path("out/results.json").exists()
    first, second = jobs.read_text().splitlines()
    last = capsys.readouterr().out.partition("for the report: ")[2].splitlines()[0]

    monkeypatch.chdir(tmp_path)  # where the list is run from does not matter
    both = [subprocess.Popen(line, shell=True, stdout=subprocess.DEVNULL) for line in (first, second)]
    assert [process.wait() for process in both] == [0, 0]
    assert not Path("here/out/results.json").exists()
    done = subprocess.run(last, shell=True, stdout=subprocess.PIPE, text=True, check=True)
    assert "report: out/report.html" in done.stdout
    results = Comparison.read(Path("here/out/results.json"))
    assert [trial.notation for trial in results.trials] == ASKED
    assert results.differing == {}
    assert {path.name for path in Path("here/out").iterdir()} == {
        ".whorl.json", "config.json", "figures", "report.html", "report.md", "results.json", "trials",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path / "here")
    elsewhere = Path("out/trials", results.trials[0].id, "result.json")
    read = FinishedTrial.read(elsewhere)
    replace(read, machine=replace(read.machine, cpu="Z80")).write(elsewhere)
    differing = whorl.compare(ASKED, only="report", **settings).differing
    assert {name: values["Z80"] for name, values in differing.items()} == {"cpu": (results.trials[0].id,)}
    assert "Z80 (one trial)" in Path("out/report.md").read_text()
    whorl.compare([*ASKED, "nope"], job_list=jobs, **settings)
    assert ["compare nope" in line for line in jobs.read_text().splitlines()] == [True], "the others are finished"


def test_any_number_may_run_in_one_folder_but_not_at_one_trial(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "text": str(text), "out": tmp_path / "out"}
    with alone(tmp_path / "out", "compare"):  # another plain run, say
        part = whorl.compare(["rope"], only="trials", **settings)
    assert [trial.notation for trial in part.trials] == ["rope"]
    held = tmp_path / "out" / "trials" / job_id(tmp_path, settings)
    with alone(held, "compare"):
        with pytest.raises(Busy, match=f"{held} is being written by whorl compare, process"):
            whorl.compare(["alibi", "nope"], only="trials", **settings)
        kept = whorl.compare(["rope", "nope"], only="report", **settings)
        assert [trial.notation for trial in kept.trials] == ["rope", "nope"], "what could be run was"
    with pytest.raises(ValueError, match="another configuration .tail 8 there and 16 asked"):
        whorl.compare(["rope"], only="trials", **settings | {"tail": 16})

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("whorl.training.trainer.train", fails)
    with pytest.raises(TrialsFailed, match="1 of 2 trials failed"):
        whorl.compare(["rope", "alibi"], only="trials", **settings)


def job_id(folder: Path, settings: dict[str, Any]) -> str:
    """The name of alibi's trial: the one folder that a run of it with a broken training makes."""
    from whorl.comparison.planning import plan_trials

    asked = Settings(**{k: v for k, v in settings.items() if k not in ("out", "quiet")}).resolve()
    (trial,) = plan_trials(["alibi"], [0], asked, asked.make_task().fingerprint())
    return trial.id


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"only": "trial"}, "only must be one of 'trials', 'report', got 'trial'"),
        ({"only": "report", "job_list": "jobs"}, "--job-list and --only report are different ways to run trials"),
        ({"jobs": 2, "job_list": "jobs"}, "--jobs and --job-list are different ways to run trials; give one"),
        ({"jobs": 0}, "jobs must be a whole number from 1"),
        ({"job_list": 3}, "job_list must be the path of a file"),
    ],
)
def test_ways_that_there_are_none_of(how: dict[str, Any], words: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        whorl.compare(["rope"], out=tmp_path / "out", text=str(text), **SMALL, **how)
    assert not (tmp_path / "out").exists()
