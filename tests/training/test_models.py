"""Presets: their size, and what a task needs of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from whorl.hosts import open_host
from whorl.training.models import build_model, parameter_count
from whorl.training.settings import MODELS, Settings


@pytest.mark.parametrize("task", ["language", "mlm"])
@pytest.mark.parametrize(("preset", "millions"), [("tiny", 0.8), ("small", 10), ("base", 124)])
def test_presets_have_the_size_that_they_promise(preset: str, millions: float, task: str) -> None:
    with torch.device("meta"):
        model = build_model(Settings(task=task, model=preset), MODELS[preset].vocab_size, 0)
    assert parameter_count(model) / 1e6 == pytest.approx(millions, rel=0.06)


@pytest.mark.parametrize(("task", "tied", "spread"), [("language", True, 0.02), ("recall", False, 128**-0.5)])
def test_a_preset_is_what_its_task_needs(task: str, tied: bool, spread: float) -> None:
    model = build_model(Settings(task=task), 67, 0)
    assert (model.config.tie_word_embeddings, model.config.initializer_range) == (tied, spread)
    own = model.lm_head.weight is model.model.embed_tokens.weight
    assert own == tied
    assert float(model.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(spread, rel=0.05)


def test_a_narrow_image_model_begins_with_weights_as_large_as_its_width_asks_for() -> None:
    """At 0.02 it takes hundreds of steps more until anything is learnt: experiments/0015-images/LOG.md."""
    model = build_model(Settings(task="images"), 34, 0)
    assert model.config.initializer_range == 64**-0.5
    weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim == 2])
    assert float(weights.std()) == pytest.approx(64**-0.5, rel=0.05)


def test_the_body_of_a_masked_language_model_sees_all_tokens_in_every_layer() -> None:
    host = open_host(build_model(Settings(task="mlm"), 67, 0))
    assert all(shape.bidirectional for shape in host.shapes)
    assert set(host.layer_types) == {"full_attention"}
    assert host.model.model.embeddings.tok_embeddings.padding_idx is None, "id 0 is a token like any other"


@pytest.mark.parametrize(
    ("task", "family", "says"),
    [
        ("mlm", "llama", r"the mlm task is for encoders, .* and '.*' \(llama\) is none; try a ModernBERT or a BERT"),
        (
            "language",
            "bert",
            r"asks for tokens that come next, and in '.*' \(bert\) every token sees them; .* --task mlm",
        ),
        ("language", "qwen2_5_vl", r"trains decoders of texts, .* none .* '.*' \(qwen2_5_vl\); try a model"),
        ("copy", "modernbert", r"the copy task asks for tokens that come next, and in '.*' \(modernbert\)"),
    ],
)
def test_a_task_refuses_the_other_body(task: str, family: str, says: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=says):
        build_model(Settings(task=task, model=str(tmp_path / "config.json")), 67, 0)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_an_encoders_config_takes_the_tasks_vocabulary(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family, hidden_size=64, num_hidden_layers=2, num_attention_heads=2).save_pretrained(tmp_path)
    model = build_model(Settings(task="mlm", model=str(tmp_path / "config.json")), 67, 0)
    assert model(torch.arange(67)[None]).logits.shape == (1, 67, 67)
