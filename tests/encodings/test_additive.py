"""Sinusoidal and learned vectors; ALiBi, T5, KERPLE and window biases; against pins, stock code and formulas."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

import whorl
from whorl.encodings import Add, Bias, Shape, parse
from whorl.encodings.alibi import slopes
from whorl.encodings.t5 import T5Bias, buckets
from whorl.testing import tiny_model


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


@pytest.mark.parametrize(
    ("num_buckets", "max_distance"), [(64, 50), (36, 392), (48, 81), (16, 1461), (32, 128), (16, 64), (8, 32), (4, 3)]
)
def test_t5_buckets_are_those_of_whole_numbers(num_buckets: int, max_distance: int) -> None:
    """log(d / e) / log(D / e) n >= k is d^n >= D^k e^(n - k), and whole numbers know no rounding."""
    e = num_buckets // 2
    n = num_buckets - e
    distance = torch.arange(2 * max_distance)
    wanted = [
        d if d < e else e + sum(d**n >= max_distance**k * e ** (n - k) for k in range(1, n)) for d in distance.tolist()
    ]
    assert buckets(distance, num_buckets, max_distance, False).tolist() == wanted
    assert buckets(-distance, 2 * num_buckets, max_distance, True).tolist() == [0] + [
        num_buckets + b for b in wanted[1:]
    ]


def test_the_borders_of_t5_are_not_reckoned_in_a_compiled_call() -> None:
    """Dynamo warns of functions that keep what they gave, and would follow this one through all of its steps."""
    at = torch.arange(9)[None]
    module, _ = bias_of("t5:max_distance=47", 2, at, at)
    torch.nn.init.normal_(module.weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(torch.compile(module, fullgraph=True, backend="eager")(at, at), module(at, at))


def test_where_float32_puts_a_distance_beside_a_border_of_t5() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    for distance, num_buckets, max_distance, off in ((84, 36, 392, -1), (762, 16, 1461, 1)):
        theirs = T5Attention._relative_position_bucket(torch.tensor(-distance), False, num_buckets, max_distance)
        assert int(theirs - buckets(torch.tensor(distance), num_buckets, max_distance, False)) == off


def test_t5_needs_room_for_logarithmic_buckets_on_the_side_that_is_seen() -> None:
    """Half of an encoder's buckets are for later keys: 8 distances of 32 buckets have one of their own, not 16."""
    model = whorl.attach(tiny_model("bert"), T5Bias(32, 16))
    assert torch.isfinite(model(torch.arange(3, 40)[None]).logits).all()
    with pytest.raises(ValueError, match=r"max_distance must exceed num_buckets / 2 = 16 .* of a causal host.*got 16"):
        whorl.attach(tiny_model("llama"), T5Bias(32, 16))


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


@pytest.mark.parametrize("form", ["log", "power"])
def test_kerple_is_drawn_as_in_the_official_code(form: str) -> None:
    """U(0, 2) for what multiplies the logarithm and for the exponent, U(0, 1) for the other two."""
    module, _ = bias_of(f"kerple:form={form}", 1000, torch.tensor([[0]]), torch.tensor([[0]]))
    upper = {"log": (2, 1), "power": (1, 2)}[form]
    for parameter, highest in zip((module.r1, module.r2), upper, strict=True):
        assert 0 <= parameter.min() < 0.01 * highest
        assert 0.99 * highest < parameter.max() < highest


@pytest.mark.parametrize(
    ("form", "starts", "wanted"),
    [("log", (-0.2, -0.1), (0.5, 0.8)), ("power", (-0.2, -0.1), (0.5, 0.8)), ("power", (0.5, 2.3), (0.5, 1.6))],
    ids=["log", "power", "past 2"],
)
def test_kerple_learns_from_outside_its_range_too(form: str, starts: tuple, wanted: tuple) -> None:
    """From where a clamp in the graph gives no gradient; and what would lead further out is not followed."""
    keys = torch.arange(31)[None]
    module, _ = bias_of(f"kerple:form={form}", 1, keys[:, -1:], keys)
    parameters = (module.r1, module.r2)

    def put(values: tuple) -> torch.Tensor:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.fill_(value)
            return module(keys[:, -1:], keys)

    target = put(wanted)
    put(starts)
    optimizer = torch.optim.Adam(parameters, lr=0.02)

    def loss() -> torch.Tensor:
        return ((module(keys[:, -1:], keys) - target) ** 2).mean()

    first = loss().item()
    for _ in range(600):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 1e-3 * first
    for sign in (1, -1):  # the loss that wants the smallest bias, and the one that wants the largest
        optimizer.zero_grad()
        put(starts)
        (sign * module(keys[:, -1:], keys).sum()).backward()
        for parameter, highest in zip(parameters, (math.inf, math.inf if form == "log" else 2), strict=True):
            outside = (parameter < 0.01 and sign < 0) or (parameter > highest and sign > 0)
            assert (parameter.grad == 0) == outside


def test_a_window_keeps_distances_below_its_size() -> None:
    positions = torch.arange(6)[None]
    _, bias = bias_of("window:size=3", 2, positions, positions)
    distance = (positions[0][:, None] - positions[0][None]).abs()
    assert torch.equal(bias[0, 0] == 0, distance < 3)
    assert torch.equal(bias[0, 0] == -math.inf, distance >= 3)


def test_a_soft_window_divides_weights_past_the_training_length() -> None:
    queries, keys = torch.tensor([[300]]), torch.arange(1, 600)[None]  # on both sides, as an encoder has them
    _, bias = bias_of("soft-window:train_length=100,power=1.5", 4, queries, keys)
    distance = np.abs(300 - np.arange(1, 600))
    np.testing.assert_allclose(bias.exp()[0, :, 0], [np.minimum(1, (100 / np.maximum(distance, 1)) ** 1.5)], rtol=1e-5)
    assert (bias[..., distance <= 100] == 0).all(), "nothing changes up to it"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("soft-window:train_length=0", "train_length must be a whole number of at least 1, got 0 tokens"),
        ("soft-window:train_length=8,power=0", "power must be finite and above 0"),
    ],
)
def test_a_soft_window_of_nothing_is_refused(given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(given)


@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple", "window:size=40", "soft-window:train_length=40"])
def test_biases_depend_on_distance_alone(notation: str) -> None:
    positions = torch.arange(60)[None]
    module, bias = bias_of(notation, 4, positions, positions)
    if notation == "t5":
        torch.nn.init.normal_(module.weight)
        bias = module(positions, positions)
    assert torch.equal(module(positions + 1_000_003, positions + 1_000_003), bias)
    assert not torch.equal(module(positions + 1, positions), bias)
