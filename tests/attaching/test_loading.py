"""Every loader of a checkpoint refuses weights that are missing or not known to the model, by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import whorl
from tests.contract import TOKENS
from whorl.testing import tiny_model

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def changed(folder: Path, change, name: str = "model.safetensors") -> None:
    weights = load_file(folder / name)
    change(weights)
    save_file(weights, folder / name, {"format": "pt"})


def without(weights: dict) -> None:
    del weights[next(k for k in weights if k.endswith(Q_PROJ))]


def with_more(weights: dict) -> None:
    weights["model.layers.1.self_attn.q_norm.weight"] = torch.ones(16)


def as_whorl_load(folder: Path) -> None:
    whorl.load(folder)


def as_doctor(folder: Path) -> None:
    whorl.doctor(folder)


def as_inspect(folder: Path) -> None:
    """Also extend, convert and export, which read what they change through it."""
    from whorl.sources import source

    source(str(folder)).model()


def as_streamed(folder: Path) -> None:
    from whorl.sources import source

    source(str(folder)).model(stream_layers=True)


def as_compare(folder: Path) -> None:
    from whorl.training.models import build_model
    from whorl.training.settings import Settings

    build_model(Settings(model=str(folder)), vocab_size=97, eos_token_id=2)


@pytest.mark.parametrize("load", [as_whorl_load, as_doctor, as_inspect, as_streamed, as_compare])
@pytest.mark.parametrize("encoding", [None, "hope:train_length=16"], ids=["stock", "recorded"])
def test_a_missing_or_unknown_weight_is_refused_by_name(load, encoding: str | None, tmp_path) -> None:
    model = tiny_model("llama")
    if encoding is not None:
        whorl.attach(model, encoding)
    for name, change, words in (
        ("less", without, rf"missing \['{Q_PROJ}'\], not known to it none"),
        ("more", with_more, r"missing none, not known to it \['model.layers.1.self_attn.q_norm.weight'\]"),
    ):
        model.save_pretrained(tmp_path / name)
        changed(tmp_path / name, change)
        with pytest.raises(ValueError, match=words):
            load(tmp_path / name)
    model.save_pretrained(tmp_path / "whole")
    load(tmp_path / "whole")


def test_export_does_not_write_noise(tmp_path, capsys, monkeypatch) -> None:
    from whorl.cli import main

    tiny_model("llama").save_pretrained(tmp_path / "model")
    changed(tmp_path / "model", without)
    for format in ("hf", "gguf"):
        asked = ["whorl", "export", str(tmp_path / "model"), "--format", format, "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", asked)
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 2
        assert Q_PROJ in capsys.readouterr().err.replace("\n", "")
        assert not (tmp_path / "out").exists()


def test_an_adapter_is_held_to_it_too(tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    tiny_model("llama").save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    lora = get_peft_model(whorl.load(tmp_path / "base"), config)
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        lora.save_pretrained(tmp_path / "adapter")
    whorl.load(tmp_path / "adapter")
    name = "adapter_model.safetensors"
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    changed(tmp_path / "adapter", lambda w: w.update({"base_model.model.extra.lora_A.weight": torch.ones(2, 2)}), name)
    with pytest.raises(ValueError, match=r"not known to it \['base_model.model.extra.lora_A.weight'\]"):
        whorl.load(tmp_path / "adapter")
    changed(tmp_path / "adapter", lambda w: [w.pop(k) for k in ("base_model.model.extra.lora_A.weight", key)], name)
    warns = pytest.warns(UserWarning, match="missing adapter keys")
    with warns, pytest.raises(ValueError, match=rf"missing \['{key}'\]"):
        whorl.load(tmp_path / "adapter")


def test_weights_of_one_file_are_held_to_it_too(tmp_path) -> None:
    from safetensors.torch import save_model

    from whorl.attaching.weights import load_weights

    model = whorl.attach(tiny_model("llama", tie_word_embeddings=True), "t5")
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    load_weights(model, path)
    changed(tmp_path, lambda w: w.update({"model.whorl.effects.0.weight": torch.zeros(16, 4)}))
    with pytest.raises(ValueError, match=r"size mismatch for model.whorl.effects.0.weight"):
        load_weights(model, path)
    save_model(model, path)
    changed(tmp_path, without)
    with pytest.raises(ValueError, match=rf"missing \['{Q_PROJ}'\]"):
        load_weights(model, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="cannot be read as a LlamaForCausalLM"):
        load_weights(model, path)


@torch.no_grad()
def test_what_is_no_loss_passes(tmp_path) -> None:
    """Tied weights, buffers of old checkpoints, BERT's second head, a model without a head."""
    tied = tiny_model("gemma2", tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    assert torch.equal(whorl.load(tmp_path / "tied")(TOKENS).logits, tied(TOKENS).logits)

    for family, buffers in (
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("gemma3_text", ["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias"]),
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"]),
    ):
        tiny_model(family).save_pretrained(tmp_path / family)
        changed(tmp_path / family, lambda w, buffers=buffers: w.update({b: torch.ones(8) for b in buffers}))
        assert type(whorl.load(tmp_path / family)) is type(tiny_model(family))

    tiny_model("bert").save_pretrained(tmp_path / "bert")
    heads = {"cls.seq_relationship.weight": torch.ones(2, 64), "cls.seq_relationship.bias": torch.ones(2)}
    changed(tmp_path / "bert", lambda w: w.update(heads))
    whorl.load(tmp_path / "bert")

    base = tiny_model("llama").model
    base.save_pretrained(tmp_path / "base")
    assert torch.equal(whorl.load(tmp_path / "base")(TOKENS)[0], base(TOKENS)[0])
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"a LlamaForCausalLM: missing \['lm_head.weight'\]"):
        whorl.load(tmp_path / "base")


@pytest.mark.parametrize(
    ("family", "encoding"),
    [("llama", None), ("llama", "hope:train_length=40"), ("llama", "alibi"), ("gemma3_text", None), ("gpt2", None)],
)
def test_a_model_without_weights_has_the_encoding_that_a_load_gives(family, encoding, tmp_path: Path) -> None:
    from whorl.attaching.loading import without_weights

    model = tiny_model(family)
    if encoding is not None:
        whorl.attach(model, encoding)
    model.save_pretrained(tmp_path)
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()  # it asks none
    empty = without_weights(tmp_path)
    assert whorl.encoding_of(empty) == whorl.encoding_of(model)
    assert {p.device.type for p in empty.parameters()} == {"meta"}


@pytest.mark.parametrize("shard", ["5GB", "20KB"], ids=["one file", "shards"])
@pytest.mark.parametrize("encoding", [None, "hope:train_length=32", "t5"])
def test_a_variant_is_read_from_its_files(encoding: str | None, shard: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    if encoding is not None:
        whorl.attach(model, encoding)
    model.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard)
    assert not [path for path in tmp_path.glob("*.safetensors") if ".fp16" not in path.name]
    loaded = whorl.load(tmp_path, variant="fp16")
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


def test_settings_of_the_config_go_to_it_as_in_stock_code(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "stock")
    said = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "max_position_embeddings": 999,
        "attn_implementation": "eager",
    }
    ours = whorl.load(tmp_path / "stock", **said)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "stock", **said)
    assert ours.config.max_position_embeddings == 999
    assert ours.config._attn_implementation == "eager"
    assert str(whorl.encoding_of(ours)) == "rope:base=500"
    assert torch.equal(ours(TOKENS).logits, stock(TOKENS).logits)
    with pytest.raises(ValueError, match="unexpected keyword argument 'rope_params'"):
        whorl.load(tmp_path / "stock", rope_params={})


@pytest.mark.parametrize("encoding", ["hope:train_length=32", "alibi"], ids=["in stock terms", "recorded"])
def test_a_rotation_beside_a_recorded_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    whorl.attach(tiny_model("llama"), encoding).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=f"was saved with {encoding}.*, which rope_parameters do not change; leave"):
        whorl.load(tmp_path / "ours", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert whorl.load(tmp_path / "ours", max_position_embeddings=999).config.max_position_embeddings == 999
