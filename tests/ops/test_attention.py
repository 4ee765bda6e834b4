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
    out, weights = biased_attention(
        q, k, v, modules, query_positions=query_positions, key_positions=key_positions, mask=mask, scale=0.3
    )
    bias = sum(m(query_positions, key_positions) for m in modules).double().masked_fill(~mask, -torch.inf)
    expected = scaled_dot_product_attention(q, k, v, bias.expand(2, 4, 3, 7), scale=0.3, enable_gqa=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 3).double())


def test_softcap_and_sinks_against_the_formula() -> None:
    q, k, v = inputs()
    positions, sinks = torch.arange(7)[None], torch.randn(4).double()
    out, weights = biased_attention(
        q, k, v, [], query_positions=positions, key_positions=positions, mask=None, scale=2.0, softcap=1.5, sinks=sinks
    )
    logits = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 2.0
    exponentials = (1.5 * (logits / 1.5).tanh()).exp()
    expected = exponentials / (exponentials.sum(-1, keepdim=True) + sinks.exp()[:, None, None])
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(out, expected @ v.repeat_interleave(2, 1))


def test_a_row_that_sees_nothing_is_finite() -> None:
    q, k, v = inputs(torch.float32)
    positions = torch.arange(7)[None]
    out, _ = biased_attention(
        q, k, v, bias_modules("alibi+window:size=2"), query_positions=positions, key_positions=positions,
        mask=torch.zeros(1, 1, 7, 7, dtype=torch.bool), scale=1.0,
    )  # fmt: skip
    assert torch.isfinite(out).all()


def test_gradients_reach_q_k_v_and_the_bias() -> None:
    q, k, v = (x.requires_grad_() for x in inputs(queries=4, keys=4))
    (module,) = bias_modules("kerple")
    module.double()
    positions = torch.arange(4)[None]

    def attend(q, k, v, r1, r2):
        functional = torch.func.functional_call
        bias = _Bound(lambda a, b: functional(module, {"r1": r1, "r2": r2}, (a, b)))
        return biased_attention(
            q, k, v, [bias], query_positions=positions, key_positions=positions, mask=None, scale=0.3
        )[0]

    out = attend(q, k, v, module.r1, module.r2)
    out.square().sum().backward()
    for tensor in (q, k, v, module.r1, module.r2):
        assert tensor.grad is not None
        assert (tensor.grad != 0).any()


class _Bound(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, query_positions, key_positions):
        return self.function(query_positions, key_positions)


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
