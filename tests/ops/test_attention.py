"""biased_attention(): against SDPA, with grouped heads, masks, soft caps, sinks; gradients to the bias."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from whorl.encodings import Shape, parse
from whorl.ops import biased_attention


def inputs(dtype: torch.dtype = torch.float64, queries: int = 7, keys: int = 7):
    torch.manual_seed(0)
    q = torch.randn(2, 4, queries, 8, dtype=dtype)
    k, v = torch.randn(2, 2, keys, 8, dtype=dtype), torch.randn(2, 2, keys, 8, dtype=dtype)
    return q, k, v


def bias_modules(notation: str) -> list[torch.nn.Module]:
    return [e.module for e in parse(notation).effects(Shape(head_dim=8, heads=4, width=32))]  # type: ignore[union-attr]


@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple", "alibi+window:size=3"])
def test_equals_sdpa_with_a_dense_bias(notation: str) -> None:
    q, k, v = inputs(queries=3)
    query_positions, key_positions = torch.tensor([[4, 5, 6]]), torch.arange(7)[None]
    mask = (key_positions[:, None] <= query_positions[:, :, None])[:, None]
    modules = bias_modules(notation)
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
    positions = {"query_positions": query_positions, "key_positions": key_positions}
    out, weights = biased_attention(q, k, v, modules, **positions, mask=mask, scale=0.3, impl="reference")
    bias = sum(m(query_positions, key_positions) for m in modules).double().masked_fill(~mask, -torch.inf)
    expected = scaled_dot_product_attention(q, k, v, bias.expand(2, 4, 3, 7), scale=0.3, enable_gqa=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3).double())


def test_softcap_and_sinks_against_the_formula() -> None:
    q, k, v = inputs()
    positions, sinks = torch.arange(7)[None], torch.randn(4).double()
    out, weights = biased_attention(
        q, k, v, [], query_positions=positions, key_positions=positions, scale=2.0, softcap=1.5, sinks=sinks,
        impl="reference",
    )  # fmt: skip
    logits = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 2.0
    exponentials = (1.5 * (logits / 1.5).tanh()).exp()
    expected = exponentials / (exponentials.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(out, expected @ v.repeat_interleave(2, 1))


@pytest.mark.parametrize("impl", ["reference", "blocked"])
def test_a_row_that_sees_nothing_is_finite(impl: str) -> None:
    q, k, v = inputs(torch.float32)
    positions = torch.arange(7)[None]
    out, _ = biased_attention(
        q, k, v, bias_modules("alibi+window:size=2"), query_positions=positions, key_positions=positions,
        mask=torch.zeros(1, 1, 7, 7, dtype=torch.bool), scale=1.0, impl=impl,
    )  # fmt: skip
    assert torch.isfinite(out).all()


def test_logits_are_float32_under_autocast() -> None:
    """At distance 100,003 a bfloat16 bias would be off by hundreds; the result must not change by one rounding more."""
    q, k, v = inputs(torch.float32)
    query_positions, key_positions = torch.full((1, 7), 100_003), 100_003 - torch.arange(7)[None] * 3
    arguments = {"query_positions": query_positions, "key_positions": key_positions, "mask": None, "scale": 0.3}
    plain, _ = biased_attention(q, k, v, bias_modules("alibi"), **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = biased_attention(q, k, v, bias_modules("alibi"), **arguments)
    assert torch.equal(plain, cast)
    exact, _ = biased_attention(q.double(), k.double(), v.double(), bias_modules("alibi"), **arguments)
    assert float((plain - exact).abs().max()) < 1e-5, "float32, not bfloat16: that would be off by 1e-2"
