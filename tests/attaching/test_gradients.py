"""Gradients where something is not, in the backward pass, what it was in the forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


@pytest.mark.parametrize("encoding", ["cope", "dape", "irpe:on=qkv"])
def test_backward_passes_of_two_threads_at_once(encoding: str) -> None:
    """Each has the gradients of the parameters that it was given, and the model keeps its own."""
    model = whorl.attach(peaked(tiny_model("llama")), encoding)
    own = dict(model.named_parameters())
    sets = [{name: (p.detach() * (1 + 0.1 * n)).requires_grad_() for name, p in own.items()} for n in range(4)]
    expected = [torch.autograd.grad(_loss(functional_call(model, s, (TOKENS,))), [*s.values()]) for s in sets]
    losses = [_loss(functional_call(model, s, (TOKENS,))) for s in sets]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda of: torch.autograd.grad(of[0], [*of[1].values()]), zip(losses, sets, strict=True)))
    for made, exact in zip(found, expected, strict=True):
        for a, b in zip(made, exact, strict=True):
            torch.testing.assert_close(a, b)
    assert all(p is own[name] for name, p in model.named_parameters())


@pytest.mark.parametrize("encoding", ["cope", "dape", "irpe:on=qkv"])
def test_what_is_saved_elsewhere_until_the_backward_pass(encoding: str) -> None:
    model = whorl.attach(peaked(tiny_model("llama")), encoding)
    expected = torch.autograd.grad(_loss(model(TOKENS)), [*model.parameters()])
    with torch.autograd.graph.save_on_cpu():
        loss = _loss(model(TOKENS))
    for a, b in zip(torch.autograd.grad(loss, [*model.parameters()]), expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("encoding", ["alibi", "cope", "dape", "irpe:on=qkv"])
def test_positions_that_were_made_under_inference_mode(encoding: str) -> None:
    model = whorl.attach(peaked(tiny_model("llama")), encoding)
    with torch.inference_mode():
        positions = torch.arange(40).repeat(2, 1)
    for a, b in zip(
        torch.autograd.grad(_loss(model(TOKENS, position_ids=positions)), [*model.parameters()]),
        torch.autograd.grad(_loss(model(TOKENS)), [*model.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """This process as all there are, with gloo."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("encoding", ["cope", "dape", "irpe:on=qkv", "fire"])
def test_under_fsdp_of_the_first_kind(encoding: str, names: bool, alone: None) -> None:
    """Which has tensors as attributes in the place of parameters while a pass goes through them."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = whorl.attach(peaked(tiny_model("llama")), encoding)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _loss(model(TOKENS, use_cache=False)).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sharded = FullyShardedDataParallel(model, use_orig_params=names, device_id=torch.device("cpu"))
    optimizer = torch.optim.SGD(sharded.parameters(), lr=1.0)
    _loss(sharded(TOKENS, use_cache=False)).backward()
    optimizer.step()
    with FullyShardedDataParallel.summon_full_params(sharded):
        after = {name.replace("_fsdp_wrapped_module.", ""): p.detach() for name, p in sharded.named_parameters()}
    assert expected.keys() <= after.keys()
    for name, gradient in expected.items():
        assert max_error(before[name] - after[name], gradient) <= 1e-4 * float(gradient.abs().max()) + 1e-6, name
