"""Derivatives that the loops have not: by forward mode, of torch.func, second ones, many at once. Right, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import forward_ad

from whorl.encodings import parse
from whorl.ops import Tables, rotate, rotation_tables

TURNS = {"out of place": False, "in place": True}


def table() -> Tables:
    return rotation_tables(parse("rope").spectrum(16), torch.arange(5))


def turned(impl: str, inplace: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
    """q and k to what is made of them; both may be changed by their owner, who gives copies."""
    return lambda q, k: rotate(q * 1, k * 1, table(), impl=impl, inplace=inplace)


def pairs(number: int = 2) -> list[list[torch.Tensor]]:
    return [[torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16)] for _ in range(number)]


def same(got, expected) -> None:
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("inplace", TURNS.values(), ids=TURNS)
def test_tangents_are_turned(inplace: bool, compiled: bool) -> None:
    """A rotation is linear: the derivative along a tangent is the tangent, turned."""
    (q, k), tangents = pairs()
    expected = turned("reference", False)(*tangents)

    def along(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.func.jvp(turned("auto", inplace), (q, k), tuple(tangents))[1]

    same((torch.compile(along, backend="aot_eager") if compiled else along)(q, k), expected)
    if compiled:
        return
    for needed in (False, True):  # weights are frozen, or are not
        with forward_ad.dual_level():
            q.requires_grad_(needed)
            duals = [forward_ad.make_dual(x, t) for x, t in zip((q, k), tangents, strict=True)]
            same((forward_ad.unpack_dual(x).tangent for x in turned("auto", inplace)(*duals)), expected)


@pytest.mark.parametrize("inplace", TURNS.values(), ids=TURNS)
def test_rotations_under_torch_func(inplace: bool) -> None:
    (q, k), weights = pairs()

    def loss(impl: str, inplace: bool) -> Callable[..., torch.Tensor]:
        return lambda q, k: sum((x.sin() * w).sum() for x, w in zip(turned(impl, inplace)(q, k), weights, strict=True))

    leaves = [x.clone().requires_grad_() for x in (q, k)]
    expected = torch.autograd.grad(loss("reference", False)(*leaves), leaves)
    same(torch.func.grad(loss("auto", inplace), argnums=(0, 1))(q, k), expected)
    many = [torch.stack([x, -x, 2 * x]) for x in (q, k)]
    each = [turned("reference", False)(a, b) for a, b in zip(*many, strict=True)]
    same(torch.func.vmap(turned("auto", inplace))(*many), map(torch.stack, zip(*each, strict=True)))


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_a_loop_asked_for_by_name_says_what_it_cannot_follow(impl: str) -> None:
    (q, k), tangents = pairs()
    with pytest.raises(ValueError, match=f"impl='{impl}' cannot run here: a transform of torch.func is at work"):
        torch.func.vmap(turned(impl, False))(q[None], k[None])
    with pytest.raises(ValueError, match=f"impl='{impl}' cannot run here: a forward-mode derivative is taken"):
        torch.func.jvp(turned(impl, False), (q, k), tuple(tangents))


@pytest.mark.parametrize("inplace", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_gradients_that_come_as_a_batch(impl: str, inplace: bool) -> None:
    (q, k), *_ = pairs()
    q.requires_grad_()
    out = turned(impl, inplace)(q, k)[0].flatten()[[0, 70, 300]]
    got = torch.autograd.grad(out, q, torch.eye(3), is_grads_batched=True, retain_graph=True)[0]
    same(got, [torch.autograd.grad(out[i], q, retain_graph=True)[0] for i in range(3)])


@pytest.mark.parametrize("inplace", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_second_derivatives_of_rotations(impl: str, inplace: bool) -> None:
    tables = rotation_tables(parse("rope").spectrum(4), torch.arange(2), torch.float64)
    q = torch.randn(1, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    cubed = lambda q: rotate(q * 1, None, tables, impl=impl, inplace=inplace)[0] ** 3  # noqa: E731
    assert torch.autograd.gradgradcheck(cubed, q, fast_mode=True)
