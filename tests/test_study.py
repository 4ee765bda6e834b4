"""Studies: what is finished anywhere is taken over, what is missing is run, and what comes of it is kept."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import whorl
from tests.comparison.small_runs import SMALL
from whorl.comparison.fitting import attached_to_each
from whorl.results.comparison import Comparison
from whorl.training import trainer

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """experiments/study.py, which is no part of the package."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(EXPERIMENTS))
        spec = importlib.util.spec_from_file_location("study", EXPERIMENTS / "study.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patched.setitem(sys.modules, "study", module)  # dataclasses look there
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def places(study: ModuleType, tmp_path: Path) -> Any:
    return study.Places(tmp_path / "experiments", tmp_path / "runs")


@pytest.fixture
def first(study: ModuleType, text: Path) -> Any:
    """Two encodings on a text, two seeds."""
    part = study.Part(("rope", "nope"), small(text))
    return study.Study("0001-first", "Which?", {"language": part}, (0, 1))


def small(text: Path, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**SMALL, "text": str(text), **changes}.items() if name != "quiet"}


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing is to be trained")


def test_every_study_can_be_run(study: ModuleType, tmp_path: Path) -> None:
    """Its settings are some, and its encodings go on the model; each has a folder of its own."""
    folders = [one.folder for one in study.STUDIES.values()]
    assert len(set(folders)) == len(folders)
    attached = set()
    for one in study.STUDIES.values():
        for name, part in one.parts.items():
            job = study.Job(one, name, one.seeds, study.Places(tmp_path, tmp_path))
            job.settings.check_task()
            trials = job.trials("data")
            assert len({trial.id for trial in trials}) == len(one.seeds) * len(part.encodings)
            for encoding in {e for t in trials for e in (t.encoding, t.tested) if e is not None}:
                if (encoding, job.settings.task_class.body) not in attached:
                    attached_to_each([encoding], job.settings)
                    attached.add((encoding, job.settings.task_class.body))


def test_trials_that_two_studies_share_have_one_id(study: ModuleType, tmp_path: Path) -> None:
    def ids(name: str) -> set[str]:
        one = study.STUDIES[name]
        return {t.id for t in study.Job(one, "language", one.seeds, study.Places(tmp_path, tmp_path)).trials("data")}

    assert ids("awareness") < ids("extrapolation")
    assert len(ids("p-rope-table") & ids("extrapolation")) == 4 * 3


def test_a_study_runs_what_is_missing_and_its_trials_are_kept(
    study: ModuleType, first: Any, places: Any, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.listing(first, (0, 1), places).splitlines()[1:] == [
        "language: 0 of 4 trials are finished",
        "  missing with seed 0: rope nope",
        "  missing with seed 1: rope nope",
    ]
    assert study.run(first, (0,), places)
    kept = places.experiments / "0001-first" / "language"
    assert [t.notation for t in Comparison.read(kept / "results.json").trials] == ["rope", "nope"]
    assert {path.name for path in kept.iterdir()} == {"results.json", "report.md", "report.html", "figures"}
    pool = sorted(places.pool.iterdir())
    assert [[path.name for path in place.iterdir()] for place in pool] == [["result.json"]] * 2, "no weights"

    # A clean checkout has no runs: what is committed is found, and with seed 1 the rest is run.
    shutil.rmtree(places.runs)
    clean = study.Places(places.experiments, places.runs)
    with monkeypatch.context() as patched:
        patched.setattr(whorl, "compare", refuse)
        assert study.run(first, (0,), clean)
    told = study.listing(first, (0, 1), clean).splitlines()
    assert told[1].startswith("language: 2 of 4 trials are finished, some 0.0 h of training")
    assert told[2:] == ["  missing with seed 1: rope nope"]
    assert study.run(first, (0, 1), clean)
    trained = [place.parent.name for place in places.runs.glob("first/language/trials/*/model.safetensors")]
    assert sorted(name.split("-s")[1][0] for name in trained) == ["1", "1"], "those of seed 0 were taken over"
    assert len(Comparison.read(kept / "results.json").trials) == 4

    # Another study that asks for one of them takes it from the first.
    other = study.Study("0002-other", "And?", {"some": study.Part(("hope", "rope"), small(text))}, (1,))
    assert study.run(other, (1,), clean)
    trained = [place.parent.name for place in places.runs.glob("other/some/trials/*/model.safetensors")]
    assert [name.partition("-")[0] for name in trained] == ["hope"]
    results = Comparison.read(places.experiments / "0002-other" / "some" / "results.json")
    assert [t.notation for t in results.trials] == ["hope", "rope"]


def test_trials_of_comparisons_are_taken_over(
    study: ModuleType, first: Any, places: Any, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder of runs, and from a results.json alone, as earlier studies have committed them."""
    settings = small(text)
    whorl.compare(["rope"], out=places.runs / "mine", **settings)
    whorl.compare(["nope"], out=places.runs.parent / "elsewhere", **settings)
    (places.experiments / "0000-old").mkdir(parents=True)
    shutil.copy(places.runs.parent / "elsewhere" / "results.json", places.experiments / "0000-old")
    (places.runs / "broken" / "trials" / "x").mkdir(parents=True)
    (places.runs / "broken" / "trials" / "x" / "result.json").write_text("half")
    monkeypatch.setattr(trainer, "train", refuse)
    assert study.run(first, (0, 1), places, only="report"), "what is finished is gathered, and nothing is run"
    assert len(Comparison.read(places.experiments / "0001-first" / "language" / "results.json").trials) == 2
    assert study.run(first, (0,), places)
    pool = {path.parent.name.partition("-")[0]: json.loads(path.read_text()) for path in places.pool.glob("*/*.json")}
    assert pool.keys() == {"rope", "nope"}
    same = ("settings", "data", "text", "vocab_size", "eos_token_id", "machine", "versions")
    assert {key: pool["rope"][key] for key in same} == {key: pool["nope"][key] for key in same}


def test_committed_results_of_more_seeds_are_not_lost(
    study: ModuleType, first: Any, places: Any, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A study that was committed before its trials were kept: all of its seeds are taken over before any is run."""
    kept, elsewhere = places.experiments / "0001-first" / "language", places.runs.parent / "elsewhere"
    whorl.compare(["rope", "nope"], seeds=(0, 1), out=elsewhere, **small(text))
    kept.mkdir(parents=True)
    shutil.copy(elsewhere / "results.json", kept)
    monkeypatch.setattr(trainer, "train", refuse)
    assert study.run(first, (0, 1), places)
    assert len(Comparison.read(kept / "results.json").trials) == len([*places.pool.iterdir()]) == 4
    assert study.listing(first, (0, 1), study.Places(places.experiments, places.runs)).endswith(
        "language: 4 of 4 trials are finished"
    )

    for place in (places.runs / "first" / "language" / "trials").glob("*-s1-*"):
        shutil.rmtree(place)
    whorl.compare(["rope", "nope"], out=places.runs / "first" / "language", **small(text))
    study.Job(first, "language", (0,), places).gather()
    assert len(Comparison.read(kept / "results.json").trials) == 4, "fewer do not replace more"
    assert "stays as it is: it has 2 trials that" in capsys.readouterr().err


@pytest.mark.full
def test_missing_trials_are_not_run_on_other_data(
    study: ModuleType, first: Any, places: Any, text: Path, tmp_path: Path
) -> None:
    """As where Python's own library, which is the text, is another."""
    assert study.run(first, (0,), places)
    shutil.copytree(text, tmp_path / "text")
    (tmp_path / "text" / "more.txt").write_text("zzzz yyyy xxxx " * 900)
    moved = study.Study("0001-first", "Which?", {"language": study.Part(("rope",), small(tmp_path / "text"))}, (0, 1))
    for path in places.pool.glob("*/result.json"):
        trial = json.loads(path.read_text())
        trial["settings"]["text"] = str(tmp_path / "text")
        path.write_text(json.dumps(trial))
    with pytest.raises(ValueError, match="are of other data than can be made here"):
        study.run(moved, (0, 1), study.Places(places.experiments, tmp_path / "new"))


@pytest.mark.full
def test_a_failing_trial_stops_no_other(
    study: ModuleType, first: Any, places: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = trainer.train

    def fails(model: Any, recipe: Any, dataset: Any, folder: Path, *others: Any) -> Any:
        if folder.name.startswith("rope"):
            raise RuntimeError("no such kernel")
        return train(model, recipe, dataset, folder, *others)

    monkeypatch.setattr(trainer, "train", fails)
    assert not study.run(first, (0,), places)
    assert "1 of 2 trials failed" in capsys.readouterr().err
    assert [path.name.partition("-")[0] for path in places.pool.iterdir()] == ["nope"], "what is finished is kept"
    monkeypatch.undo()
    assert study.run(first, (0,), places), "the same again runs what failed"


def test_values_of_windows_replace_a_result_without_them(study: ModuleType, first: Any, places: Any) -> None:
    assert study.run(first, (0,), places)
    whole = next(places.pool.glob("rope-*/result.json"))
    before = whole.read_text()
    earlier = json.loads(before)
    for row in earlier["evaluations"]["perplexity"]:
        del row["samples"]
    whole.write_text(json.dumps(earlier))
    study.Job(first, "language", (0,), places).gather()
    assert whole.read_text() == before


def test_a_report_that_cannot_be_copied_leaves_the_committed_one(
    study: ModuleType, first: Any, places: Any, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = study.Job(first, "language", (0,), places)
    assert job.run(1)
    before = {path.relative_to(job.kept): path.read_bytes() for path in job.kept.rglob("*") if path.is_file()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", full)
        with pytest.raises(OSError, match="No space"):
            job.gather()
    assert {path.relative_to(job.kept): path.read_bytes() for path in job.kept.rglob("*") if path.is_file()} == before
    job.gather()
    assert [path.name for path in job.kept.parent.iterdir()] == ["language"]


def test_make_refuses_a_study_that_there_is_none_of_before_it_installs(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" != -m ] || exit 9\nexec {sys.executable} "$@"\n'
    )  # which makes no environment
    python.chmod(0o755)
    for name, said in (
        ("extrapolatoin", "there is no study 'extrapolatoin'; make study NAME=... takes extrapolation, "),
        ("", "study ''"),
    ):
        command = ["make", "study", f"NAME={name}", "STUDY=--list", f"VENV={tmp_path}/venv", f"PYTHON={python}"]
        done = subprocess.run(command, cwd=EXPERIMENTS.parent, capture_output=True, text=True, check=False)
        assert said in done.stderr
        assert "pretrained-llms" in done.stderr
        assert "venv" not in done.stdout + done.stderr, "nothing is installed"
    command[2] = "NAME=pretrained-llms"
    done = subprocess.run(command, cwd=EXPERIMENTS.parent, capture_output=True, text=True, check=False)
    assert "Error 9" in done.stderr, "what there is goes on"


def test_a_list_installs_nothing_where_there_is_an_environment(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/echo")
    command = ["make", "study", "NAME=extrapolation", "STUDY=--list", f"VENV={tmp_path}", f"PYTHON={sys.executable}"]

    alone = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}

    def made(*more: str) -> str:
        how = {"cwd": EXPERIMENTS.parent, "env": alone, "capture_output": True, "text": True, "check": True}
        return subprocess.run([*command, *more], **how).stdout

    assert "pip install" in made("--dry-run"), "an installation that was begun is none"
    (tmp_path / ".installed").touch()
    os.utime(tmp_path / ".installed", (0, 0))  # older than pyproject.toml
    assert "pip install" not in made("--dry-run")
    assert made().splitlines()[-1] == "experiments/study.py extrapolation --list"

    command[2] = "NAME=pretrained-llms"
    folder = "experiments/0007-pretrained-llms"
    said = f"{folder}/study.py --models build/models --out runs/pretrained-llms --list"
    assert [line for line in made().splitlines() if line.startswith(folder)] == [said], "nothing fetched or gathered"
