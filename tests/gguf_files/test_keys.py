"""What a file's keys say, and what is refused because nothing reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import whorl
from whorl.attaching.loading import configuration

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

from .written import small, written  # noqa: E402


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("llama", {"expert_count": 8}),
        ("llama", {"attention.sliding_window": 4096}),
        ("llama", {"attention.value_length": 16}),
        ("llama", {"attention.head_count_kv": [2, 2, 2]}),
        ("qwen2", {"some.new_key": "on"}),
        ("llama", {"attention.scale": 0.5}),
        ("llama", {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}),
        ("gemma3", {"attention.sliding_window_pattern": [True]}),
        ("llama", {"attention.causal": False}),
        ("gemma3", {"rope.dimension_count": 15}),
        ("gemma3", {"rope.dimension_count": 0}),
        ("llama", {"rope.freq_base": 0.0}),
        ("llama", {"rope.freq_base": -5.0}),
        ("llama", {"attention.head_count": 0}),
        ("llama", {"feed_forward_length": [96, 96, 96]}),
    ],
)
def test_a_key_that_nothing_reads_is_refused_by_its_value(
    architecture: str, said: dict[str, Any], tmp_path: Path
) -> None:
    path = written(small(architecture), tmp_path / "small.gguf", architecture, said)
    with pytest.raises(ValueError, match=r"small\.gguf (says|has|scales|turns|is of)"):
        whorl.load(path)


def test_a_key_that_says_nothing_is_let_through(tmp_path: Path) -> None:
    path = written(
        small("llama"),
        tmp_path / "small.gguf",
        "llama",
        {"expert_count": 0, "rope.scaling.finetuned": True, "attention.causal": True},
    )
    assert whorl.load(path).config.num_hidden_layers == 3


def test_sizes_come_from_the_file_and_not_from_a_familys_default(tmp_path: Path) -> None:
    model = small("qwen3", max_position_embeddings=777, rms_norm_eps=3e-5)
    config = configuration(written(model, tmp_path / "small.gguf", "qwen3"))
    assert (config.head_dim, config.max_position_embeddings, config.rms_norm_eps) == (32, 777, 3e-5)
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


def test_gemma_3_has_its_pattern_and_local_base_where_the_file_says_neither(tmp_path: Path) -> None:
    model = small("gemma3", num_hidden_layers=6, layer_types=None)
    said = {"attention.sliding_window_pattern": None, "rope.freq_base_swa": None, "rope.freq_base": 1e6}
    config = configuration(written(model, tmp_path / "small.gguf", "gemma3", said))
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert config.rope_parameters["sliding_attention"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert config.rope_parameters["full_attention"] == {"rope_type": "default", "rope_theta": 1e6}
    assert config.query_pre_attn_scalar == 32


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_the_largest_gemmas_scale_logits_by_the_width_per_head(architecture: str, tmp_path: Path) -> None:
    layers = {"gemma2": 46, "gemma3": 62}[architecture]
    model = small(architecture, num_hidden_layers=layers, layer_types=None, query_pre_attn_scalar=16)
    config = configuration(written(model, tmp_path / "small.gguf", architecture))
    assert config.query_pre_attn_scalar == 64 // 4
