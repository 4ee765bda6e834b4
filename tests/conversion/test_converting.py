"""convert: the swap, the healing beside a control, the gradual change, and what is written."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import whorl
from whorl.conversion import converting
from whorl.conversion.converting import Healing, convert, language
from whorl.conversion.extending import loss_by_position, summed
from whorl.conversion.folders import overlapping
from whorl.encodings import parse
from whorl.results.extension import Within
from whorl.testing import tiny_model

LENGTH = 32


def test_a_trial_becomes_hope(trial: tuple[Path, str], tmp_path: Path) -> None:
    folder, text = trial
    steps: list[str] = []

    def stage(name: str):
        return lambda step, of: steps.append(name)

    report = whorl.convert(
        str(folder), "hope", heal=25 * 8 * LENGTH, batch_size=8, windows=4, learning_rate=1e-3, out=tmp_path / "out",
        stage=stage,
    )  # fmt: skip
    assert (report.from_, report.to) == ("rope:base=10000", f"hope:train_length={LENGTH},base=10000")
    assert list(report.before) == [LENGTH, 4 * LENGTH]
    assert report.swapped != report.before
    for losses in (report.healed, report.control):
        assert losses[LENGTH] < report.before[LENGTH], "trained on, on the same kind of text"
    assert steps.count("healing") == steps.count("control") == 25
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert written["healed"][str(LENGTH)] == report.healed[LENGTH]
    again = whorl.load(tmp_path / "out")
    assert str(whorl.encoding_of(again)) == f"hope:train_length={LENGTH},base=10000"
    task = language(text, str(folder / "tokenizer"), LENGTH, (LENGTH, 4 * LENGTH), 4, LENGTH // 4)
    assert converting.evaluated(again, task)[LENGTH] == pytest.approx(report.healed[LENGTH], abs=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "the Trainer's files are gone"


def test_the_control_is_the_untouched_model_trained_alike(trial: tuple[Path, str], tmp_path: Path) -> None:
    """Training is deterministic: converting rope to a rope that is the same in all but its name gives the control."""
    folder, text = trial
    task = language(text, str(folder / "tokenizer"), LENGTH, (LENGTH,), 4, 8)
    from whorl.sources import source

    healing = Healing(4 * 8 * LENGTH, LENGTH, batch_size=8, precision="fp32")
    report = convert(source(str(folder)).model(), "p-rope:p=1", task, healing, tmp_path)
    assert report.healed[LENGTH] == pytest.approx(report.control[LENGTH], abs=1e-6)
    assert [p.loss for p in report.curve] == pytest.approx([p.loss for p in report.control_curve])


def test_the_swap_keeps_the_models_own_base(
    trial: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: a model trained at another base, whose pairs must not move; the length is what is trained at."""
    from whorl.cli import app

    settings = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "vocab_size": 1024}
    tiny_model("llama", **settings).save_pretrained(tmp_path / "model")
    shutil.copytree(trial[0] / "tokenizer", tmp_path / "model", dirs_exist_ok=True)
    options = {"heal": 8 * 64, "batch-size": 8, "windows": 4, "text": trial[1], "out": tmp_path / "out"}
    arguments = [*(f"--{k}={v}" for k, v in options.items()), "--no-control"]
    app(["convert", str(tmp_path / "model"), "--to=hope", *arguments], standalone_mode=False)
    said = capsys.readouterr().out
    assert "hope: train length 64 and base 500,000 from the model's config\n" in said
    plan = "healing: 1 step of 8 x 64 tokens, learning rate 0.0005; losses on 4 windows at 64 and 256 tokens, three"
    assert f"{plan} times; that is few: a smaller --batch-size makes more steps of as many tokens\n" in said
    assert "loss before: 8 of 8, " in said, "windows, of both lengths"
    assert "healing: 1 of 1, " in said
    assert float(re.search(r"memory of this process, at most: ([\d.]+) GiB\n", said)[1]) > 0.1
    assert "rope:base=500000 is now hope:train_length=64,base=500000;" in said
    assert str(whorl.encoding_of(whorl.load(tmp_path / "out"))) == "hope:train_length=64,base=500000"
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert written["filled"] == "hope: train length 64 and base 500,000 from the model's config"


def test_a_healing_that_made_it_worse_is_said(
    trial: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from whorl.cli import app

    options = {"heal": 8 * 64 * 6, "batch-size": 8, "windows": 4, "text": trial[1], "learning-rate": 0.3}
    arguments = [*(f"--{k}={v}" for k, v in options.items()), "--no-control", f"--out={tmp_path / 'out'}"]
    app(["convert", str(trial[0]), "--to=hope", *arguments], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"the healing made it worse at [\d, ]+ tokens; try a lower --learning-rate than 0.3, a --text", said
    )


def test_a_gradual_change_stills_the_slowest_pairs_first() -> None:
    model = whorl.attach(tiny_model("llama"), "rope")
    target = parse("p-rope:p=0.25")
    bands = converting._bands(model, parse("rope"), target, Healing(1000, 32, gradual=0.5))
    width = whorl.hosts.open_host(model).shapes[0].head_dim
    turning = [band.spectrum(width).turning for band in bands]
    assert bands[-1] is target
    for earlier, later in itertools.pairwise(turning):
        assert set(later) <= set(earlier)
        assert not earlier or set(earlier) - set(later) == set(earlier[len(later) :]), "the slowest go first"
    for other in ("alibi", "hope:train_length=32+window:size=16"):  # what a window hides, no band would
        with pytest.raises(
            ValueError, match="a gradual change stops the rotation of pairs of one rotary encoding, and rope to"
        ):
            converting._bands(model, parse("rope"), parse(other), Healing(1000, 32, gradual=0.5))


def test_bands_are_attached_in_time() -> None:
    model = whorl.attach(tiny_model("llama"), "rope")
    bands = [parse(f"p-rope:p={p},base=500") for p in (0.75, 0.5, 0.25)]
    steps = converting._Steps(model, 12, lambda step, of: None, bands, 0.5)
    seen = []
    for step in range(12):
        steps.on_step_begin(None, type("State", (), {"global_step": step}), None)
        seen.append(str(whorl.attached(model).encoding))
    assert seen == [str(bands[0]).replace("p=0.75,", "")] * 2 + [str(bands[1])] * 2 + [str(bands[2])] * 8


@pytest.mark.full
@pytest.mark.parametrize("lora", [0, 4])
def test_an_extended_model_is_tuned_at_its_new_length(trial: tuple[Path, str], tmp_path: Path, lora: int) -> None:
    folder, _ = trial
    found = whorl.extend(
        str(folder), 2 * LENGTH, method="base=20000", windows=4, tune=40 * 4 * 2 * LENGTH, lora=lora,
        learning_rate=1e-2 if lora else 3e-3, batch_size=4, out=tmp_path / "out",
    )  # fmt: skip
    best = found.best
    assert [t.method for t in found.tried] == ["none", "base=20000", "base=20000, tuned"]
    assert best is found.tried[-1]
    if lora:  # on a model that has learnt next to nothing, adapters of its attention change little for the better
        assert abs(best.past - found.tried[1].past) > 1e-4
    else:
        assert best.past < found.tried[1].past
    assert found.loads == "stock"
    again = whorl.load(tmp_path / "out")
    assert not any("lora" in name for name in again.state_dict())
    from whorl.data.corpus import load_tokenizer

    ids = overlapping(trial[1], load_tokenizer(str(tmp_path / "out")), 2 * LENGTH, 4)
    read = summed("", parse("rope"), loss_by_position(again.eval(), ids), LENGTH, 2 * LENGTH)
    assert (read.in_range, read.past) == pytest.approx((best.in_range, best.past), abs=1e-4)


@pytest.mark.parametrize("given", ["rope", "alibi"])
def test_what_a_model_has_is_refused_before_it_is_loaded(given: str, tmp_path: Path, monkeypatch) -> None:
    from whorl.sources import Source
    from whorl.testing import tiny_model

    whorl.attach(tiny_model("llama"), given).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(Source, "model", lambda *_: pytest.fail("loaded"))
    said: list[str] = []
    with pytest.raises(ValueError, match=rf"the model has {given}.* already; name another encoding"):
        whorl.convert(str(tmp_path / "model"), given, heal=100, out=tmp_path / "out", say=said.append)
    with pytest.raises(ValueError, match="axial-rope goes by rows and columns, and a position in .* has 1 axis"):
        whorl.convert(str(tmp_path / "model"), "axial-rope", heal=100, out=tmp_path / "out", say=said.append)
    assert not said
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        whorl.convert(str(tmp_path / "model"), "drope", out=tmp_path / "out", say=said.append)
    assert said[0].startswith("no --heal was given: drope heals with its paper's 31,457,280,000 tokens, which is work")


def test_the_time_of_a_healing_goes_by_its_tokens() -> None:
    from whorl.conversion.converting import tokens_per_second
    from whorl.conversion.folders import _time_of
    from whorl.testing import tiny_model

    healing = Healing(31_457_280_000, 2048)
    alone, both = (_time_of(healing, control, rate=1000.0) for control in (False, True))
    assert alone.startswith("about 364 days of training here for 31,457,280,000 tokens, by a forward")
    assert both.startswith("about 728 days of training here for 31,457,280,000 tokens, twice, by a forward")
    assert _time_of(Healing(31_457_280_000, 2048), True, rate=100.0).startswith("about 20 years")
    assert 10 < tokens_per_second(tiny_model("llama"), 64) < 1e9


def test_bad_input_says_what_to_try(trial: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = trial
    with pytest.raises(ValueError, match="the model has rope:base=10000 already; name another"):
        whorl.convert(str(folder), "rope", heal=100, windows=4, out=tmp_path / "out")
    with pytest.raises(ValueError, match="axial-rope goes by rows and columns, and a position in .* has 1 axis"):
        whorl.convert(
            str(folder), "axial-rope", heal=100, out=tmp_path / "out", stage=lambda name: pytest.fail("measured")
        )
    with pytest.raises(ValueError, match="gradual must be a number of at least 0 and below 1"):
        Healing(100, 32, gradual=1.5)
    with pytest.raises(ValueError, match="unknown encoding 'hop'"):
        whorl.convert(str(folder), "hop", heal=100, windows=4, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert torch.is_grad_enabled()


def test_short_documents_are_measured_as_far_as_they_reach(
    trial: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By itself, and it is said; the error of a reach that no document has names one that the command takes."""
    from whorl.cli import app

    text = tmp_path / "text"
    text.mkdir()
    for source_file in Path(trial[1]).iterdir():
        (text / source_file.name).write_text(source_file.read_text()[:160])
    options = {"heal": 8 * LENGTH, "batch-size": 8, "windows": 4, "text": text, "out": tmp_path / "out"}
    arguments = ["convert", str(trial[0]), "--to=hope", "--no-control", *(f"--{k}={v}" for k, v in options.items())]
    with pytest.raises(ValueError, match=r"measured at 32 tokens and 4 times as many, .* give --reach \d, or") as error:
        app([*arguments, "--reach=4"], standalone_mode=False)
    reach = int(str(error.value).partition("--reach ")[2][0])
    with pytest.raises(ValueError, match=f"give --reach {reach}, or"):
        app([*arguments, f"--reach={reach + 1}"], standalone_mode=False)
    with pytest.raises(ValueError, match="reach must be a whole number from 1 to"):
        app([*arguments, "--reach=0"], standalone_mode=False)
    app([*arguments, f"--reach={reach}"], standalone_mode=False)
    assert f"{reach * LENGTH} tokens" in capsys.readouterr().out
    asked = json.loads((tmp_path / "out" / "conversion.json").read_text())
    app([*arguments, "--force"], standalone_mode=False)
    said = f"tokens: losses are taken at the training length of {LENGTH}, and at {reach * LENGTH} too"
    assert said in " ".join(capsys.readouterr().out.split())
    again = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (again["before"], again["healed"]) == (asked["before"], asked["healed"])
    once = whorl.convert(str(trial[0]), "nope", heal=8 * LENGTH, batch_size=8, windows=4, text=str(text), reach=1,
                         control=False, out=tmp_path / "once")  # fmt: skip
    assert list(once.before) == list(once.healed) == [LENGTH]


def test_layers_that_see_no_new_distance_are_named_and_how_to_leave_them() -> None:
    model = tiny_model("gemma3_text")
    was = whorl.encoding_of(model)
    found = converting._within(model, was, parse("hope:train_length=24"), 24)
    assert found == Within(
        (0, 2), "full_attention=hope:train_length=24/sliding_attention=rope:base=10000+window:size=24"
    )
    assert converting._within(model, was, parse(found.leave), 24) is None, "what it says is taken"
    assert converting._within(model, was, parse("hope:train_length=23"), 23) is None
    assert converting._within(tiny_model("llama"), parse("rope"), parse("hope:train_length=24"), 24) is None
    everywhere = converting._within(tiny_model("mistral"), parse("rope+window:size=24"), parse("nope"), 24)
    assert everywhere == Within((0, 1, 2), None)


def byte_model(family: str, folder: Path, text: str, **sizes: int) -> str:
    """A model that was not trained, with a tokenizer of bytes."""
    from whorl.data.corpus import read_documents, train_tokenizer

    tiny_model(family, **sizes).save_pretrained(folder)
    train_tokenizer(read_documents(text), 259).save_pretrained(folder)
    return str(folder)


@pytest.mark.full
def test_a_learned_table_becomes_rope(
    trial: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: the untouched model is measured as far as its table goes, and the converted one further."""
    from whorl.cli import app

    model = byte_model("gpt2", tmp_path / "model", trial[1], vocab_size=259)
    options = {"heal": 8 * 64, "batch-size": 8, "windows": 4, "text": trial[1], "out": tmp_path / "out"}
    app(["convert", model, "--to=rope", *(f"--{k}={v}" for k, v in options.items())], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.count("out of reach") == 3, "before, the control, and the reason"
    assert "out of reach: past the last position that the model has learned" in out
    written = json.loads((tmp_path / "out" / "conversion.json").read_text())
    for name, far in {"before": False, "swapped": True, "healed": True, "control": False}.items():
        assert [written[name][n] is not None for n in ("64", "256")] == [True, far], name
    assert str(whorl.encoding_of(whorl.load(tmp_path / "out"))) == "rope:base=10000"
    with pytest.raises(ValueError, match="has 64 learned positions, and cannot be trained at 80 tokens beside"):
        whorl.convert(model, "rope", heal=100, train_length=80, windows=4, text=trial[1], out=tmp_path / "out2")


@pytest.mark.full
def test_rope_becomes_a_learned_table(trial: tuple[Path, str], tmp_path: Path) -> None:
    report = whorl.convert(
        str(trial[0]), "learned", heal=8 * LENGTH, batch_size=8, windows=4, control=False, out=tmp_path / "out"
    )
    assert report.before[4 * LENGTH] is not None
    assert report.healed[LENGTH] is not None
    assert report.healed[4 * LENGTH] is None


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(trial: tuple[Path, str], tmp_path: Path) -> None:
    model = byte_model("llama", tmp_path / "model", trial[1])
    with pytest.raises(ValueError, match="and the model has 97 tokens; encode the text with the model's own"):
        whorl.convert(model, "hope", heal=100, windows=4, text=trial[1], out=tmp_path / "out")
    with pytest.raises(ValueError, match="and the model has 97 tokens; encode the text with the model's own"):
        whorl.extend(model, 160, windows=4, text=trial[1], out=tmp_path / "out")


def test_what_memory_cannot_hold_is_refused_before_it_is_trained(
    trial: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whorl.training import trainer

    monkeypatch.setattr(trainer, "free_memory", lambda device: 1000.0)
    monkeypatch.setattr(converting, "evaluated", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match="training needs at least"):
        whorl.convert(str(trial[0]), "hope", heal=1000, windows=4, out=tmp_path / "out")
    with pytest.raises(ValueError, match="training needs at least"):
        whorl.extend(str(trial[0]), 64, method="base=20000", windows=4, tune=1000, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
