"""Which attention a training on a CPU takes, and that an evaluation has SDPA again."""

from __future__ import annotations

import pytest
import torch

import whorl
from whorl.hosts import open_host
from whorl.testing import tiny_model
from whorl.training.attention import HEALED_WRITTEN_OUT_UP_TO, WRITTEN_OUT_UP_TO, for_evaluation, for_training


@pytest.mark.parametrize("limit", [WRITTEN_OUT_UP_TO, HEALED_WRITTEN_OUT_UP_TO])
def test_short_sequences_are_trained_written_out_and_evaluated_by_sdpa(limit: int, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for length, attention in ((limit, "eager"), (limit + 1, "sdpa")):
        model = for_training(tiny_model("llama").train(), length, limit)
        assert open_host(model).attention == attention
        assert open_host(for_evaluation(model)).attention == "sdpa"
        assert not model.training


def test_another_attention_is_left_alone() -> None:
    """whorl's own, which ALiBi needs, has no written-out form."""
    model = whorl.attach(tiny_model("llama"), "alibi")
    own = open_host(model).attention
    assert own not in ("eager", "sdpa")
    assert open_host(for_training(model, 8)).attention == own
    assert open_host(for_evaluation(model)).attention == own
