"""PaPE-RI against the pins of two axes, and on clouds that are turned and moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.encodings.attended import attend, decoded, gradients_agree, pinned_qkv, random_qkv
from tests.encodings.test_pape import turned

from whorl.encodings import Shape, parse
from whorl.encodings.pape import Parabolas
from whorl.encodings.pape_ri import Bowls
from whorl.encodings.scores import At


def pape_ri(heads: int = 2, width: int = 6, axes: int = 3) -> Bowls:
    return Bowls(Shape(4, heads, width, axes=axes), unit=0.5).double()


def test_pape_ri_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["pape"]
    module = Bowls(Shape(4, 1, 2, axes=2), unit=1.0).double()
    module.a.data, module.s.data = torch.tensor([[-0.3, 0.2]], dtype=torch.float64), torch.tensor([0.5]).double()
    hidden = torch.stack([torch.ones(5), torch.arange(5.0)], -1).double()[None]
    at = torch.tensor(pin["positions"], dtype=torch.float64)[None]
    state = module.tokens(hidden, at, None, None).transpose(1, 2)
    q, k, _ = pinned_qkv()
    logits = module.logits(0.5 * q @ k.transpose(-1, -2), q, k, At(at, at, state, state, scale=0.5))
    np.testing.assert_allclose(logits[0, 0, 4].detach(), pin["ri(s=.5,a_pre=.2i-.3) row 4"], atol=1e-6)


def test_pape_ri_does_not_see_that_a_cloud_is_turned_and_moved_and_pape_does() -> None:
    qkv, hidden = random_qkv(), torch.randn(2, 7, 6, dtype=torch.float64)
    points = torch.randn(2, 7, 3, dtype=torch.float64)
    there = turned(points) + torch.tensor([3.0, -2.0, 40.0])
    for module, same in ((pape_ri(), True), (Parabolas(Shape(4, 2, 6, axes=3), 3).double(), False)):
        here, moved = (attend(module, qkv, hidden=hidden, positions=p, causal=False)[0] for p in (points, there))
        assert torch.allclose(here, moved, atol=1e-10) is same
    nearer = attend(pape_ri(), qkv, hidden=hidden, positions=0.9 * points, causal=False)[0]
    assert not torch.allclose(attend(pape_ri(), qkv, hidden=hidden, positions=points, causal=False)[0], nearer)


def test_pape_ri_has_gradients_and_goes_on_in_pieces() -> None:
    points, hidden = torch.randn(1, 4, 3, dtype=torch.float64), torch.randn(1, 4, 6, dtype=torch.float64)
    assert gradients_agree(pape_ri(), random_qkv(1, 2, 4), hidden=hidden, positions=points, causal=False)
    module, qkv, hidden = pape_ri(axes=1), random_qkv(), torch.randn(2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(decoded(module, qkv, [3, 1, 3], hidden=hidden), attend(module, qkv, hidden=hidden)[0])
    with pytest.raises(ValueError, match="unit must be finite and above 0"):
        parse("pape-ri:unit=0")
