"""Settings of positions that nobody reads, or that say two things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoConfig

import whorl
from whorl.diagnosis import doctor
from whorl.testing import tiny_model

from . import LLAMA3, LONGROPE, YARN, changed, rope

# At the top of a config: a key, what a Llama of 16 channels per head and theta 10,000 does not do, and what it does.
TOP = [
    ("rotary_dim", 8, 16),
    ("rotary_pct", 0.25, 1.0),
    ("rope_pct", 0.5, 1.0),
    ("rotary_emb_fraction", 0.5, 1.0),
    ("rope_ratio", 16, 1),
    ("use_dynamic_ntk", True, False),
    ("position_embedding_type", "absolute", "rope"),
    ("no_rope_layer_interval", 2, 4),
    ("use_rope", None, True),
    ("use_alibi", True, False),
    ("use_logn_attn", True, None),
    ("rope_type", "yarn", "default"),
]


@pytest.mark.parametrize(("key", "other", "same"), TOP, ids=[key for key, _, _ in TOP])
def test_a_key_at_the_top_that_says_something_else(key: str, other: Any, same: Any, folder: Path) -> None:
    found = doctor(changed(folder, **{key: same}))
    assert found.healthy, str(found)
    assert found.having("warn") == ()
    if other is not None:
        found = doctor(changed(folder, **{key: other}))
        assert found.failed == ("ignored",), str(found)
        assert f"{key} is {other!r}" in found["ignored"].measured


def test_a_key_of_unknown_meaning_is_a_warning(folder: Path) -> None:
    found = doctor(changed(folder, rope_wobble=3))
    assert found.healthy
    assert found["ignored"].status == "warn"
    assert "rope_wobble is 3" in found["ignored"].measured
    assert doctor(changed(folder, rope_wobble=None))["ignored"].status == "pass"


OTHERS = [("gpt_neox", "rotary_pct", 0.5), ("bert", "position_embedding_type", "relative_key")]


@pytest.mark.parametrize(("family", "key", "value"), OTHERS)
def test_other_families(family: str, key: str, value: Any, tmp_path: Path) -> None:
    """GPT-NeoX drops rotary_pct where rope_parameters have a share; BERT has no relative positions any more."""
    tiny_model(family).save_pretrained(tmp_path)
    assert doctor(tmp_path).healthy
    found = doctor(changed(tmp_path, **{key: value}))
    assert found.failed == ("ignored",), str(found)


@pytest.mark.parametrize("family", ["phi", "glm"])
def test_a_share_that_the_class_says_itself(family: str, tmp_path: Path) -> None:
    """transformers 5.17 writes the class's 0.5 at the top, beside the share that was asked for."""
    asked = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
    model = tiny_model(family, rope_parameters=asked)
    assert doctor(model)["ignored"].status == "pass"
    model.save_pretrained(tmp_path)
    assert doctor(changed(tmp_path, partial_rotary_factor=0.5))["ignored"].status == "pass"
    assert doctor(changed(tmp_path, partial_rotary_factor=0.25))["ignored"].status == "fail"


def test_settings_of_a_model_object() -> None:
    found = doctor(tiny_model("llama", rotary_pct=0.25))
    assert found.failed == ("ignored",)
    assert doctor(tiny_model("smollm3", no_rope_layer_interval=4)).healthy, "declared, and overruled by no_rope_layers"


# Among the rope settings

INSIDE = [
    ({**YARN, "mscale": 0.7}, "mscale=0.7 counts only beside mscale_all_dim"),
    ({**YARN, "mscale_all_dim": 0.7}, "mscale_all_dim=0.7 counts only beside mscale"),
    ({**YARN, "attn_factor": 1.3}, "attn_factor=1.3"),
    ({**YARN, "extrapolation_factor": 1.0}, "extrapolation_factor=1.0"),
    ({**LONGROPE, "long_factor": [1.0] * 8, "short_mscale": 1.2}, "short_mscale=1.2, which vLLM multiplies by"),
    ({**LLAMA3, "long_mscale": 1.2}, "long_mscale=1.2"),
    ({"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}, "mrope_section=[2, 3, 3]"),
    ({**LLAMA3, "type": "yarn"}, "rope_type is 'llama3' and type is 'yarn'"),
]


@pytest.mark.parametrize(("settings", "measured_is"), INSIDE, ids=[words.split("=")[0] for _, words in INSIDE])
def test_a_rope_setting_that_nobody_reads(settings: dict[str, Any], measured_is: str) -> None:
    found = doctor(tiny_model("llama", **rope(settings)))
    assert found.failed == ("ignored",), str(found)
    assert measured_is in found["ignored"].measured


@pytest.mark.parametrize(
    "settings",
    [{**YARN, "mscale": 1.0}, {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, {**LLAMA3, "type": "llama3"}],
    ids=["mscale of one", "both", "one type, twice"],
)
def test_rope_settings_that_say_what_is_done(settings: dict[str, Any]) -> None:
    assert doctor(tiny_model("llama", **rope(settings)))["ignored"].status == "pass"


def test_flat_settings_beside_those_by_layer_type(tmp_path: Path) -> None:
    """Set on a model that stands: not every transformers builds one from such settings, and whorl says which."""

    def beside(**more: Any) -> Any:
        model = tiny_model("gemma3_text")
        model.config.rope_parameters = {**model.config.rope_parameters, **more}
        return model

    found = doctor(beside(factor=4.0))
    assert found.failed == ("ignored",), str(found)
    assert "factor=4.0 beside the settings by layer type" in found["ignored"].measured
    assert doctor(beside(rope_type="default")).healthy, "what each says"

    folder = tmp_path / "model"
    tiny_model("gemma3_text").save_pretrained(folder)
    settings = beside(factor=4.0).config.rope_parameters
    try:
        AutoConfig.for_model("gemma3_text", **rope(settings))
    except AttributeError:  # of transformers 5.17
        with pytest.raises(ValueError, match=rf"cannot load .*transformers {transformers.__version__} raises Attrib"):
            doctor(changed(folder, rope_parameters=settings))
    else:
        assert doctor(changed(folder, rope_parameters=settings)).failed == ("ignored",)


# Lengths


def test_two_values_for_the_original_length(folder: Path) -> None:
    settings = {**YARN, "original_max_position_embeddings": 32, "factor": 2.0}
    assert doctor(changed(folder, rope_parameters=settings)).healthy
    found = doctor(changed(folder, original_max_position_embeddings=16))
    assert "length" in found.failed
    assert "said to be 16 and 32" in found["length"].measured


@pytest.mark.parametrize("settings", [YARN, LLAMA3], ids=lambda s: s["rope_type"])
def test_scalings_without_an_original_length(settings: dict[str, Any], folder: Path) -> None:
    own = {k: v for k, v in settings.items() if k != "original_max_position_embeddings"}
    found = doctor(changed(folder, rope_parameters=own))
    assert found.failed == ("length",), str(found)
    assert f"{settings['rope_type']} without original_max_position_embeddings" in found["length"].measured


def test_a_reach_past_the_declared_length_is_a_warning() -> None:
    """Qwen's own advice: the declared length stays, and yarn x 4 is set. Readers take either for the limit."""
    found = doctor(tiny_model("llama", **rope({**YARN, "original_max_position_embeddings": 64})))
    assert found.healthy
    assert "yarn x 4 reaches 256 tokens from 64, and the config declares 64" in found["length"].measured
    assert found["length"].status == "warn"


def test_a_tokenizer_that_cuts_short_is_a_warning(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
    found = doctor(folder)
    assert found.healthy
    assert found["length"].status == "warn"
    assert "cuts at 32 tokens, and the config declares 64" in found["length"].measured


# Theta


def test_a_base_that_the_file_does_not_say(folder: Path) -> None:
    found = doctor(changed(folder, rope_parameters="gone", rope_theta="gone"))
    assert found.healthy
    assert found["theta"].status == "warn"
    assert "10000 by default" in found["theta"].measured


def test_a_base_under_a_name_that_nobody_reads(folder: Path) -> None:
    found = doctor(changed(folder, rope_base=5e5))
    assert found.failed == ("theta",), str(found)
    assert doctor(tiny_model("llama", rotary_base=5e5)).failed == ("theta",)
    assert doctor(tiny_model("llama", rotary_base=1e4)).healthy


def test_under_an_attached_encoding_stock_settings_are_not_asked() -> None:
    assert doctor(whorl.attach(tiny_model("llama", rotary_pct=0.25), "alibi"))["ignored"].status == "n/a"
