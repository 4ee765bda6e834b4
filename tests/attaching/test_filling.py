"""What an encoding leaves unset is the model's own: base, training length, turning share, by layer type."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import whorl
from whorl.attaching import seams_of
from whorl.attaching.filling import filled, what_was_filled
from whorl.encodings import from_dict, parse
from whorl.hosts import open_host
from whorl.testing import logits_and_budget, tiny_model

TOKENS = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def rope(kind: str = "default", theta: float = 5e5, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


def given(family: str, encoding: str, **overrides: Any) -> str:
    """What is attached when `encoding` is asked for."""
    return str(whorl.encoding_of(whorl.attach(tiny_model(family, **overrides), encoding)))


def words(family: str, encoding: str, **overrides: Any) -> str:
    host, asked = open_host(tiny_model(family, **overrides)), whorl.parse(encoding)
    return what_was_filled(host, asked, filled(host, asked))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max())


# --- the pairs are those that the model has ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", rope()),
        ("gemma3_text", {}),  # bases of 1e6 and 1e4, by layer type
        ("gpt_neox", {}),  # a quarter of each head turns
        ("glm", {}),  # half of it, in neighbours
        ("phi", {}),  # half of it, by its own code
        ("modernbert", {}),
        ("smollm3", {}),  # a layer without rotary
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("encoding", ["rope", "p-rope:p=1", "hope:train_length=10000000000"])
def test_an_encoding_that_stills_nothing_changes_nothing(family: str, overrides: dict, encoding: str) -> None:
    model = tiny_model(family, **overrides)
    logits, budget = logits_and_budget(model, TOKENS)
    whorl.attach(model, encoding)
    assert difference(model(TOKENS).logits, logits) < budget
    whorl.attach(model, f"{encoding}{',' if ':' in encoding else ':'}base=300")
    assert difference(model(TOKENS).logits, logits) > 100 * budget, "the comparison can fail"


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text"])
def test_hope_turns_the_pairs_that_it_keeps_as_the_model_does(family: str) -> None:
    settings = rope() if family == "llama" else {}
    stock = whorl.attach(tiny_model(family, **settings), "rope")
    hope = whorl.attach(tiny_model(family, **settings), "hope:train_length=32")
    kept = 0
    for a, b in zip(seams_of(stock), seams_of(hope), strict=True):
        own, cut = a.spectrum, b.spectrum
        assert own.width == cut.width
        for wavelength, f, g in zip(own.wavelengths, own.frequencies, cut.frequencies, strict=True):
            assert g == (f if wavelength <= 32 else 0.0)
            kept += g > 0
    assert kept >= 3


# --- what is filled ---------------------------------------------------------------------------------------------------


def test_what_a_config_says_is_filled() -> None:
    assert given("llama", "rope", **rope()) == "rope:base=500000"
    assert given("llama", "hope", **rope()) == "hope:train_length=64,base=500000"
    assert given("llama", "p-rope:p=0.5+alibi", **rope()) == "p-rope:p=0.5,base=500000+alibi"
    assert given("llama", "rope/nope", **rope()) == "rope:base=500000/nope"
    assert given("llama", "rope~yarn:factor=4", **rope()) == "rope:base=500000~yarn:factor=4,original=64"
    assert given("llama", "partial-rope", **rope()) == "partial-rope:fraction=0.25,base=500000"
    assert given("llama", "learned") == "learned:max_positions=64"
    assert given("gpt2", "learned") == "learned:max_positions=64"
    assert given("gpt_neox", "hope:train_length=9") == "hope:train_length=9,base=10000,fraction=0.25"
    assert given("gpt_neox", "rope~linear:factor=2") == "rope:base=10000,fraction=0.25~linear:factor=2"
    assert given("glm", "partial-rope") == "partial-rope:fraction=0.5,base=10000"
    for fixed in ("phi", "persimmon", "stablelm"):
        assert given(fixed, "partial-rope") == "partial-rope:fraction=1,base=10000", "of the part that its code turns"
    assert given("phi", "hope:train_length=9") == "hope:train_length=9,base=10000", "its code turns that half alone"
    assert given("gpt2", "rope") == "rope:base=10000", "nothing is said there of a base"


def test_what_is_given_stays() -> None:
    assert given("llama", "hope:train_length=16,base=777", **rope()) == "hope:train_length=16,base=777"
    assert given("llama", "rope:base=10000", **rope()) == "rope:base=10000"
    assert given("gpt_neox", "rope:fraction=1,base=20") == "rope:base=20,fraction=1"
    assert given("gpt_neox", "partial-rope:fraction=0.5") == "partial-rope:fraction=0.5,base=10000"
    assert given("llama", "rope~yarn:factor=4,original=16") == "rope:base=10000~yarn:factor=4,original=16"
    assert given("llama", "learned:max_positions=50") == "learned:max_positions=50"
    assert given("gemma3_text", "rope:base=20") == "rope:base=20"
    assert given("llama", "sinusoidal", **rope()) == "sinusoidal", "its base is the embedding's, and no rotary one"


def test_layers_with_bases_of_their_own_get_them() -> None:
    by_type = "full_attention=hope:train_length=64,base=1000000/sliding_attention=hope:train_length=64,base=10000"
    assert given("gemma3_text", "hope") == by_type
    assert given("gemma3_text", "full_attention=nope/sliding_attention=rope") == (
        "full_attention=nope/sliding_attention=rope:base=10000"
    )
    types = ["sliding_attention", "full_attention", "full_attention"]
    assert given("gemma3_text", "rope/nope", layer_types=types) == "rope:base=10000/nope/rope:base=1000000"
    assert given("gemma3_text", "rope/nope", layer_types=["full_attention"] * 3) == "rope:base=1000000/nope"
    with pytest.raises(ValueError, match=r"turn in 2 ways, and rope\+sinusoidal, which adds .* give its base"):
        whorl.attach(tiny_model("gemma3_text"), "rope+sinusoidal")
    assert given("gemma3_text", "rope:base=20+sinusoidal") == "rope:base=20+sinusoidal"


def test_layers_that_the_host_does_not_turn_stay_so() -> None:
    """Filling by type must not make `rope` a choice by layer, which turns them."""
    settings = {"full_attention": rope()["rope_parameters"], "sliding_attention": rope(theta=1e4)["rope_parameters"]}
    types = ["sliding_attention", "full_attention", "full_attention"]
    model = tiny_model("gemma3_text", rope_parameters=settings, layer_types=types)
    host = open_host(model)
    host = type(host)(**{**vars(host), "turns": (True, True, False)})
    assert str(filled(host, whorl.parse("rope+alibi"))) == "rope:base=10000+alibi/rope:base=500000+alibi/alibi"
    assert given("smollm3", "rope") == "rope:base=2000000"
    assert given("exaone4", "hope:train_length=16") == "hope:train_length=16,base=10000"


def test_a_scaled_model_gives_its_length_and_base_from_before() -> None:
    assert given("llama", "hope", **rope("llama3", **LLAMA3)) == "hope:train_length=32,base=500000"
    assert given("llama", "rope~yarn:factor=2", **rope("llama3", **LLAMA3)).endswith("yarn:factor=2,original=32")
    assert given("llama", "rope", **rope("linear", factor=4.0)) == "rope:base=500000"


def test_the_stock_config_speaks_whatever_is_attached() -> None:
    model = whorl.attach(tiny_model("gpt_neox", **rope()), "rope:base=30,fraction=1")
    own = str(whorl.encoding_of(whorl.attach(model, "rope")))
    assert own == given("gpt_neox", "rope", **rope())


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "asked", "wanted", "told"),
    [
        (
            "rope:base=500+fox",
            "hope",
            "hope:train_length=64,base=500",
            "base 500 of the encoding that it was trained with",
        ),
        (
            "partial-rope:fraction=0.5,base=500",
            "rope",
            "rope:base=500,fraction=0.5",
            "base 500 and fraction 0.5 of the",
        ),
        (
            "rope:base=500~yarn:factor=2,original=32/nope",
            "rope",
            "rope:base=500/rope:base=10000",
            "base 500 of the encoding",
        ),
        ("alibi", "rope", "rope:base=10000", "base 10,000 from the model's config"),
    ],
)
def test_what_it_was_trained_with_comes_before_its_config(own: str, asked: str, wanted: str, told: str) -> None:
    host, parsed = open_host(tiny_model("llama", max_position_embeddings=64)), parse(asked)
    given = filled(host, parsed, trained_with=parse(own))
    assert str(given) == wanted
    assert told in what_was_filled(host, parsed, given, trained_with=parse(own))


def test_what_was_filled_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert words("llama", "hope", **rope()) == "hope: train length 64 and base 500,000 from the model's config"
    assert words("llama", "hope:train_length=9,base=5") == ""
    assert words("gpt_neox", "rope") == "rope: base 10,000 and fraction 0.25 from the model's config"
    assert words("gemma3_text", "rope/") == (
        "rope: base 10,000 (sliding_attention) and 1,000,000 (full_attention) from the model's config"
    )
    assert words("gpt2", "rope") == "rope: base 10,000 by default, since the model's config states none"
    assert words("llama", "partial-rope", **rope()) == (
        "partial-rope: fraction 0.25 by default, since the model's config states none, "
        "base 500,000 from the model's config"
    )
    assert words("llama", "rope", **rope("llama3", **LLAMA3)) == (
        "rope: base 500,000 from the model's config, without its llama3 scaling"
    )
    cut = rope("proportional", partial_rotary_factor=0.5)
    more = "base 500,000 from the model's config, and turns {} pairs of 8, of which the config turns 4"
    assert words("llama", "rope", **cut) == f"rope: {more.format(8)}"
    assert words("llama", "p-rope", **cut) == f"p-rope: {more.format(6)}"
    assert words("llama", "pope", **cut).endswith("turns 8 pairs of 8, of which the config turns 4")
    assert words("llama", "p-rope:p=0.5", **cut) == "p-rope: base 500,000 from the model's config"
    assert words("llama", "rope:base=20", **cut) == ""
    assert words("llama", "rope+alibi/hope~yarn:factor=2") == (
        "rope: base 10,000 from the model's config; hope: train length 64 and base 10,000 from the model's config; "
        "yarn: original length 64 from the model's config"
    )
    assert words("llama", "hope:train_length=16,base=20~yarn:factor=2") == "yarn: original length 16 as what it scales"
    with caplog.at_level(logging.INFO, logger="whorl"):
        whorl.attach(tiny_model("llama", **rope()), "rope")
        assert caplog.messages == ["rope: base 500,000 from the model's config"]
        whorl.attach(tiny_model("llama", **rope()), "rope:base=20")
        assert len(caplog.messages) == 1


# --- what is kept -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"),
    [("llama", "hope"), ("gpt_neox", "hope:train_length=9"), ("gemma3_text", "hope"), ("glm", "p-rope:p=0.5+alibi")],
)
def test_it_is_saved_as_it_was_filled(family: str, encoding: str, tmp_path) -> None:
    model = whorl.attach(tiny_model(family, **(rope() if family == "llama" else {})), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())["whorl"]
    assert from_dict(record["encoding"]) == whorl.encoding_of(model)
    again = whorl.load(tmp_path).eval()
    assert whorl.encoding_of(again) == whorl.encoding_of(model)
    assert difference(again(TOKENS).logits, logits) < budget
    if family != "glm":
        stock = type(model).from_pretrained(tmp_path).eval()
        assert difference(stock(TOKENS).logits, logits) < budget, "in stock terms too"
        assert whorl.encoding_of(stock) == whorl.encoding_of(model)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt_neox", "glm", "llama"])
@pytest.mark.parametrize("encoding", ["hope", "hope+alibi"])
def test_a_record_of_an_earlier_version_means_what_it_meant(family: str, encoding: str, tmp_path) -> None:
    """It says the base and knows no fraction: whole heads turned."""
    model = tiny_model(family, **(rope() if family == "llama" else {}))
    whole = ",fraction=1" if family != "llama" else ""
    whorl.attach(model, encoding.replace("hope", f"hope:train_length=64,base=10000{whole}"))
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["whorl"].pop("in_weights", None)
    for part in config["whorl"]["encoding"].get("parts", [config["whorl"]["encoding"]]):
        part.pop("fraction", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if ".whorl." not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    again = whorl.load(tmp_path).eval()
    assert difference(again(TOKENS).logits, logits) < budget
    whorl.attach(again, whorl.encoding_of(again))
    assert difference(again(TOKENS).logits, logits) < budget, "and what it is read as means the same"


@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")
def test_an_adapter_of_an_earlier_version_means_what_it_meant(tmp_path) -> None:
    """PEFT recorded the notation, which then left out what was at its default."""
    from peft import LoraConfig, get_peft_model

    tiny_model("llama", **rope()).save_pretrained(tmp_path / "stock")
    model = whorl.attach(whorl.load(tmp_path / "stock"), "hope:train_length=16,base=10000")
    config = LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.0, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(path.read_text().replace("hope:train_length=16,base=10000", "hope:train_length=16"))
    assert "whorl:hope:train_length=16" in path.read_text()
    assert str(whorl.encoding_of(whorl.load(tmp_path / "adapter"))) == "hope:train_length=16,base=10000"


def test_outside_of_a_model_the_defaults_stand() -> None:
    assert whorl.RoPE().spectrum(64) == whorl.RoPE(base=10000.0).spectrum(64)
    assert whorl.HoPE(train_length=64).spectrum(64) == whorl.HoPE(64, 10000.0, 1.0).spectrum(64)
    assert whorl.RoPE(fraction=0.5).spectrum(64) == whorl.PartialRoPE(0.5).spectrum(64)
    assert whorl.PRoPE(p=0.5, fraction=0.5).spectrum(64).turning == tuple(range(8))
    assert whorl.RoPE() != whorl.RoPE(base=10000.0), "unset is not the same as given"
    assert str(whorl.RoPE()) == "rope"
    assert str(whorl.RoPE(base=10000.0)) == "rope:base=10000"
    assert from_dict({"name": "rope", "base": 10000.0}) == whorl.RoPE(base=10000.0)
    assert whorl.RoPE().to_dict() == {"name": "rope"}
    with pytest.raises(ValueError, match="hope with fraction=0.2 turns 3 of 16 channels, an odd number"):
        whorl.HoPE(64, fraction=0.2).spectrum(16)
