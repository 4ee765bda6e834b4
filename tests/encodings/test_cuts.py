"""Where the slow pairs stop: HoPE's `cut`, and the taper of clipped RoPE."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tests.contract import TOKENS, difference
from transformers import LlamaForCausalLM

import whorl
from whorl import theory
from whorl.attaching.stock import stock_form
from whorl.encodings import from_dict, parse
from whorl.encodings.hope import HoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.taper import Taper
from whorl.inspection.analysis import hope_cut
from whorl.testing import logits_and_budget, tiny_model
from whorl.watching import layers_of


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.2, 3.0])
def test_hope_turns_pairs_up_to_cut_training_lengths(cut: float) -> None:
    rope, hope = RoPE().spectrum(128), HoPE(512, cut=cut).spectrum(128)
    wanted = tuple(f if 2 * math.pi / f <= cut * 512 else 0.0 for f in rope.frequencies)
    assert hope.frequencies == wanted
    assert theory.hope_pairs(512, 128, cut=cut) == len(hope.turning)
    p = theory.hope_p(512, 128, cut=cut)
    assert parse(f"p-rope:p={p!r}").spectrum(128) == hope


def test_the_papers_cut_is_written_as_it_was() -> None:
    assert HoPE(512) == parse("hope:train_length=512,cut=1") == from_dict({"name": "hope", "train_length": 512})
    assert "cut" not in HoPE(512).to_dict(), "files, and the names of trials, are what they were"
    other = parse("hope:train_length=512,cut=2.2")
    assert parse(str(other)) == other == from_dict(json.loads(json.dumps(other.to_dict())))


@pytest.mark.parametrize("cut", [0, -1, math.inf, "far", True])
def test_a_cut_that_is_no_length_is_refused(cut: object) -> None:
    for encoding in (HoPE, Taper):
        with pytest.raises(ValueError, match="cut must be"):
            encoding(512, cut=cut)


def test_what_reads_hopes_rule_goes_by_its_cut(tmp_path) -> None:
    """Stock says it as `proportional`, and inspection counts as removed what this HoPE removes."""
    model = tiny_model("llama")
    paper = stock_form(model, parse("hope:train_length=16")).config["rope_parameters"]
    wider = stock_form(model, parse("hope:train_length=16,cut=50")).config["rope_parameters"]
    assert paper["rope_type"] == wider["rope_type"] == "proportional"
    assert wider["partial_rotary_factor"] > paper["partial_rotary_factor"]
    assert [hope_cut(layer, 16) for layer in layers_of(model)] == [1] * 3
    whorl.attach(model, "hope:train_length=16,cut=50")
    assert {hope_cut(layer, 16) for layer in layers_of(model)} == {
        len(HoPE(16, cut=50).spectrum(model.config.head_dim).turning)
    }
    assert {layer.cut for layer in layers_of(whorl.attach(model, "hope:cut=50,train_length=16~ntk:factor=2"))} == {50}
    assert {layer.cut for layer in layers_of(whorl.attach(model, "rope"))} == {1}
    whorl.attach(model, "hope:train_length=16,cut=50").save_pretrained(tmp_path)
    logits, budget = logits_and_budget(model, TOKENS)
    assert difference(LlamaForCausalLM.from_pretrained(tmp_path)(TOKENS).logits, logits) <= budget


def test_taper_is_the_papers_on_the_pairs_that_hope_stills(shared) -> None:
    """The pin: what the paper's code multiplies the last 20 of 64 frequencies by, for whatever base."""
    pin = json.loads((shared / "pins" / "encodings_2021_2026.json").read_text())["clipped_cope"]["mask_tail"]
    rope = np.array(RoPE().spectrum(128).frequencies)
    length = math.ceil(2 * math.pi / rope[43])  # in which 44 pairs turn fully
    weights = np.array(Taper(length).spectrum(128).frequencies) / rope
    np.testing.assert_allclose(weights, [1.0] * 44 + pin, atol=1e-8, rtol=0)


def test_taper_slows_only_what_hope_stills() -> None:
    rope, hope, taper = RoPE().spectrum(64), HoPE(128, cut=2).spectrum(64), Taper(128, cut=2).spectrum(64)
    kept = len(hope.turning)
    assert taper.frequencies[: kept + 1] == rope.frequencies[: kept + 1], "the first slow pair has the weight 1"
    band = 32 - kept
    weights = [(1 + math.cos(math.pi * k / (band - 1))) / 2 for k in range(band)]
    np.testing.assert_allclose(taper.frequencies[kept:], np.multiply(rope.frequencies[kept:], weights), rtol=1e-14)
    assert taper.frequencies[-1] == 0
    assert taper == parse("rope~soft-clip:wavelength=256").spectrum(64)
    assert taper.amplitude == 1
    with pytest.raises(ValueError, match="taper:train_length=4096"):
        Taper().spectrum(64)
