"""How stock transformers says an encoding, and why it cannot."""

from __future__ import annotations

import json

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference
from whorl.attaching.stock import stock_form
from whorl.testing import logits_and_budget, tiny_model


def test_hope_is_proportional_and_longrope_where_a_part_of_the_head_turns() -> None:
    said = {}
    for family in ("llama", "gpt_neox", "gemma3_text", "phi", "stablelm", "persimmon", "phi3"):
        form = stock_form(tiny_model(family), whorl.parse("hope:train_length=40"))
        settings = form.config["rope_parameters"]
        said[family] = settings.get("full_attention", settings)["rope_type"]
    longrope = dict.fromkeys(("phi", "stablelm", "persimmon", "phi3", "gpt_neox"), "longrope")
    assert said == dict.fromkeys(("llama", "gemma3_text"), "proportional") | longrope
    whole = stock_form(tiny_model("gpt_neox"), whorl.parse("hope:train_length=40,fraction=1")).config
    assert whole["rope_parameters"]["rope_type"] == "proportional"
    llama = stock_form(tiny_model("llama"), whorl.parse("hope:train_length=40")).config["rope_parameters"]
    assert llama == {"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 2 / 8}


@pytest.mark.parametrize(
    ("family", "encoding", "why"),
    [
        ("llama", "alibi", "no place for a bias"),
        ("llama", "rope:base=500+window:size=8", "no place for a bias"),
        ("llama", "sinusoidal", "adds nothing to its embedding"),
        ("llama", "partial-rope:fraction=0.5,base=500", "its code turns whole heads"),
        ("llama", "rope:base=500/nope", "one spectrum for all its layers"),
        ("gemma3_text", "rope:base=500/nope/nope", "one spectrum for layers of a type"),
        ("smollm3", "rope:base=500/", "does not turn some of the layers"),
        ("gpt2", "rope:base=500", "a learned table of positions and nothing else"),
        ("gpt2", "nope", "a learned table of positions and nothing else"),
    ],
)
def test_what_stock_cannot_say_has_a_reason(family: str, encoding: str, why: str, tmp_path) -> None:
    model = whorl.attach(tiny_model(family), encoding)
    assert why in stock_form(model)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert why in config["whorl"]["why"]
    assert config["whorl"]["notation"] == encoding
    assert config["architectures"] != [type(model).__name__], "other runtimes go by this name"
    with pytest.raises(ValueError, match="use whorl.load"):
        type(model).from_pretrained(tmp_path)
    for given in ({}, {"attn_implementation": "sdpa"}):
        with pytest.raises(ValueError, match="use whorl.load"):
            type(model)._from_config(type(model.config).from_pretrained(tmp_path), **given)
    given = {"attn_implementation": "eager", "experts_implementation": "eager"}
    with pytest.raises(OSError, match="use whorl.load"):
        type(model).from_pretrained(tmp_path, **given)
    assert whorl.encoding_of(whorl.load(tmp_path)) == whorl.parse(encoding)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma3_text", "gemma4_text", "olmo3", "modernbert-decoder"])
def test_layer_types_are_said_natively_where_the_host_has_them(family: str, tmp_path) -> None:
    encoding = "full_attention=nope/sliding_attention=hope:train_length=16,base=500+window:size=24"
    model = whorl.attach(tiny_model(family), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    stock = type(model).from_pretrained(tmp_path).eval()
    assert difference(stock(TOKENS).logits, logits) < budget
    assert str(whorl.encoding_of(stock)) == encoding, "the record beside the stock settings names it"


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding", "overrides"),
    [
        ("llama", whorl.Frequencies(whorl.RoPE().spectrum(16).frequencies, amplitude=1.5), {}),
        ("phi", whorl.HoPE(train_length=40), {"partial_rotary_factor": 1.0}),
    ],
    ids=["amplitude", "a slice of the whole head"],
)
def test_longrope_says_what_simpler_types_almost_say(family: str, encoding, overrides: dict, tmp_path) -> None:
    """RoPE's frequencies with an amplitude; HoPE where the key that proportional needs also sets the width."""
    model = whorl.attach(tiny_model(family, **overrides), encoding)
    assert stock_form(model).config["rope_parameters"]["rope_type"] == "longrope"
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    assert difference(type(model).from_pretrained(tmp_path).eval()(TOKENS).logits, logits) < budget


def test_attaching_what_is_there_leaves_the_saved_config_alone(tmp_path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
    for family in ("llama", "gpt_oss", "apertus", "gpt_neox"):
        model = tiny_model(family, **({"rope_parameters": yarn} if family == "llama" else {}))
        before = model.config.to_dict()
        whorl.attach(model, whorl.encoding_of(model)).save_pretrained(tmp_path / family)
        after = type(model.config).from_pretrained(tmp_path / family).to_dict()
        assert after["rope_parameters"] == before["rope_parameters"]
        assert model.config.to_dict() == before, "and the model's own config is not touched"


@torch.no_grad()
def test_directories_of_the_spelling_before_are_read(tmp_path) -> None:
    """With half a pair more in the share, the base not quite round, and nothing for older readers."""
    model = whorl.attach(tiny_model("llama"), "hope:train_length=40,base=1000000")
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "partial_rotary_factor"):
        del config[key]
    config["rope_parameters"] |= {"partial_rotary_factor": 2.5 / 8, "rope_theta": 999999.9999999935}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert difference(type(model).from_pretrained(tmp_path).eval()(TOKENS).logits, logits) < budget
    loaded = whorl.load(tmp_path)
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    assert difference(loaded(TOKENS).logits, logits) < budget
    loaded.save_pretrained(tmp_path / "anew")
    anew = json.loads((tmp_path / "anew" / "config.json").read_text())
    assert anew["partial_rotary_factor"] == anew["rope_parameters"]["partial_rotary_factor"] == 2 / 8
    assert anew["rope_parameters"]["rope_theta"] == 1e6


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["rope:base=500", "hope:train_length=16", "nope"])
def test_what_the_attention_reads_beside_the_rotation_stays(encoding: str, tmp_path) -> None:
    """Ministral 3's multiplies q by what two of the rope settings say."""
    model = whorl.attach(tiny_model("ministral3"), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    stock = type(model).from_pretrained(tmp_path).eval()
    assert difference(stock(TOKENS).logits, logits) < budget
    assert whorl.encoding_of(stock).without_defaults() == whorl.encoding_of(model).without_defaults()
    why = stock_form(whorl.attach(model, "rope~yarn:factor=4,original=32"))
    assert "its attention goes by original_max_position_embeddings too" in why
