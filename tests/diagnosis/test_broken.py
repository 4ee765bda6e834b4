"""Broken directories, which are what the doctor is for: one line (a ValueError) or a failed check, no traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import whorl
from whorl.diagnosis import doctor
from whorl.testing import tiny_model

from . import LLAMA3, LONGROPE, YARN, changed, rope

Break = Callable[[Path], Any]


def config(**entries: Any) -> Break:
    return lambda folder: changed(folder, **entries)


def settings(**entries: Any) -> Break:
    return config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, **entries})


def text(name: str, content: str | bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def do(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return do


def cut(length: int) -> Break:
    return lambda folder: text("model.safetensors", (folder / "model.safetensors").read_bytes()[:length])(folder)


Q = "model.layers.1.self_attn.q_proj.weight"
REFUSED: dict[str, tuple[Break, str]] = {
    "empty config": (text("config.json", "{}"), "model_type"),
    "a config that is no JSON": (text("config.json", b"\xff\xfe"), "cannot read"),
    "a config without an end": (text("config.json", "[" * 100_000), "cannot read"),
    "an unknown model type": (config(model_type="nope"), "nope"),
    "zero heads": (config(num_attention_heads=0), "ZeroDivisionError"),
    "zero layers": (config(num_hidden_layers=0), "not known to it"),
    "layers in words": (config(num_hidden_layers="3"), "num_hidden_layers"),
    "a million layers": (config(num_hidden_layers=10**6), "describes 1,000,000 layers, and the weights are 30 tensors"),
    "a vocabulary past memory": (config(vocab_size=10**12), "describes a model of 64,000"),
    "wrong heads": (config(num_attention_heads=8), r"is \[64, 64\] among the weights, .* describes \[128, 64\]"),
    "head dim of zero": (config(head_dim=0), "cannot load"),
    "theta in words": (settings(rope_theta="10000"), "rope_theta='10000'; it takes"),
    "theta below zero": (settings(rope_theta=-1.0), "rope_theta=-1.0; it takes a finite, positive number"),
    "theta that is not a number": (settings(rope_theta=float("nan")), "rope_theta"),
    "a negative share": (settings(partial_rotary_factor=-0.5), "partial_rotary_factor=-0.5"),
    "more than the head": (settings(partial_rotary_factor=3.0), "more than the whole head"),
    "an unknown rope type": (settings(rope_type="wobble"), "wobble"),
    "a rope type that is a list": (settings(rope_type=["yarn"]), "cannot load"),
    "settings that are a list": (config(rope_parameters=[1]), "cannot load"),
    "a factor of zero": (settings(rope_type="dynamic", factor=0.0), "factor=0.0"),
    "a factor in words": (settings(rope_type="linear", factor="four"), "factor='four'"),
    "mscale in words": (settings(**{**YARN, "mscale": "x"}), "mscale='x'"),
    "bands turned around": (settings(**{**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0}), "low_freq_factor"),
    "a list too short": (settings(**{**LONGROPE, "short_factor": [1.0] * 3}), "cannot load"),
    "settings by type in words": (config(rope_parameters={"full_attention": "x"}), "full_attention='x'"),
    "a record that is none": (config(whorl=3), "damaged"),
    "a record without a class": (config(whorl={"encoding": {"name": "rope"}, "stock": True}), "damaged"),
    "weights cut short": (cut(20_000), "cannot read"),
    "weights of nothing": (cut(0), "cannot read"),
    "a weight that is missing": (tensors(lambda held: held.pop(Q)), "missing"),
    "a weight that nobody knows": (tensors(lambda held: held.update(wobble=torch.ones(3))), "wobble"),
    "a weight of another shape": (
        tensors(lambda held: held.update({Q: torch.ones(3, 3)})),
        r"\[3, 3\] among the weights",
    ),
    "an index to nowhere": (
        lambda folder: (
            (folder / "model.safetensors").rename(folder / "a.safetensors"),
            text("model.safetensors.index.json", '{"weight_map": {"x": "b.safetensors"}}')(folder),
        ),
        "cannot load",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_directory_that_holds_no_model_is_refused_in_one_line(what: str, folder: Path) -> None:
    damage, match = REFUSED[what]
    damage(folder)
    with pytest.raises(ValueError, match=match):
        doctor(folder)


FOUND: dict[str, tuple[Break, str, str]] = {
    "a length of zero": (config(max_position_embeddings=0), "length", "max_position_embeddings is 0"),
    "a length below zero": (config(max_position_embeddings=-5), "length", "max_position_embeddings is -5"),
    "a theta in words at the top": (config(rope_theta="ten"), "theta", "'ten'"),
    "a theta past all numbers": (config(rope_theta=10**400), "theta", "1000"),
    "layers without rotary in words": (config(no_rope_layers="x"), "ignored", "a number for each layer"),
    "a width that is no number": (config(rotary_dim="x"), "ignored", "it takes a number"),
    "a share that is not a number": (config(rotary_pct=float("nan")), "ignored", "it takes a number"),
    "a list of one": (
        settings(**{**LONGROPE, "short_factor": [1.0], "long_factor": [1.0]}), "ignored", "long_factor has 1 of 8",
    ),
    "two types": (settings(type=["x"]), "ignored", "type is ['x']"),
    "a rotary buffer of one number": (
        tensors(lambda held: held.update({"model.rotary_emb.inv_freq": torch.ones(())})), "saved", "(1 of them)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_nonsense_that_runs_fails_its_check_with_words(what: str, folder: Path) -> None:
    damage, check, measured_is = FOUND[what]
    damage(folder)
    found = doctor(folder)
    assert found.failed == (check,), str(found)
    assert measured_is in found[check].measured


@pytest.mark.parametrize("length", [10**12, 2**31])
def test_a_length_past_all_memory_is_answered(length: int, folder: Path) -> None:
    found = doctor(changed(folder, max_position_embeddings=length))
    assert found["base"].status == "n/a"
    assert "raised" not in str(found)


def test_a_tokenizer_that_is_broken_is_no_tokenizer(folder: Path) -> None:
    for name, content in (("tokenizer.json", "garbage"), ("tokenizer_config.json", '{"tokenizer_class": 3}')):
        (folder / name).write_text(content)
        assert doctor(folder)["fit"].status == "not asked"
    (folder / "tokenizer_config.json").write_text('{"model_max_length": -1}')
    assert doctor(folder).healthy


def test_a_model_object_without_layers_or_with_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="has no layers"):
        doctor(tiny_model("llama", num_hidden_layers=0))
    model = tiny_model("llama", **rope(copy.deepcopy(YARN)))
    model.config.rope_parameters["factor"] = float("inf")
    with pytest.raises(ValueError, match="factor=inf"):
        doctor(model)


# Trials of whorl compare


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("runs")
    book = where / "book.txt"
    book.write_text("\n\n".join(f"The {n}th day of the week was a day like any other {n} days." for n in range(600)))
    out = where / "out"
    whorl.compare(
        ["hope"],
        seeds=[0],
        text=str(book),
        out=str(out),
        tokens=2_000,
        train_length=32,
        batch_size=8,
        model="tiny",
        tail=16,
    )
    return out


def test_a_trial_is_read(comparison: Path) -> None:
    trial = next((comparison / "trials").iterdir())
    found = doctor(trial)
    assert found.healthy, str(found)
    assert found.model == str(trial)
    assert "whorl attached hope" in found["settings"].measured


def test_a_comparison_and_half_a_trial_say_what_to_name(comparison: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name one of its trials"):
        doctor(comparison)
    (tmp_path / "result.json").write_text(json.dumps({"id": tmp_path.name}))
    with pytest.raises(ValueError, match=r"result\.json"):
        doctor(tmp_path)
