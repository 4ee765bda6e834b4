"""Directories for stock transformers, by what stock transformers reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

import whorl
from whorl.attaching import attached
from whorl.runtimes import hf
from whorl.runtimes.exporting import export
from whorl.testing import logits_and_budget, max_error, tiny_model

from .exports import TOKENS, llama, names, trained


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"),
    [
        ("llama", None),
        ("llama", "hope:train_length=40"),
        ("llama", "p-rope:p=0.5"),
        ("llama", "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=1.25"),
        ("gpt_neox", "hope:train_length=40"),
        ("gpt2", "learned:max_positions=50"),
        ("gemma3_text", "full_attention=nope/sliding_attention=hope:train_length=16+window:size=24"),
        ("modernbert", "p-rope:p=0.5"),
    ],
)
def test_an_hf_export_is_a_stock_directory(family: str, encoding: str | None, tmp_path: Path) -> None:
    model = tiny_model(family)
    if encoding is not None:
        whorl.attach(model, encoding)
    model.train()
    done = export(model, tmp_path / "out", tokenizer=trained("gpt-2", 300))
    assert model.training, "left as it was"
    assert done.checked.holds
    model.eval()
    logits, budget = logits_and_budget(model, TOKENS)
    stock = type(model).from_pretrained(done.path).eval()
    assert attached(stock) is None
    assert max_error(stock(TOKENS).logits, logits) < budget
    assert (done.path / "tokenizer.json").exists()
    rows = model.get_input_embeddings().weight.shape[0]
    assert done.tokenizer.endswith(f", which has the token id 299, and the model {rows} embeddings")
    assert names(tmp_path)[0] == "out"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing beside it"


@torch.no_grad()
@pytest.mark.parametrize("head", ["none", "classes"])
def test_models_without_a_language_head_are_compared_by_what_they_give(head: str, tmp_path: Path) -> None:
    whole = tiny_model("llama", pad_token_id=0)
    model = whole.model if head == "none" else LlamaForSequenceClassification(whole.config)
    whorl.attach(model.eval(), "hope:train_length=40")
    done = export(model, tmp_path / "out")
    what = "hidden states" if head == "none" else "logits"
    assert done.checked.compared == f"loaded by stock transformers: {what} of 96 tokens"
    stock = type(model).from_pretrained(done.path).eval()
    assert max_error(stock(TOKENS)[0], model(TOKENS)[0]) < 1e-5
    model.save_pretrained = whorl.detach(copy.deepcopy(model)).save_pretrained  # forgets the encoding
    with pytest.raises(ValueError, match="is another model"):
        export(model, tmp_path / "forgot")


@pytest.mark.parametrize(
    ("family", "encoding", "dropped"),
    [
        ("llama", "hope:train_length=40", True),
        ("gemma3_text", "p-rope:p=0.5", True),
        ("llama", "p-rope:p=0.5~linear:factor=2", True),
        ("qwen3", "rope~yarn:factor=4,beta_fast=8", True),
        ("llama", "rope~yarn:factor=4,attention_factor=1.4", True),
        ("llama", "rope~yarn:factor=4", False),
        ("gpt2", "learned:max_positions=50", False),
    ],
)
def test_what_llama_cpps_converter_drops_is_said(family: str, encoding: str, dropped: bool, tmp_path: Path) -> None:
    done = export(whorl.attach(tiny_model(family), encoding), tmp_path / "out")
    assert ("drops the encoding" in done.note and "--runtime gguf" in repr(done)) == dropped


def test_half_precision_is_kept_and_compared_in_float32(tmp_path: Path) -> None:
    model = llama("hope:train_length=40").bfloat16()
    export(model, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert model.dtype == torch.bfloat16
    whorl.attach(model, "rope:base=10100")
    model.save_pretrained = whorl.detach(copy.deepcopy(model)).save_pretrained  # says 10,000
    with pytest.raises(ValueError, match="is another model"):  # bfloat16's own error would hide it
        export(model, tmp_path / "near")


@pytest.mark.parametrize(("half", "room"), [(False, True), (False, False), (True, True)])
def test_what_stock_reads_otherwise_is_not_kept(half: bool, room: bool, tmp_path: Path, monkeypatch) -> None:
    """Saving that forgets the encoding: stock would run RoPE. Seen by float64's measure, and by roundings without it
    (but for half precision, whose 64 roundings are a quarter of the logits: docs/export.md says so)."""
    model = llama("nope")
    if half:
        model.bfloat16()
    monkeypatch.setattr(hf, "too_large_to_copy", lambda *_: None if room else "no memory")
    model.save_pretrained = whorl.detach(copy.deepcopy(model)).save_pretrained
    with pytest.raises(ValueError, match="transformers is another model: loaded by .* differ by .*whorl.load"):
        export(model, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("family", "encoding", "why"),
    [
        ("llama", "alibi", "no place for a bias"),
        ("gpt2", "rope:base=500", "a learned table"),
        ("llama", "rope:base=500/nope", "one spectrum"),
    ],
)
def test_what_stock_cannot_say_is_refused_and_whorl_load_named(family: str, encoding: str, why: str, tmp_path) -> None:
    model = whorl.attach(tiny_model(family), encoding)
    with pytest.raises(ValueError, match=rf"stock transformers cannot say {encoding} on.*{why}.*whorl\.load"):
        export(model, tmp_path / "out")
    assert names(tmp_path) == []


def test_what_stock_makes_of_a_blend_in_float32_is_no_other_model(tmp_path) -> None:
    """Llama 3's band over 24 tokens: stock's frequencies are right to float32, and the logits further off than matrix
    products in float32 explain."""
    model = whorl.attach(tiny_model("qwen3"), "rope~llama3:factor=32,original=24")
    checked = export(model, tmp_path / "a", runtime="hf").checked
    assert checked.compared == "loaded by stock transformers: logits of 96 tokens"
    settings = json.loads((tmp_path / "a" / "config.json").read_text())["rope_parameters"]
    assert settings["rope_type"] == "llama3"
