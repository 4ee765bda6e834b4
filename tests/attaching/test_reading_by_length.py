"""Stock models whose spectrum depends on the length: read, attached and saved."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import whorl
from tests.contract import TOKENS, difference
from whorl.attaching import seams_of
from whorl.attaching.stock import stock_form
from whorl.encodings import Scaled
from whorl.hosts import StockForm
from whorl.testing import logits_and_budget, tiny_model

from .by_length import COMPOSED, DYNAMIC, EXACT, FOUR, LENGTH, LONG, LONGROPE, ORIGINAL, SHORT, fixed, four_layers


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


def numbers(text: str) -> list[float]:
    return [float(x) for x in text.split("@")]


STOCK = {
    EXACT: rope("dynamic", factor=4.0) | {"max_position_embeddings": ORIGINAL},
    LONGROPE: rope("longrope", short_factor=numbers(SHORT), long_factor=numbers(LONG), factor=4.0)
    | {"original_max_position_embeddings": ORIGINAL},
}


def stock_model(family: str, encoding: str) -> Any:
    overrides = copy.deepcopy(STOCK[encoding])
    settings = overrides["rope_parameters"]
    if "longrope" in encoding:
        settings["original_max_position_embeddings"] = ORIGINAL
        if family == "gpt_neox":  # a quarter of each head turns
            settings.update({key: settings[key][:2] for key in ("short_factor", "long_factor")})
    return four_layers(family, **overrides)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"),
    [(f, e) for f in FOUR for e in (EXACT, LONGROPE) if (f, e) != ("phi3", EXACT)],  # stock phi3 has longrope alone
    ids="-".join,
)
def test_what_a_stock_model_has_is_read_and_in_range_it_is_stocks(family: str, encoding: str, tmp_path) -> None:
    model = stock_model(family, encoding)
    logits, budget = logits_and_budget(model, TOKENS[:, :ORIGINAL])
    read = whorl.encoding_of(model)
    plain = read.parts[0] if hasattr(read, "parts") else read  # phi3 has a window of its own
    assert isinstance(plain, Scaled)
    pairs_of = 2 if family == "gpt_neox" else 8
    (wanted,) = whorl.parse(encoding).scalings
    if "longrope" in encoding:
        lists = {key: getattr(wanted, key)[:pairs_of] for key in ("short_factor", "long_factor")}
        wanted = replace(wanted, **lists)
    assert plain.scalings == (wanted,)
    assert len(plain.spectrum_at(16, 40).turning) == pairs_of
    model(TOKENS)  # stock changes its buffers here
    assert whorl.encoding_of(model) == read
    whorl.attach(model, read)
    assert difference(model(TOKENS[:, :ORIGINAL]).logits, logits) < budget
    ours, budget = logits_and_budget(model, TOKENS)
    steps, cache = [], None
    for t in range(LENGTH):
        out = model(TOKENS[:, t : t + 1], past_key_values=cache, use_cache=True)
        steps.append(out.logits)
        cache = out.past_key_values
    assert difference(torch.cat(steps, 1), ours) < budget
    assert not isinstance(stock_form(model), StockForm)
    model.save_pretrained(tmp_path)
    assert difference(whorl.load(tmp_path).eval()(TOKENS).logits, ours) < budget


@torch.no_grad()
@pytest.mark.parametrize("past", [1, 2, 13])
def test_a_stock_dynamic_model_is_read_with_stocks_frequencies_at_every_length(past: int) -> None:
    """Not those of the next quarter of its length: at 65 of 64 and factor 4 the slowest is 1.9 times too slow."""
    model = stock_model("llama", EXACT)
    read = whorl.encoding_of(model)
    model(torch.arange(3, 3 + ORIGINAL + past)[None])
    stock = model.model.rotary_emb.inv_freq.double()
    ours = torch.tensor(read.spectrum_at(16, ORIGINAL + past).frequencies, dtype=torch.float64)
    torch.testing.assert_close(ours, stock, rtol=2e-6, atol=0)


def test_settings_that_were_changed_are_not_believed() -> None:
    model = stock_model("llama", LONGROPE)
    model.config.rope_parameters["short_factor"] = [2.0] * 8
    with pytest.raises(ValueError, match="its rotary module was built with other frequencies; load the model anew"):
        whorl.encoding_of(model)
    model = stock_model("llama", EXACT)
    model.config.rope_parameters["beta_fast"] = 32
    with pytest.raises(ValueError, match="no scaling says beta_fast under rope_type 'dynamic'"):
        whorl.encoding_of(model)


def test_rounded_buffers_and_types_of_layers() -> None:
    assert str(whorl.encoding_of(stock_model("llama", EXACT).to(torch.bfloat16))) == EXACT
    settings = {
        "full_attention": rope("dynamic", factor=2.0)["rope_parameters"],
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    model = tiny_model("gemma3_text", rope_parameters=settings)
    read = "full_attention=rope:base=10000~dynamic-ntk:factor=2,original=64,step=1"
    read += "/sliding_attention=rope:base=10000+window:size=24"
    assert str(whorl.encoding_of(model)) == read
    whorl.attach(model, read)
    scaled = [seam.scaled is not None for seam in seams_of(model)]
    assert scaled == [False, True, False]
    with torch.device("meta"):
        assert str(whorl.encoding_of(stock_model("llama", EXACT))) == EXACT


@pytest.mark.parametrize("encoding", [EXACT, LONGROPE], ids=["dynamic", "longrope"])
def test_a_fixed_spectrum_is_not_saved_as_one_that_depends_on_the_length(encoding: str, tmp_path) -> None:
    """The stock module's first frequencies are the wanted ones, and it would change them past the original length."""
    model = stock_model("llama", encoding)
    model.config.max_position_embeddings = 64  # no other spectrum: stock reads the length at building
    whorl.attach(model, fixed(whorl.encoding_of(model).spectrum(16)))
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert difference(stock(TOKENS).logits, logits) < budget
    saved = stock.config.rope_parameters
    assert saved["rope_type"] == "default" or saved["short_factor"] == saved["long_factor"]


def test_a_record_is_not_believed_when_the_settings_depend_on_the_length(tmp_path) -> None:
    """Up to the original length the two turn alike."""
    whorl.attach(four_layers("llama"), "rope").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert str(whorl.encoding_of(model)) == "rope:base=10000~dynamic-ntk:factor=4,original=64,step=1"
    with pytest.raises(ValueError, match="somebody changed one of them"):
        whorl.load(tmp_path)


@torch.no_grad()
def test_inspection_reads_windows_of_one_spectrum_and_says_so_of_others() -> None:
    from whorl.watching import forward, layers_of

    model = whorl.attach(four_layers("llama"), LONGROPE)
    layers = layers_of(model)
    assert layers[0].frequencies == whorl.parse(LONGROPE).spectrum(16).frequencies
    found: list[Any] = []
    forward(model, TOKENS[:, :ORIGINAL], found.append)
    static = whorl.attach(four_layers("llama"), fixed(whorl.parse(LONGROPE).spectrum(16)))
    expected: list[Any] = []
    forward(static, TOKENS[:, :ORIGINAL], expected.append)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.q, b.q, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.k, b.k, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"turns these keys by 2 spectra.*give windows of at most 16 tokens"):
        forward(model, TOKENS, found.append)


def test_comparisons_read_the_first_spectrum() -> None:
    from whorl.comparison.fitting import turning
    from whorl.hosts import open_host

    host = open_host(four_layers("llama"))
    for encoding in (DYNAMIC, LONGROPE, COMPOSED[2]):
        assert turning(whorl.parse(encoding), host)["pairs"] == 8
