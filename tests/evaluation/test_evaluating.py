"""whorl.evaluate: from a name to a folder, and what a run that was stopped leaves."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import whorl
from tests.evaluation import VOCABULARY
from whorl.cli import app
from whorl.data import needle
from whorl.data.corpus import read_documents, train_tokenizer
from whorl.evaluation import decoy
from whorl.evaluation.probes import PROBES, get
from whorl.results.evaluation import ABOUT, Evaluation
from whorl.testing import peaked, tiny_model

SMALL = {"train_length": 96, "lengths": ["1x", "2x"], "windows": 2, "sequences": 4, "tail": 8}


@pytest.fixture(scope="module")
def model(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    peaked(tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=96)).save_pretrained(folder)
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(folder)
    return folder


def stopping_after(parts: int) -> Callable[[str], Callable[[int, int], None]]:
    """Ctrl-C when the next part after so many begins."""
    begun = []

    def stage(name: str) -> Callable[[int, int], None]:
        begun.append(name)
        if len(begun) > parts:
            raise KeyboardInterrupt
        return lambda done, of: None

    return stage


def test_every_probe_at_every_length_and_a_report(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = whorl.evaluate(model, text=text, out=out, **SMALL)
    assert not found.missing
    assert (found.train_length, found.encoding, found.trained_with) == (96, "rope:base=10000", None)
    for name in PROBES:
        assert [row.length for row in found.rows[name]] == [96, 192]
        keys = [one.key for one in ABOUT[name].measured]
        assert all(list(row.values) == keys for row in found.rows[name]), "what the report tells of"
        assert all(math.isfinite(value) for row in found.rows[name] for value in row.values.values())
        assert found.probe_versions[name] == get(name).version
    assert found.positions[-1].last == 191
    assert Evaluation.read(out / "results.json") == found
    report = (out / "report.md").read_text()
    assert "partial" not in report
    assert f"a guess among all {VOCABULARY} of the vocabulary costs" in report, "the model was not trained"
    assert all(ABOUT[name].title in report for name in PROBES)
    assert "<svg" in (out / "report.html").read_text()
    assert {path.name for path in (out / "figures").iterdir()} >= {"loss.png", "retrieval.png"}
    assert "96" in repr(found)
    assert len(found.records()) == 2 * len(PROBES)
    assert "<h3>" in found._repr_html_()


def test_a_run_that_is_stopped_goes_on_to_the_same_numbers(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whorl.evaluate(model, text=text, out=tmp_path / "whole", **SMALL)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        whorl.evaluate(model, text=text, out=out, stage=stopping_after(1), **SMALL)
    left = Evaluation.read(out / "results.json")
    assert [(name, len(rows)) for name, rows in left.rows.items()] == [("loss", 1)]
    assert "parts are still to be read, segment-copy at 96 first" in (out / "report.md").read_text()
    asked: list[str] = []

    def stage(name: str) -> Callable[[int, int], None]:
        asked.append(name)
        return lambda done, of: None

    lines: list[str] = []
    again = whorl.evaluate(model, text=text, out=out, stage=stage, say=lines.append, **SMALL)
    assert "loss at 96 tokens" not in asked
    assert "loss at 192 tokens" in asked
    assert lines == [f"going on after what is in {out}"]
    assert again.rows == whole.rows
    assert again.positions == whole.positions


def test_probes_are_added_and_other_questions_refused(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = whorl.evaluate(model, text=text, out=out, probes=["loss"], **SMALL)
    both = whorl.evaluate(model, text=text, out=out, probes=["segment-copy"], **SMALL)
    assert both.rows["loss"] == first.rows["loss"]
    assert both.probes == ("loss", "segment-copy")
    before = (out / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"out holds another evaluation \(lengths, seed differ\); give another --out"):
        whorl.evaluate(model, text=text, out=out, **{**SMALL, "lengths": ["1x"], "seed": 1})
    with pytest.raises(ValueError, match=r"\(encoding differ\)"):
        whorl.evaluate(model, text=text, out=out, encoding="nope", **SMALL)
    with pytest.raises(ValueError, match=r"\(text, the model, its tokenizer or the text differ\)"):
        whorl.evaluate(model, out=out, text=Path(__file__), **SMALL)
    assert (out / "results.json").read_bytes() == before
    anew = whorl.evaluate(model, text=text, out=out, probes=["loss"], force=True, **{**SMALL, "lengths": ["1x"]})
    assert list(anew.rows) == ["loss"]
    assert not anew.missing


def test_numbers_of_another_tokenizer_are_not_gone_on_with(model: Path, text: Path, tmp_path: Path) -> None:
    """Its files were not among what the numbers follow from; two of its ids are exchanged."""
    other = tmp_path / "other"
    shutil.copytree(model, other)
    out, how = tmp_path / "out", {**SMALL, "text": text, "probes": ["loss"], "tokenizer": other}
    whorl.evaluate(model, out=out, **how)
    assert whorl.evaluate(model, out=out, **how).rows, "the same goes on"
    kept = json.loads((other / "tokenizer.json").read_text())
    known = kept["model"]["vocab"]
    known["e"], known["t"] = known["t"], known["e"]
    (other / "tokenizer.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"another evaluation \(the model, its tokenizer or the text differ\)"):
        whorl.evaluate(model, out=out, **how)


def test_words_that_the_model_or_the_tokenizer_does_not_know_are_not_asked_about(tmp_path: Path) -> None:
    """They were an IndexError, and answers of the unknown token, which a model that always gives it had all right."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [f"x{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(VOCABULARY - 1)]
    known = {"[UNK]": 0, **{word: i + 1 for i, word in enumerate(words)}}
    plain = tmp_path / "plain.txt"
    plain.write_text("\n\n".join(" ".join(words[:150]) for _ in range(40)))
    peaked(tiny_model("llama", vocab_size=VOCABULARY)).save_pretrained(tmp_path / "model")
    asked = " ".join(
        (*decoy.NAMES, *decoy.WORDS, decoy.STATED, decoy.ASKED, *needle.NAMES, needle.STATED, needle.ASKED)
    )
    parts = [*dict.fromkeys(re.findall(r"\w+|[^\w\s]", asked)), *"0123456789"]
    for name, more in (("unknown", ()), ("too-many", parts)):
        of_words = Tokenizer(models.WordLevel(known | {x: VOCABULARY + i for i, x in enumerate(more)}, "[UNK]"))
        of_words.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
        )
        PreTrainedTokenizerFast(tokenizer_object=of_words, unk_token="[UNK]", bos_token="[UNK]").save_pretrained(
            tmp_path / name
        )
        found = whorl.evaluate(
            tmp_path / "model", text=plain, tokenizer=tmp_path / name, out=tmp_path / f"out-{name}", **SMALL
        )
        why = "the tokenizer does not know all of" if name == "unknown" else "hold ids from"
        for probe in ("decoy", "niah"):
            assert all(why in str(row.unreachable) for row in found.rows[probe]), (name, probe, found.rows[probe])
        assert all(row.values for row in found.rows["loss"])


def test_numbers_of_an_earlier_definition_are_not_gone_on_with(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whorl.evaluate(model, text=text, out=out, probes=["loss"], **SMALL)
    kept = json.loads((out / "results.json").read_text())
    kept["probe_versions"]["loss"] -= 1
    (out / "results.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="the definition of loss differ"):
        whorl.evaluate(model, text=text, out=out, probes=["loss"], **SMALL)


def test_the_base_is_that_of_the_weights_and_not_of_the_stock_config(text: Path, tmp_path: Path) -> None:
    """Of a trial of another base every pair was moved."""
    trained = whorl.attach(tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=96), "rope:base=500+fox")
    trained.save_pretrained(tmp_path / "model")
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(tmp_path / "model")
    how = {**SMALL, "probes": ["loss"], "text": text}
    found = whorl.evaluate(tmp_path / "model", encoding="hope", out=tmp_path / "hope", **how)
    assert found.encoding == "hope:train_length=96,base=500"
    with torch.enable_grad():
        done = whorl.convert(tmp_path / "model", "hope", heal=64, batch_size=1, text=text, out=tmp_path / "converted")
    assert done.to == "hope:train_length=96,base=500"


def test_another_encoding_is_attached_and_said(model: Path, text: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    how = {**SMALL, "probes": ["loss"], "say": lines.append}
    found = whorl.evaluate(model, text=text, encoding="hope", out=tmp_path / "hope", **how)
    assert found.encoding == "hope:train_length=96,base=10000"
    assert found.trained_with == "rope:base=10000"
    assert lines == ["hope: train length 96 and base 10,000 from the model's config"]
    own = whorl.evaluate(model, text=text, out=tmp_path / "own", **how)
    assert found.value("loss", "tail", 192) != own.value("loss", "tail", 192)
    assert "nothing was trained since" in (tmp_path / "hope" / "report.md").read_text()


def test_a_length_that_a_table_does_not_reach_says_so(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gpt2"
    tiny_model("gpt2", vocab_size=VOCABULARY, max_position_embeddings=100).save_pretrained(folder)
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(folder)
    found = whorl.evaluate(folder, text=text, out=tmp_path / "out", **SMALL)
    near, far = found.rows["loss"]
    assert near.unreachable is None
    assert far.unreachable == "the model has 100 positions, and no more"
    assert "Out of reach at 192: the model has 100 positions" in (tmp_path / "out" / "report.md").read_text()
    assert "out of reach" in repr(found)
    asked = ["train-length=96", "lengths=1x,2x", "windows=2", "sequences=4", "tail=8", f"text={text}"]
    app(["evaluate", str(folder), *(f"--{one}" for one in asked), f"--out={tmp_path / 'out'}"], standalone_mode=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "Out of reach at 192: the model has 100 positions, and no more." in told


def test_a_trial_is_asked_on_what_it_was_not_trained_on(text: Path, tmp_path: Path) -> None:
    how = {"train_length": 32, "lengths": ("1x",), "tokens": 2 * 4 * 32, "batch_size": 4, "tail": 8, "windows": 4}
    whorl.compare(["alibi"], out=tmp_path / "run", text=str(text), quiet=True, precision="fp32", **how)
    (trial,) = (tmp_path / "run" / "trials").iterdir()
    found = whorl.evaluate(trial, lengths=["2x"], windows=2, tail=8, probes=["loss"], out=tmp_path / "out")
    assert (found.encoding, found.train_length, found.asked.text) == ("alibi", 32, str(text))
    assert found.train_length_from == "its trial says"
    assert found.heldout
    assert "held out, 2 windows" in (tmp_path / "out" / "report.md").read_text()
    assert found.row("loss", 64).values["tail"] > 0


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(text: Path, tmp_path: Path) -> None:
    peaked(tiny_model("llama", vocab_size=200)).save_pretrained(tmp_path / "model")
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="hold ids from .* and the model has 200 tokens"):
        whorl.evaluate(tmp_path / "model", text=text, out=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused_before_a_folder_is_made(model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tiny_model("bert", vocab_size=VOCABULARY).save_pretrained(tmp_path / "bert")
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(tmp_path / "bert")
    tiny_model("llama", vocab_size=VOCABULARY).model.save_pretrained(tmp_path / "base")
    train_tokenizer(read_documents(str(text))[:1], VOCABULARY).save_pretrained(tmp_path / "base")
    for how, message in (
        ({"probes": ["los"]}, "unknown probe 'los'; did you mean 'loss'?"),
        ({"probes": "loss"}, "probes must be a list"),
        ({"probes": []}, "no probe was asked for"),
        ({"lengths": ["far"]}, "cannot read the length 'far'"),
        ({"lengths": []}, "no length was asked for"),
        ({"encoding": "hop"}, "unknown encoding 'hop'"),
        ({"sequences": 0}, "sequences must be a whole number from 1"),
        ({"lengths": [10**7]}, "fewer than one window of 10,000,000"),
    ):
        with pytest.raises(ValueError, match=message):
            whorl.evaluate(model, text=text, out=out, **{**SMALL, **how})
    with pytest.raises(ValueError, match="attends in both directions"):
        whorl.evaluate(tmp_path / "bert", text=text, out=out, **SMALL)
    with pytest.raises(ValueError, match="LlamaModel has no head that predicts the next token"):
        whorl.evaluate(tmp_path / "base", text=text, out=out, **SMALL)
    assert not out.exists()


def test_kill_9_leaves_what_was_measured(model: Path, text: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, whorl\n"
        "def stage(name):\n"
        "    if name.startswith('segment-copy'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return lambda done, of: None\n"
        f"whorl.evaluate({str(model)!r}, text={str(text)!r}, out={str(tmp_path / 'out')!r}, stage=stage, **{SMALL!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    found = whorl.evaluate(model, text=text, out=tmp_path / "out", **SMALL)
    assert not found.missing


def test_the_command_tells_of_it(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whorl.cli import main

    asked = ["--text", str(text), "--lengths", "1x,2x", "--windows", "2", "--sequences", "2", "--tail", "8"]
    monkeypatch.setattr(sys, "argv", ["whorl", "evaluate", str(model), "--out", str(tmp_path / "out"), *asked])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)
    said = capsys.readouterr().out
    assert "96 (trained)" in said
    assert "loss of the same last tokens" in said
    assert "trained at 96 tokens, its config says (--train-length)" in said
    assert "segment-copy at 192 tokens: 2 of 2" in said
