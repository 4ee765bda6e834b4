"""Learning rates: every encoding is shown at the one with the lowest loss on what the evaluation does not ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import whorl
from tests.comparison.small_runs import BATCH, LENGTH, SMALL, STEPS
from whorl.comparison.planning import check_rates
from whorl.results.comparison import Comparison
from whorl.training.trials import load_trial, read_result

RATES = (3e-3, 1e-5)
Run = tuple[Path, Comparison]


@pytest.fixture(scope="module")
def swept(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """rope at the preset's own rate, then both encodings at two rates in the same folder."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    whorl.compare(["rope"], out=out, text=str(text), **SMALL)
    return out, whorl.compare(["rope", "nope"], learning_rates=RATES, out=out, text=str(text), **SMALL)


def test_each_encoding_is_shown_at_its_best_rate_and_the_others_are_kept(swept: Run) -> None:
    out, results = swept
    assert [(t.notation, t.learning_rate) for t in results.trials] == [("rope", 3e-3), ("nope", 3e-3)]
    others = {(t.notation, t.learning_rate) for t in results.at_other_rates}
    assert others == {("rope", 1e-5), ("rope", 2e-3), ("nope", 1e-5)}
    every = (*results.trials, *results.at_other_rates)
    losses = {(t.notation, t.learning_rate): t.validation for t in every}
    for name, rate in losses:
        assert losses[name, 3e-3] <= losses[name, rate]
    assert {t.train.tokens for t in every} == {STEPS * BATCH * LENGTH}, "the same budget"
    assert results.config.learning_rates == tuple(sorted(RATES))
    assert Comparison.read(out / "results.json") == results


def test_the_loss_that_picks_is_not_of_the_evaluation(swept: Run) -> None:
    out, results = swept
    trial = results.trials[0]
    path = out / "trials" / trial.id
    settings = read_result(path / "result.json").settings
    assert settings["learning_rate"] == 3e-3
    from whorl.training.settings import Settings

    task = Settings.from_dict(settings).make_task()
    assert task.validation_loss(load_trial(path)) == pytest.approx(trial.validation, rel=1e-6)


def test_the_report_has_all_rates_and_says_which_are_shown(swept: Run) -> None:
    report = (swept[0] / "report.md").read_text()
    section = report[report.index("## Learning rates") : report.index("## Training")]
    assert "which no seed trains on and no evaluation asks for: rope at 0.003 and nope at 0.003." in section
    assert "Each of these is at an end of the rates that were tried: a better one may lie beyond." in section
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith(("| rope |", "| nope |"))]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [
        ["rope", "1e-05"],
        ["rope", "0.002"],
        ["rope", "0.003 (shown)"],
        ["nope", "1e-05"],
        ["nope", "0.003 (shown)"],
    ]
    assert "partial" not in report
    assert "one optimiser setting for all, but for the learning rate" in report


def test_a_finished_sweep_is_not_run_again(swept: Run, text: Path) -> None:
    out, results = swept
    times = {p: p.stat().st_mtime_ns for p in (out / "trials").rglob("*") if p.is_file()}
    again = whorl.compare(["rope", "nope"], learning_rates=RATES, out=out, text=str(text), **SMALL)
    assert again.trials == results.trials
    assert times == {p: p.stat().st_mtime_ns for p in (out / "trials").rglob("*") if p.is_file()}


def test_trials_of_earlier_versions_are_validated_from_their_weights(text: Path, tmp_path: Path) -> None:
    def run(**more) -> Comparison:
        return whorl.compare(["rope"], out=tmp_path / "out", text=str(text), **SMALL, **more)

    (first,) = run().trials
    path = tmp_path / "out" / "trials" / first.id / "result.json"
    earlier = json.loads(path.read_text())
    del earlier["validation"]
    path.write_text(json.dumps(earlier))
    assert run().trials[0].validation is None, "nobody asks for it"
    assert run(learning_rates=[2e-3]).trials[0].validation == pytest.approx(first.validation, rel=1e-6)
    path.write_text(json.dumps(earlier))
    (path.parent / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="neither the validation loss by which a learning rate is picked nor the weig"):
        run(learning_rates=[2e-3])


def test_rates_that_cannot_be_tried_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    assert check_rates((2e-3, 1e-3)) == [1e-3, 2e-3]
    for given, match in (
        ({"learning_rates": 1e-3}, "learning_rates must be a list, got 0.001; try"),
        ({"learning_rates": [1e-3, 1e-3]}, "the learning rate 0.001 is asked for twice"),
        ({"learning_rates": [0.0]}, "learning-rate must be a number above 0"),
        ({"learning_rates": [1e-3], "learning_rate": 2e-3}, "both learning_rate .0.002. and learning_rates are given"),
    ):
        with pytest.raises(ValueError, match=match):
            whorl.compare(["rope"], out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_text_with_nothing_left_to_pick_by_is_refused(text: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "windows": 10_000, "lengths": ("1x",)}  # all that is held out
    with pytest.raises(ValueError, match="left to validate on"):
        whorl.compare(["rope"], learning_rates=RATES, out=tmp_path / "out", text=str(text), **settings)


def test_a_job_list_has_a_line_for_each_rate(text: Path, tmp_path: Path) -> None:
    jobs, settings = tmp_path / "jobs", {**SMALL, "text": str(text), "out": tmp_path / "out"}
    whorl.compare(["rope"], learning_rates=RATES, job_list=jobs, **settings)
    lines = jobs.read_text().splitlines()
    assert [word for line in lines for word in line.split() if "learning-rate" in word] == [
        "--learning-rates=1e-05",
        "--learning-rates=0.003",
    ]


def test_the_command_reads_rates(capsys: pytest.CaptureFixture[str]) -> None:
    from whorl.cli import app

    with pytest.raises(ValueError, match="--learning-rates takes numbers with commas between, got '1e-3,x'"):
        app(["compare", "rope", "--learning-rates", "1e-3,x"], standalone_mode=False)
