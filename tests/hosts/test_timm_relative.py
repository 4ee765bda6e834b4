"""timm's models with relative biases of their own: these are taken out, and put back to the bit."""

from __future__ import annotations

import pytest
import torch

import whorl
from tests.hosts.test_timm import ENCODINGS, PIXELS, WIDE, drawn, far, features, model_without
from tests.hosts.timm_models import RELATIVE, tiny


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", RELATIVE)
@torch.no_grad()
def test_relative_biases_are_taken_out_and_put_back_to_the_bit(kind: str, fused: bool) -> None:
    model = tiny(kind)
    for block in model.blocks:
        block.attn.fused_attn = fused
    stock, logits, maps = features(model, PIXELS), model(PIXELS), model.forward_intermediates(PIXELS)[1]
    state = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=r"adds relative biases of its own to its logits \(RelPos\w+\), which no enc"):
        whorl.encoding_of(model)
    for encoding in ("nope", *ENCODINGS):
        drawn(whorl.attach(model, encoding))
        assert str(whorl.encoding_of(model)).startswith(encoding.partition(":")[0].partition("+")[0])
        last = features(model, WIDE)
        assert torch.equal(model(WIDE), model.forward_head(last))
        found = model.forward_intermediates(WIDE)
        assert torch.equal(found[0], last)
        assert found[1][-1].shape == (2, 32, 2, 8)
        assert far(features(model, PIXELS), stock) > 1e-3
    whorl.detach(model)
    assert torch.equal(features(model, PIXELS), stock)
    assert torch.equal(model(PIXELS), logits)
    assert all(torch.equal(a, b) for a, b in zip(model.forward_intermediates(PIXELS)[1], maps, strict=True))
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == state
    assert all(block.attn.fused_attn is fused for block in model.blocks)


@pytest.mark.parametrize("kind", RELATIVE)
@torch.no_grad()
def test_vectors_are_added_to_patches_alone(kind: str) -> None:
    model = whorl.attach(tiny(kind), "sincos-2d")
    added = model.whorl_vectors(model.whorl_patches.grid(16, 64), torch.zeros(1, 16, 32))
    patches = model.patch_embed(WIDE)
    assert added.shape == (1, 16, 32)
    bare = model_without(model)
    whorl.attach(bare, "nope")
    real = bare.patch_embed.proj.forward
    assert far(features(model, WIDE), features(bare, WIDE)) > 1e-3
    moved = added.transpose(1, 2).unflatten(-1, (2, 8))
    bare.patch_embed.proj.forward = lambda x: real(x) + moved
    assert far(features(model, WIDE), features(bare, WIDE)) < 1e-5
    assert patches.shape == (2, 16, 32)


@pytest.mark.parametrize("kind", RELATIVE)
def test_gradients_of_a_model_with_relative_biases_are_those_of_checkpoints(kind: str) -> None:
    model = whorl.attach(tiny(kind), "mixed-rope+sincos-2d").train()
    found = []
    for checkpointed in (False, True):
        model.set_grad_checkpointing(checkpointed)
        model.zero_grad()
        features(model, WIDE).square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert any("frequency_bias" in name and grad.any() for name, grad in found[0].items())
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", RELATIVE)
@torch.no_grad()
def test_inspect_sees_the_relative_biases_of_a_stock_model(kind: str) -> None:
    model, pixels = tiny(kind).double(), PIXELS.double()
    before = model(pixels)
    found = whorl.inspect_images(model, pixels)
    assert torch.equal(model(pixels), before)
    seen: list[torch.Tensor] = []
    real = torch.Tensor.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", lambda x, *a, **k: seen.append(real(x, *a, **k)) or seen[-1])
        for block in model.blocks:
            block.attn.fused_attn = False
        model(pixels)
    first = model.num_prefix_tokens
    for layer, weights in enumerate(seen[:2]):
        own = weights[:, :, first:, first:].diagonal(dim1=-2, dim2=-1).mean((0, 2)).numpy()
        assert abs(found.attention[layer, :, 3, 3] - own).max() < 1e-5
    assert "norm_q" not in found.arrays
    assert "relative biases of its own" in found.summary.model.encoding


@torch.no_grad()
def test_doctor_asks_a_model_with_relative_biases_what_it_asks_others() -> None:
    found = whorl.doctor(tiny("bias"))
    assert [found[name].status for name in ("runs", "places")] == ["pass", "pass"]
    assert "positions of its own" in found["places"].measured
