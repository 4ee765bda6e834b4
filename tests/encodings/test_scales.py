"""log-n, SSMax, Llama 4's and Mistral's scales and those learned per head, against the pins and plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from whorl.encodings import Encoding, Shape
from whorl.encodings.effects import Scale
from whorl.encodings.head_scale import HeadScale
from whorl.encodings.llama4_scale import Llama4Scale
from whorl.encodings.log_n import LogN
from whorl.encodings.mistral_scale import MistralScale
from whorl.encodings.ssmax import SSMax
from whorl.ops import biased_attention

EVERY = (LogN(16), SSMax(16), Llama4Scale(16), MistralScale(16), HeadScale())


def scale_of(encoding: Encoding, heads: int = 1) -> nn.Module:
    (effect,) = encoding.effects(Shape(head_dim=8, heads=heads, width=8 * heads))
    assert isinstance(effect, Scale)
    return effect.module


@pytest.mark.parametrize(
    ("pin", "encoding", "ahead"),
    [
        ("log_n base train 512: max(1,ln n/ln 512)", LogN(512), 0),
        ("ssmax s ln n, s=0.43", SSMax(), 0),
        ("llama4 1+0.1 ln(1+floor((m+1)/8192))", Llama4Scale(), 1),
        ("mistral4 1+0.1 ln(1+floor(m/8192))", MistralScale(), 1),
    ],
)
def test_scales_equal_the_pins(method_pins: dict, pin: str, encoding: Encoding, ahead: int) -> None:
    """Pins by the number of keys, n = m + 1 of a causal model, or by the position m."""
    expected = method_pins["logit_scalings"][pin]
    module = scale_of(encoding).double()
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.43)
    at = torch.tensor([[int(n) for n in expected]])
    found = module(at + ahead, at - 1 + ahead)
    np.testing.assert_allclose(found[0, 0].detach(), list(expected.values()), rtol=1e-6)


def test_ssmax_starts_where_the_mean_factor_is_one() -> None:
    s = float(scale_of(SSMax()).s[0].detach())
    assert s == pytest.approx(1024 / sum(math.log(n) for n in range(1, 1025)), rel=1e-6)
    assert s == pytest.approx(0.168, abs=1e-3)  # the paper's
    with torch.no_grad():
        assert scale_of(SSMax(64))(torch.arange(1, 65)[None], torch.arange(64)[None]).mean() == pytest.approx(
            1, rel=1e-6
        )


def test_head_scale_is_a_line_for_each_head_and_starts_at_one() -> None:
    module, at = scale_of(HeadScale(), 3), torch.tensor([[0, 1, 9_999], [-1, 5, 70_000]])
    assert torch.equal(module(at + 1, at), torch.ones(2, 3, 3))
    module.a.data, module.b.data = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.0, 1.0, 3.0])
    expected = module.a[:, None] * (at.clamp(min=0) + 1).float().log()[:, None] + module.b[:, None]
    torch.testing.assert_close(module(at + 1, at), expected)


@pytest.mark.parametrize("encoding", EVERY, ids=lambda e: e.name)
def test_scales_are_float32_whatever_the_model_is(encoding: Encoding) -> None:
    counts = torch.tensor([[1, 7, 100_001]])
    module = scale_of(encoding, 2)
    full = module(counts, counts - 1)
    rounded = module.to(torch.bfloat16)(counts, counts - 1)
    assert full.dtype == rounded.dtype == torch.float32
    assert full.shape in {(1, 1, 3), (1, 2, 3)}
    torch.testing.assert_close(rounded, full, rtol=2**-8, atol=0)
    assert full[0, 0, -1] > 1 or encoding == HeadScale()


@pytest.mark.parametrize("encoding", EVERY, ids=lambda e: e.name)
def test_scales_in_attention_and_their_gradients(encoding: Encoding) -> None:
    """The factor multiplies q.k and no bias; gradients reach q, k and what is learned."""
    module = scale_of(encoding, 2).double()
    q, k, v = (torch.randn(1, heads, 4, 3, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1))
    at, names = torch.arange(30, 34)[None], list(dict(module.named_parameters()))
    how = {"query_positions": at, "key_positions": at, "causal": True, "scale": 0.5, "impl": "reference"}

    def attended(*x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        module._parameters.update(zip(names, x[3:], strict=True))
        out, weights = biased_attention(*x[:3], [], factor=module(at + 1, at), **how)
        assert weights is not None
        return out, weights

    parameters = [p.detach().requires_grad_() for p in module.parameters()]
    _, weights = attended(q, k, v, *parameters)
    logits = (q @ k.transpose(-1, -2) * 0.5 * module(at + 1, at)[..., None]).masked_fill(
        ~torch.ones(4, 4, dtype=torch.bool).tril(), -torch.inf
    )
    torch.testing.assert_close(weights, logits.softmax(-1), rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradcheck(lambda *x: attended(*x)[0], (q, k, v, *parameters))


def test_padding_is_as_the_first_token() -> None:
    """It sees no key, and some hosts give it the position -1; a logarithm of either would make NaNs of q."""
    for encoding in EVERY:
        padding, first = (scale_of(encoding)(torch.tensor([[n]]), torch.tensor([[n - 1]])) for n in (0, 1))
        assert torch.equal(padding, first)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: LogN(1), "must be at least 2, got 1"),
        (lambda: SSMax(1), "must be at least 2, got 1"),
        (lambda: SSMax(0), "train_length must be a whole number of at least 1"),
        (lambda: Llama4Scale(floor_scale=0), "floor_scale must be a whole number of at least 1"),
        (lambda: MistralScale(original=0), "original must be a whole number of at least 1"),
        (lambda: MistralScale(beta="x"), "beta must be a number"),
    ],
)
def test_arguments_that_make_no_sense(make, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()
