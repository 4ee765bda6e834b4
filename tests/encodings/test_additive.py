"""Sinusoidal and learned vectors; ALiBi, T5, KERPLE and window biases; against pins, stock code and formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from whorl.encodings import Add, Bias, Shape, parse
from whorl.encodings.alibi import slopes
from whorl.encodings.t5 import buckets


def bias_of(notation: str, heads: int, queries: torch.Tensor, keys: torch.Tensor, bidirectional: bool = False):
    (effect,) = parse(notation).effects(Shape(head_dim=8, heads=heads, width=8 * heads, bidirectional=bidirectional))
    assert isinstance(effect, Bias)
    return effect.module, effect.module(queries, keys)


def add_of(notation: str, width: int):
    (effect,) = parse(notation).effects(Shape(head_dim=8, heads=1, width=width))
    assert isinstance(effect, Add)
    return effect.module


@pytest.mark.parametrize("name", ["roformer_sinus_6x6", "roformer_sinus_512", "keras_sine_pos3_d6"])
def test_sinusoidal_equals_the_pins(pins: dict, name: str) -> None:
    """Ours interleaves sine and cosine; RoFormer's table has all sines first."""
    pin = pins[name]
    width = pin["config"]["dim"]
    table = add_of("sinusoidal", width)(torch.tensor([pin["config"]["positions"]]))[0]
    if pin["kind"] == "sinusoidal_concat":
        table = torch.cat([table[:, 0::2], table[:, 1::2]], -1)
    expected = np.atleast_2d(pin["expected"])
    np.testing.assert_allclose(table[:, : expected.shape[1]], expected, atol=pin["atol"], rtol=pin["rtol"])


def test_sinusoidal_takes_an_odd_width_and_far_positions() -> None:
    vectors = add_of("sinusoidal", 7)(torch.tensor([[0, 2**31 - 1]]))
    assert vectors.shape == (1, 2, 7)
    assert vectors[0, 1, 0].item() == pytest.approx(math.sin(2**31 - 1), abs=2e-7)


def test_learned_past_its_table_names_both() -> None:
    table = add_of("learned:max_positions=8", 4)
    assert table(torch.tensor([[0, 7]])).shape == (1, 2, 4)
    with pytest.raises(ValueError, match=r"position 8 is past the learned table, which has 8 positions"):
        table(torch.tensor([[3, 8]]))


@pytest.mark.parametrize("name", ["keras_alibi_h8_max8", "keras_alibi_h14_max8"])
def test_alibi_equals_the_pins(pins: dict, name: str) -> None:
    pin = pins[name]
    keys = torch.arange(pin["config"]["key_len"])[None]
    _, bias = bias_of("alibi", pin["config"]["heads"], keys[:, -1:], keys)
    np.testing.assert_allclose(bias, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])


def test_alibi_slopes_for_any_head_count() -> None:
    assert slopes(8) == tuple(2.0**-h for h in range(1, 9))
    assert slopes(1) == (2.0**-8,)
    assert slopes(12) == (*slopes(8), *slopes(16)[0:8:2])  # the paper's rule between powers of two
    for heads in range(1, 70):
        assert len(set(slopes(heads))) == heads


def test_alibi_is_exact_where_bfloat16_is_not() -> None:
    """Slopes are numbers, not a buffer, so that `model.to(bfloat16)` cannot round them."""
    (effect,) = parse("alibi").effects(Shape(head_dim=8, heads=12, width=96))
    module = effect.module.to(torch.bfloat16)  # type: ignore[union-attr]
    bias = module(torch.tensor([[100_003]]), torch.tensor([[0]]))
    np.testing.assert_allclose(bias[0, :, 0, 0], [-100_003 * s for s in slopes(12)], rtol=1e-7)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 64), (8, 200)])
def test_t5_buckets_equal_transformers(bidirectional: bool, num_buckets: int, max_distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-3000, 3000)
    theirs = T5Attention._relative_position_bucket(
        -distance, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
    )
    assert torch.equal(buckets(distance, num_buckets, max_distance, bidirectional), theirs)


def test_t5_looks_its_table_up_and_learns_it() -> None:
    positions = torch.arange(40)[None]
    module, _ = bias_of("t5", 3, positions, positions)
    torch.nn.init.normal_(module.weight)
    bias = module(positions, positions)
    assert bias.shape == (1, 3, 40, 40)
    assert bias[0, 2, 30, 27] == module.weight[3, 2]
    bias[0, 1, 5, 5].backward()
    assert module.weight.grad[0, 1] == 1
    assert module.weight.grad.abs().sum() == 1


@pytest.mark.parametrize("form", ["log", "power"])
def test_kerple_equals_its_formula(form: str) -> None:
    queries, keys = torch.tensor([[50]]), torch.arange(51)[None]
    module, bias = bias_of(f"kerple:form={form}", 4, queries, keys)
    r1, r2 = (p.detach().double().clamp(min=0.01).numpy()[:, None] for p in (module.r1, module.r2))
    distance = np.arange(50, -1, -1.0)
    with np.errstate(divide="ignore"):
        expected = -r1 * np.log1p(r2 * distance) if form == "log" else -r1 * distance**r2
    np.testing.assert_allclose(bias[0, :, 0].detach(), expected, rtol=1e-5, atol=1e-6)
    bias.sum().backward()
    for parameter in (module.r1, module.r2):
        assert torch.isfinite(parameter.grad).all()
        assert (parameter.grad != 0).all()


def test_a_window_keeps_distances_below_its_size() -> None:
    positions = torch.arange(6)[None]
    _, bias = bias_of("window:size=3", 2, positions, positions)
    distance = (positions[0][:, None] - positions[0][None]).abs()
    assert torch.equal(bias[0, 0] == 0, distance < 3)
    assert torch.equal(bias[0, 0] == -math.inf, distance >= 3)


@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple", "window:size=40"])
def test_biases_depend_on_distance_alone(notation: str) -> None:
    positions = torch.arange(60)[None]
    module, bias = bias_of(notation, 4, positions, positions)
    if notation == "t5":
        torch.nn.init.normal_(module.weight)
        bias = module(positions, positions)
    assert torch.equal(module(positions + 1_000_003, positions + 1_000_003), bias)
    assert not torch.equal(module(positions + 1, positions), bias)
