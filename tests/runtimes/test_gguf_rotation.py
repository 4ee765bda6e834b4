"""How Qwen 2, Qwen 3 and Gemma 3 turn in a GGUF, against llama.cpp's graphs, and what those cannot say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import whorl
from whorl.gguf_files.architectures import ARCHITECTURES
from whorl.runtimes import gguf as runtime
from whorl.runtimes.exporting import export
from whorl.runtimes.gguf import GGUF_FILE
from whorl.runtimes.gguf_reading import read_gguf
from whorl.testing import logits_and_budget, max_error, tiny_model

from .exports import TOKENS, names
from .llama_cpp import as_llama_cpp

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

SIZES: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False, "sliding_window": None, "layer_types": None},
    "qwen3": {},
    "gemma3_text": {"query_pre_attn_scalar": 16},
}
CLASSES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig),
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}
CASES = [
    ("qwen2", None, {}),
    ("qwen2", "rope~ntk:factor=4", {}),
    ("qwen2", "rope~yarn:factor=4,original=64", {}),
    ("qwen3", "rope:base=1e6~yarn:factor=32,original=512,attention_factor=0.8", {}),
    ("qwen3", "rope~ntk-by-parts:factor=4,original=64", {}),
    ("qwen3", None, {}),
    ("qwen3", None, {"tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 24}),
    ("qwen3", "rope:base=1e6~linear:factor=4", {}),
    ("qwen3", "nope", {}),
    ("qwen3", "frequencies:values=1@0.5@0.25@0.125@0.0625@0.03125@0.015625@0.0078125,amplitude=1.25", {}),
    ("gemma3_text", None, {}),
    ("gemma3_text", None, {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": LOCAL}}),  # as Gemma 3 4B
    ("gemma3_text", None, {"final_logit_softcapping": 3.0, "tie_word_embeddings": False}),
    ("gemma3_text", "p-rope:p=0.5", {}),
    ("gemma3_text", "hope:train_length=40", {}),  # two pairs in both kinds of layers
    ("gemma3_text", "partial-rope:fraction=0.5", {}),
    ("gemma3_text", "full_attention=p-rope:p=0.25,keep=slowest/sliding_attention=p-rope:p=0.25", {}),
    ("gemma3_text", "full_attention=nope/sliding_attention=p-rope:p=0.75", {}),
]


def model_of(family: str, encoding: str | None = None, **sizes: Any) -> Any:
    model = tiny_model(family, **{**SIZES[family], **sizes})
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms stand at 0 or 1, biases at 0
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model if encoding is None else whorl.attach(model, encoding)


def rebuilt(path: Path) -> Any:
    """A model of what `read_gguf` gives, with its frequencies attached layer by layer."""
    config, frequencies, weights = read_gguf(path)
    cls, config_cls = CLASSES[config.pop("architecture")]
    amplitude = config.pop("attention_factor")
    model = cls(config_cls(**{k: v for k, v in config.items() if k not in ("encoding", "tokenizer")})).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    assert not unexpected
    each = [whorl.Frequencies(f, amplitude) if any(f) else whorl.NoPE() for f in frequencies]
    windows = [t == "sliding_attention" for t in config.get("layer_types", ["full_attention"] * len(each))]
    parts = [e + whorl.Window(config["sliding_window"]) if w else e for e, w in zip(each, windows, strict=True)]
    return whorl.attach(model, whorl.Layers(parts))


@torch.no_grad()
@pytest.mark.parametrize(("family", "encoding", "sizes"), CASES, ids=str)
def test_the_file_alone_gives_the_models_logits(family, encoding, sizes, tmp_path: Path) -> None:
    model = model_of(family, encoding, **sizes)
    path = export(model, tmp_path / "out", runtime="gguf").path / GGUF_FILE
    logits, budget = logits_and_budget(model, TOKENS)
    assert max_error(as_llama_cpp(path, TOKENS), logits) < budget
    # In float64 what float32 bases and norms round away is left.
    assert max_error(as_llama_cpp(path, TOKENS, torch.float64), model.double()(TOKENS).logits) < budget
    assert max_error(rebuilt(path).double()(TOKENS).logits, model(TOKENS).logits) < budget
    loaded = whorl.load(path).double()  # as any .gguf file
    assert max_error(loaded(TOKENS).logits, model(TOKENS).logits) < budget
    other = whorl.attach(model, "rope:base=3")(TOKENS).logits
    assert max_error(other, logits) > 100 * budget, "a fault in the frequencies would be seen"


@torch.no_grad()
@pytest.mark.parametrize(
    ("fault", "put"),
    [
        ("rows of q and k as they stood", lambda patch: patch.setattr(runtime, "reorder_heads", lambda w, *_: w)),
        (
            "norms without the 1 that Gemma adds",
            lambda patch: patch.setitem(ARCHITECTURES, "gemma3", replace(ARCHITECTURES["gemma3"], norm_offset=0.0)),
        ),
    ],
)
def test_a_planted_fault_is_seen(fault, put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gemma3_text", "p-rope:p=0.5")
    logits, budget = logits_and_budget(model, TOKENS)
    put(monkeypatch)
    path = export(model, tmp_path / "out", runtime="gguf").path / GGUF_FILE
    assert max_error(as_llama_cpp(path, TOKENS), logits) > 100 * budget, fault


def test_a_gemmas_metadata_and_names_are_llama_cpps(tmp_path: Path) -> None:
    """Those of google's gemma-3-270m as llama.cpp's converter writes them, but for sizes; the pattern by layer, too."""
    model = model_of("gemma3_text", "p-rope:p=0.5", tie_word_embeddings=True)
    reader = gguf.GGUFReader(export(model, tmp_path / "out", runtime="gguf").path / GGUF_FILE)
    said = {k.removeprefix("gemma3."): f.contents() for k, f in reader.fields.items() if k.startswith("gemma3.")}
    assert said.pop("attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert said.pop("rope.freq_base") == pytest.approx(1e3), "half of the pairs at half of the width"
    assert said.pop("rope.freq_base_swa") == pytest.approx(1e2)
    assert said == {
        "block_count": 3,
        "context_length": 64,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.sliding_window": 24,
        "attention.sliding_window_pattern": [True, False, True],
        "vocab_size": 97,
        "rope.dimension_count": 8,
    }
    assert {t.name.removeprefix("blk.1.") for t in reader.tensors if not t.name.startswith(("blk.0", "blk.2"))} == {
        *("token_embd.weight", "output_norm.weight", "attn_norm.weight", "ffn_norm.weight"),
        *("attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"),
        *("attn_q_norm.weight", "attn_k_norm.weight", "post_attention_norm.weight", "post_ffw_norm.weight"),
        *("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"),
    }


@pytest.mark.parametrize(
    ("family", "encoding", "sizes", "why"),
    [
        (
            "qwen3",
            "hope:train_length=40",
            {},
            "turns 2 of 8 pairs, and llama.cpp's qwen3 architecture turns all: it reads",
        ),
        ("qwen3", "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01", {}, "not spaced evenly"),
        ("qwen3", "rope~yarn:factor=4,original=64,beta_fast=2", {}, "of YaRN, it has that of 32 turns and 1"),
        ("qwen3", "rope~yarn:factor=4,original=64,truncate=false", {}, "not spaced evenly"),
        ("gemma3_text", "rope~yarn:factor=4,original=64", {}, "not spaced evenly"),
        ("qwen3", "rope/nope", {}, "layers with 2 spectra"),
        ("qwen3", "alibi", {}, "adds a bias to attention logits"),
        ("qwen3", None, {"attention_bias": True}, "has attention_bias=False, and this model True"),
        ("qwen2", None, {"hidden_size": 96}, "as wide as the hidden state, 96 here, and this model 4 heads of 16"),
        ("qwen2", "hope:train_length=40", {"head_dim": 24}, "as wide as the hidden state, 64 here, and this model 4 "),
        ("qwen2", None, {"use_sliding_window": True, "sliding_window": 24}, "has use_sliding_window=False"),
        (
            "gemma3_text",
            "hope:train_length=600",
            {},
            r"turns \d pairs \(sliding_attention\) and \d pairs \(full_attention\)",
        ),
        ("gemma3_text", "nope", {}, "turns nothing in layers of type sliding_attention"),
        ("gemma3_text", "rope~linear:factor=4", {}, "divides frequencies by 4 in layers of type sliding_attention"),
        ("gemma3_text", None, {"query_pre_attn_scalar": 256}, "root of 16, and this model by that of .*=256"),
        (
            "gemma3_text",
            "full_attention=frequencies:values=1@0.1,amplitude=1.5/sliding_attention=rope",
            {},
            r"scales heads by|turns \d pairs",
        ),
        ("gemma3_text", None, {"attn_logit_softcapping": 5.0}, "has attn_logit_softcapping=None"),
    ],
)
def test_what_the_architecture_cannot_say_is_refused(family, encoding, sizes, why, tmp_path: Path) -> None:
    model = model_of(family, encoding, **sizes)
    with pytest.raises(ValueError, match=why):
        export(model, tmp_path / "out", runtime="gguf")
    assert names(tmp_path) == []


def test_a_base_past_float32_is_that_of_the_pairs_that_turn(tmp_path: Path) -> None:
    """A Gemma 3 whose file turned 2 of 16 channels by 1e6 has the base 1e48 over whole heads."""
    model = model_of("gemma3_text", "p-rope:p=0.125,base=1e48")
    whorl.export(model, tmp_path / "out", runtime="gguf")
    said = gguf.GGUFReader(tmp_path / "out" / GGUF_FILE).fields
    assert said["gemma3.rope.freq_base"].contents() == pytest.approx(1e6)
    assert said["gemma3.rope.freq_base_swa"].contents() == pytest.approx(1e6)
