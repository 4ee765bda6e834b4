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


@pytest.mark.parametrize("impl", ["reference", "cpu", "blocked", "flex"])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("hidden_by", ["the mask", "a window"])
def test_a_query_that_sees_no_key_gives_nothing(hidden_by: str, with_sinks: bool, impl: str) -> None:
    """As SDPA has it. The other queries are as if it were not there."""
    given = [*inputs(torch.float32)]
    positions, blind = torch.arange(7)[None], torch.tensor([0, 3])
    sinks = torch.randn(4) if with_sinks else None
    mask, at = torch.ones(7, 7, dtype=torch.bool).tril(), positions.clone()
    notation = "alibi"
    if hidden_by == "the mask":
        mask[blind] = False
    else:
        notation, at[:, blind] = "alibi+window:size=9", 50
    how = {"query_positions": at, "key_positions": positions, "mask": mask[None, None], "scale": 1.0}
    if impl == "cpu" and hidden_by == "a window":
        pytest.skip("positions with gaps are not for the loops")

    def attend(impl: str, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        return biased_attention(*tensors, bias_modules(notation), **how, sinks=tensors_sinks, impl=impl)

    tensors_sinks = sinks
    leaves = [x.clone().requires_grad_(impl != "flex") for x in given]  # on a CPU it has no backward pass
    if sinks is not None:
        tensors_sinks = sinks.clone().requires_grad_(impl != "flex")
    out, weights = attend(impl, leaves)
    assert torch.equal(out[:, :, blind], torch.zeros(2, 4, 2, 8))
    assert weights is None or torch.equal(weights[:, :, blind], torch.zeros(2, 4, 2, 7))
    bias = sum(m(at, positions) for m in bias_modules(notation)).masked_fill(~mask, -torch.inf)
    if sinks is None:
        expected = scaled_dot_product_attention(*given, bias.expand(2, 4, 7, 7), scale=1.0, enable_gqa=True)
        torch.testing.assert_close(out, expected)
    if impl != "flex":
        learned = leaves if sinks is None else [*leaves, tensors_sinks]
        for gradient in torch.autograd.grad(out[:, :, blind].sin().sum(), learned, retain_graph=True):
            assert torch.equal(gradient, torch.zeros_like(gradient))
        rest = torch.tensor([1, 2, 4, 5, 6])
        got = torch.autograd.grad(out.sin().sum(), learned, retain_graph=True)
        for x, y in zip(got, torch.autograd.grad(out[:, :, rest].sin().sum(), learned), strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_dropout_of_nothing_is_nothing(impl: str) -> None:
    q, k, v = (x.requires_grad_() for x in inputs(torch.float32))
    positions, mask = torch.arange(7)[None], torch.ones(1, 1, 7, 7, dtype=torch.bool)
    mask[:, :, 3] = False
    how = {"query_positions": positions, "key_positions": positions, "mask": mask, "scale": 1.0, "impl": impl}
    out, _ = biased_attention(q, k, v, bias_modules("alibi"), **how, dropout=0.5)
    assert torch.equal(out[:, :, 3], torch.zeros(2, 4, 8))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(out[:, :, 3].sum(), (q, k, v)))


@pytest.mark.parametrize("impl", ["reference", "cpu", "blocked", "flex"])
def test_a_number_that_is_none_is_not_taken_for_a_hidden_key(impl: str) -> None:
    q, k, v = inputs(torch.float32)
    q[:, :, 3] = torch.nan
    positions = torch.arange(7)[None]
    how = {"query_positions": positions, "key_positions": positions, "causal": True, "scale": 1.0, "impl": impl}
    out, _ = biased_attention(q, k, v, bias_modules("alibi"), **how)
    assert out[:, :, 3].isnan().all()


IMPLS = ["auto", "reference", "cpu", "blocked"]
EMPTY = {  # batch, heads, key heads, queries, keys, head dim, channels of v
    "no batch": (0, 4, 2, 3, 5, 8, 8),
    "no heads": (2, 0, 0, 3, 5, 8, 8),
    "no heads of queries": (2, 0, 2, 3, 5, 8, 8),
    "no queries": (2, 4, 2, 0, 5, 8, 8),
    "no keys": (2, 4, 2, 3, 0, 8, 8),
    "no tokens": (2, 4, 2, 0, 0, 8, 8),
    "no channels": (2, 4, 2, 3, 5, 0, 8),
    "no channels of values": (2, 4, 2, 3, 5, 8, 0),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("sizes", EMPTY.values(), ids=EMPTY)
def test_where_something_is_empty(sizes: tuple[int, ...], impl: str, masked: bool) -> None:
    batch, heads, key_heads, queries, keys, head_dim, width = sizes
    q = torch.randn(batch, heads, queries, head_dim, requires_grad=True)
    k = torch.randn(batch, key_heads, keys, head_dim, requires_grad=True)
    v = torch.randn(batch, key_heads, keys, width, requires_grad=True)
    mask = torch.ones(batch, 1, queries, keys, dtype=torch.bool) if masked else None
    at = {"query_positions": torch.arange(queries)[None], "key_positions": torch.arange(keys)[None]}
    biases = bias_modules("alibi") if heads else bias_modules("window:size=3")
    out, _ = biased_attention(q, k, v, biases, **at, mask=mask, scale=1.0, impl=impl)
    assert out.shape == (batch, heads, queries, width)
    if keys == 0:
        assert torch.equal(out, torch.zeros_like(out))
    if head_dim == 0:  # the biases alone decide
        bias = sum(m(at["query_positions"], at["key_positions"]) for m in biases)
        torch.testing.assert_close(out, bias.softmax(-1).expand(2, 4, 3, 5) @ v.repeat_interleave(2, 1))
    assert [g.shape for g in torch.autograd.grad(out.sum(), (q, k, v))] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("impl", [*IMPLS, "flex"])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
@pytest.mark.parametrize("size", [2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30])
def test_windows_of_any_size(size: int, kind: torch.dtype, impl: str) -> None:
    """They hide nothing from anybody here."""
    q, k, v = inputs(torch.float32)
    positions = torch.arange(7, dtype=kind)[None] + 2**31 - 7
    how = {"query_positions": positions, "key_positions": positions, "causal": True, "scale": 1.0, "impl": impl}
    expected, _ = biased_attention(q, k, v, bias_modules("alibi"), **how)
    assert torch.equal(biased_attention(q, k, v, bias_modules(f"alibi+window:size={size}"), **how)[0], expected)


@pytest.mark.parametrize("impl", [*IMPLS, "flex"])
def test_distances_that_int32_positions_have_and_int32_has_not(impl: str) -> None:
    q, k, v = inputs(torch.float32)
    at = {"query_positions": torch.arange(7)[None] + 2**31 - 7, "key_positions": torch.arange(7)[None] - 2**31}
    expected, _ = biased_attention(q, k, v, bias_modules("kerple"), **at, scale=1.0, impl="reference")
    at = {name: positions.int() for name, positions in at.items()}
    with torch.no_grad():
        out, _ = biased_attention(q, k, v, bias_modules("kerple"), **at, scale=1.0, impl=impl)
    torch.testing.assert_close(out, expected)


def test_flex_refuses_a_vector_of_billions_of_distances() -> None:
    q, k, v = inputs(torch.float32)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 2**31]])
    at = {"query_positions": positions, "key_positions": positions, "scale": 1.0}
    with pytest.raises(ValueError, match="these distances go from -2147483648 to 2147483648; take impl='blocked'"):
        biased_attention(q, k, v, bias_modules("alibi"), **at, impl="flex")


@pytest.mark.parametrize("impl", [*IMPLS, "flex"])
@pytest.mark.parametrize("which", ["q", "k", "v", "sinks", "gradient"])
def test_views_that_say_minus(which: str, impl: str) -> None:
    """A lazy conjugate's imaginary part has the opposite numbers in memory, and a bit that says so."""
    given = dict(zip("qkv", inputs(torch.float32), strict=True), sinks=torch.randn(4), gradient=torch.randn(2, 4, 7, 8))
    at = {"query_positions": torch.arange(7)[None], "key_positions": torch.arange(7)[None]}

    def run(impl: str, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        leaves = [given[name].detach().requires_grad_(impl != "flex") for name in ("q", "k", "v", "sinks")]
        q, k, v, sinks = leaves
        how = {**at, "causal": True, "scale": 1.0, "sinks": sinks, "impl": impl}
        out, _ = biased_attention(q, k, v, bias_modules("alibi"), **how)
        return [out.detach(), *(() if impl == "flex" else torch.autograd.grad(out, leaves, given["gradient"]))]

    expected = run("reference", given)
    given[which] = torch._neg_view(-given[which])
    assert given[which].is_neg()
    for got, wanted in zip(run(impl, given), expected, strict=impl != "flex"):
        torch.testing.assert_close(got, wanted)


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
