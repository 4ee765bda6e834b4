"""Biased attention block by block, in PyTorch's operations, against the dense reference in float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from attention_cases import HEADS, NOTATIONS, agree, at, data, kinds, modules

from whorl.ops import biased_attention
from whorl.ops.impl import blocked
from whorl.testing import max_error


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 8 keys and 8 queries, so that a few tokens make many; and no memory that nobody wrote."""
    monkeypatch.setattr(blocked, "KEYS", 8)
    monkeypatch.setattr(blocked, "FEWEST", 8)
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_forward_and_every_gradient(notation: str, dtype: torch.dtype, softcap: float | None) -> None:
    positions = torch.arange(37)[None] + 1_000_003
    agree(
        "blocked", modules(notation), data(37, 37, 8, dtype), dtype, causal=True, softcap=softcap,
        sinks=torch.randn(HEADS), **at(positions),
    )  # fmt: skip


SIZES = [*itertools.product((1, 63, 200), (2, 80, 96)), (1000, 16)]


@pytest.mark.matrix
@pytest.mark.parametrize(("tokens", "head_dim"), SIZES)
@pytest.mark.parametrize("notation", ["alibi", "t5"])
def test_odd_sizes(tokens: int, head_dim: int, notation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo() if tokens == 1000 else None  # the real block sizes
    tensors = data(tokens, tokens, head_dim, torch.float32)
    agree("blocked", modules(notation), tensors, torch.float32, causal=True, **at(torch.arange(tokens)[None]))


@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple"])
@pytest.mark.parametrize("kind", ["packed", "left padded", "cached", "gaps", "bidirectional", "any mask"])
def test_positions_and_masks_of_every_kind(notation: str, kind: str) -> None:
    positions, mask, queries = kinds(kind)
    tensors = data(queries, positions.shape[1], 8, torch.float32)
    arguments = at(positions[:, -queries:], positions)
    if kind != "left padded":
        agree("blocked", modules(notation), tensors, torch.float32, mask=mask, **arguments)
        return
    # rows that see nothing are for the host to ignore
    biases = modules(notation)
    got = [biased_attention(*tensors, biases, scale=0.4, impl=i, mask=mask, **arguments)[0] for i in
           ("blocked", "reference")]  # fmt: skip
    assert max_error(got[0][0], got[1][0]) < 1e-5
    assert max_error(got[0][1, :, 5:], got[1][1, :, 5:]) < 1e-5
    assert torch.isfinite(got[0]).all()


def test_windows_skip_what_they_hide_and_masks_what_they_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[int, int]] = []
    original = blocked.Blocks.logits

    def noted(self, vector, q, k, *at):
        spans.append(at[2:])
        return original(self, vector, q, k, *at)

    monkeypatch.setattr(blocked.Blocks, "logits", noted)
    tensors, positions = data(64, 64, 8, torch.float32), torch.arange(64)[None]

    def count(notation: str, **arguments) -> int:
        spans.clear()
        biased_attention(*tensors, modules(notation), scale=1.0, impl="blocked", **at(positions), **arguments)
        return len(spans)

    assert count("alibi") == 64
    assert count("alibi", causal=True) == 36
    assert count("alibi", mask=torch.ones(64, 64).tril().bool()[None, None]) == 36
    assert count("alibi+window:size=8", causal=True) == 15, "its own block of keys, and the one before"
    far = positions**2
    spans.clear()
    biased_attention(*tensors, modules("window:size=8"), scale=1.0, causal=True, impl="blocked", **at(far))
    assert len(spans) == 8, "where positions have gaps, distances are looked at"


def test_a_second_backward_pass_finds_what_it_needs() -> None:
    q, k, v = (x.requires_grad_() for x in data(20, 20, 8, torch.float32))
    out, _ = biased_attention(
        q, k, v, modules("t5"), scale=1.0, causal=True, impl="blocked", **at(torch.arange(20)[None])
    )
    once = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    twice = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("impl", ["blocked", "auto"])
def test_a_bias_that_is_no_function_of_distance(impl: str) -> None:
    """A bias of the query's position alone, say, has no vector of distances: it is asked block by block."""

    class ByQuery(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(HEADS, 50))

        def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
            rows = self.weight[:, query_positions].movedim(0, 1)[..., None]
            return rows * (key_positions[:, None, None, :] % 3)

    agree(impl, [ByQuery()], data(37, 37, 8, torch.float32), torch.float32, causal=True, **at(torch.arange(37)[None]))


BAD = {
    "q must have four dimensions": {"q": torch.randn(5, 8)},
    "k and v must agree in batch, heads and keys": {"v": torch.randn(2, 2, 4, 8)},
    "q and k must agree in batch and head dim": {"q": torch.randn(2, 4, 5, 6)},
    "q's 3 heads must be a multiple of k's 2": {"q": torch.randn(2, 3, 5, 8)},
    "query_positions must be .batch or 1, tokens. = .2 or 1, 5., got .1, 4.": {"query_positions": torch.zeros(1, 4)},
    "key_positions must be": {"key_positions": torch.zeros(5)},
    "sinks must hold one number for each of 4 heads": {"sinks": torch.zeros(3)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_calls_name_the_argument(message: str) -> None:
    q, k, v = data(5, 5, 8, torch.float32)
    arguments = {"q": q, "k": k, "v": v, **at(torch.arange(5)[None]), **BAD[message]}
    with pytest.raises(ValueError, match=message):
        biased_attention(**arguments, biases=modules("alibi"), scale=1.0)


class Attending(torch.nn.Module):
    """Attention in blocks, with biases that learn."""

    def __init__(self, notation: str) -> None:
        super().__init__()
        self.biases = torch.nn.ModuleList(modules(notation))

    def forward(self, tensors: list[torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        return biased_attention(*tensors, [*self.biases], scale=0.4, causal=True, impl="blocked", **at(positions))[0]


@pytest.mark.parametrize("notation", ["t5", "kerple", "fire:train_length=8"])
def test_gradients_of_a_functional_call_are_those_of_what_it_was_given(notation: str) -> None:
    """At positions that are not consecutive: the backward pass asks the biases again."""
    attending, tensors = Attending(notation), data(37, 37, 8, torch.float32)
    positions = torch.arange(37).repeat(2, 1) + torch.tensor([[0], [3]]) + (torch.arange(37) > 9)
    given = {name: torch.rand_like(p).requires_grad_() for name, p in attending.named_parameters()}
    own = copy.deepcopy(attending)
    own.load_state_dict(given)
    torch.func.functional_call(attending, given, (tensors, positions)).square().sum().backward()
    own(tensors, positions).square().sum().backward()
    assert given
    for name, parameter in own.named_parameters():
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(given[name].grad, parameter.grad)
