"""Gradients where something is not, in the backward pass, what it was in the forward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.func import functional_call

import whorl
from tests.contract import TOKENS
from whorl.testing import max_error, peaked, tiny_model

PADDED = torch.ones_like(TOKENS)
PADDED[0, :7] = 0
HOW = {"attention_mask": PADDED, "position_ids": (PADDED.cumsum(-1) - 1).clamp(min=0)}
LEARNED = [
    ("cope", "auto"),
    ("dape", "auto"),
    ("fire", "auto"),
    ("fox", "auto"),
    ("irpe:on=qkv", "auto"),
    ("path", "auto"),
    ("rope+cope", "reference"),
    ("selective-rope", "auto"),
    ("t5", "auto"),
]


def _loss(output: Any) -> torch.Tensor:
    return output.logits[:, 7:].logsumexp(-1).mean()


@pytest.mark.parametrize(("encoding", "impl"), LEARNED)
def test_a_functional_call_has_gradients_of_what_it_was_given(encoding: str, impl: str) -> None:
    model = whorl.attach(peaked(tiny_model("llama")), encoding, impl=impl)
    given = {
        name: (p.detach() * (1 + 0.3 * torch.rand_like(p))).requires_grad_() for name, p in model.named_parameters()
    }
    own = copy.deepcopy(model)
    own.load_state_dict({name: p.detach() for name, p in given.items()}, strict=False)
    _loss(functional_call(model, given, (TOKENS,), HOW)).backward()
    _loss(own(TOKENS, **HOW)).backward()
    for name, parameter in own.named_parameters():
        there, here = given[name].grad, parameter.grad
        assert (there is None) == (here is None), name
        if here is not None:
            assert max_error(there, here) <= 1e-4 * float(here.abs().max()) + 1e-9, name
    assert all(p.grad is None for p in model.parameters())


GO_BY_POSITIONS_AGAIN = ["dape", "irpe:on=qkv", "rerope:window=6,train_length=16"]  # in the backward pass


@pytest.mark.parametrize("encoding", ["alibi", "path", "t5", *GO_BY_POSITIONS_AGAIN])
def test_positions_that_are_written_to_before_the_backward_pass(encoding: str) -> None:
    """A buffer that is used again: gradients are those of the positions that were read, or PyTorch says what it is."""
    model = whorl.attach(peaked(tiny_model("llama")), encoding)
    first, then = torch.arange(40).repeat(2, 1), 2 * torch.arange(40).repeat(2, 1)

    def gradients(buffer: torch.Tensor, second: torch.Tensor) -> list[torch.Tensor | None]:
        model.zero_grad()
        loss = _loss(model(TOKENS, position_ids=buffer, use_cache=False))
        second.copy_(then)
        (loss + _loss(model(TOKENS, position_ids=second, use_cache=False))).backward()
        return [p.grad for p in model.parameters()]

    expected, buffer = gradients(first.clone(), then.clone()), first.clone()
    if encoding in GO_BY_POSITIONS_AGAIN:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            gradients(buffer, buffer)
        return
    for a, b in zip(gradients(buffer, buffer), expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b)
