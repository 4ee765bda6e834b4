"""Public functions given what they do not take: a ValueError that says what was asked, what was found, what to try."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from whorl.comparison import load_trial
from whorl.conversion.extending import extend
from whorl.encodings import Sum
from whorl.gguf_files.layout import reorder_heads
from whorl.ops import rotation_tables
from whorl.runtimes.exporting import export
from whorl.runtimes.gguf_reading import read_gguf
from whorl.testing import tiny_model

IDS = torch.arange(20)[None]
MODEL: Any = None


@pytest.fixture(autouse=True, scope="module")
def _model() -> None:
    global MODEL
    MODEL = tiny_model("llama")


ASKED: dict[str, tuple[Callable[[], Any], str]] = {
    "attach None": (lambda: whorl.attach(MODEL, None), 'got None; try "rope", "hope" or whorl.HoPE()'),
    "attach a list": (lambda: whorl.attach(MODEL, ["rope"]), "got ['rope']; try one of them, or Layers([...])"),
    "attach a class": (lambda: whorl.attach(MODEL, whorl.HoPE), "got the class HoPE; try HoPE()"),
    "attach a class that needs": (
        lambda: whorl.attach(MODEL, whorl.Window),
        "the class Window; try Window(size=...)",
    ),
    "attach a JSON form": (lambda: whorl.attach(MODEL, {"name": "rope"}), "try whorl.encodings.from_dict"),
    "attach a number": (lambda: whorl.attach(MODEL, 3), "an encoding is a config or its notation, got 3"),
    "attach the other way round": (lambda: whorl.attach("rope", MODEL), "got a LlamaForCausalLM"),
    "attach to a path": (lambda: whorl.attach("some/dir", "rope"), "load it first: whorl.load('some/dir')"),
    "attach to a class": (lambda: whorl.attach(type(MODEL), "rope"), "got the class LlamaForCausalLM"),
    "encoding_of None": (lambda: whorl.encoding_of(None), "got a NoneType"),
    "detach None": (lambda: whorl.detach(None), "nothing is attached to this NoneType"),
    "parse None": (lambda: whorl.parse(None), "got None"),
    "an encoding and a text": (lambda: whorl.RoPE() + "window:size=3", "try whorl.parse('rope+window:size=3')"),
    "layers of a text": (
        lambda: whorl.Layers("rope/nope"),
        "got 'rope/nope'; try Layers([RoPE(), NoPE()])",
    ),
    "layers of texts": (lambda: whorl.Layers(["rope", "nope"]), "got 'rope'; try whorl.parse('rope')"),
    "layers of one": (lambda: whorl.Layers(whorl.RoPE()), "must be a list, got a RoPE"),
    "layers of None": (lambda: whorl.Layers(None), "must be a list, got None"),
    "a spectrum of texts": (lambda: whorl.Spectrum(("a",), 4), "a spectrum is of numbers, got ('a',)"),
    "compare a text": (lambda: whorl.compare("rope"), "encodings must be a list, got 'rope'; try [\"rope\"]"),
    "compare one": (lambda: whorl.compare(whorl.HoPE()), 'must be a list, got a HoPE; try ["hope"]'),
    "compare None": (lambda: whorl.compare(None), 'encodings must be a list, got None; try ["rope", "hope"]'),
    "compare an unknown keyword": (
        lambda: whorl.compare(["rope"], token=3),
        "compare has no argument 'token'; did you mean 'tokens'?",
    ),
    "compare another": (lambda: whorl.compare(["rope"], seed=3), "did you mean 'seeds'?"),
    "seeds": (lambda: whorl.compare(["rope"], seeds=3), "seeds must be a list, got 3; try [0, 1, 2]"),
    "seeds as text": (lambda: whorl.compare(["rope"], seeds="0,1"), "seeds must be a list, got '0,1'"),
    "seeds that are none": (lambda: whorl.compare(["rope"], seeds=[0.5]), "seed must be a whole number"),
    "lengths as text": (lambda: whorl.compare(["rope"], lengths="1x,2x"), "lengths must be a list, got '1x,2x'"),
    "one length": (lambda: whorl.compare(["rope"], lengths=128), "lengths must be a list, got 128"),
    "out": (lambda: whorl.compare(["rope"], out=None), "out must be the path of a folder, got None"),
    "text": (lambda: whorl.compare(["rope"], text=None), "text must be stdlib, a path or hf:DATASET, got None"),
    "text of convert": (
        lambda: whorl.convert("no/such/model", "nope", heal=9, text=[1], out="o"),
        "text must be stdlib, a text, .jsonl or .parquet file, a folder, or hf:DATASET, got [1]",
    ),
    "text of extend": (
        lambda: whorl.extend("no/such/model", 64, text=[1], out="o"),
        "text must be stdlib, a text, .jsonl or .parquet file, a folder, or hf:DATASET, got [1]",
    ),
    "a model that is one": (
        lambda: whorl.compare(["rope"], model=MODEL),
        "model must be tiny, small, base, or the",
    ),
    "tokenizer": (
        lambda: whorl.compare(["rope"], tokenizer=3),
        "tokenizer must be a path or a hub name, or None",
    ),
    "task": (lambda: whorl.compare(["rope"], task=None), "a task is written as its name, or name:key=value, got None"),
    "mix": (lambda: whorl.compare(["rope"], mix="mqar=0.1"), "mix must be a list, got 'mqar=0.1'; try [\"mqar=0.1\"]"),
    "compile": (lambda: whorl.compare(["rope"], compile="yes"), "compile must be True or False, got 'yes'"),
    "inspect a text": (lambda: whorl.inspect(MODEL, "text"), "got 'text'; try tokenizer(text, return_tensors='pt')"),
    "inspect a list": (lambda: whorl.inspect(MODEL, [1, 2]), "got [1, 2]; try torch.tensor(ids)"),
    "inspect None": (lambda: whorl.inspect(MODEL, None), "got None"),
    "inspect one row": (lambda: whorl.inspect(MODEL, IDS[0]), "got (20,) int64; try inputs[None]"),
    "inspect no window": (lambda: whorl.inspect(MODEL, IDS[:0]), "of a window or more, got (0, 20)"),
    "inspect other ids": (lambda: whorl.inspect(MODEL, IDS + 90), "ids from 90 to 109, and the model has 97 tokens"),
    "inspect a path": (lambda: whorl.inspect("dir", IDS), "load it first"),
    "an inspection's file": (lambda: whorl.Inspection.load("x/inspection.npz"), "names a file of one; try 'x'"),
    "no inspection": (lambda: whorl.Inspection.load("no/such"), "there is no folder no/such; whorl inspect --out DIR"),
    "an inspection's None": (lambda: whorl.Inspection.load(None), "folder must be the path of a folder"),
    "an inspection's axes": (lambda: whorl.Inspection.axes("norm"), "no array 'norm'; did you mean 'norm_"),
    "load None": (lambda: whorl.load(None), "name_or_path must be a directory, a .gguf file or a hub name, got None"),
    "load a model": (lambda: whorl.load(MODEL), "got a LlamaForCausalLM"),
    "load what is not there": (lambda: whorl.load("/no/such/dir"), "no checkpoint at '/no/such/dir': there is no such"),
    "load from nothing": (lambda: whorl.load(""), "a .gguf file or a hub name, got ''"),
    "doctor None": (lambda: whorl.doctor(None), "got a NoneType"),
    "doctor a text": (lambda: whorl.doctor(MODEL, text_ids="text"), "text_ids must be token ids, got 'text'"),
    "doctor numbers": (
        lambda: whorl.doctor(MODEL, text_ids=torch.rand(2, 20)),
        "must be whole numbers, got float32",
    ),
    "export None": (lambda: export(None, "out"), "got a NoneType"),
    "export a path": (lambda: export("dir", "out"), "load it first"),
    "export to None": (lambda: export(MODEL, None), "out must be the path of a folder, got None"),
    "frequencies of None": (lambda: whorl.Frequencies(None), "values must be a list of numbers"),
    "a sum of texts": (lambda: Sum(("rope", "alibi")), "a sum is of encodings, got 'rope'"),
    "a sum of a text": (lambda: Sum("rope"), "a sum's parts must be a list, got 'rope'; try RoPE() + Window(32)"),
    "a head dim of text": (lambda: whorl.RoPE().spectrum("8"), "needs an even head dim of at least 2, got 8"),
    "evaluate a model": (
        lambda: whorl.evaluate(MODEL),
        "the model must be a directory, a .gguf file, a hub name or a trial's folder, got a LlamaForCausalLM",
    ),
    "evaluate one length": (lambda: whorl.evaluate("a/b", lengths="1x"), "lengths must be a list, got '1x'"),
    "extend a model": (
        lambda: whorl.extend(MODEL, 64, out="out"),
        "the model must be a directory, a .gguf file, a hub name or a trial's folder, got a LlamaForCausalLM",
    ),
    "convert to nowhere": (lambda: whorl.convert("a/b", "hope", heal=9, out=None), "out must be a path, got None"),
    "extend to None": (lambda: extend(MODEL, None, IDS, train_length=8), "to must be a number of tokens, got None"),
    "extend from None": (lambda: extend(MODEL, 20, IDS, train_length=None), "train_length must be a number of tokens"),
    "extend on a text": (lambda: extend(MODEL, 20, "text", train_length=8), "windows must be a tensor of token ids"),
    "extend by None": (lambda: extend(MODEL, 20, IDS, train_length=8, method=None), "unknown method None"),
    "reorder a list": (lambda: reorder_heads([1], 1, (0,)), "got [1], 1"),
    "no GGUF": (lambda: read_gguf("no.gguf"), "there is no file no.gguf"),
    "no trial": (lambda: load_trial(None), "folder must be the path of a trial"),
    "tables of a list": (lambda: rotation_tables(whorl.RoPE().spectrum(8), [0, 1]), "a tensor of positions is wanted"),
    "tables of an encoding": (lambda: rotation_tables(whorl.RoPE(), IDS), "a Spectrum, as encoding.spectrum(head_dim)"),
}


@pytest.mark.parametrize("what", ASKED)
def test_it_says_what_was_found_and_what_to_try(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, message = ASKED[what]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
    assert not list(tmp_path.iterdir())  # before any work


def test_a_text_is_not_its_path() -> None:
    from whorl.data.corpus import read_documents

    with pytest.raises(ValueError, match="this is 3,000 characters of text itself.*write it to a file"):
        read_documents("Once upon\n" * 300)


def test_paths_are_taken_as_text_is(tmp_path: Path) -> None:
    from whorl.training.settings import Settings

    assert Settings(text=tmp_path, lengths=["1x", 256]) == Settings(text=str(tmp_path), lengths=("1x", 256))  # type: ignore[arg-type]


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is a file, and a checkpoint is a folder; try "):
        whorl.load(tmp_path / "config.json")


def test_a_check_that_there_is_not() -> None:
    found = whorl.Diagnosis("a", ())
    with pytest.raises(ValueError, match="no check 'nope'"):
        found["nope"]


def test_a_name_in_another_case_is_suggested() -> None:
    with pytest.raises(AttributeError, match="did you mean 'HoPE'"):
        _ = whorl.Hope
    with pytest.raises(AttributeError, match="no attribute 'nothing'$"):
        _ = whorl.nothing


def test_a_spectrum_of_a_list_is_that_of_a_tuple() -> None:
    assert {whorl.Spectrum([1.0, 0.5], 4)} == {whorl.Spectrum((1.0, 0.5), 4)}
