"""Derivatives that the loops have not: by forward mode, of torch.func, second ones, many at once. Right, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from attention_cases import Wrapped, data, modules
from torch.autograd import forward_ad

import whorl
from whorl.encodings import parse
from whorl.ops import Tables, biased_attention, rotate, rotation_tables
from whorl.testing import peaked, tiny_model

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


# --- attention -------------------------------------------------------------------------------------------------------

POSITIONS = torch.arange(5)[None]


def attention(impl: str, notation: str = "alibi", **how) -> Callable[..., torch.Tensor]:
    biases = modules(notation)
    at = {"query_positions": POSITIONS, "key_positions": POSITIONS}
    return lambda q, k, v, *sinks: biased_attention(
        q, k, v, biases, **at, causal=True, scale=0.7, impl=impl, sinks=sinks[0] if sinks else None, **how
    )[0]


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return [*data(5, 5, 8, dtype), torch.randn(4, dtype=dtype)]


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_attention_along_a_tangent(impl: str) -> None:
    """Against differences, where nothing needs a gradient (weights are frozen) and where something does."""
    given, tangents, step = inputs(), inputs(), 1e-5
    ahead, behind = ([x + sign * step * t for x, t in zip(given, tangents, strict=True)] for sign in (1, -1))
    expected = (attention("reference")(*ahead) - attention("reference")(*behind)) / (2 * step)
    for needed in (False, True):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x.requires_grad_(needed), t) for x, t in zip(given, tangents, strict=True)]
            got = forward_ad.unpack_dual(attention(impl)(*duals)).tangent
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)
    got = torch.func.jvp(attention(impl), tuple(given), tuple(tangents))[1]
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-8)


def test_attention_under_torch_func() -> None:
    given = inputs(torch.float32)
    leaves = [x.clone().requires_grad_() for x in given]
    expected = torch.autograd.grad(attention("reference")(*leaves).sin().sum(), leaves)
    same(torch.func.grad(lambda *x: attention("auto")(*x).sin().sum(), argnums=(0, 1, 2, 3))(*given), expected)
    many = [torch.stack([x, -x, 2 * x]) for x in given]
    each = [attention("reference")(*one) for one in zip(*many, strict=True)]
    torch.testing.assert_close(torch.func.vmap(attention("auto"))(*many), torch.stack(each))


@pytest.mark.parametrize("impl", ["cpu", "blocked", "flex"])
def test_attention_asked_for_by_name_says_what_it_cannot_follow(impl: str) -> None:
    given = inputs(torch.float32)
    with pytest.raises(ValueError, match=f"impl='{impl}' cannot run here: a transform of torch.func is at work; take"):
        torch.func.vmap(attention(impl))(*(x[None] for x in given))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(given[2], given[2].clone())
        with pytest.raises(
            ValueError, match=f"impl='{impl}' cannot run here: a forward-mode derivative is taken; take"
        ):
            attention(impl)(*given[:2], dual)


@pytest.mark.parametrize("notation", ["alibi", "t5"])
@pytest.mark.parametrize("impl", ["cpu", "blocked"])
def test_second_derivatives_of_attention_are_refused_both_ways(impl: str, notation: str) -> None:
    """Never left out: of a gradient to one input with respect to another, in which only the inputs are named."""
    leaves = [x.requires_grad_() for x in inputs(torch.float32)]
    attend = attention(impl, notation)
    first = torch.autograd.grad(attend(*leaves).sum(), leaves, create_graph=True)
    same(first, torch.autograd.grad(attend(*leaves).sum(), leaves))
    for gradient, leaf in itertools.product(first, leaves):
        with pytest.raises(
            ValueError, match=f"impl='{impl}' of biased_attention has first derivatives alone.*reference"
        ):
            torch.autograd.grad(gradient.square().sum(), leaf, retain_graph=True)
    with pytest.raises(ValueError, match="has first derivatives alone"):
        first[0].square().sum().backward()


@pytest.mark.parametrize("impl", ["cpu", "blocked"])
def test_second_derivatives_with_respect_to_a_learned_bias_are_refused(impl: str) -> None:
    """Of a loss that is linear in the output, the gradient that arrives depends on nothing."""
    biases, (q, k, v, _) = modules("t5"), inputs(torch.float32)
    at = {"query_positions": POSITIONS * POSITIONS if impl == "blocked" else POSITIONS}  # without a vector of distances
    out, _ = biased_attention(q.requires_grad_(), k, v, biases, **at, key_positions=at["query_positions"], causal=True,
                              scale=0.7, impl=impl)  # fmt: skip
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(ValueError, match="has first derivatives alone"):
        torch.autograd.grad(gradient.square().sum(), biases[0].weight)


def test_second_derivatives_of_the_reference() -> None:
    assert torch.autograd.gradgradcheck(attention("reference"), [x.requires_grad_() for x in inputs()], fast_mode=True)


@pytest.mark.parametrize("impl", ["cpu", "blocked"])
def test_gradients_of_attention_that_come_as_a_batch_are_refused(impl: str) -> None:
    leaves = [x.requires_grad_() for x in inputs(torch.float32)]
    out = attention(impl)(*leaves).flatten()[:3]
    with pytest.raises(ValueError, match="takes gradients one at a time"):
        torch.autograd.grad(out, leaves, torch.eye(3), is_grads_batched=True)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_attention_of_tensors_with_a_dispatch_of_their_own(impl: str) -> None:
    given = inputs(torch.float32)
    got = attention(impl)(*map(Wrapped, given[:3]))
    torch.testing.assert_close(got.inner, attention("reference")(*given[:3]))
    with pytest.raises(
        ValueError, match="impl='cpu' cannot run here: q, k, v or the factor is a tensor with a dispatch of its own"
    ):
        attention("cpu")(*map(Wrapped, given[:3]))


@pytest.mark.parametrize("notation", ["rope", "alibi", "rope~dynamic-ntk:factor=2,original=4"])
def test_a_frozen_model_along_a_tangent(notation: str) -> None:
    """What reaches the logits goes through rotation and attention, on every path that they have."""
    model = peaked(tiny_model("llama")).double().requires_grad_(False)
    model.set_attn_implementation("eager")  # SDPA itself has no forward mode
    whorl.attach(model, notation)
    embedded, tangent = torch.randn(2, 1, 9, model.config.hidden_size, dtype=torch.float64)
    with forward_ad.dual_level():
        logits = model(inputs_embeds=forward_ad.make_dual(embedded, tangent)).logits
        got = forward_ad.unpack_dual(logits).tangent
    model.requires_grad_(True)
    leaf, weight = embedded.requires_grad_(), torch.randn_like(got)
    expected = (torch.autograd.grad(model(inputs_embeds=leaf).logits, leaf, weight)[0] * tangent).sum()
    torch.testing.assert_close((got * weight).sum(), expected, rtol=1e-4, atol=0)  # norms are float32
