"""Every decoder family: what is read at the attention interface gives the weights that the stock model reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import whorl
from whorl.hosts import open_host
from whorl.inspection import streaming
from whorl.testing import peaked, tiny_model
from whorl.watching import forward, layers_of, watching

from .contract import DECODERS, IN_FULL

TOKENS = torch.randint(3, 97, (2, 48), generator=torch.Generator().manual_seed(0))
READ = [f for f in DECODERS if f != "falcon"]


def seen_by(model: Any) -> dict[int, Any]:
    found: dict[int, Any] = {}
    forward(model, TOKENS, lambda attended: found.__setitem__(attended.layer.index, attended))
    return found


@torch.no_grad()
@pytest.mark.parametrize("family", READ)
def test_streamed_attention_is_the_stock_models_own(family: str) -> None:
    """Against `output_attentions` of the eager model, which knows nothing of whorl."""
    model = peaked(tiny_model(family)).eval()
    before = model(TOKENS).logits
    found = seen_by(model.train())
    assert model.training
    model.eval()
    assert torch.equal(model(TOKENS).logits, before), "the model is left as it was"
    assert all("whorl_watch" not in module.__dict__ for module in model.modules())
    model.set_attn_implementation("eager")
    attentions = model(TOKENS, output_attentions=True, use_cache=False).attentions
    weights = [a for a in attentions if a is not None]
    assert len(weights) == len(found)
    for index, w in enumerate(weights):
        w = w[1].double()
        got = streaming.softmax(found[index], 1)
        by_distance = torch.stack([w.diagonal(-d, 1, 2).sum(-1) for d in range(48)], -1)
        np.testing.assert_allclose(got.by_distance, by_distance, atol=2e-3)
        np.testing.assert_allclose(got.first, w[..., 0], atol=2e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", READ)
def test_being_watched_changes_nothing(family: str) -> None:
    model = peaked(tiny_model(family)).eval()
    model.set_attn_implementation("eager")  # sdpa drops soft caps in some versions
    expected = open_host(model).base(TOKENS, use_cache=False).last_hidden_state
    before = model.config._attn_implementation
    with watching(model):
        watched = open_host(model).base(TOKENS, use_cache=False).last_hidden_state
    assert model.config._attn_implementation == before
    torch.testing.assert_close(watched, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.matrix
@torch.no_grad()
@pytest.mark.parametrize(
    "encoding", ["hope:train_length=16", "alibi", "t5", "nope", "kerple", "rope+window:size=8/nope"]
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_oss", "gpt_neox"])
def test_attached_encodings_are_read_too(family: str, encoding: str) -> None:
    model = whorl.attach(peaked(tiny_model(family)).eval(), encoding)
    before = model(TOKENS).logits
    found = seen_by(model)
    assert torch.equal(model(TOKENS).logits, before)
    if family == "gpt2":
        return  # it does not tell its attention that weights are wanted
    if whorl.attached(model).attention_was is None:
        model.set_attn_implementation("eager")
    attentions = model(TOKENS, output_attentions=True, use_cache=False).attentions
    for index, w in enumerate(attentions):
        got = streaming.softmax(found[index], 0)
        by_distance = torch.stack([w[0].double().diagonal(-d, 1, 2).sum(-1) for d in range(48)], -1)
        np.testing.assert_allclose(got.by_distance, by_distance, atol=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("family", IN_FULL)
def test_facts_of_layers(family: str) -> None:
    if family == "falcon":
        return
    model = tiny_model(family)
    host, facts = open_host(model), layers_of(model)
    assert [layer.index for layer in facts] == list(range(len(host.attentions)))
    for layer, turns, attended in zip(facts, host.turns, seen_by(model).values(), strict=True):
        assert layer.turns == turns
        assert 2 * layer.pairs <= attended.q.shape[-1]
        assert layer.channels().flatten().unique().tolist() == list(range(2 * layer.pairs))


def test_what_cannot_be_read_says_why() -> None:
    with pytest.raises(ValueError, match="FalconForCausalLM does not use transformers' attention interface"):
        layers_of(tiny_model("falcon"))
    with pytest.raises(ValueError, match="attends in both directions"):
        layers_of(tiny_model("bert"))
    with pytest.raises(ValueError, match="no known seam|attaches to Hugging Face"):
        layers_of(torch.nn.Linear(2, 2))
    model = tiny_model("gpt2")
    rows = model.transformer.wpe.weight.shape[0]
    with pytest.raises(ValueError, match=f"windows of {rows + 1} tokens are longer than the {rows} positions"):
        forward(model, torch.zeros(1, rows + 1, dtype=torch.long), lambda attended: None)


def test_a_layer_that_never_attends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that accepts the setting and does not call the interface gives no numbers, and no silence either."""
    model = tiny_model("llama")
    attention = model.model.layers[1].self_attn

    def skips(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(hidden_states), None

    monkeypatch.setattr(attention, "forward", skips)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM takes an attention interface and its layers \[1\] never"):
        forward(model, TOKENS, lambda attended: None)
    assert model.config._attn_implementation == "sdpa"
