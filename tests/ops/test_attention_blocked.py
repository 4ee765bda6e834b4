"""Biased attention in blocks, compiled and in ATen, against the dense reference in float64."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.ops import Visible, biased_attention
from whorl.ops.impl import blocked, native
from whorl.testing import max_error

NOTATIONS = ("alibi", "t5", "kerple", "kerple:form=power", "alibi+window:size=9", "window:size=9")
HEADS, KEY_HEADS = 4, 2


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 8 keys and 8 queries, so that a few tokens make many; and no memory that nobody wrote."""
    monkeypatch.setattr(blocked, "KEYS", 8)
    monkeypatch.setattr(blocked, "FEWEST", 8)
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["compiled", "aten"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "aten":
        monkeypatch.setattr(native, "missing", lambda: "as if there were no compiler")
    else:
        assert native.missing() is None
    return request.param


def modules(notation: str) -> list[torch.nn.Module]:
    found = [e.module for e in parse(notation).effects(Shape(head_dim=8, heads=HEADS, width=32))]
    for module in found:
        for parameter in module.parameters():
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
    return found


def data(queries: int, keys: int, head_dim: int, dtype: torch.dtype, batch: int = 2) -> list[torch.Tensor]:
    shapes = [(batch, HEADS, queries, head_dim), *[(batch, KEY_HEADS, keys, head_dim)] * 2]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def everything(impl: str, biases: list, tensors: list[torch.Tensor], dtype: torch.dtype, **arguments) -> list:
    """The output and every gradient; in float64 with the biases' parameters, too."""
    biases = [copy.deepcopy(module).to(torch.float64) for module in biases] if dtype == torch.float64 else biases
    leaves = [x.detach().to(dtype).requires_grad_() for x in tensors]
    learned = [p for module in biases for p in module.parameters()]
    sinks = arguments.pop("sinks", None)
    if sinks is not None:
        sinks = sinks.detach().to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
        learned = [sinks, *learned]
    out, _ = biased_attention(*leaves, biases, scale=0.4, impl=impl, sinks=sinks, **arguments)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(7)).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, [*leaves, *learned], weight)]


def agree(biases: list, tensors: list[torch.Tensor], dtype: torch.dtype, **arguments) -> None:
    """Each of the blocked results is off from float64 by at most twice what the dense reference is, and a rounding.

    In float64 itself, by the roundings of one row.
    """
    truth = everything("reference", biases, tensors, torch.float64, **arguments)
    same_precision = everything("reference", biases, tensors, dtype, **arguments)
    results = everything("blocked", biases, tensors, dtype, **arguments)
    q, k, v = (x.double() for x in tensors)
    for got, exact, reference in zip(results, truth, same_precision, strict=True):
        roundings = arguments["key_positions"].shape[1] if dtype == torch.float64 else 4  # a product, sum, weight, cast
        size = float(exact.abs().max())
        if q.shape[2] == 1:  # gradients of one token cancel to zero: what is cancelled has a rounding
            size = max(size, float(v.norm(dim=-1).max() * q.shape[-1] ** 0.5 * max(q.abs().max(), k.abs().max())))
        rounding = torch.finfo(got.dtype).eps * size
        assert max_error(got, exact) <= 2 * max_error(reference, exact) + roundings * rounding


def at(*positions: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"query_positions": positions[0], "key_positions": positions[-1]}


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_forward_and_every_gradient(notation: str, dtype: torch.dtype, softcap: float | None, loops: str) -> None:
    positions = torch.arange(37)[None] + 1_000_003
    agree(
        modules(notation), data(37, 37, 8, dtype), dtype, causal=True, softcap=softcap, sinks=torch.randn(HEADS),
        **at(positions),
    )  # fmt: skip


SIZES = [*itertools.product((1, 63, 200), (2, 80, 96)), (1000, 16)]


@pytest.mark.parametrize(("tokens", "head_dim"), SIZES)
@pytest.mark.parametrize("notation", ["alibi", "t5"])
def test_odd_sizes(tokens: int, head_dim: int, notation: str, loops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo() if tokens == 1000 else None  # the real block sizes
    positions = torch.arange(tokens)[None]
    agree(modules(notation), data(tokens, tokens, head_dim, torch.float32), torch.float32, causal=True, **at(positions))


@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple"])
@pytest.mark.parametrize("kind", ["packed", "left padded", "cached", "gaps", "bidirectional", "any mask"])
def test_positions_and_masks_of_every_kind(notation: str, kind: str, loops: str) -> None:
    torch.manual_seed(3)
    queries, keys = (20, 37) if kind == "cached" else (37, 37)
    own = torch.arange(keys)
    positions, mask = own[None], own[:, None] >= own
    if kind == "packed":
        positions = torch.cat([own[:20], own[:17]])[None]
        document = own >= 20
        mask = mask & (document[:, None] == document)
    elif kind == "left padded":
        positions = torch.stack([own, (own - 5).clamp(min=0)])
        mask = mask & torch.stack([own >= 0, own >= 5])[:, None, None]
    elif kind == "cached":
        mask = mask[-queries:]
    elif kind == "gaps":
        positions = (own * own)[None]
    elif kind == "bidirectional":
        mask = None
    else:
        mask = torch.rand(2, HEADS, queries, keys) > 0.5
        mask[..., 0] = True
    if mask is not None and mask.dim() == 2:
        mask = mask[None, None]
    tensors = data(queries, keys, 8, torch.float32)
    arguments = at(positions[:, -queries:], positions)
    if kind != "left padded":
        agree(modules(notation), tensors, torch.float32, mask=mask, **arguments)
        return
    # rows that see nothing are for the host to ignore: here, and in the gradients that reach the rest
    biases = modules(notation)
    got = [biased_attention(*tensors, biases, scale=0.4, impl=i, mask=mask, **arguments)[0] for i in
           ("blocked", "reference")]  # fmt: skip
    assert max_error(got[0][0], got[1][0]) < 1e-5
    assert max_error(got[0][1, :, 5:], got[1][1, :, 5:]) < 1e-5
    assert torch.isfinite(got[0]).all()


def test_windows_skip_what_they_hide_and_masks_what_they_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[tuple[int, int]] = []
    original = blocked.Loops.logits
    monkeypatch.setattr(
        blocked.Loops, "logits", lambda self, q, k, *at: (spans.append(at[2:]), original(self, q, k, *at))[1]
    )
    tensors, positions = data(64, 64, 8, torch.float32), torch.arange(64)[None]

    def count(notation: str, **arguments) -> int:
        spans.clear()
        biased_attention(*tensors, modules(notation), scale=1.0, **at(positions), **arguments)
        return len(spans)

    assert count("alibi") == 64
    assert count("alibi", causal=True) == 36
    assert count("alibi", mask=torch.ones(64, 64).tril().bool()[None, None]) == 36
    assert count("alibi+window:size=8", causal=True) == 15, "its own block of keys, and the one before"
    far = positions**2
    spans.clear()
    biased_attention(*tensors, modules("window:size=8"), scale=1.0, causal=True, query_positions=far, key_positions=far)
    assert len(spans) == 8, "where positions have gaps, distances are looked at"


def test_a_second_backward_pass_finds_what_it_needs(loops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "KEYS", 64)  # weights are kept
    q, k, v = (x.requires_grad_() for x in data(20, 20, 8, torch.float32))
    out, _ = biased_attention(q, k, v, modules("t5"), scale=1.0, causal=True, **at(torch.arange(20)[None]))
    once = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    twice = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_bias_that_is_no_function_of_distance(loops: str) -> None:
    """A bias of the query's position alone, say, has no vector of distances: it is asked block by block."""

    class ByQuery(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(HEADS, 50))

        def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
            rows = self.weight[:, query_positions].movedim(0, 1)[..., None]
            return rows * (key_positions[:, None, None, :] % 3)

    agree([ByQuery()], data(37, 37, 8, torch.float32), torch.float32, causal=True, **at(torch.arange(37)[None]))


def test_what_is_asked_for_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, positions = data(5, 5, 8, torch.float32), torch.arange(5)[None]

    def weights(**arguments):
        return biased_attention(*tensors, modules("alibi"), scale=1.0, **at(positions), **arguments)[1]

    assert weights() is None
    assert weights(impl="reference") is not None
    assert weights(dropout=0.1) is not None, "dropout is the reference's"
    with pytest.raises(ValueError, match="impl='blocked' has no dropout"):
        weights(impl="blocked", dropout=0.1)
    with pytest.raises(ValueError, match="impl must be one of auto, reference, blocked, flex, got 'flash'"):
        weights(impl="flash")
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert weights() is not None


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


def test_what_a_block_is_like() -> None:
    class Causal(Visible):
        def block(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
            return (torch.arange(k0, k1) <= torch.arange(q0, q1)[:, None])[None, None]

    mask = Causal(32, 32)
    assert [mask.kind(8, 16, k, k + 8) for k in (0, 8, 16)] == ["all", "causal", "none"]
    assert Causal(30, 32).kind(8, 16, 8, 16) == "some", "causal, but not up to the last key"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("case", ["causal", "mask", "softcap and sinks", "cache and gaps"])
def test_flex_attention_gives_the_same(notation: str, case: str) -> None:
    """The forward pass: FlexAttention has no backward on a CPU; tests/test_gpu.py has both."""
    biases, queries, keys = modules(notation), 21 if case == "cache and gaps" else 33, 33
    q, k, v = data(queries, keys, 16, torch.float32)
    how: dict = {"query_positions": torch.arange(keys - queries, keys)[None], "key_positions": torch.arange(keys)[None]}
    how |= {"scale": 0.3, "causal": True}
    if case == "mask":
        how["mask"] = (torch.rand(2, 1, queries, keys) > 0.3) | torch.eye(keys, dtype=torch.bool)
    elif case == "softcap and sinks":
        how |= {"softcap": 2.0, "sinks": torch.randn(HEADS)}
    elif case == "cache and gaps":
        positions = torch.arange(keys).repeat(2, 1) + torch.tensor([[0], [5]])
        positions[1, 7:] += 3
        how |= {"key_positions": positions, "query_positions": positions[:, keys - queries :]}
    with torch.no_grad():
        expected, _ = biased_attention(q, k, v, biases, impl="reference", **how)
        got, _ = biased_attention(q, k, v, biases, impl="flex", **how)
    torch.testing.assert_close(got, expected)
    with pytest.raises(ValueError, match="impl='flex' cannot run here: FlexAttention has no backward pass on a CPU"):
        biased_attention(q.requires_grad_(), k, v, biases, impl="flex", **how)
