"""Attention through PyTorch's own fused kernels, which run on a CPU too."""

from __future__ import annotations

import pytest
import torch
from attention_cases import HEADS, at, data, modules, problem
from scores_cases import BY_TOKEN, Forgets, bound
from torch._subclasses import FakeTensorMode

from whorl.hosts.transformers.interface import HostMask
from whorl.ops import biased_attention
from whorl.ops.attention import _choose
from whorl.ops.scores import BoundScore
from whorl.ops.visible import DenseVisible
from whorl.testing import max_error

ALL = at(torch.arange(203)[None])


def causal_mask(queries: int, keys: int) -> HostMask:
    from transformers.masking_utils import causal_mask_function

    how = {"batch_size": 2, "q_length": queries, "kv_length": keys, "q_offset": keys - queries, "kv_offset": 0}
    return HostMask(lambda **_: pytest.fail("the mask was looked at"), {**how, "mask_function": causal_mask_function})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_without_channels_it_is_what_hosts_run(dtype: torch.dtype, causal: bool) -> None:
    """To the bit, gradients too."""
    leaves = [x.requires_grad_() for x in data(203, 203, 8, dtype)]
    factor = torch.linspace(0.5, 2.0, 203).view(1, 1, -1).requires_grad_()
    got, _ = biased_attention(*leaves, [], causal=causal, scale=0.4, factor=factor, impl="fused", **ALL)
    q, k, v = leaves
    q = (q.float() * factor[..., None]).to(dtype)
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=0.4, enable_gqa=True)
    results = [[x, *torch.autograd.grad(x, [*leaves, factor], torch.ones_like(x))] for x in (got, plain)]
    for mine, wanted in zip(*results, strict=True):
        assert torch.equal(mine, wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", BY_TOKEN)
@pytest.mark.parametrize("queries", [203, 1])
def test_scores_token_by_token(name: str, queries: int) -> None:
    q, k, v = data(queries, 203, 20, torch.bfloat16)
    how = {"causal": True, "scale": 0.3, "scores": [bound(name, queries, 203)]}
    how |= at(torch.arange(203 - queries, 203)[None], torch.arange(203)[None])
    truth, plain = (
        biased_attention(q.to(t), k.to(t), v.to(t), [], impl="reference", **how)[0] for t in (torch.float64, q.dtype)
    )
    got, _ = biased_attention(q, k, v, [], impl="fused", **how)
    rounding = torch.finfo(q.dtype).eps * float(truth.abs().max())
    assert max_error(got, truth) <= 2 * max_error(plain, truth) + rounding


@torch.no_grad()
@pytest.mark.parametrize("size", [3_000, 50_000])
def test_what_is_left_of_large_sums_is_kept(size: int) -> None:
    """Two sums differ by 3 or so: bfloat16 knows neither to better than 8, and two of it 50,000 to 0.4."""
    q, k, v = data(203, 203, 16, torch.bfloat16)
    state = (-size - 3 * torch.rand(2, 203, HEADS, 1).cumsum(1)).float()
    how = {"causal": True, "scale": 0.25, "scores": [BoundScore(Forgets(), state, state)], **ALL}
    truth, _ = biased_attention(q.double(), k.double(), v.double(), [], impl="reference", **how)
    got, _ = biased_attention(q, k, v, [], impl="fused", **how)
    assert max_error(got, truth) <= 2 * torch.finfo(q.dtype).eps * float(truth.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("queries", [203, 1])
def test_a_mask_that_is_known_is_not_made(queries: int) -> None:
    q, k, v = data(queries, 203, 8, torch.float32)
    how = {"scale": 0.4, **at(torch.arange(203 - queries, 203)[None], torch.arange(203)[None])}
    expected, _ = biased_attention(q, k, v, [], causal=True, impl="reference", **how)
    got, _ = biased_attention(q, k, v, [], mask=causal_mask(queries, 203), impl="fused", **how)
    assert max_error(got, expected) < 1e-6


def fake(tokens: int = 9, width: int = 64, dtype: torch.dtype = torch.bfloat16, queries: int | None = None, **how):
    """A problem on a GPU that need not be there."""
    with FakeTensorMode():
        shapes = ((2, 4, queries or tokens), (2, 2, tokens), (2, 2, tokens))
        tensors = [torch.empty(*shape, width, device="cuda", dtype=dtype) for shape in shapes]
        channels = [torch.empty(2, 4, n, 2, device="cuda") for n in (queries or tokens, tokens)]
    given = {name: how.pop(name) for name in ("biases", "mask") if name in how}
    if how.pop("learned", False):
        channels[0].requires_grad_()
    made = problem(given.get("biases", []), *tensors, given.get("mask"))._replace(causal=True)
    return made._replace(**{"channels": tuple(channels) if how.pop("with_channels", False) else None, **how})


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.ops.impl.flex._triton_missing", lambda: None)
    monkeypatch.setattr("whorl.ops.impl.flex._shared_memory", lambda _: 227 << 10)
    monkeypatch.setattr("whorl.ops.attention.plain", lambda _: True)  # fake tensors stand for a GPU's here
    monkeypatch.delenv("WHORL_IMPL", raising=False)


def test_auto_takes_it_on_a_gpu_for_what_no_bias_is_added_to() -> None:
    assert _choose("auto", fake()) == "fused"
    assert _choose("auto", fake(dtype=torch.float32)) == "fused"
    assert _choose("auto", fake(with_channels=True)) == "fused"
    assert _choose("auto", fake(queries=1, with_channels=True)) == "fused"
    assert _choose("auto", fake(mask=causal_mask(9, 9))) == "fused"
    assert _choose("auto", fake(biases=modules("alibi"))) == "flex"


MISSING = {
    "it adds no bias": {"biases": modules("alibi")},
    "it knows no softcap and no sinks": {"softcap": 2.0},
    "it takes no mask but of all keys, or of those up to a query's own": {
        "mask": DenseVisible(torch.ones(1, 1, 9, 9, dtype=torch.bool), 9, 9)
    },
    "causal, it is for as many queries as keys, and there are 3 and 9": {"queries": 3},
    "the inputs are float64": {"dtype": torch.float64},
    "it writes channels as bfloat16 numbers, and the inputs are torch.float16": {
        "with_channels": True, "dtype": torch.float16,
    },
    "the gradients of its channels would be sums of numbers that are rounded": {"with_channels": True, "learned": True},
    "with channels, q and v have 264 and 248 numbers a head": {"with_channels": True, "width": 248},
}  # fmt: skip


@pytest.mark.parametrize("why", MISSING)
def test_what_it_cannot_do_goes_on_down_the_table(why: str) -> None:
    asked = fake(**MISSING[why])
    assert _choose("auto", asked) in ("flex", "blocked")
    with pytest.raises(ValueError, match=f"impl='fused' cannot run here: .*{why}"):
        _choose("fused", asked)


def test_channels_go_through_flex_where_the_sum_of_their_gradient_needs_no_order() -> None:
    how = {"with_channels": True, "dtype": torch.float16}
    assert _choose("auto", fake(**how)) == "flex"
    assert _choose("auto", fake(learned=True, **how)) == "flex"
    torch.use_deterministic_algorithms(True)
    try:
        assert _choose("auto", fake(**how)) == "flex"
        assert _choose("auto", fake(learned=True, **how)) == "blocked"
        with torch.no_grad():
            assert _choose("auto", fake(learned=True, **how)) == "flex"
    finally:
        torch.use_deterministic_algorithms(False)
