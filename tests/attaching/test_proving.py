"""Families that are not listed are proved by a forward before they are used."""

from __future__ import annotations

import pytest
import torch
from transformers.models.olmo.modeling_olmo import ALL_ATTENTION_FUNCTIONS, apply_rotary_pos_emb

import whorl
from tests.contract import TOKENS, difference
from whorl.testing import logits_and_budget, tiny_model

from .by_length import DYNAMIC


@torch.no_grad()
@pytest.mark.parametrize("family", ["olmo", "mixtral", "gemma"])
def test_a_family_that_is_not_listed_is_proved_before_it_is_used(family: str) -> None:
    model = tiny_model(family, **({"num_local_experts": 2} if family == "mixtral" else {}))
    stock, budget = logits_and_budget(model, TOKENS) if family != "mixtral" else (model(TOKENS).logits, 2e-5)
    own = whorl.encoding_of(model)
    whorl.attach(model, own)
    assert difference(model(TOKENS).logits, stock) < budget
    whorl.attach(model, "hope:train_length=16")
    assert difference(model(TOKENS).logits, stock) > 100 * budget
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)


@torch.no_grad()
def test_a_model_of_images_and_texts_is_read_by_the_family_of_its_text() -> None:
    """Cohere 2 does not rotate q and k where it sees all keys, which its rotary module does not tell."""
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration, SiglipVisionConfig

    torch.manual_seed(0)
    text = tiny_model("cohere2")
    vision = SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    model = AyaVisionForConditionalGeneration(
        AyaVisionConfig(text_config=text.config.to_dict(), vision_config=vision.to_dict(), image_token_index=90)
    ).eval()
    assert whorl.encoding_of(model) == whorl.encoding_of(text)
    assert "nope" in str(whorl.encoding_of(model))
    stock = model(TOKENS).logits
    assert difference(whorl.attach(model, whorl.encoding_of(model))(TOKENS).logits, stock) < 1e-5
    assert difference(whorl.attach(model, "hope:train_length=16")(TOKENS).logits, stock) > 1e-3
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)


@torch.no_grad()
def test_an_unlisted_family_is_proved_in_its_own_precision_and_scaling() -> None:
    """Stock tables in bfloat16 are off by more than exact ones; a spectrum by length is read at the probe's length."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    whorl.attach(tiny_model("olmo", rope_parameters=dynamic).to(torch.bfloat16), "hope:train_length=16")


@torch.no_grad()
def test_an_unlisted_family_whose_rotary_module_does_something_else_is_refused() -> None:
    model = tiny_model("olmo")

    class Faster(type(model.model.rotary_emb)):
        def forward(self, x, position_ids):
            return super().forward(x, 2 * position_ids)

    model.model.rotary_emb.__class__ = Faster
    stock = model(TOKENS).logits
    with pytest.raises(ValueError, match=r"with its own encoding attached its logits moved by"):
        whorl.attach(model, "rope")
    assert torch.equal(model(TOKENS).logits, stock)


@torch.no_grad()
def test_an_unlisted_family_that_keeps_layers_unturned_is_refused() -> None:
    """Its code does not call its rotation in every layer, which only a forward shows."""
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model("afmoe", layer_types=types, sliding_window=24)
    stock = model(TOKENS).logits
    with pytest.raises(ValueError, match=r"no known seam in model type 'afmoe'.*layers \[1\] turned out to have no"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None
    assert torch.equal(model(TOKENS).logits, stock)


@torch.no_grad()
def test_a_family_that_is_not_listed_is_proved_to_turn_late() -> None:
    whorl.attach(tiny_model("mixtral", num_local_experts=2), DYNAMIC)
    model = tiny_model("olmo")

    class Absolute(type(model.model.layers[0].self_attn)):
        """Does something to queries, between its rotation and its attention, that has no name to go by."""

        def forward(self, hidden_states, position_embeddings, attention_mask, past_key_values=None, **kwargs):
            shape = (*hidden_states.shape[:-1], -1, self.head_dim)
            q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
            q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
            out, weights = attend(self, q.abs(), k, v, attention_mask, scaling=self.scaling, **kwargs)
            return self.o_proj(out.flatten(2)), weights

    for layer in model.model.layers:
        layer.self_attn.__class__ = Absolute
    stock = model(TOKENS).logits
    whorl.attach(model, "rope")
    whorl.detach(model)
    with pytest.raises(ValueError, match="with its own encoding attached to its attention interface its logits moved"):
        whorl.attach(model, DYNAMIC)
    assert whorl.attached(model) is None
    assert torch.equal(model(TOKENS).logits, stock)
