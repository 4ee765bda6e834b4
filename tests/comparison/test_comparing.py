"""compare(): same weights and batches, results and report, resume after kill -9, refusal to mix configurations."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers.utils.logging import is_progress_bar_enabled

import whorl
from tests.comparison.small_runs import BATCH, LENGTH, SMALL, STEPS
from whorl.attaching import seams_of
from whorl.comparison.display import Display
from whorl.comparison.fitting import filled_by_model
from whorl.comparison.planning import plan_trials
from whorl.console import console
from whorl.data.corpus import read_documents
from whorl.results.comparison import Comparison
from whorl.sources import source
from whorl.testing import tiny_model
from whorl.training.checkpoints import MARKER
from whorl.training.models import build
from whorl.training.settings import Settings
from whorl.training.trainer import snapshot_steps
from whorl.training.trials import load_trial, read_result, snapshots_of


@pytest.fixture(scope="session")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    """One finished comparison that several tests read."""
    out = tmp_path_factory.mktemp("run") / "out"
    encodings = ["rope", "hope", "learned", "t5", "rope+window:size=8/nope"]
    return out, whorl.compare(encodings, out=out, text=str(text), **SMALL)


def test_results_are_those_of_their_file(finished: tuple[Path, Comparison]) -> None:
    out, results = finished
    assert Comparison.read(out / "results.json") == results
    written = json.loads((out / "results.json").read_text())
    assert written == results.to_json()
    assert {"schema", "whorl", "created", "machine", "versions", "config", "trials"} == written.keys()
    assert [t.encoding for t in results.trials] == ["rope", "hope", "learned", "t5", "layers"]
    rope, hope, learned, _t5, layers = results.trials
    assert rope.train.tokens == STEPS * BATCH * LENGTH
    assert (rope.pairs_turning, hope.pairs_turning, rope.pairs) == (32, 6, 32)
    assert layers.pairs_turning == (32, 0, 32, 0)
    assert hope.parameters == {"train_length": LENGTH, "base": 10000.0}
    assert learned.pairs_turning is None
    rows = rope.evaluations["perplexity"]
    assert [row.length for row in rows] == [32, 64]
    assert (rows[0].values.keys(), rows[0].windows, len(rows[0].samples)) == ({"tail", "mean"}, 4, 4)


def test_results_show_themselves(finished: tuple[Path, Comparison]) -> None:
    _, results = finished
    header, first, *_ = repr(results).splitlines()
    assert header.split() == ["encoding", "value", "seeds", "32", "64"]
    assert first.split()[:4] == ["rope", "perplexity", "tail", "1"]
    head = results._repr_html_()
    assert head.startswith("<h3>Five positional encodings past the training length</h3>")
    assert head.count("<small>") == head.count(" <small>") > 0, "small print is not glued to its number"
    frame = results.to_frame()
    assert list(frame.columns) == ["encoding", "seed", "evaluation", "length", "tail", "mean", "stderr"]
    assert len(frame) == 10
    assert results["trials"][0]["notation"] == "rope", "a key of results.json"


def test_a_length_out_of_reach_is_reported(finished: tuple[Path, Comparison]) -> None:
    _, results = finished
    rows = results.trials[2].evaluations["perplexity"]
    assert rows[0].values["tail"] > 1
    assert "position 63 is past the learned table, which has 32 positions" in rows[1].unreachable
    shown = io.StringIO()
    Display(console(file=shown, width=300, color_system=None)).finish(results, Path("out"))
    assert f"learned is out of reach at 64: {rows[1].unreachable}." in shown.getvalue()


def test_the_report_is_written(finished: tuple[Path, Comparison]) -> None:
    out, results = finished
    assert [t.notation for t in results.trials] == ["rope", "hope", "learned", "t5", "rope+window:size=8/nope"]
    for report in ("report.md", "report.html"):
        for trial in results.trials:
            assert trial.notation in (out / report).read_text()
    assert (out / "figures" / "perplexity.png").stat().st_size > 1000


def test_a_finished_trial_is_never_run_twice(finished: tuple[Path, Comparison], text: Path) -> None:
    out, results = finished
    times = {p: p.stat().st_mtime_ns for p in (out / "trials").rglob("*") if p.is_file()}
    again = whorl.compare(["hope", "rope"], out=out, text=str(text), **SMALL)
    names = [t.notation for t in again.trials]
    assert names[:2] == ["hope", "rope"]
    assert sorted(names) == sorted(t.notation for t in results.trials), "earlier trials stay in the results"
    assert again.config.trials_planned == len(again.trials), "and are counted among those that were asked for"
    assert again.trials[1] == results.trials[0]
    assert times == {p: p.stat().st_mtime_ns for p in (out / "trials").rglob("*") if p.is_file()}


def test_a_trial_loads_again(finished: tuple[Path, Comparison]) -> None:
    out, results = finished
    trial = results.trials[4]
    before = torch.get_rng_state()
    model = load_trial(out / "trials" / trial.id)
    assert torch.equal(torch.get_rng_state(), before), "who loads a trial is not seeded anew"
    assert str(whorl.attached(model).encoding) == "rope:base=10000+window:size=8/nope"
    from whorl.tasks import get
    from whorl.tasks.base import TaskSettings

    settings = json.loads((out / "config.json").read_text())
    task = get("language")(TaskSettings(LENGTH, (32, 64), 8, 4, settings["text"]))
    assert task.evaluate(model, 64).values["tail"] == pytest.approx(
        trial.evaluations["perplexity"][1].values["tail"], rel=1e-6
    )
    with pytest.raises(ValueError, match="no finished trial in"):
        load_trial(out / "trials" / "nothing")


def test_snapshots_along_the_training(text: Path, tmp_path: Path, finished: tuple[Path, Comparison]) -> None:
    before = torch.get_rng_state()
    whorl.compare(["rope"], out=tmp_path / "out", text=str(text), snapshots=3, **SMALL)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are his own"
    assert is_progress_bar_enabled(), "and so are transformers' progress bars"
    (trial,) = (tmp_path / "out" / "trials").iterdir()
    steps = list(snapshots_of(trial))
    assert (steps[0], steps[-1]) == (8, STEPS)
    assert set(steps) == snapshot_steps(STEPS, 3)
    early, late, end = (load_trial(trial, step).state_dict() for step in (steps[0], steps[-1], None))
    assert any(not torch.equal(early[name], late[name]) for name in late)
    assert all(torch.equal(late[name], end[name]) for name in late)
    undisturbed = load_trial(next((finished[0] / "trials").glob("rope-s0-*"))).state_dict()
    assert all(torch.equal(undisturbed[name], end[name]) for name in end), "keeping snapshots changes nothing"
    with pytest.raises(ValueError, match=r"has no snapshot at step 9: it has \[8, "):
        load_trial(trial, 9)


@pytest.mark.full
def test_what_is_trained_in_bfloat16_is_measured_in_float32(text: Path, tmp_path: Path) -> None:
    """The Trainer wraps the model's forward in autocast; a result must be that of the weights that are kept."""
    results = whorl.compare(["rope"], out=tmp_path / "out", text=str(text), **{**SMALL, "precision": "bf16"})
    (trial,) = (tmp_path / "out" / "trials").iterdir()
    from whorl.tasks import get
    from whorl.tasks.base import TaskSettings

    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    task = get("language")(TaskSettings(LENGTH, (32, 64), 8, 4, settings["text"]))
    measured = task.evaluate(load_trial(trial), 32).values["tail"]
    assert measured == pytest.approx(results.trials[0].evaluations["perplexity"][0].values["tail"], rel=1e-6)


def test_results_of_another_configuration_are_not_touched(finished: tuple[Path, Comparison], text: Path) -> None:
    out, _ = finished
    before = (out / "results.json").read_bytes()
    with pytest.raises(ValueError, match="another configuration .tail 8 there and 16 asked.; give another --out"):
        whorl.compare(["rope"], out=out, text=str(text), **{**SMALL, "tail": 16})
    assert (out / "results.json").read_bytes() == before


def test_a_damaged_result_is_named(finished: tuple[Path, Comparison], text: Path, tmp_path: Path, caplog) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    rope, hope, *others = (out / "trials" / t.id for t in finished[1].trials)
    for broken in ('{"id": "rope', "{}", "5", (hope / "result.json").read_text()):
        (rope / "result.json").write_text(broken)
        with pytest.raises(ValueError, match=f"{rope.name}/result.json is"):
            read_result(rope / "result.json")
    with pytest.raises(ValueError, match=f"{rope.name}/result.json is"):
        whorl.compare(["rope"], out=out, text=str(text), **SMALL)
    found = whorl.compare(["hope"], out=out, text=str(text), **SMALL)
    assert f"left out of the report: {rope}/result.json is" in caplog.text
    assert {t.id for t in found.trials} == {p.name for p in (hope, *others)}


def test_results_have_the_loss_by_step_those_of_earlier_versions_too(
    finished: tuple[Path, Comparison], text: Path, tmp_path: Path, caplog
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    rope, hope, learned, *_ = finished[1].trials
    assert list(rope.train.losses) == list(range(1, STEPS + 1))
    assert rope.train.losses[STEPS] == pytest.approx(rope.train.loss)
    for trial in (rope, hope, learned):
        path = out / "trials" / trial.id / "result.json"
        written = json.loads(path.read_text())
        del written["train"]["losses"]
        path.write_text(json.dumps(written))
    (out / "trials" / hope.id / "training.json").write_text("half")
    (out / "trials" / learned.id / "training.json").unlink()
    found = {t.id: t for t in whorl.compare(["rope"], out=out, text=str(text), **SMALL).trials}
    assert found[rope.id] == rope, "from its training's file"
    assert found[hope.id].train.losses == {}
    assert f"the learning curve of {hope.id} is left out" in caplog.text
    assert found[learned.id].train.losses == {}
    assert learned.id not in caplog.text, "taken over without it: nothing is amiss"


@pytest.mark.full
def test_a_trial_keeps_the_tokenizer_and_the_digest_of_its_text(text: Path, tmp_path: Path, caplog) -> None:
    mine, out = tmp_path / "text", tmp_path / "out"
    shutil.copytree(text, mine)
    first = whorl.compare(["rope"], out=out, text=str(mine), **SMALL).trials[0]
    before = source(str(out / "trials" / first.id))
    assert before.holds_out(before.text, read_documents(before.text))
    words = before.tokenizer().get_vocab()
    (mine / "more.txt").write_text("zzzz yyyy xxxx " * 9000)
    second = whorl.compare(["rope"], out=out, text=str(mine), **SMALL).trials[0]
    after = source(str(out / "trials" / second.id))
    assert first.id != second.id
    assert after.tokenizer().get_vocab() != words
    assert before.tokenizer().get_vocab() == words, "the first trial's is its own"
    now = read_documents(after.text)
    assert after.holds_out(after.text, now)
    assert not before.holds_out(before.text, now)
    assert "is not the text any more" in caplog.text
    assert Path(before.text).is_absolute()


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path, text: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no whorl results"):
        whorl.compare(["rope"], out=tmp_path, text=str(text), **SMALL)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_all_encodings_start_from_the_same_weights() -> None:
    settings = Settings(precision="fp32").resolve()
    encodings = ["rope", "hope:train_length=128", "t5", "kerple", "learned:max_positions=128", "sinusoidal"]
    models = [build(settings, whorl.parse(e), 3, 1024, 0) for e in encodings]
    stock = dict(models[0].named_parameters())
    for model in models[1:]:
        own = {n: p for n, p in model.named_parameters() if ".whorl." not in n}
        assert own.keys() == stock.keys()
        assert all(torch.equal(p, stock[n]) for n, p in own.items())
    other = build(settings, whorl.parse("rope"), 4, 1024, 0)
    assert not torch.equal(next(other.parameters()), next(models[0].parameters()))


def test_an_encoding_that_cannot_be_attached_fails_before_any_training(tmp_path: Path, text: Path) -> None:
    from transformers import GPT2Config

    config = GPT2Config(n_embd=30, n_head=2, n_layer=1)
    config.save_pretrained(tmp_path / "odd")
    with pytest.raises(ValueError, match="even head dim of at least 2, got 15"):
        whorl.compare(["alibi", "rope"], out=tmp_path / "out", text=str(text), model=str(tmp_path / "odd"), **SMALL)
    assert not (tmp_path / "out").exists()


def test_a_models_directory_is_trained_further(shared: Path, tmp_path: Path) -> None:
    """A real checkpoint with its own tokenizer: the loss starts where pretraining left it."""
    folder = str(shared / "fixtures" / "babyllama-tok105")
    sample = str(shared / "fixtures" / "text" / "tinystories_sample.txt")
    settings = {**SMALL, "learning_rate": 1e-6, "lengths": ("1x",)}
    results = whorl.compare(["rope"], out=tmp_path / "out", model=folder, tokenizer=folder, text=sample, **settings)
    assert results.trials[0].train.loss < 3, "random weights would give log 105 = 4.65"
    assert results.config.model == "babyllama-tok105"
    assert results.trials[0].pretrained == "rope"
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.index("began with the pretrained weights of babyllama-tok105") < report.index("Findings")


def test_a_pretrained_models_config_fills_what_is_not_given(
    finished: tuple[Path, Comparison], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: base and training length are the model's own, said and recorded; what is given stays."""
    from whorl.cli import app

    settings = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "vocab_size": 1024}
    (tokenizer, *_) = (finished[0] / "trials").glob("*/tokenizer")
    tiny_model("llama", **settings).save_pretrained(tmp_path / "model")
    options = {
        "model": tmp_path / "model", "tokenizer": tokenizer, "text": text, "out": tmp_path / "out",
        "train-length": LENGTH, "lengths": "1x", "tokens": BATCH * LENGTH, "batch-size": BATCH, "tail": 8,
        "windows": 4, "precision": "fp32",
    }  # fmt: skip
    asked = ["rope", "hope", "hope:train_length=16,base=20"]
    app(["compare", *asked, *(f"--{k}={v}" for k, v in options.items())], standalone_mode=False)
    said = capsys.readouterr().out.splitlines()
    assert "rope: base 500,000 from the model's config" in said
    assert "hope: train length 64 and base 500,000 from the model's config" in said
    trials = json.loads((tmp_path / "out" / "results.json").read_text())["trials"]
    assert [t["notation"] for t in trials] == asked
    assert [t["parameters"] for t in trials] == [
        {"base": 5e5},
        {"train_length": 64, "base": 5e5},
        {"train_length": 16, "base": 20},
    ]
    again = load_trial(tmp_path / "out" / "trials" / trials[1]["id"])
    assert str(whorl.encoding_of(again)) == "hope:train_length=64,base=500000"
    longer = Settings(model=str(tmp_path / "model"), train_length=100)
    assert str(filled_by_model(["hope"], longer)[0][0]) == "hope:train_length=100,base=500000", "it is trained at both"
    assert filled_by_model(["hope"], longer)[1] == [
        "hope: train length 100 of this run, base 500,000 from the model's config"
    ]


def test_from_scratch_the_defaults_stand(tmp_path: Path) -> None:
    """A config without weights states what nobody has been trained with."""
    config = tiny_model("gpt_neox", rope_parameters={"rope_type": "default", "rope_theta": 5e5}).config
    config.save_pretrained(tmp_path)
    settings = Settings(model=str(tmp_path), precision="fp32").resolve()
    said = "rope is trained from the start as rope:base=10000,fraction=1; by the model's config it would be rope:base="
    assert filled_by_model(["rope"], settings) == ([whorl.RoPE()], [f"{said}500000,fraction=0.25"])
    same = ["nope", "sinusoidal", "alibi", "rope:base=500000,fraction=0.25"]
    assert filled_by_model(same, settings)[1] == []
    (trial,) = plan_trials(["hope"], (0,), settings, "data")
    assert str(trial.encoding) == "hope:train_length=128,base=10000"
    model = build(settings, trial.encoding, 0, 97, 0)
    assert seams_of(model)[0].spectrum == trial.encoding.spectrum(16), "whole heads turn"


KILLED = """
import sys, whorl.training.trainer as training
training.MIN_STEPS = 2
import whorl
whorl.compare(["hope", "t5"], out=sys.argv[1], text=sys.argv[2], train_length=32, lengths=("1x", "2x"),
              tokens=30 * 4 * 32, batch_size=4, tail=8, windows=4, precision="fp32", quiet=True)
"""


@pytest.mark.full
def test_kill_9_and_the_same_command_give_the_undisturbed_results(text: Path, tmp_path: Path) -> None:
    """Killed twice: once after a checkpoint of the first trial, once while a later checkpoint lacks its marker."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", KILLED, str(out), str(text)], env=environment)

    out, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = start(out)
    wait_for(lambda: list(out.glob("trials/*/checkpoints/checkpoint-*/" + MARKER)), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(out.glob("trials/*/result.json")), "it was to be killed in its first trial"
    newest = max(out.glob("trials/*/checkpoints/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    half_written = newest.with_name("checkpoint-29")
    shutil.copytree(newest, half_written)
    (half_written / MARKER).unlink(missing_ok=True)
    (half_written / "model.safetensors").write_bytes(b"half")
    assert start(out).wait() == 0
    assert start(undisturbed).wait() == 0

    def numbers(folder: Path) -> list:
        trials = json.loads((folder / "results.json").read_text())["trials"]
        return [(t["id"], t["train"]["loss"], t["evaluations"]) for t in trials]

    assert numbers(out) == numbers(undisturbed)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)


@pytest.mark.full
def test_two_processes_train_what_one_trains(finished: tuple[Path, Comparison], text: Path, tmp_path: Path) -> None:
    """The same global batches, so the same losses to rounding; and not the same bits, so really two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "whorl"]
    options = {
        "train-length": LENGTH,
        "lengths": "1x,2x",
        "tokens": STEPS * BATCH * LENGTH,
        "batch-size": BATCH,
        "tail": 8,
        "windows": 4,
        "precision": "fp32",
        "text": text,
        "out": tmp_path / "out",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [*command, "compare", "rope", *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    (two,), one = Comparison.read(tmp_path / "out" / "results.json").trials, finished[1].trials[0]
    assert two.id == one.id
    for ours, theirs in zip(two.evaluations["perplexity"], one.evaluations["perplexity"], strict=True):
        assert ours.values["tail"] == pytest.approx(theirs.values["tail"], rel=1e-5)
    assert two.evaluations != one.evaluations
