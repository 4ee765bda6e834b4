"""FIRE and Sandwich: biases that are functions of the distance, against pins and their formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import whorl
from whorl.encodings import Bias, Shape, parse
from whorl.encodings.fire import EPSILON, InterpolatedBias
from whorl.ops import biased_attention
from whorl.testing import logits_and_budget, tiny_model


def bias_of(notation: str, heads: int) -> nn.Module:
    (effect,) = parse(notation).effects(Shape(head_dim=8, heads=heads, width=8 * heads))
    assert isinstance(effect, Bias)
    return effect.module


def fire(heads: int, start: float, width: int = 32) -> InterpolatedBias:
    return InterpolatedBias(heads, width, start, torch.Generator()).double()


def test_fire_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["fire"]
    module = fire(1, pin["L"], width=2)
    values = {"c": [pin["c"]], "w1": [1, -1], "b1": [0, 0.5], "w2": [[2, 3]], "b2": [0.25]}
    module.load_state_dict({**module.state_dict(), **{name: torch.tensor(v).double() for name, v in values.items()}})
    at = torch.arange(5)[None]
    assert pytest.approx(EPSILON) == pin["eps"]
    np.testing.assert_allclose(module.normalised(at, at)[0, 4].detach(), pin["normalised_distance (row 4)"], atol=1e-6)
    expected = next(value for name, value in pin.items() if name.startswith("bias with"))
    np.testing.assert_allclose(module(at, at)[0, 0, 4].detach(), expected, atol=1e-6)


@pytest.mark.parametrize("start", [3, 200])
def test_fire_is_the_network_of_its_formula(start: int) -> None:
    """Lines looked up are the hidden layer written out, and so are the gradients to everything that is learned."""
    module = fire(3, start)
    queries, keys = torch.tensor([[40, 41, 7, 0], [2, 9, 100, 3]]), torch.arange(42).repeat(2, 1)
    module.factor.data.fill_(-1.5)  # its sign is of no account
    weights = torch.randn(2, 3, 4, 42, dtype=torch.float64)

    def plainly() -> torch.Tensor:
        longest = torch.maximum(queries.double(), (module.factor * start).abs())
        distance = (queries[:, :, None] - keys[:, None]).double()
        share = torch.log(abs(module.c * distance) + 1) / (torch.log(abs(module.c * longest) + 1)[..., None] + 1e-6)
        hidden = torch.relu(share[..., None] * module.w1 + module.b1)
        return (hidden @ module.w2.T + module.b2).permute(0, 3, 1, 2)

    found, expected = module(queries, keys), plainly()
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    parameters = dict(module.named_parameters())
    mine, theirs = (torch.autograd.grad((x * weights).sum(), list(parameters.values())) for x in (found, expected))
    for name, a, b in zip(parameters, mine, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}")
        assert a.abs().max() > 0


def test_fire_with_units_that_hear_nothing() -> None:
    """A unit of weight 0 is a constant, open or shut, and has no border."""
    module = fire(2, 4, width=4)
    module.w1.data = torch.tensor([0.0, 0.0, 2.0, -1.0]).double()
    module.b1.data = torch.tensor([0.5, -0.5, -1.0, 0.5]).double()
    x = torch.linspace(-2, 3, 101).double()[None]
    hidden = torch.relu(x[..., None] * module.w1 + module.b1)
    torch.testing.assert_close(module.network(x)[0], (hidden @ module.w2.T + module.b2)[0].T)


def test_fire_starts_as_in_the_official_code() -> None:
    """c is 0.1, L half of the training length (512 where nobody says another), and the network drawn as nn.Linear's."""
    module = bias_of("fire", 1000)
    assert (module.start, module.c.item(), module.factor.item()) == (256, pytest.approx(0.1), 1)
    model = whorl.attach(tiny_model("llama", max_position_embeddings=48), "fire")
    assert str(whorl.encoding_of(model)) == "fire:train_length=48"
    assert {effect.start for effect in whorl.attached(model).effects} == {24}
    for name, bound in (("w1", 1), ("b1", 1), ("w2", 32**-0.5), ("b2", 32**-0.5)):
        values = getattr(module, name).detach()
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.35)


def test_fire_with_float32_and_bfloat16_parameters_reckons_in_float32() -> None:
    module = bias_of("fire", 2).to(torch.bfloat16)
    at = torch.tensor([[100_001]]), torch.tensor([[0, 100_000, 100_001]])
    found = module(*at)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach(), module.double()(*at).detach(), rtol=1e-5, atol=1e-6)


def test_fire_has_gradients_in_attention() -> None:
    module = fire(2, 3, width=5)
    q, k, v = (torch.randn(1, heads, 6, 4, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1))
    at = torch.arange(6)[None]
    names = list(dict(module.named_parameters()))

    def attended(*x: torch.Tensor) -> torch.Tensor:
        for name, value in zip(names, x[3:], strict=True):
            module._parameters[name] = value
        how = {"query_positions": at, "key_positions": at, "causal": True, "scale": 0.5, "impl": "reference"}
        return biased_attention(*x[:3], [module], **how)[0]

    assert torch.autograd.gradcheck(attended, (q, k, v, *(p.detach().requires_grad_() for p in module.parameters())))


@torch.no_grad()
def test_fire_under_a_cache_goes_by_the_query_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past L the share is of the query's own position. The row of the matrix, as the reference code takes it, is
    another one in every step of a cache, and that is seen here."""
    model = whorl.attach(tiny_model("llama"), "fire:train_length=8")
    tokens = torch.randint(3, 97, (2, 20))

    def stepwise() -> float:
        logits, _ = logits_and_budget(model, tokens)
        out = model(tokens[:, :12], use_cache=True)
        steps, cache = [out.logits], out.past_key_values
        for t in range(12, 20):
            steps.append(model(tokens[:, t : t + 1], past_key_values=cache, use_cache=True).logits)
        return float((torch.cat(steps, 1) - logits).abs().max())

    _, budget = logits_and_budget(model, tokens)
    assert stepwise() < budget

    right = InterpolatedBias.normaliser

    def by_row(self: InterpolatedBias, queries: torch.Tensor) -> torch.Tensor:
        return right(self, torch.arange(queries.shape[1])[None].expand_as(queries))

    monkeypatch.setattr(InterpolatedBias, "normaliser", by_row)
    assert stepwise() > 100 * budget


@pytest.mark.parametrize(("dim", "heads"), [(128, 8), (16, 3)])
def test_sandwich_equals_its_formula(dim: int, heads: int) -> None:
    queries, keys = torch.tensor([[1000, 3]]), torch.tensor([[0, 3, 999, 1000, 100_003]])
    bias = bias_of("sandwich" if dim == 128 else f"sandwich:dim={dim}", heads)(queries, keys)
    distance = np.subtract.outer(queries[0].numpy(), keys[0].numpy()).astype(np.float64)
    total = sum(np.cos(distance / 10000 ** (2 * t / dim)) for t in range(1, dim // 2 + 1)) - dim / 2
    expected = [total / (8 * h / heads) for h in range(1, heads + 1)]
    np.testing.assert_allclose(bias[0], expected, rtol=1e-5, atol=2e-5)
    assert bias[0, :, 1, 1].abs().max() < 1e-5


def test_sandwich_is_the_product_of_sinusoidal_vectors() -> None:
    """sin a sin b + cos a cos b = cos (a - b), at the frequencies of the formula."""
    module = bias_of("sandwich:dim=16", 1)
    at = torch.arange(50)[:, None] * torch.tensor([10000 ** (-2 * t / 16) for t in range(1, 9)])
    vectors = torch.cat([at.sin(), at.cos()], -1)
    torch.testing.assert_close(
        module(torch.arange(50)[None], torch.arange(50)[None])[0, 0] * 8 + 8, vectors @ vectors.T, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("notation", "why"),
    [
        ("sandwich:dim=7", "dim must be even.*got 7; Sandwich's is 128"),
        ("sandwich:base=1", "base must be a finite number above 1"),
        ("fire:width=0", "width must be a whole number of at least 1"),
        ("fire:train_length=0", "train_length must be a whole number of at least 1"),
    ],
)
def test_arguments_that_make_no_sense(notation: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(notation)
