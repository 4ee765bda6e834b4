"""Presets: their size, and what a task needs of them."""

from __future__ import annotations

import pytest
import torch

from whorl.training.models import build_model, parameter_count
from whorl.training.settings import MODELS, Settings


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 0.8), ("small", 10), ("base", 124)])
def test_presets_have_the_size_that_they_promise(preset: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(Settings(model=preset), MODELS[preset].vocab_size, 0)
    assert parameter_count(model) / 1e6 == pytest.approx(millions, rel=0.06)


@pytest.mark.parametrize(("task", "tied", "spread"), [("language", True, 0.02), ("recall", False, 128**-0.5)])
def test_a_preset_is_what_its_task_needs(task: str, tied: bool, spread: float) -> None:
    model = build_model(Settings(task=task), 67, 0)
    assert (model.config.tie_word_embeddings, model.config.initializer_range) == (tied, spread)
    own = model.lm_head.weight is model.model.embed_tokens.weight
    assert own == tied
    assert float(model.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(spread, rel=0.05)
