"""What is made of positions is made once for the layers that are handed the same two tensors."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from attention_cases import HEADS, at, data, modules
from torch._subclasses.fake_tensor import FakeTensorMode

from whorl.encodings.alibi import LinearBias
from whorl.encodings.kerple import KernelBias
from whorl.encodings.window import WindowBias
from whorl.ops import biased_attention, sharing
from whorl.ops.distances import numbers_of
from whorl.ops.impl import cpu_attention, flex
from whorl.ops.visible import DenseVisible


class Made:
    """Something that can be held weakly."""

    def __init__(self, *how: object) -> None:
        self.how = how[3:]


def test_the_same_tensors_share_what_was_made_and_equal_ones_do_not() -> None:
    q, k = torch.arange(5)[None], torch.arange(7)[None]
    first = sharing.of_positions(Made, q, k, 1)
    assert sharing.of_positions(Made, q, k, 1) is first
    assert sharing.of_positions(Made, q, k, 2).how == (2,)
    for others in ((q.clone(), k), (q, k.clone()), (q[:, 1:], k)):
        assert sharing.of_positions(Made, *others, 1) is not first
    assert sharing.of_positions(Made, q, k, 1) is first


@pytest.mark.parametrize("which", [0, 1])
def test_a_tensor_that_was_written_to_shares_no_more(which: int) -> None:
    positions = [torch.arange(5)[None], torch.arange(7)[None]]
    first = sharing.of_positions(Made, *positions)
    positions[which].add_(0)
    assert sharing.of_positions(Made, *positions) is first, "the same numbers"
    positions[which].numpy()[0, 0] = 9  # of which PyTorch knows nothing
    assert sharing.of_positions(Made, *positions) is not first


def test_on_a_device_the_count_of_writes_tells() -> None:
    with FakeTensorMode():
        q, k = torch.empty(1, 5, device="meta"), torch.empty(1, 7, device="meta")
        first = sharing.of_positions(Made, q, k)
        assert sharing.of_positions(Made, q, k) is first
        k.add_(0)
        assert sharing.of_positions(Made, q, k) is not first
    with torch.inference_mode():
        q = torch.empty(1, 5, device="meta")
        assert sharing.of_positions(Made, q, q) is not sharing.of_positions(Made, q, q), "these have no count"


def test_nothing_outlives_its_positions() -> None:
    q, k = torch.arange(5)[None], torch.arange(7)[None]
    made = [weakref.ref(sharing.of_positions(Made, q, k, n)) for n in range(3 * sharing.KEPT)]
    assert sum(one() is not None for one in made) == sharing.KEPT
    del q
    gc.collect()
    assert not any(one() for one in made)


def test_a_mask_of_one_query_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all the layers that are handed it, as long as it is there and says the same."""
    tensors, mask, found = data(1, 9, 16, torch.float32), torch.ones(1, 1, 1, 9, dtype=torch.bool), []
    original = DenseVisible._find_runs
    monkeypatch.setattr(DenseVisible, "_find_runs", lambda self: (found.append(weakref.ref(self)), original(self))[1])
    how = {"scale": 0.4, **at(torch.arange(8, 9)[None], torch.arange(9)[None])}

    def agree(mask: torch.Tensor, times: int) -> None:
        for _ in range(2):
            got, expected = (
                biased_attention(*tensors, modules("alibi"), mask=mask, impl=i, **how)[0] for i in ("cpu", "reference")
            )
            torch.testing.assert_close(got, expected)
        assert len(found) == times

    agree(mask, 1)
    mask.numpy()[..., :4] = False
    agree(mask, 2)
    for _ in range(40):
        positions = at(torch.arange(8, 9)[None], torch.arange(9)[None])
        biased_attention(*tensors, modules("alibi"), mask=mask, impl="cpu", scale=0.4, **positions)
    assert len(found) == 2
    (kept,) = found[1]().of_layers.values()
    assert len(kept) < 40, "a mask that goes on and on would hold all the positions that came with it"
    del mask, kept
    gc.collect()
    assert found[1]() is None


@torch.no_grad()
def test_the_loops_make_no_vector_of_plain_numbers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, positions, made = data(1, 9, 16, torch.float32), at(torch.arange(8, 9)[None], torch.arange(9)[None]), []
    original = cpu_attention.by_distance
    monkeypatch.setattr(cpu_attention, "by_distance", lambda *how: (made.append(how), original(*how))[1])
    for notation, twice, times in (("alibi", 1, 1), ("alibi", 2, 1), ("alibi+window:size=4", 1, 1), ("t5", 1, 3)):
        made.clear()
        for _ in range(3):
            biases = modules(notation) * twice
            got, expected = (
                biased_attention(*tensors, biases, scale=0.4, impl=i, **positions)[0] for i in ("cpu", "reference")
            )
            torch.testing.assert_close(got, expected)
        assert len(made) == times, notation


def test_a_vector_that_inference_made_first_serves_training() -> None:
    *tensors, positions = *data(9, 9, 16, torch.float32), torch.arange(9)[None]
    how = {"scale": 0.4, "causal": True, "impl": "cpu", **at(positions)}
    with torch.inference_mode():
        biased_attention(*tensors, modules("alibi"), **how)
    leaves = [x.detach().requires_grad_() for x in tensors]
    out, _ = biased_attention(*leaves, modules("alibi"), **how)
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), leaves))


def test_what_inference_made_first_serves_training() -> None:
    q = torch.arange(5)[None]
    with torch.inference_mode():
        made = sharing.of_positions(lambda _, q, k: q - k, q, q)
    assert not made.is_inference()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_makes_no_vector_of_plain_numbers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, positions, made = data(9, 9, 16, torch.float32), at(torch.arange(9)[None]), []
    original = flex.by_distance
    monkeypatch.setattr(flex, "by_distance", lambda *how: (made.append(how), original(*how))[1])
    how = {"scale": 0.4, "causal": True, **positions}
    for notation, twice, times in (("alibi", 1, 1), ("alibi", 2, 1), ("alibi+window:size=4", 1, 1), ("t5", 1, 3)):
        made.clear()
        for _ in range(3):
            biases = modules(notation) * twice
            got, expected = (biased_attention(*tensors, biases, impl=i, **how)[0] for i in ("flex", "reference"))
            torch.testing.assert_close(got, expected)
        assert len(made) == times, notation


def test_which_biases_are_plain_numbers() -> None:
    assert numbers_of([LinearBias(HEADS)]) == numbers_of([LinearBias(HEADS)])
    assert numbers_of([LinearBias(HEADS)]) != numbers_of([LinearBias(2 * HEADS)])
    assert numbers_of([WindowBias(3)]) != numbers_of([WindowBias(4)])
    assert numbers_of(modules("t5")) is None
    hooked, buffered, holding = LinearBias(HEADS), LinearBias(HEADS), LinearBias(HEADS)
    hooked.register_forward_hook(lambda *_: None)
    buffered.register_buffer("x", torch.zeros(1))
    holding.x = torch.zeros(1)
    assert numbers_of([hooked]) is numbers_of([buffered]) is numbers_of([holding]) is None


@pytest.mark.parametrize("written", ["query_positions", "key_positions"])
@pytest.mark.parametrize("module", [WindowBias(5), KernelBias(4, "log", torch.Generator())])
def test_positions_that_are_written_to_under_the_same_mask(module: torch.nn.Module, written: str) -> None:
    """A caller that decodes may count on in one tensor, and keep its mask."""
    q, k, v = torch.randn(1, 4, 1, 8), torch.randn(1, 4, 12, 8), torch.randn(1, 4, 12, 8)
    mask = torch.ones(1, 1, 1, 12, dtype=torch.bool)
    at = {"query_positions": torch.tensor([[11]]), "key_positions": torch.arange(12)[None]}
    for _ in range(3):
        made, exact = (
            biased_attention(q, k, v, [module], **at, mask=mask, scale=0.4, impl=impl)[0]
            for impl in ("auto", "reference")
        )
        torch.testing.assert_close(made, exact)
        at[written] += 2
