"""PaPE against the pins of two axes, its formula written out, and far out in a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.encodings.attended import attend, decoded, gradients_agree, pinned_qkv, random_qkv
from torch.nn.functional import softplus

import whorl
from whorl.encodings import Shape, parse
from whorl.encodings.pape import Parabolas
from whorl.encodings.scores import At
from whorl.testing import tiny_model


def pape(heads: int = 2, width: int = 6, parabolas: int = 3) -> Parabolas:
    return Parabolas(Shape(4, heads, width), parabolas).double()


def turned(points: torch.Tensor) -> torch.Tensor:
    """By a random turn about the origin."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return points @ (q * q.det().sign())


def test_pape_equals_the_pins(method_pins: dict) -> None:
    """Two parabolas over two axes: a and b of query i are given, so that a hidden state (1, i) makes them."""
    pin = method_pins["pape"]
    module = Parabolas(Shape(4, 1, 2, axes=2), 2).double()
    module.u.data = torch.tensor(pin["W_p(M=2,P=2)"], dtype=torch.float64)[None]
    module.a.data = torch.tensor([[[-0.3, 0.2], [0.5, -0.1]]], dtype=torch.float64)
    module.b.data = torch.tensor([[[0.0, 0.1], [-0.2, 0.05]]], dtype=torch.float64)
    hidden = torch.stack([torch.ones(5), torch.arange(5.0)], -1).double()[None]
    at = torch.tensor(pin["positions"], dtype=torch.float64)[None]
    state = module.tokens(hidden, at, None, None).transpose(1, 2)
    q, k, _ = pinned_qkv()
    logits = module.logits(0.5 * q @ k.transpose(-1, -2), q, k, At(at, at, state, state, scale=0.5))
    np.testing.assert_allclose(logits[0, 0, 4].detach(), pin["logits row 4 (full)"], atol=1e-6)


def test_pape_is_its_formula_written_out() -> None:
    module, (q, k, v) = pape(), random_qkv()
    hidden = torch.randn(2, 7, 6, dtype=torch.float64)
    _, weights = attend(module, (q, k, v), hidden=hidden, causal=False)
    for b, h, i in ((0, 0, 6), (1, 1, 3), (0, 1, 0)):
        curved, tilted = softplus(module.a[h] @ hidden[b, i]), module.b[h] @ hidden[b, i]
        of = [module.u[h, :, 0] * (i - j) for j in range(7)]
        logits = [
            0.5 * (q[b, h, i] @ k[b, h, j] - curved @ d**2 + tilted @ d) for j, d in enumerate(of)
        ]  # fmt: skip
        torch.testing.assert_close(weights[b, h, i], torch.stack(logits).softmax(0))


def test_pape_has_gradients_and_goes_on_in_pieces() -> None:
    module, hidden = pape(), torch.randn(2, 7, 6, dtype=torch.float64)
    assert gradients_agree(pape(parabolas=2), random_qkv(1, 2, 4), hidden=hidden[:1, :4])
    qkv = random_qkv()
    for pieces in ([3, 1, 1, 2], [1] * 7):
        torch.testing.assert_close(decoded(module, qkv, pieces, hidden=hidden), attend(module, qkv, hidden=hidden)[0])


def test_pape_keeps_distances_far_out_in_a_long_text() -> None:
    """In float32, a million tokens in and over 4,096 of them; products of positions would lose eight units of A."""
    module = Parabolas(Shape(4, 2, 6), 50)
    hidden = torch.randn(1, 4096, 6)
    state = module.tokens(hidden, torch.arange(4096)[None], None, None).transpose(1, 2)
    at, last = torch.arange(4096)[None] + 1_000_003, slice(4000, None)
    few = At(at[:, last, None], at[:, last, None], state[:, :, last], state[:, :, last])
    zero, q = torch.zeros(1, 2, 96, 96), torch.zeros(1, 2, 96, 4)
    found = module.logits(zero, q, q, few)
    curved, tilted = state[:, :, last].double().unbind(-1)
    distance = torch.arange(96.0).double()
    distance = distance[:, None] - distance
    expected = -curved[..., None] * distance**2 + tilted[..., None] * distance
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_pape_at_the_start_is_drawn_as_in_the_official_code() -> None:
    (effect,) = parse("pape").effects(Shape(64, 4, 256))
    module = effect.module
    assert (module.u.shape, module.a.shape) == ((4, 50, 1), (4, 50, 256))
    for p, most in ((module.u, 1.0), (module.a, 1 / 16), (module.b, 1 / 16)):
        assert p.abs().max().item() == pytest.approx(most, rel=0.02)
        assert p.std().item() == pytest.approx(most / 3**0.5, rel=0.1)
    with pytest.raises(ValueError, match="parabolas must be a whole number of at least 1"):
        parse("pape:parabolas=0")


def test_pape_stands_beside_what_turns() -> None:
    model = tiny_model("llama")
    tokens = torch.randint(3, 97, (1, 20))
    with torch.no_grad():
        alone, beside = (whorl.attach(model, e)(tokens).logits for e in ("pape", "rope+pape"))
    assert (alone - beside).abs().max() > 1e-4
