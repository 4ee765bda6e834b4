"""Directories: what they hold beside the model, and what is never opened or run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import whorl
from whorl.attaching.saving import save_for_all
from whorl.diagnosis import doctor
from whorl.testing import tiny_model

from . import changed


def test_a_directory_is_healthy(folder: Path) -> None:
    found = doctor(folder)
    assert found.healthy
    assert found["saved"].status == found["theta"].status == "pass"


def test_a_directory_in_half_precision_is_healthy(tmp_path: Path) -> None:
    tiny_model("phi").bfloat16().save_pretrained(tmp_path)
    found = doctor(tmp_path)
    assert found.healthy, str(found)
    assert found["precision"].status == "pass"


DIRECTORIES = [
    ("theta", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope settings without a theta"),
    ("theta", {"rope_theta": 5e5}, "config.json says 10000, 500000"),
]


@pytest.mark.parametrize(("check", "entries", "measured_is"), DIRECTORIES)
def test_a_config_with_a_fault(check: str, entries: dict[str, Any], measured_is: str, folder: Path) -> None:
    found = doctor(changed(folder, **entries))
    assert found.failed == (check,), str(found)
    assert measured_is in found[check].measured


def test_a_config_from_before_theta_passes_and_says_the_default(folder: Path) -> None:
    found = doctor(changed(folder, rope_parameters="gone"))
    assert found.healthy, str(found)
    assert "10000 by default" in found["theta"].measured


def test_a_tokenizer_that_lets_more_through(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 4096}))
    found = doctor(folder)
    assert found.failed == ("length",)
    assert "4,096 tokens through" in found["length"].measured
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))
    assert doctor(folder).healthy


@pytest.mark.parametrize(
    ("base", "dtype", "ok"), [(1e4, torch.float32, True), (1e4, torch.float16, True), (500.0, torch.float32, False)]
)
def test_rotary_buffers_among_the_weights(base: float, dtype: torch.dtype, ok: bool, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = (base ** -(torch.arange(0, 16, 2) / 16)).to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = doctor(folder)
    assert found.failed == (() if ok else ("saved",)), str(found)


def test_a_record_that_contradicts_the_stock_settings(tmp_path: Path) -> None:
    whorl.attach(tiny_model("llama"), "hope:train_length=16").save_pretrained(tmp_path)
    assert doctor(tmp_path).healthy
    said = json.loads((tmp_path / "config.json").read_text())
    other = {k: {**said[k], "partial_rotary_factor": 0.9} for k in ("rope_parameters", "rope_scaling")}
    found = doctor(changed(tmp_path, **other, partial_rotary_factor=0.9))
    assert found.failed == ("saved",), str(found)
    assert "hope:train_length=16" in found["saved"].measured


@pytest.mark.parametrize(
    ("family", "notation"),
    [
        ("llama", "hope:train_length=16"),
        ("llama", "rope~yarn:factor=4,original=16"),
        ("gpt_neox", "rope:base=500"),
        ("gemma3_text", "full_attention=rope~linear:factor=4/sliding_attention=rope"),
    ],
)
def test_what_whorl_writes_for_older_readers_must_agree(family: str, notation: str, tmp_path: Path) -> None:
    whorl.attach(tiny_model(family), notation).save_pretrained(tmp_path)
    assert doctor(tmp_path).healthy, str(doctor(tmp_path))
    said = json.loads((tmp_path / "config.json").read_text())
    names = [k for k in ("rope_theta", "rotary_emb_base", "partial_rotary_factor", "rotary_pct") if k in said]
    assert names or "rope_scaling" in said
    for name in names:
        found = doctor(changed(tmp_path, **{name: said[name] / 3}))
        assert not found.healthy, name
        changed(tmp_path, **{name: said[name]})
    if said.get("rope_scaling"):
        settings = said["rope_parameters"].get("full_attention", said["rope_parameters"])
        key = "factor" if "factor" in settings else "partial_rotary_factor"
        other = {**settings, key: settings[key] / 2}
        whole = {**said["rope_parameters"], "full_attention": other} if family == "gemma3_text" else other
        found = doctor(changed(tmp_path, rope_parameters=whole))
        assert found.failed[-1:] == ("saved",), str(found)
        assert "rope_parameters and rope_scaling say" in found["saved"].measured


@pytest.mark.parametrize(
    ("family", "notation"),
    [
        ("llama", "hope:train_length=16"),
        ("phi3", "rope~yarn:factor=4,original=16"),
        ("olmo3", "hope:train_length=16"),
        ("nemotron", "rope~linear:factor=4"),
        ("gemma2", "hope:train_length=16"),
    ],
)
def test_what_whorl_writes_in_stock_terms_is_healthy_without_its_record(
    family: str, notation: str, tmp_path: Path
) -> None:
    whorl.attach(tiny_model(family), notation).save_pretrained(tmp_path)
    found = doctor(changed(tmp_path, whorl="gone"))
    assert found.failed == (), str(found)
    assert found["ignored"].status == found["theta"].status == "pass"


def test_an_encoding_that_only_whorl_knows(tmp_path: Path) -> None:
    whorl.attach(tiny_model("llama"), "alibi").save_pretrained(tmp_path)
    found = doctor(tmp_path)
    assert found.healthy
    assert "whorl attached alibi" in found["settings"].measured


class Boom:
    """Unpickled, it writes a file."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        return Path.touch, (self.where,)


def test_a_pickle_is_never_opened(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import pickle

    ran = tmp_path_factory.mktemp("elsewhere") / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Boom(ran)))
    found = doctor(folder)
    assert found.healthy
    assert "left alone: pytorch_model.bin" in found["saved"].measured
    (folder / "model.safetensors").rename(folder / "of_something_else.safetensors")
    with pytest.raises(ValueError, match="no file named model.safetensors"):
        doctor(folder)
    (folder / "of_something_else.safetensors").unlink()
    with pytest.raises(ValueError, match="only pickled weights \\(pytorch_model.bin\\), which are never opened"):
        doctor(folder)
    assert not ran.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert ran.exists(), "the pickle would have run"


def test_code_in_the_directory_is_never_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ran = tmp_path_factory.mktemp("elsewhere") / "ran"
    (folder / "modeling_mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    code = {"AutoConfig": "modeling_mine.C", "AutoModelForCausalLM": "modeling_mine.M"}
    found = doctor(changed(folder, auto_map=code))
    assert found.healthy, "a known model type needs none of it"
    assert "modeling_mine.M" in found["saved"].measured
    with pytest.raises(ValueError, match="model type|custom code|trust_remote_code"):
        doctor(changed(folder, model_type="mine"))
    assert not ran.exists()


def test_bad_input_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no directory"):
        doctor(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        doctor(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="no safetensors"):
        doctor(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot read"):
        doctor(tmp_path)
    with pytest.raises(ValueError, match="two tokens or more"):
        doctor(tiny_model("llama"), text_ids=torch.tensor([3]))
    with pytest.raises(ValueError, match="from 3 to 97, and the model has 97 tokens"):
        doctor(tiny_model("llama"), text_ids=torch.tensor([3, 97]))
    mamba = transformers.MambaForCausalLM(transformers.MambaConfig(hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match="no known seam"):
        doctor(mamba)


PI = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}


@pytest.mark.parametrize(
    ("family", "sizes", "unsaid"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta 500000.0"),
        ("llama", {}, ""),  # 10,000 is what they take
        ("phi", {}, "partial_rotary_factor 0.5"),
        ("gpt_neox", {}, "rotary_pct 0.25"),
        ("gemma3_text", {}, "rope_theta 1000000.0"),
        (
            "olmo2",
            {"rope_parameters": PI},
            "rope_scaling 'linear'",
        ),
    ],
)
def test_settings_in_the_new_spelling_alone_are_a_warning(
    family: str, sizes: dict[str, Any], unsaid: str, tmp_path: Path
) -> None:
    model = tiny_model(family, **copy.deepcopy(sizes))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if config.pop("partial_rotary_factor", None):  # transformers 5.17 writes Phi's in both places
        (tmp_path / "config.json").write_text(json.dumps(config))
    found = doctor(tmp_path)
    assert found.healthy
    assert found["readers"].status == ("warn" if unsaid else "pass")
    assert found["readers"].measured.endswith(f"rope_parameters alone say {unsaid}" if unsaid else "alone")
    save_for_all(model, tmp_path)
    assert doctor(tmp_path)["readers"].status == "pass"


def test_whom_readers_are_asked_of(tmp_path: Path) -> None:
    whorl.attach(tiny_model("llama"), "alibi").save_pretrained(tmp_path)
    assert doctor(tmp_path)["readers"].measured == "every reader but whorl.load stops at it"
    assert doctor(tiny_model("llama"))["readers"].status == "n/a"
    old = tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    old.save_pretrained(tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))
    assert doctor(tmp_path / "old")["readers"].status == "pass"
