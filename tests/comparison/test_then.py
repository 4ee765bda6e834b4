"""`A then B`: trained with A, and evaluated with B in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import whorl
from tests.comparison.small_runs import LENGTH, SMALL
from whorl.comparison.fitting import asked_for
from whorl.comparison.planning import Planned, halves, plan_trials, written
from whorl.results.comparison import Comparison
from whorl.testing import tiny_model
from whorl.training import trainer
from whorl.training.settings import Settings
from whorl.training.trials import load_trial, read_result

ASKED = "rope then rope~yarn:factor=4"
Run = tuple[Path, Comparison]


def planned(encodings: list[str], settings: Settings | None = None) -> list[Planned]:
    """As `whorl.compare` plans them."""
    settings = settings or Settings(precision="fp32").resolve()
    asked, tested, _ = asked_for(encodings, (0,), settings)
    return plan_trials(asked, (0,), settings, "data", [*map(written, encodings)], tested=tested)


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("then") / "out"
    return out, whorl.compare([ASKED, "rope"], out=out, text=str(text), **SMALL)  # in whichever order


def test_it_is_the_model_of_the_one_read_with_the_other(finished: Run) -> None:
    out, results = finished
    rope, then = results.trials
    assert then.notation == "rope then rope~yarn:factor=4"
    assert then.train == rope.train, "it was not trained again"
    assert then.wavelengths != rope.wavelengths
    model = load_trial(out / "trials" / rope.id)
    whorl.attach(model, f"rope~yarn:factor=4,original={LENGTH}")
    task = Settings.from_dict(read_result(out / "trials" / then.id / "result.json").settings).make_task()
    for row in then.evaluations["perplexity"]:
        assert task.evaluate(model, row.length).values["tail"] == pytest.approx(row.values["tail"], rel=1e-6)
        assert row.values["tail"] != rope.row("perplexity", row.length).values["tail"]
    assert then.validation == rope.validation, "a learning rate is picked by what is trained"


def test_what_was_learned_is_evaluated(text: Path, tmp_path: Path) -> None:
    """Gates beside the rotary encoding that is changed."""
    results = whorl.compare(["rope+fox", "rope+fox then hope+fox"], out=tmp_path / "out", text=str(text), **SMALL)
    fox, then = (load_trial(tmp_path / "out" / "trials" / trial.id) for trial in results.trials)
    theirs = dict(whorl.attached(then).named_parameters())
    assert theirs, "gates"
    assert all(torch.equal(x, theirs[k]) for k, x in whorl.attached(fox).named_parameters())
    task = Settings.from_dict(read_result(tmp_path / "out" / "trials" / results.trials[1].id / "result.json").settings)
    for row in results.trials[1].evaluations["perplexity"]:
        assert task.make_task().evaluate(then, row.length).values["tail"] == pytest.approx(row.values["tail"], rel=1e-6)


def test_it_loads_as_it_was_evaluated(finished: Run) -> None:
    out, results = finished
    model = load_trial(out / "trials" / results.trials[1].id)
    assert str(whorl.attached(model).encoding) == f"rope:base=10000~yarn:factor=4,original={LENGTH}"


def test_it_is_a_trial_of_its_own_and_the_report_has_both(finished: Run) -> None:
    out, results = finished
    assert [t.id.rpartition("-s0-")[0] for t in results.trials] == ["rope", "rope-then-rope-yarn-factor-4-original-32"]
    report = (out / "report.md").read_text()
    assert "| rope then rope~yarn:factor=4 | 32 of 32 |" in report


def test_alone_it_is_trained_and_comes_to_the_same(
    finished: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = whorl.compare([ASKED], out=tmp_path / "out", text=str(text), **SMALL)
    assert alone.trials[0].evaluations == finished[1].trials[1].evaluations
    monkeypatch.setattr(trainer, "train", None)
    again = whorl.compare([ASKED], out=tmp_path / "out", text=str(text), **SMALL)
    assert again.trials == alone.trials, "and is not run twice"


@pytest.mark.full
def test_other_processes_run_it_too(finished: Run, text: Path, tmp_path: Path) -> None:
    """With --jobs, as JSON."""
    there = whorl.compare(["rope", ASKED], out=tmp_path / "out", jobs=2, text=str(text), **SMALL)
    assert [t.id for t in there.trials] == [t.id for t in finished[1].trials]
    for ours, theirs in zip(there.trials, finished[1].trials, strict=True):
        for a, b in zip(ours.evaluations["perplexity"], theirs.evaluations["perplexity"], strict=True):
            assert a.values["tail"] == pytest.approx(b.values["tail"], rel=1e-4)


def test_what_is_asked_for_is_read_and_written() -> None:
    assert halves("rope") == ("rope", None)
    assert halves(ASKED) == ("rope", "rope~yarn:factor=4")
    assert written("rope:base=500 then hope") == "rope:base=500 then hope"
    with pytest.raises(ValueError, match="more than one `then`"):
        halves("rope then hope then nope")
    with pytest.raises(ValueError, match="is two encodings, to train with and to read with, which whorl compare"):
        whorl.parse(ASKED)
    with pytest.raises(ValueError, match=r"reads with what it was trained with; give rope:base=500 alone"):
        planned(["rope:base=500 then rope"])
    alike, then = planned(["rope", ASKED])
    assert (then.alike, alike.alike, then.encoding) == (alike.id, None, alike.encoding)
    with pytest.raises(ValueError, match="rope then rope~yarn:factor=4,original=128 is asked for twice"):
        planned([ASKED, ASKED])


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("rope:base=500 then rope~yarn:factor=4", "rope:base=500~yarn:factor=4,original=128"),
        ("rope:base=500~linear:factor=2 then hope", "hope:train_length=128,base=500"),
        (
            "partial-rope:fraction=0.25,base=500 then rope~yarn:factor=4",
            "rope:base=500,fraction=0.25~yarn:factor=4,original=128",
        ),
        ("rope:base=500/nope then rope:base=800/nope", "rope:base=800/nope"),
        ("rope:base=500/rope:base=800 then rope:base=500/rope:base=900", "rope:base=500/rope:base=900"),
        ("alibi then rope", "rope:base=10000"),
        ("fire then rope:base=700", "rope:base=700"),
    ],
)
def test_what_the_second_leaves_unset_is_that_of_the_first(asked: str, read: str) -> None:
    (trial,) = planned([asked])
    assert str(trial.tested) == read


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("rope then rope~yarn:factor=4", "rope:base=2000~yarn:factor=4,original=96"),
        ("rope:base=500 then rope~yarn:factor=4", "rope:base=500~yarn:factor=4,original=96"),
        ("alibi then rope", "rope:base=2000"),
    ],
)
def test_on_a_model_with_weights_what_both_leave_unset_is_the_models(asked: str, read: str, tmp_path: Path) -> None:
    config = {"rope_parameters": {"rope_type": "default", "rope_theta": 2000.0}, "max_position_embeddings": 96}
    tiny_model("llama", **config).save_pretrained(tmp_path)
    settings = Settings(model=str(tmp_path), precision="fp32", train_length=32).resolve()
    (trial,) = planned([asked], settings)
    assert str(trial.tested) == read
    with pytest.raises(ValueError, match=r"reads with what it was trained with; give rope:base=2000 alone"):
        planned(["rope then rope"], settings)


def test_on_a_model_whose_layers_turn_in_two_ways_both_are_its_own(tmp_path: Path) -> None:
    tiny_model("gemma3_text").save_pretrained(tmp_path)
    settings = Settings(model=str(tmp_path), precision="fp32", train_length=32).resolve()
    (trial,) = planned(["rope then rope~linear:factor=2"], settings)
    (alone,) = planned(["rope~linear:factor=2"], settings)
    assert trial.tested == alone.encoding
    assert len(set(trial.tested.rules)) == 2, "each layer type has its base"


def test_the_command_reads_with_the_base_that_was_trained(text: Path, tmp_path: Path) -> None:
    """It read with 10,000, and what was tested was a function that nothing called."""
    asked = "rope:base=500 then rope~linear:factor=2"
    results = whorl.compare([asked], out=tmp_path / "out", text=str(text), **SMALL)
    model = load_trial(tmp_path / "out" / "trials" / results.trials[0].id)
    assert str(whorl.encoding_of(model)) == "rope:base=500~linear:factor=2"
    with pytest.raises(ValueError, match="reads with what it was trained with"):
        whorl.compare(["rope:base=500 then rope"], out=tmp_path / "other", text=str(text), **SMALL)


def test_of_several_bases_none_is_guessed() -> None:
    with pytest.raises(
        ValueError, match=r"is trained with base 500 and 800, and rope~ntk:factor=4, .* leaves open which"
    ):
        planned(["rope:base=500/rope:base=800 then rope~ntk:factor=4"])


def test_ids_tell_apart_what_is_evaluated_where_names_are_cut_short() -> None:
    asked = [f"rope:base=500000 then rope:base=500000~yarn:factor={factor}" for factor in (4, 16)]
    trials = planned(asked)
    names = [trial.id.rpartition("-s0-") for trial in trials]
    assert names[0][0] == names[1][0]
    assert names[0][2] != names[1][2]


def test_the_command_checks_both_names_first(capsys: pytest.CaptureFixture[str]) -> None:
    from whorl.cli import early

    early.check("compare", {"encodings": [ASKED]})
    with pytest.raises(ValueError, match="yarrn"):
        early.check("compare", {"encodings": ["rope then rope~yarrn:factor=4"]})
