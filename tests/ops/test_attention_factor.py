"""What multiplies a query's logits (a `Scale`), by itself: the compiled loops read it beside q, others are handed their
product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_cases import HEADS, Wrapped, agree, at, data, modules
from torch.utils._python_dispatch import TorchDispatchMode

from whorl.ops import biased_attention
from whorl.testing import max_error

SHAPES = {"one for all": (1, 1), "of rows": (2, 1), "of heads": (1, HEADS), "of both": (2, HEADS)}


def factors(shape: str, queries: int) -> torch.Tensor:
    """Of either sign, and 0 for the first query, as the logarithm of one key is."""
    made = torch.randn(*SHAPES[shape], queries)
    made[..., 0] = 0
    return made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("impl", "tokens"), [("cpu", 203), ("cpu", 37), ("blocked", 67)])
def test_forward_and_every_gradient(impl: str, tokens: int, dtype: torch.dtype, shape: str) -> None:
    """With grouped heads, a bias, a cap and sinks, the factor's gradient too."""
    how = {"causal": True, "softcap": 2.0, "sinks": torch.randn(HEADS), **at(torch.arange(tokens)[None])}
    agree(impl, modules("t5"), data(tokens, tokens, 24, dtype), dtype, factor=factors(shape, tokens), **how)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", ["cpu", "decode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_query(dtype: torch.dtype, impl: str, shape: str) -> None:
    positions = torch.arange(300)[None]
    factor = torch.linspace(0.5, 2, 2 * HEADS).view(2, HEADS, 1)[: SHAPES[shape][0], : SHAPES[shape][1]]
    how = {"sinks": torch.randn(HEADS), **at(positions[:, -1:], positions)}
    agree(impl, modules("alibi"), data(1, 300, 24, dtype), dtype, factor=factor, **how)


def test_several_threads_share_the_queries_of_a_head() -> None:
    before, tokens = torch.get_num_threads(), 600
    tensors, factor = data(tokens, tokens, 16, torch.float32, batch=1), factors("of heads", tokens).requires_grad_()
    how = {"scale": 0.4, "causal": True, "impl": "cpu", **at(torch.arange(tokens)[None])}
    grads = []
    for threads in (1, 5):
        torch.set_num_threads(threads)
        out, _ = biased_attention(*tensors, [], factor=factor, **how)
        grads.append(torch.autograd.grad(out.sin().sum(), factor)[0])
    torch.set_num_threads(before)
    assert grads[0].abs().max() > 0.1
    torch.testing.assert_close(*grads)


class Products(TorchDispatchMode):
    """How many operations give as many numbers as q has."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.found = numbers, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.numel() == self.numbers and "empty" not in str(function):
            self.found.append(str(function))
        return made


def test_the_loops_pass_over_q_once() -> None:
    """A factor that is learned makes no operation more on tensors of q's size, forward and backward."""
    tensors, counted = [x.requires_grad_() for x in data(70, 70, 24, torch.float32)], []
    how = {"scale": 0.4, "causal": True, **at(torch.arange(70)[None])}
    for factor in ([], [torch.ones(1, HEADS, 70, requires_grad=True)]):
        with Products(tensors[0].numel()) as products:
            out, _ = biased_attention(*tensors, [], **dict(zip(["factor"], factor, strict=False)), **how)
            torch.autograd.grad(out, [*tensors, *factor], torch.ones_like(out))
        counted.append(products.found)
    assert counted[0] == counted[1]


def test_the_loops_round_no_product_to_bfloat16() -> None:
    tensors, factor = data(60, 60, 24, torch.bfloat16), factors("of both", 60)
    how = {"scale": 0.4, "causal": True, "impl": "cpu", "factor": factor, **at(torch.arange(60)[None])}
    in_bfloat16, in_float32 = (biased_attention(*x, [], **how)[0] for x in (tensors, [x.float() for x in tensors]))
    assert torch.equal(in_bfloat16, in_float32.bfloat16())


def test_a_factor_that_is_more_than_numbers_is_not_read_by_loops() -> None:
    tensors, factor = data(9, 9, 8, torch.float32), torch.linspace(0.5, 2, 9).view(1, 1, 9)
    how = {"scale": 0.4, "causal": True, **at(torch.arange(9)[None])}
    plainly, _ = biased_attention(*tensors, modules("alibi"), factor=factor, **how)
    wrapped, _ = biased_attention(*tensors, modules("alibi"), factor=Wrapped(factor), **how)
    assert max_error(wrapped.inner, plainly) < 1e-5
    with pytest.raises(ValueError, match="impl='cpu' cannot run here: q, k, v or the factor is a tensor"):
        biased_attention(*tensors, modules("alibi"), factor=Wrapped(factor), impl="cpu", **how)
