"""encoding_of: what a model has, in stock terms of every kind, and what cannot be said."""

from __future__ import annotations

import math

import pytest
import torch

import whorl
from whorl.attaching import seams_of
from whorl.attaching.reading import stock_encoding
from whorl.encodings.frequencies import Frequencies
from whorl.hosts import open_host, stock_spectrum
from whorl.testing import logits_and_budget, tiny_model

TOKENS = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))


def own(family: str, **overrides) -> str:
    return str(whorl.encoding_of(tiny_model(family, **overrides)))


def rope(kind: str, **settings) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


def test_each_family_says_what_it_has() -> None:
    sliding = "/sliding_attention=rope:base=10000+window:size=24"
    assert {f: own(f) for f in ("llama", "mistral", "gemma2", "gemma3_text", "gemma4_text", "gpt_neox", "glm")} == {
        "llama": "rope:base=10000",
        "mistral": "rope:base=10000+window:size=24",
        "gemma2": "full_attention=rope:base=10000" + sliding,
        "gemma3_text": "full_attention=rope:base=1000000" + sliding,
        "gemma4_text": "full_attention=p-rope:p=0.25,base=1000000" + sliding,
        "gpt_neox": "partial-rope:fraction=0.25,base=10000",
        "glm": "partial-rope:fraction=0.5,base=10000",
    }
    assert {f: own(f) for f in ("smollm3", "exaone4", "modernbert", "helium", "gpt2", "opt", "lfm2")} == {
        "smollm3": "rope:base=2000000/nope",
        "exaone4": "full_attention=nope" + sliding,
        "modernbert": "full_attention=rope:base=160000/sliding_attention=rope:base=10000+window:size=25",
        "helium": "rope:base=100000",
        "gpt2": "learned:max_positions=64",
        "opt": "learned:max_positions=64",
        "lfm2": "rope:base=1000000",
    }


def test_layers_without_rotary_are_said_by_the_shortest_cycle() -> None:
    assert own("smollm3", num_hidden_layers=6, no_rope_layers=[1, 1, 0] * 2) == "/".join(
        ["rope:base=2000000"] * 2 + ["nope"]
    )
    assert own("smollm3", no_rope_layers=[1, 1, 1]) == "rope:base=2000000"


def test_a_fraction_is_named_so_that_it_keeps_as_many_pairs(tmp_path) -> None:
    """int(15 / 22 * 44 // 2) is 14: the floor in p-RoPE's formula needs the next number above 15 / 22."""
    model = whorl.attach(tiny_model("llama", head_dim=44), "hope:train_length=3000")
    assert len(seams_of(model)[0].spectrum.turning) == 15
    model.save_pretrained(tmp_path)
    stock = whorl.detach(whorl.load(tmp_path))
    assert str(whorl.encoding_of(stock)) == f"p-rope:p={math.nextafter(15 / 22, 1)},base=10000"


ODD = {
    "slowest": "p-rope:p=0.5,base=10000,keep=slowest",
    "the slowest alone": "p-rope:p=0.125,base=10000,keep=slowest",
    "the fastest alone": "p-rope:p=0.125,base=10000",
    "none": "p-rope:p=0,base=10000",
    "the first still": "frequencies:values=0@1@0.5@0@0.1@0@0@0",
    "one, in the middle": "frequencies:values=0@0@0@0.3@0@0@0@0",
    "rising": "frequencies:values=0.01@0.1@0.2@0.3@0.4@0.5@0.6@0.7",
    "past pi": "frequencies:values=4@3@2@1@0.5@0.2@0.1@0",
    "far apart": "frequencies:values=1@1e-30@0@0@0@0@0@1e-38",
    "an amplitude, and none turns": "frequencies:values=0@0@0@0@0@0@0@0,amplitude=1.5",
    "an amplitude on still pairs": "p-rope:p=0.5,base=10000~yarn:factor=4,original=16,attention_factor=2",
    "an amplitude of 0": "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=0",
    "a negative amplitude": "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=-1.5",
}


@torch.no_grad()
@pytest.mark.parametrize("notation", ODD.values(), ids=ODD)
def test_whatever_pairs_turn_a_native_save_is_read_back(notation: str, tmp_path) -> None:
    """By its record; and without one, from the stock module alone."""
    model = whorl.attach(tiny_model("llama"), notation)
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    stock = type(model).from_pretrained(tmp_path).eval()
    assert float((stock(TOKENS).logits - logits).abs().max()) < budget
    assert whorl.encoding_of(stock) == whorl.parse(notation)
    whorl.attach(stock, stock_encoding(open_host(stock)))
    assert float((stock(TOKENS).logits - logits).abs().max()) < budget
    whorl.attach(stock, "rope:base=100")
    moved = float((stock(TOKENS).logits - logits).abs().max())
    assert moved > 100 * budget


@pytest.mark.parametrize("keep", ["fastest", "slowest"])
def test_the_pairs_that_turn_are_named_by_the_simplest_name(keep: str, tmp_path) -> None:
    notation = f"p-rope:p=0.5,base=5000,keep={keep}"
    whorl.attach(tiny_model("llama"), notation).save_pretrained(tmp_path)
    read = whorl.encoding_of(whorl.detach(whorl.load(tmp_path)))
    assert read == whorl.parse(notation)


def test_an_amplitude_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="amplitude must be finite .* got nan"):
        whorl.parse("frequencies:values=1,amplitude=nan")


def test_where_the_host_fixes_the_width_its_head_dim_is_that_width() -> None:
    """Phi hands its rotation half of each head: all of what it lets turn turns."""
    model = tiny_model("phi")
    assert str(whorl.encoding_of(model)) == "rope:base=10000"
    assert [shape.head_dim for shape in open_host(model).shapes] == [8, 8, 8]


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        rope("linear", factor=4.0),
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
        rope("yarn", factor=4.0, original_max_position_embeddings=32),
        rope("longrope", short_factor=[2.0] * 8, long_factor=[2.0] * 8, factor=2.0, attention_factor=1.25),
    ],
    ids=lambda s: s["rope_parameters"]["rope_type"],
)
def test_scaled_spectra_are_plain_frequencies(settings: dict) -> None:
    model = tiny_model("llama", **settings)
    logits, budget = logits_and_budget(model, TOKENS)
    encoding = whorl.encoding_of(model)
    assert isinstance(encoding, Frequencies)
    stock = stock_spectrum(model.model.rotary_emb, "full_attention", 16)
    assert (encoding.values, encoding.amplitude) == (stock.frequencies, stock.amplitude)
    whorl.attach(model, encoding)
    assert float((model(TOKENS).logits - logits).abs().max()) < budget
    assert whorl.parse(str(encoding)) == encoding
    whorl.attach(model, "rope")
    assert float((model(TOKENS).logits - logits).abs().max()) > 100 * budget


def test_a_base_stretched_by_alpha_is_named_by_its_base() -> None:
    """HunYuan's "dynamic" with a fixed alpha: base x alpha^(d / (d - 2))."""
    encoding = whorl.encoding_of(tiny_model("hunyuan_v1_dense", **rope("dynamic", alpha=1000.0, factor=1.0)))
    assert isinstance(encoding, whorl.RoPE)
    assert encoding.base == pytest.approx(1e4 * 1000 ** (16 / 14), rel=1e-5)


def test_a_spectrum_that_depends_on_the_length_is_read_as_one_that_does() -> None:
    """What attaching it means is in test_reading_by_length.py."""
    lists = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    assert own("llama", **rope("dynamic", factor=2.0)) == "rope:base=10000~dynamic-ntk:factor=2,original=64,step=1"
    assert whorl.encoding_of(tiny_model("llama", **rope("longrope", factor=2.0, **lists))) == whorl.parse(
        "rope:base=10000~longrope:short_factor=1@1@1@1@1@1@1@1,long_factor=4@4@4@4@4@4@4@4,factor=2,original=64"
    )


def test_rounded_buffers_are_named_by_what_was_meant() -> None:
    """model.to(bfloat16) rounds stock frequencies by up to 0.4 %; attaching what was meant mends them."""
    assert str(whorl.encoding_of(tiny_model("llama").to(torch.bfloat16))) == "rope:base=10000"
    other = tiny_model("llama", **rope("default") | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert str(whorl.encoding_of(other.to(torch.bfloat16))) == "rope:base=500000"


@torch.no_grad()
def test_the_real_checkpoint(shared, tmp_path) -> None:
    """babyllama: its own encoding, same loss; another base, another loss; detached, same bits; saved, same loss."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared / "fixtures" / "babyllama-tok105"
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (shared / "fixtures" / "text" / "tinystories_sample.txt").read_text()[:256]
    ids = torch.tensor([tokenizer.encode(text)])
    stock = model(ids, labels=ids)
    whorl.attach(model, whorl.encoding_of(model))
    assert float(model(ids, labels=ids).loss) == pytest.approx(float(stock.loss), abs=1e-5)
    model.save_pretrained(tmp_path / "own")
    whorl.attach(model, "rope:base=100")
    other = float(model(ids, labels=ids).loss)
    assert other > float(stock.loss) + 0.05
    model.save_pretrained(tmp_path / "other")
    whorl.detach(model)
    assert torch.equal(model(ids).logits, stock.logits)
    for name, loss in (("own", float(stock.loss)), ("other", other)):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        assert whorl.attached(again) is None
        assert float(again(ids, labels=ids).loss) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("family", ["llama", "phi", "gemma3_text", "gpt_neox"])
def test_frequencies_that_are_none_keep_no_encoding_out(family: str, bad: float) -> None:
    """What replaces them does not read them; what must read them says whom to ask."""
    model = tiny_model(family)
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer[1] = bad
    for encoding in ("alibi", "nope", "learned:max_positions=64", "rope:base=10000", "hope"):
        if encoding == "learned:max_positions=64" and family == "gemma3_text":
            continue  # its layers differ
        whorl.attach(model, encoding)
        assert torch.isfinite(model(torch.arange(9)[None]).logits).all()
        whorl.detach(model)
    with pytest.raises(ValueError, match=r"inv_freq = 1, .*must be finite and not negative.*whorl.doctor\(model\)"):
        whorl.encoding_of(model)


def test_an_unlisted_family_whose_logits_are_no_numbers_is_no_stranger_for_that() -> None:
    model = tiny_model("mixtral", num_local_experts=4, num_experts_per_tok=2, experts_implementation="eager")
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"its own logits are not finite; whorl.doctor\(model\) says"):
        whorl.attach(model, "alibi")
