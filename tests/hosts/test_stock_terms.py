"""How a native save says what was attached: by name and in round numbers, and at the top of the config too."""

from __future__ import annotations

import copy
import json
import logging
import math
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import whorl
from tests.contract import TOKENS, difference
from whorl.attaching.saving import save_for_all
from whorl.attaching.stock import stock_form
from whorl.encodings.scalings.yarn import YaRN
from whorl.encodings.spectrum import share_of
from whorl.hosts import FAMILIES, StockForm
from whorl.hosts.transformers.stock_terms import SEE_BY_TYPE, SEE_SETTINGS, for_older_readers
from whorl.testing import logits_and_budget, tiny_model

ROTARY = tuple(f for f, host in FAMILIES.items() if host.rotary is not None)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# What is attached to a Llama whose own base is 50,000, and what its config then says.
SAID: dict[str, dict[str, Any]] = {
    "rope:base=50000": {"rope_type": "default", "rope_theta": 5e4},
    "rope:base=50000~base-change:base=100000": {"rope_type": "default", "rope_theta": 1e5},
    "rope:base=50000~ntk:factor=4": {"rope_type": "default", "rope_theta": 5e4 * 4 ** (16 / 14)},
    "frequencies:values=" + "@".join(map(repr, whorl.RoPE(1e5).spectrum(16).frequencies)): {
        "rope_type": "default",
        "rope_theta": 1e5,
    },
    "hope:train_length=40,base=50000": {
        "rope_type": "proportional",
        "rope_theta": 5e4,
        "partial_rotary_factor": 2 / 8,
    },
    "rope:base=50000~linear:factor=2": {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0},
    "rope:base=50000~yarn:factor=4,original=16": {**YARN, "rope_theta": 5e4},
    "rope:base=50000~base-change:base=100000~yarn:factor=4,original=16": {**YARN, "rope_theta": 1e5},
    "rope:base=50000~yarn:factor=4,original=16,beta_fast=8,truncate=false": {
        **YARN,
        "rope_theta": 5e4,
        "beta_fast": 8.0,
        "truncate": False,
    },
    "rope:base=50000~yarn:factor=4,original=16,mscale=1,mscale_all_dim=0.7": {
        **YARN,
        "rope_theta": 5e4,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
    },
    # stock reads neither without the other
    "rope:base=50000~yarn:factor=4,original=16,mscale=0.7": {
        **YARN,
        "rope_theta": 5e4,
        "attention_factor": YaRN(4, 16, mscale=0.7).amplitude,
    },
    "rope:base=50000~llama3:factor=8,original=16": {
        **LLAMA3,
        "rope_theta": 5e4,
        "original_max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("notation", SAID, ids=lambda n: n[:70])
def test_a_scaling_is_said_by_its_name_with_its_own_numbers(notation: str) -> None:
    own = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}
    form = stock_form(tiny_model("llama", **own), whorl.parse(notation))
    assert isinstance(form, StockForm)
    assert form.config["rope_parameters"] == SAID[notation]


def test_what_has_no_name_is_a_longrope() -> None:
    """Scalings of pairs that do not rotate; and an attention factor of 1, which is what readers take that drop it."""
    for notation in (
        "hope:train_length=40~yarn:factor=4",
        "rope~ntk-by-parts:factor=4,original=16",
        "rope~yarn:factor=4,original=16,attention_factor=1",
        "p-rope:p=0.5~linear:factor=2",
        "rope~linear:factor=2~yarn:factor=4,original=16",
    ):
        form = stock_form(tiny_model("llama"), whorl.parse(notation))
        assert form.config["rope_parameters"]["rope_type"] == "longrope", notation


@pytest.mark.parametrize("head_dim", [16, 44, 64, 80, 96, 128, 256])
def test_a_share_turns_exactly_so_many_pairs_by_every_formula(head_dim: int) -> None:
    """Stock's int(p d // 2), and mlx-lm's int(p d), which half a pair more would make odd."""
    for pairs in range(head_dim // 2 + 1):
        share = share_of(2 * pairs, head_dim)
        assert int(share * head_dim // 2) == pairs
        assert int(head_dim * share) == 2 * pairs
        assert abs(share - 2 * pairs / head_dim) < 1e-15


def loaded(folder: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A directory's config as stock reads it, which must be without a word."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING, "transformers")
    caplog.clear()
    config = AutoConfig.from_pretrained(folder)
    assert not caplog.records, caplog.text
    return config


@pytest.mark.parametrize("family", ROTARY)
def test_what_is_written_for_older_readers_changes_nothing_in_stock(family, tmp_path, caplog, monkeypatch) -> None:
    """Transformers 5 reads rope_scaling before rope_parameters: they must say the same, and raise no warning."""
    model = tiny_model(family)
    for i, notation in enumerate(("hope:train_length=40", "rope:base=50000~yarn:factor=4,original=16")):
        whorl.attach(model, notation)
        form = stock_form(model)
        model.save_pretrained(tmp_path / str(i))
        read = loaded(tmp_path / str(i), caplog, monkeypatch)
        written = json.loads((tmp_path / str(i) / "config.json").read_text())
        wanted = copy.deepcopy(form.config["rope_parameters"])
        if family == "phi3" and wanted["rope_type"] == "longrope":  # it has its own field for that
            wanted["original_max_position_embeddings"] = read.original_max_position_embeddings
        assert read.rope_parameters == wanted
        assert {key: written[key] for key in form.older} == form.older
        if family not in ("gemma4_text", "gpt_neox", "modernbert", "modernbert-decoder", "gemma3_text", "olmo3"):
            assert written["rope_theta"] in (wanted["rope_theta"], SEE_SETTINGS)


@torch.no_grad()
def test_older_readers_find_base_scaling_and_share_at_the_top(tmp_path) -> None:
    def top(family: str, notation: str, **overrides: Any) -> dict[str, Any]:
        folder = tmp_path / f"{family} {len(list(tmp_path.iterdir()))}"
        model = whorl.attach(tiny_model(family, **overrides), notation)
        logits, budget = logits_and_budget(model, TOKENS)
        model.save_pretrained(folder)
        stock = type(model).from_pretrained(folder).eval()
        assert difference(stock(TOKENS).logits, logits) < budget
        names = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_emb_base")
        names += ("rope_local_base_freq", "global_rope_theta", "local_rope_theta")
        config = json.loads((folder / "config.json").read_text())
        return {name: config[name] for name in names if name in config}

    hope = {"rope_type": "proportional", "partial_rotary_factor": 0.25}
    yarn = "rope:base=10000~yarn:factor=4,original=16"
    assert top("llama", "rope:base=50000") == {"rope_theta": 5e4, "rope_scaling": None}
    assert top("llama", yarn) == {"rope_theta": 1e4, "rope_scaling": YARN}
    assert top("llama", "hope:train_length=40") == {
        "rope_theta": 1e4,
        "rope_scaling": hope,
        "partial_rotary_factor": 0.25,
    }
    # mlx-lm's GPT-NeoX needs its own names and knows no scaling: it must not find them where there is one
    assert top("gpt_neox", "partial-rope:fraction=0.5") == {
        "rotary_pct": 0.5,
        "rotary_emb_base": 1e4,
        "rope_scaling": None,
    }
    assert top("gpt_neox", "hope:train_length=40,fraction=1") == {"rope_scaling": {**hope, "rope_theta": 1e4}}
    sliding = "/sliding_attention=rope:base=20000+window:size=24"
    local = {"rope_theta": 1e4, "rope_local_base_freq": 2e4}
    assert top("gemma3_text", f"full_attention=rope:base=10000{sliding}") == {**local, "rope_scaling": None}
    assert top("gemma3_text", f"full_attention={yarn}{sliding}") == {**local, "rope_scaling": YARN}
    assert top("gemma3_text", "hope:train_length=40") == {"rope_local_base_freq": SEE_BY_TYPE}, (
        "no scaling of sliding layers"
    )
    assert top("modernbert-decoder", f"full_attention=rope:base=10000{sliding}") == {
        "global_rope_theta": 1e4,
        "local_rope_theta": 2e4,
        "rope_scaling": None,
    }
    assert top("olmo3", f"full_attention=rope:base=10000{sliding}") == {"rope_theta": SEE_BY_TYPE}, "one base there"
    assert top("modernbert-decoder", "hope:train_length=40") == {"local_rope_theta": SEE_BY_TYPE}
    assert top("gemma4_text", f"full_attention=rope:base=10000{sliding}") == {}, "younger than rope_parameters"


def test_a_family_that_is_scaled_by_default_is_told_that_it_is_not(tmp_path) -> None:
    """Transformers 4's gpt-oss takes YaRN by 32, and its Apertus Llama 3's scaling, where there is no rope_scaling."""
    for family in ("gpt_oss", "apertus"):
        whorl.attach(tiny_model(family), "rope:base=50000").save_pretrained(tmp_path / family)
        config = json.loads((tmp_path / family / "config.json").read_text())
        assert (config["rope_theta"], config["rope_scaling"]) == (5e4, None)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "notation", "stops"),
    [
        ("nemotron", "rope~linear:factor=2", True),  # transformers 4 reads no scaling of it
        ("nemotron", "hope:train_length=40", True),
        ("nemotron", "rope:base=50000", False),
        ("gemma2", "hope:train_length=40", True),  # and mlx-lm none of these; transformers 4 stops at HoPE anyway
        ("gemma2", "rope~linear:factor=2", False),  # which transformers 4 reads
        ("llama", "hope:train_length=40", False),
    ],
)
def test_words_stand_where_a_reader_of_bases_would_drop_the_rest(family, notation, stops, tmp_path) -> None:
    model = whorl.attach(tiny_model(family), notation)
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["rope_theta"] == SEE_SETTINGS) == stops
    assert not (stops and config["rope_scaling"]), "transformers 5 would read it, and take the words for its base"
    stock = type(model).from_pretrained(tmp_path).eval()
    assert difference(stock(TOKENS).logits, logits) < budget


def test_a_part_of_neighbouring_pairs_is_said_with_its_own_base() -> None:
    """GLM turns half of each head; over whole heads the same frequencies would be of the base's square."""
    said = {
        "rope:base=50000": {"rope_type": "default", "rope_theta": 5e4},
        "rope:base=50000~linear:factor=2": {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0},
        "rope:base=50000~ntk:factor=4": {"rope_type": "default", "rope_theta": 5e4 * 4 ** (8 / 6)},
    }
    for notation, settings in said.items():
        found = stock_form(tiny_model("glm"), whorl.parse(notation)).config["rope_parameters"]
        assert found.pop("rope_theta") == pytest.approx(settings.pop("rope_theta"), rel=1e-15)
        assert found == {**settings, "partial_rotary_factor": 0.5}


@torch.no_grad()
def test_a_config_with_a_field_of_its_own_for_the_original_length_says_it_there(tmp_path) -> None:
    """Phi-3's goes before the settings' own, and vLLM reckons a longrope's attention factor from it."""
    model = whorl.attach(tiny_model("phi3"), "rope~yarn:factor=4,original=16")
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    read = AutoConfig.from_pretrained(tmp_path)
    lengths = {
        written["original_max_position_embeddings"],
        written["rope_parameters"]["original_max_position_embeddings"],
        read.rope_parameters["original_max_position_embeddings"],
    }
    assert lengths == {25}, "64 ^ (1 / amplitude^2): whence LongRoPE's formula gives YaRN's amplitude"
    assert difference(type(model).from_pretrained(tmp_path).eval()(TOKENS).logits, logits) < budget


@pytest.mark.parametrize("amplitude", [1.05, 1.1386, 1.5])
def test_the_lengths_of_a_longrope_give_its_amplitude_by_its_formula(amplitude: float) -> None:
    """To what whole tokens allow: vLLM and mlx-lm go by the lengths, and drop attention_factor."""
    values = "@".join(map(str, (1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0)))
    model = tiny_model("llama", max_position_embeddings=8192)
    form = stock_form(model, whorl.parse(f"frequencies:values={values},amplitude={amplitude}"))
    said = form.config["rope_parameters"]
    original = said["original_max_position_embeddings"]
    by_lengths = [math.sqrt(1 + math.log(8192 / n) / math.log(n)) for n in (original + 1, original, original - 1)]
    assert said["attention_factor"] == amplitude
    assert by_lengths[0] < amplitude < by_lengths[2]
    assert abs(by_lengths[1] - amplitude) <= by_lengths[2] - by_lengths[0]
    assert original * said["factor"] == pytest.approx(8192)


LISTED = "p-rope:p=0.75~yarn:factor=4,original=16"  # as a list: no rope type has the name of the whole


@torch.no_grad()
@pytest.mark.parametrize("factor", ["", ",attention_factor=0.8"], ids=["rounded", "own"])
@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3", "gemma3_text"])
def test_an_attention_factor_that_lengths_do_not_give_is_said_by_both_names(
    family, factor, tmp_path, caplog, monkeypatch
) -> None:
    """attention_factor for stock, which warns of no other, and the mscales of vLLM and SGLang."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.WARNING, "transformers")
    typed = family == "gemma3_text"
    notation = f"full_attention={LISTED}{factor}/sliding_attention=rope" if typed else LISTED + factor
    model = whorl.attach(tiny_model(family), notation)
    logits, budget = logits_and_budget(model, TOKENS)
    caplog.clear()
    model.save_pretrained(tmp_path)
    assert not caplog.records, caplog.text
    read = loaded(tmp_path, caplog, monkeypatch).rope_parameters
    said = read["full_attention"] if typed else read
    amplitude = 0.8 if factor else YaRN(4, 16).amplitude
    assert [said[k] for k in ("attention_factor", "short_mscale", "long_mscale")] == [amplitude] * 3
    assert difference(type(model).from_pretrained(tmp_path).eval()(TOKENS).logits, logits) < budget
    assert whorl.encoding_of(whorl.load(tmp_path)) == whorl.encoding_of(model)


def test_a_factor_that_lengths_give_is_said_once() -> None:
    lists = f"short_factor={'@'.join(['2'] * 8)},long_factor={'@'.join(['2'] * 8)}"
    for notation, mscale in {
        "p-rope:p=0.5~linear:factor=2": None,
        f"rope~longrope:{lists},factor=4,original=16": None,
        f"rope~longrope:{lists},factor=2,original=16": math.sqrt(1 + math.log(2) / math.log(16)),
    }.items():
        said = stock_form(tiny_model("llama"), whorl.parse(notation)).config["rope_parameters"]
        assert [said.get(k) for k in ("short_mscale", "long_mscale")] == [mscale] * 2, notation


@torch.no_grad()
def test_a_list_that_was_written_without_mscales_loads_and_is_saved_with_them(tmp_path) -> None:
    model = whorl.attach(tiny_model("llama"), LISTED)
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    now = copy.deepcopy(config["rope_parameters"])
    del config["ignore_keys_at_rope_validation"]
    for settings in (config["rope_parameters"], config["rope_scaling"]):
        del settings["short_mscale"], settings["long_mscale"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = whorl.load(tmp_path)
    assert difference(old.eval()(TOKENS).logits, logits) < budget
    assert stock_form(old).config["rope_parameters"] == now


def test_what_stock_cannot_say_is_not_said_to_older_readers_either(tmp_path) -> None:
    whorl.attach(tiny_model("llama"), "alibi").save_pretrained(tmp_path)
    assert "rope_theta" not in json.loads((tmp_path / "config.json").read_text())


@torch.no_grad()
def test_a_stock_model_that_whorl_saves_is_said_to_older_readers_too(tmp_path) -> None:
    from whorl.runtimes.exporting import export

    settings = {**YARN, "rope_theta": 5e4}
    model = tiny_model("llama", rope_parameters=copy.deepcopy(settings))
    before = copy.deepcopy(model.config.to_dict())
    save_for_all(model, tmp_path / "a")
    export(model, tmp_path / "b", runtime="hf")
    for folder in ("a", "b"):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert (config["rope_theta"], config["rope_scaling"]) == (5e4, YARN)
        assert config["rope_parameters"] == settings
        stock = type(model).from_pretrained(tmp_path / folder).eval()
        assert torch.equal(stock(TOKENS).logits, model(TOKENS).logits)
    assert model.config.to_dict() == before
    save_for_all(tiny_model("gpt2"), tmp_path / "c")
    assert "rope_theta" not in (tmp_path / "c" / "config.json").read_text()


def test_settings_by_layer_type_of_a_family_that_nobody_knew_by_type_are_left_out() -> None:
    both = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    said = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": None}
    assert for_older_readers("gemma3_text", both) == said
    assert for_older_readers("another", both) == {}
    assert for_older_readers("gemma3_text", {"full_attention": {"rope_theta": 1e6}}) == {}
