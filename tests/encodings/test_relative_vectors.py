"""Shaw's vectors (arXiv 1803.02155) and iRPE in one dimension (2107.14222), against their definitions and the pins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attended import QKV, attend, decoded, gradients_agree, random_qkv

from whorl.encodings.effects import Bias, Score, Shape
from whorl.encodings.irpe import IRPE, borders, index
from whorl.encodings.relative_vectors import RelativeVectors
from whorl.encodings.shaw import Shaw


def module_of(encoding: Shaw | IRPE, *, bidirectional: bool = False) -> RelativeVectors:
    (effect,) = encoding.effects(Shape(head_dim=4, heads=2, width=8, bidirectional=bidirectional))
    assert isinstance(effect, Score)
    assert isinstance(effect.module, RelativeVectors)
    for table in effect.module.parameters():
        torch.nn.init.normal_(table)
    return effect.module.double()


def by_definition(module: RelativeVectors, qkv: QKV, row: object, causal: bool) -> torch.Tensor:
    """The output for a scale of 0.5, one vector per query and key."""
    q, k, v = qkv
    batch, heads, tokens, _ = q.shape
    output = torch.zeros_like(v)
    zero = torch.zeros(heads, 999, 4, dtype=torch.float64)
    on_k, on_q, on_v = (
        module.tables[x].detach().expand(heads, -1, -1) if x in module.tables else zero for x in ("k", "q", "v")
    )
    for b in range(batch):
        for h in range(heads):
            for i in range(tokens):
                seen = range(i + 1 if causal else tokens)
                rows = [row(i - j) for j in seen]  # type: ignore[operator]
                s = [
                    (q[b, h, i] @ (k[b, h, j] + on_k[h, r]) + k[b, h, j] @ on_q[h, r]) / 2
                    for j, r in zip(seen, rows, strict=True)
                ]
                weights = torch.stack(s).softmax(0)
                output[b, h, i] = sum(
                    w * (v[b, h, j] + on_v[h, r]) for w, j, r in zip(weights, seen, rows, strict=True)
                )
    return output


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_shaw_equals_its_definition(heads: str, bidirectional: bool) -> None:
    module, qkv = module_of(Shaw(3, heads), bidirectional=bidirectional), random_qkv()
    assert module.tables["k"].shape == (2 if heads == "own" else 1, 7 if bidirectional else 4, 4)
    out, _ = attend(module, qkv, causal=not bidirectional)
    first = 3 if bidirectional else 0
    expected = by_definition(module, qkv, lambda d: max(-3, min(3, d)) + first, not bidirectional)
    torch.testing.assert_close(out, expected)


def test_irpe_index_equals_the_pin(method_pins: dict) -> None:
    pin = method_pins["irpe_piecewise"]
    assert [index(x, 1.9, 3.8, 15.2) for x in range(17)] == pin["x=0..16"]
    assert 2 * index(10**6, 1.9, 3.8, 15.2) + 1 == math.isqrt(pin["buckets_product"])


@pytest.mark.parametrize("settings", [(1.9, 3.8, 15.2), (16.0, 32.0, 128.0), (2.5, 5.0, 20.0), (4, 4, 9), (0.4, 6, 99)])
@pytest.mark.parametrize("squared", [False, True])
def test_borders_are_where_the_index_rises(settings: tuple[float, float, float], squared: bool) -> None:
    found = borders(*settings, squared)
    distances = np.arange(1500)
    counted = np.searchsorted(found, distances, side="right")
    np.testing.assert_array_equal(counted, [index(int(x * x if squared else x), *settings) for x in distances])


@pytest.mark.parametrize("on", ["k", "q", "v", "qk", "qkv"])
@pytest.mark.parametrize("method", ["product", "euclidean", "quantization"])
def test_contextual_irpe_equals_its_definition(on: str, method: str) -> None:
    module, qkv = module_of(IRPE(method, on=on), bidirectional=True), random_qkv(tokens=9)
    assert sorted(module.tables) == sorted(on)

    def row(distance: int) -> int:
        far = index(distance**2 if method == "quantization" else abs(distance), 1.9, 3.8, 15.2)
        return 3 + (far if distance >= 0 else -far) if method == "product" else far

    out, _ = attend(module, qkv, causal=False)
    torch.testing.assert_close(out, by_definition(module, qkv, row, causal=False))


def test_product_alone_tells_earlier_keys_from_later_ones() -> None:
    """Two keys at the same distance on either side of a query: their logits differ by the table alone."""
    apart = {}
    for method in ("product", "euclidean"):
        module = module_of(IRPE(method), bidirectional=True)
        q, k, v = random_qkv(tokens=3)
        k = k[:, :, :1].expand(-1, -1, 3, -1)
        _, weights = attend(module, (q, k, v), causal=False)
        apart[method] = (weights[..., 1, 0] - weights[..., 1, 2]).abs().min().item()
    assert apart["euclidean"] < 1e-15
    assert apart["product"] > 1e-3


def test_irpe_as_a_bias_is_one_number_per_bucket() -> None:
    (effect,) = IRPE(mode="bias", heads="own").effects(Shape(head_dim=4, heads=2, width=8))
    assert isinstance(effect, Bias)
    torch.nn.init.normal_(effect.module.weight)  # type: ignore[arg-type]
    at = torch.arange(17)[None]
    bias = effect.module(at[:, -1:], at)[0, :, 0].flip(-1)
    table = effect.module.weight.detach()
    torch.testing.assert_close(bias.detach(), table[[index(x, 1.9, 3.8, 15.2) for x in range(17)]].T)


@pytest.mark.parametrize("encoding", [Shaw(3), IRPE(on="qkv")])
def test_decoding_with_a_cache_equals_all_at_once(encoding: Shaw | IRPE) -> None:
    module, qkv = module_of(encoding), random_qkv(tokens=9)
    torch.testing.assert_close(decoded(module, qkv, [4, 1, 3, 1]), attend(module, qkv)[0])


@pytest.mark.parametrize("encoding", [Shaw(2), IRPE(on="qkv", heads="own")])
def test_gradients(encoding: Shaw | IRPE) -> None:
    assert gradients_agree(module_of(encoding), random_qkv(batch=1, tokens=4))


def test_steps_that_a_table_takes_no_part_in_are_not_asked_for() -> None:
    assert not module_of(IRPE(on="k")).does("values")
    assert not module_of(IRPE(on="v")).does("logits")


def test_values_of_another_width_are_refused() -> None:
    q, k, v = random_qkv()
    with pytest.raises(ValueError, match="vectors of 4 channels cannot be added to values of 3"):
        attend(module_of(Shaw(3)), (q, k, v[..., :3]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"alpha": 4, "beta": 3}, "0 < alpha <= beta"),
        ({"gamma": 1}, "alpha < gamma"),
        ({"mode": "bias", "on": "qk"}, "mode=bias has none"),
        ({"on": "kq"}, "on must be one of"),
    ],
)
def test_nonsense_is_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IRPE(**arguments)
