"""Stick-breaking (arXiv 2410.17980) against the pins, its definition written out, and its traps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attended import attend, decoded, gradients_agree, pinned_qkv, random_qkv

from whorl.encodings.effects import Score, Shape
from whorl.encodings.scores import At
from whorl.encodings.stick_breaking import BrokenStick, StickBreaking

CHOICES = [(own, rest) for own in ("skipped", "seen") for rest in ("dropped", "own")]


def module_of(own: str = "skipped", rest: str = "dropped") -> BrokenStick:
    (effect,) = StickBreaking(own, rest).effects(Shape(head_dim=4, heads=2, width=8))
    assert isinstance(effect, Score)
    assert isinstance(effect.module, BrokenStick)
    return effect.module


def test_stick_breaking_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["stick_breaking"]
    out, weights = attend(module_of(), pinned_qkv())
    for query, row in enumerate(pin["weights_strict (j<i)"], 1):
        np.testing.assert_allclose(weights[0, 0, query, :query], row, atol=1e-6)
    np.testing.assert_allclose(out[0, 0, 4], pin["out_last_strict"], atol=1e-6)
    _, with_rest = attend(module_of(rest="own"), pinned_qkv())
    np.testing.assert_allclose(with_rest[0, 0].diagonal(), pin["remainder_strict"], atol=1e-6)
    _, own = attend(module_of(own="seen"), pinned_qkv())
    np.testing.assert_allclose(own[0, 0, 4], pin["weights_with_current (row 4)"], atol=1e-6)


@pytest.mark.parametrize(("own", "rest"), CHOICES)
def test_stick_breaking_equals_its_definition(own: str, rest: str) -> None:
    q, k, v = random_qkv()
    _, weights = attend(module_of(own, rest), (q, k, v))
    expected = torch.zeros_like(weights)
    shares = (q @ k.mT * 0.5).sigmoid()
    for i in range(7):
        left = torch.ones(2, 2, dtype=torch.float64)
        for j in range(i if own == "seen" else i - 1, -1, -1):
            expected[:, :, i, j] = left * shares[:, :, i, j]
            left = left * (1 - shares[:, :, i, j])
        if rest == "own":
            expected[:, :, i, i] += left
    torch.testing.assert_close(weights, expected)
    if rest == "own":
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_a_large_logit_leaves_what_it_leaves() -> None:
    """Past 20, PyTorch's softplus is its argument, and the key would take all."""
    s = torch.tensor([[[[2.0, 25.0, -torch.inf]]]], dtype=torch.float64)
    places = torch.tensor([[2]]), torch.arange(3)[None]
    weights = module_of().weights(s, At(*places, None, None))[0, 0, 0]
    left = torch.tensor(-25.0, dtype=torch.float64).sigmoid()
    torch.testing.assert_close(1 - weights[1], left, rtol=1e-4, atol=0)
    torch.testing.assert_close(weights[0], left * torch.tensor(2.0, dtype=torch.float64).sigmoid())


@pytest.mark.parametrize(("own", "rest"), CHOICES)
def test_far_logits_stay_finite(own: str, rest: str) -> None:
    """A product of shares is 0 long before its logarithm is anything but a number; gradients too."""
    inputs = tuple((30 * x).float().requires_grad_() for x in random_qkv(tokens=300))
    out, _ = attend(module_of(own, rest), inputs)  # type: ignore[arg-type]
    out.sum().backward()
    assert out.isfinite().all()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize(("own", "rest"), CHOICES)
def test_left_padding_takes_no_share(own: str, rest: str) -> None:
    q, k, v = random_qkv(tokens=9)
    real = torch.arange(9).expand(2, 9) >= 3
    alone, _ = attend(module_of(own, rest), (q[:, :, 3:], k[:, :, 3:], v[:, :, 3:]))
    padded, _ = attend(module_of(own, rest), (q, k, v), positions=(torch.arange(9) - 3).clamp(min=0)[None], real=real)
    torch.testing.assert_close(padded[:, :, 3:], alone)
    assert not padded[:, :, :3].any(), "padding sees nothing"


@pytest.mark.parametrize(("own", "rest"), CHOICES)
def test_packed_documents_have_a_stick_each(own: str, rest: str) -> None:
    """Positions begin anew: a query's own token is the one that it sees at its position, and not the other."""
    q, k, v = random_qkv(tokens=8)
    document = torch.arange(8) // 4
    packed, _ = attend(
        module_of(own, rest), (q, k, v), positions=(torch.arange(8) % 4)[None],
        seen=(document[:, None] == document)[None, None],
    )  # fmt: skip
    for span in (slice(0, 4), slice(4, 8)):
        alone, _ = attend(module_of(own, rest), (q[:, :, span], k[:, :, span], v[:, :, span]))
        torch.testing.assert_close(packed[:, :, span], alone)


@pytest.mark.parametrize(("own", "rest"), CHOICES)
def test_decoding_with_a_cache_equals_all_at_once(own: str, rest: str) -> None:
    module, qkv = module_of(own, rest), random_qkv(tokens=9)
    torch.testing.assert_close(decoded(module, qkv, [4, 1, 3, 1]), attend(module, qkv)[0])


@pytest.mark.parametrize(("own", "rest"), CHOICES)
def test_gradients(own: str, rest: str) -> None:
    assert gradients_agree(module_of(own, rest), random_qkv(batch=1, tokens=4))


def test_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="has no meaning in an encoder"):
        StickBreaking().effects(Shape(head_dim=8, heads=2, width=16, bidirectional=True))
