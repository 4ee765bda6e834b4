"""Biased attention through FlexAttention on a CPU, by its own dense operator; tests/test_gpu.py has its kernels."""

from __future__ import annotations

import itertools

import pytest
import torch
from attention_cases import HEADS, NOTATIONS, agree, at, data, kinds, modules, problem
from scores_cases import BY_TOKEN, bound
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import flex_attention as pytorch

import whorl
from whorl.ops import Visible, biased_attention
from whorl.ops.attention import _choose
from whorl.ops.impl import flex
from whorl.ops.visible import KEPT, DenseVisible
from whorl.testing import logits_and_budget, max_error, peaked, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("case", ["causal", "mask", "softcap and sinks", "cache and gaps"])
def test_flex_attention_gives_the_same(notation: str, case: str) -> None:
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


@pytest.fixture
def backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention refuses a backward pass on a CPU at once; behind that, its dense operator has one."""
    monkeypatch.setattr(pytorch, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "missing", lambda *_: None)


@pytest.mark.matrix
@pytest.mark.parametrize("notation", [*NOTATIONS, "t5+window:size=9"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
def test_every_gradient(notation: str, softcap: float | None, sinks: bool, backward: None) -> None:
    """In float64: what a kernel is given to differentiate is right. q, k, v, the sinks and the biases' parameters."""
    positions = at(torch.arange(37)[None] + 1_000_003)
    how = {"causal": True, "softcap": softcap, "sinks": torch.randn(HEADS) if sinks else None}
    agree("flex", modules(notation), data(37, 37, 8, torch.float64), torch.float64, **how, **positions)


@pytest.mark.parametrize("kind", ["packed", "cached", "static cache", "gaps", "bidirectional", "any mask"])
def test_gradients_with_positions_and_masks_of_every_kind(kind: str, backward: None) -> None:
    positions, mask, queries = kinds(kind)
    tensors = data(queries, positions.shape[1], 8, torch.float64)
    agree("flex", modules("t5"), tensors, torch.float64, mask=mask, **at(positions[:, -queries:], positions))


@pytest.mark.parametrize("name", BY_TOKEN)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_scores_token_by_token(name: str, softcap: float | None, backward: None) -> None:
    how = {"causal": True, "softcap": softcap, "sinks": torch.randn(HEADS), **at(torch.arange(37)[None])}
    agree("flex", modules("alibi"), data(37, 37, 8, torch.float64), torch.float64, scores=[bound(name, 37, 37)], **how)


def test_a_faint_sink_has_an_exact_gradient(backward: None) -> None:
    """Among many keys a sink has hardly any weight, and 1 - the weight of the keys nearly none of its digits."""
    q, k, v = data(200, 300, 32, torch.float32)
    positions, weak = at(torch.arange(100, 300)[None], torch.arange(300)[None]), torch.randn(HEADS) - 3

    def gradient(impl: str, dtype: torch.dtype) -> torch.Tensor:
        tensors, sinks = [x.to(dtype) for x in (q, k, v.abs())], weak.to(dtype).requires_grad_()
        out, _ = biased_attention(*tensors, modules("alibi"), scale=0.4, sinks=sinks, impl=impl, **positions)
        return torch.autograd.grad(out.sum(), sinks)[0]  # of positive terms, so that none is cancelled

    exact, same = gradient("reference", torch.float64), gradient("reference", torch.float32)
    rounding = torch.finfo(torch.float32).eps * float(exact.abs().max())
    assert max_error(gradient("flex", torch.float32), exact) <= 2 * max_error(same, exact) + 4 * rounding


def test_a_row_that_sees_nothing_gives_nothing(backward: None) -> None:
    q, k, v = (x.requires_grad_() for x in data(5, 5, 8, torch.float64))
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril(-1)
    for sinks in (None, torch.randn(HEADS).double()):
        out, _ = biased_attention(
            q, k, v, modules("t5"), scale=1.0, mask=mask, sinks=sinks, impl="flex", **at(torch.arange(5)[None])
        )
        assert not out[:, :, 0].any()
        assert all(torch.isfinite(x).all() for x in torch.autograd.grad(out.sum(), (q, k, v)))


POSITIONS = {
    "consecutive": torch.arange(200)[None],
    "far": torch.arange(200)[None] + 2**31 - 200,
    "int32": torch.arange(200, dtype=torch.int32)[None] + 2**31 - 200,
    "rows far apart": torch.arange(200) + torch.tensor([[0], [2**31 - 200]]),
    "packed": torch.cat([torch.arange(130), torch.arange(70)])[None],
    "gaps": (torch.arange(200) ** 2)[None],
    "padding": (torch.arange(200) - torch.tensor([[0], [9]])).clamp(min=-1),
}


@pytest.mark.parametrize("queries", [200, 140, 1])
@pytest.mark.parametrize("name", POSITIONS)
def test_distances_are_numbered(name: str, queries: int) -> None:
    k = POSITIONS[name]
    q = k[:, -queries:]
    shared = flex._shared(None, q, k, True, None, 2)
    assert shared.rows.dtype == shared.columns.dtype == torch.int32
    number = shared.rows[:, :, None] - shared.columns[:, None]
    assert int(shared.columns.min()) == int(number.min()) == 0
    assert int(number.max()) == len(shared.distances) - 1
    assert torch.equal(shared.distances[number.long()], (q[:, :, None] - k[:, None]).long().expand(2, -1, -1))


@pytest.mark.parametrize("queries", [500, 260])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("reach", [None, 100])
@pytest.mark.parametrize("masked", ["no", "all alike", "rows differ", "heads differ"])
@pytest.mark.parametrize("positions", ["consecutive", "rows differ", "gaps"])
def test_the_blocks_that_are_listed(queries: int, causal: bool, reach: int | None, masked: str, positions: str) -> None:
    """Kernels skip what is not listed, and ask no mask of a block that is listed as full; a CPU reads no list."""
    own = torch.arange(500)
    far = own + 200 * (own >= 256)
    k = {"consecutive": own[None], "rows differ": torch.stack([own, far]), "gaps": (own * 3)[None]}[positions]
    q, mask = k[:, -queries:], None
    if masked != "no":
        shape = (2 if masked == "rows differ" else 1, HEADS if masked == "heads differ" else 1, queries, 500)
        hidden = torch.zeros(shape, dtype=torch.bool)
        hidden[-1, -1, :150, 100:400] = True
        mask = DenseVisible(~hidden, queries, 500)
    blocks = flex._shared(mask, q, k, causal, reach, 2).blocks
    seen = torch.ones(2, HEADS, queries, 500, dtype=torch.bool) if mask is None else mask.block(0, queries, 0, 500)
    if causal:
        seen = seen & torch.ones(queries, 500, dtype=torch.bool).tril(500 - queries)
    if reach is not None:
        seen = seen & ((q[:, :, None] - k[:, None]).abs() < reach)[:, None]
    count = torch.nn.functional.pad(seen.expand(2, HEADS, -1, -1).float(), (0, 12, 0, -queries % 128))
    count = count.unflatten(3, (4, 128)).unflatten(2, (-1, 128)).sum((3, 5))
    for kept, number, index in (
        ((count > 0) & (count < 128**2), blocks.kv_num_blocks, blocks.kv_indices),
        (count == 128**2, blocks.full_kv_num_blocks, blocks.full_kv_indices),
    ):
        first = torch.arange(4) < number[..., None]  # so many of the indices count, which are a permutation
        listed = torch.zeros(index.shape, dtype=torch.bool).scatter(-1, index.long(), first)
        assert torch.equal(listed.expand_as(kept), kept)


def test_masks_are_kept_by_all_that_they_depend_on() -> None:
    """One mask, and layers that differ in all else."""
    own = torch.arange(140)
    mask = DenseVisible(torch.ones(1, 1, 140, 140, dtype=torch.bool).tril(3), 140, 140)
    tensors = data(140, 140, 16, torch.float32)
    places = [
        at(own[None]),
        at(own[None] + 2, own[None]),
        at(own[None], own[None] - 1),
        at(own[None] * 2),
        at(own + torch.tensor([[0], [3]])),
    ]
    for _ in range(2):
        for notation in ("alibi", "alibi+window:size=9", "alibi+window:size=30"):
            for causal, positions in itertools.product((False, True), places):
                how = {"scale": 0.4, "causal": causal, "mask": mask, **positions}
                got, expected = (
                    biased_attention(*tensors, modules(notation), impl=i, **how)[0] for i in ("flex", "reference")
                )
                assert max_error(got, expected) < 1e-5
    assert len(mask.of_layers[flex._shared]) == KEPT, "the latest, of more than there is room for"


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_the_layers_of_a_model_share_a_mask(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list = []
    original = flex._blocks
    monkeypatch.setattr(flex, "_blocks", lambda *how: (made.append(how), original(*how))[1])
    model = peaked(tiny_model("llama"))
    tokens, own = torch.randint(3, 97, (2, 140)), torch.arange(140)
    how: dict = {"use_cache": False}
    if padded:
        how["attention_mask"] = torch.stack([own >= 0, own >= 7]).long()
        how["position_ids"] = torch.stack([own, (own - 7).clamp(min=0)])
    whorl.attach(model, "alibi", impl="flex")
    logits = model(tokens, **how).logits
    assert len(made) == 1 < model.config.num_hidden_layers
    expected, budget = logits_and_budget(whorl.attach(model, "alibi", impl="reference"), tokens, **how)
    seen = how.get("attention_mask", torch.ones(2, 140)).bool()
    assert max_error(logits[seen], expected[seen]) <= budget


def compiled(monkeypatch: pytest.MonkeyPatch, backend: str) -> list[list[int]]:
    """Has a CPU do what a GPU does: FlexAttention and its lists compiled. Collects the nodes of what was."""
    torch._dynamo.reset()
    made: list[list[int]] = [[], []]

    def counting(to: list[int]):
        def compiler(graph: torch.fx.GraphModule, inputs: list):
            to.append(len(graph.graph.nodes))
            return torch._dynamo.lookup_backend(backend)(graph, inputs)

        return compiler

    kernels = [
        flex._many_kernels(torch.compile(function, backend=counting(to)))
        for function, to in zip((pytorch.flex_attention, pytorch.create_block_mask), made, strict=True)
    ]
    monkeypatch.setattr(flex, "_in_kernels", lambda _: kernels)
    return made


@torch.no_grad()
def check(queries: int, keys: int, first: int, notation: str = "alibi", width: int = 16, **how) -> None:
    tensors, positions = data(queries, keys, width, torch.float32), torch.arange(keys)[None] + first
    how = {"causal": True, "scale": 0.4, **at(positions[:, -queries:], positions), **how}
    got, expected = (biased_attention(*tensors, modules(notation), impl=i, **how)[0] for i in ("flex", "reference"))
    assert max_error(got, expected) < 1e-5


@pytest.mark.full
def test_lengths_windows_and_caches_are_no_reason_to_compile_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a CPU shows it: the second of a kind is compiled for sizes of any kind, and then no more."""
    flexes, lists = compiled(monkeypatch, "eager")

    def count(calls: list[tuple], **how) -> tuple[int, int]:
        before = len(flexes), len(lists)
        for call in calls:
            check(*call, **how)
        return len(flexes) - before[0], len(lists) - before[1]

    assert count([(33, 33, 0), (40, 40, 7), (47, 47, 1000), (61, 61, 3), (20, 61, 0), (21, 50, 9)]) == (2, 0)
    assert count([(1, keys, 0) for keys in (61, 62, 63, 90, 200)]) == (1, 0), "one query is a kind of its own"
    assert count([(150, 150, 0), (170, 170, 0), (190, 190, 7), (150, 310, 0), (160, 333, 5)]) <= (2, 2)
    assert count([(33, 33, 0), (47, 47, 5), (50, 90, 0)], notation="alibi+window:size=9") <= (2, 0)
    assert count([(60, 60, 1), (47, 48, 5)], notation="alibi+window:size=20") == (0, 0)
    assert count([(33, 33, 0)], softcap=2.0) == (1, 0)
    assert count([(33, 33, 0)], softcap=3.0) == (0, 0), "PyTorch fails to compile what captures a float that changes"


def test_a_kernel_that_takes_too_much_memory_holds_one_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict | None] = []

    def attend(*tensors: torch.Tensor, kernel_options: dict | None = None, **how):
        asked.append(kernel_options)
        if tensors[0].shape[3] == 24 and kernel_options is None:
            raise RuntimeError("No valid triton configs. OutOfMemoryError: out of resource: Required: 246784")
        if tensors[0].shape[3] == 40:
            raise RuntimeError("another")
        return pytorch.flex_attention(*tensors, kernel_options=kernel_options, **how)

    monkeypatch.setattr(flex, "_in_kernels", lambda _: (attend, pytorch.create_block_mask))
    monkeypatch.setattr(flex, "_tight", set())
    for width in (16, 24, 24, 16):
        check(5, 5, 0, width=width)
    one = {"num_stages": 1}
    assert asked == [None, None, one, one, None], "what did not fit is not tried again, and all else is as it was"
    with pytest.raises(RuntimeError, match="another"):
        check(5, 5, 0, width=40)


@pytest.mark.full
def test_more_kernels_than_pytorchs_limit_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its limit PyTorch runs FlexAttention without a kernel: with the whole matrix in memory."""
    flexes, _ = compiled(monkeypatch, "eager")
    for width in range(16, 26):
        check(5, 5, 0, width=width)
    assert len(flexes) == 10


@pytest.mark.parametrize("queries", [50, 200], ids=["all in one block", "listed blocks"])
def test_a_compiled_kernel_reads_the_lists(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's kernel for CPUs, which skips by the lists as those for GPUs do."""
    compiled(monkeypatch, "inductor")
    check(queries, 400, 3, "alibi+window:size=150")


def fake(device: str = "cuda", dtype: torch.dtype = torch.float32, width: int = 64, values: int = 64, tokens: int = 9):
    """q, k, v of a device that need not be there."""
    with FakeTensorMode():
        q, k = (torch.empty(2, heads, tokens, width, device=device, dtype=dtype) for heads in (4, 2))
        return q, k, torch.empty(2, 2, tokens, values, device=device, dtype=dtype)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_triton_missing", lambda: None)
    monkeypatch.setattr(flex, "_shared_memory", lambda _: 227 << 10)
    monkeypatch.setattr("whorl.ops.attention.plain", lambda _: True)  # fake tensors stand for a GPU's here
    monkeypatch.delenv("WHORL_IMPL", raising=False)


def chosen(impl: str, biases: list, *given, **how) -> str:
    return _choose(impl, problem(biases, *given, **how))


class BlocksOnly(Visible):
    """A mask that says itself only block by block."""


class Absolute(torch.nn.Module):
    """A bias that is not one of distance."""


@pytest.mark.parametrize("notation", ["alibi", "t5", "kerple", "alibi+window:size=100"])
def test_auto_takes_flex_on_a_gpu(notation: str, gpu: None) -> None:
    q, k, v = fake()
    for mask in (None, DenseVisible(torch.ones(1, 1, 9, 9, dtype=torch.bool), 9, 9)):
        assert chosen("auto", modules(notation), q, k, v, mask) == "flex"
    assert chosen("auto", modules(notation), *fake(dtype=torch.bfloat16, width=96, values=80)) == "flex"
    assert chosen("auto", modules(notation), q, k, v, dropout=0.1) == "reference"
    assert chosen("blocked", modules(notation), q, k, v) == "blocked"


def test_auto_keeps_to_the_reference_where_it_is_asked_for(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert chosen("auto", modules("alibi"), *fake()) == "reference"


MISSING = {
    "Absolute is not a bias of distance alone": {"biases": [Absolute()]},
    "a BlocksOnly has no `mod`": {"mask": BlocksOnly(9, 9)},
    "q, k and v are torch.float32, torch.float32 and torch.bfloat16": {
        "tensors": (*fake()[:2], fake(dtype=torch.bfloat16)[2])
    },
    "there are no queries or no keys": {"tensors": fake(tokens=0)},
    "the inputs are on meta": {"tensors": fake("meta")},
    "its kernels add up in float32, and the inputs are float64": {"tensors": fake(dtype=torch.float64)},
    "heads of 16 to 256 channels, and these have 8 and 64": {"tensors": fake(width=8)},
    "heads of 16 to 256 channels, and these have 64 and 512": {"tensors": fake(values=512)},
}


@pytest.mark.parametrize("why", MISSING)
def test_auto_takes_blocks_where_flex_cannot_run(why: str, gpu: None) -> None:
    case = {"biases": modules("alibi"), "tensors": fake(), "mask": None, **MISSING[why]}
    arguments = case["biases"], *case["tensors"], case["mask"]
    on_meta = case["tensors"][0].device.type == "meta"  # no numbers, and so no memory that blocks would save
    assert chosen("auto", *arguments) == ("reference" if on_meta else "blocked")
    with pytest.raises(ValueError, match=f"impl='flex' cannot run here: .*{why}"):
        chosen("flex", *arguments)


def test_auto_takes_blocks_on_a_gpu_with_too_little_memory_in_a_block(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, half = fake(width=80), fake(width=128, values=128, dtype=torch.bfloat16)
    assert chosen("auto", modules("alibi"), *wide) == "flex"
    monkeypatch.setattr(flex, "_shared_memory", lambda _: 99 << 10)
    assert chosen("auto", modules("alibi"), *half) == "flex"
    assert chosen("auto", modules("alibi"), *wide) == "blocked"
    with pytest.raises(ValueError, match="kernels for rows of 512 bytes take more shared memory than cuda:0 has"):
        chosen("flex", modules("alibi"), *wide)


def test_auto_takes_blocks_where_a_sum_must_have_an_order(gpu: None) -> None:
    q, k, v = fake()
    q.requires_grad_()
    channels = (fake(width=2)[0].requires_grad_(), fake(width=2)[0])
    assert _choose("auto", problem([], q, k, v)._replace(channels=channels)) == "flex", "FoX's gates, in half the time"
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen("auto", modules("alibi"), q, k, v) == "flex"
        assert chosen("auto", modules("t5"), q, k, v) == "blocked", "its gradient is summed with atomics"
        assert _choose("auto", problem([], q, k, v)._replace(channels=channels)) == "blocked", "and so are these"
        with torch.no_grad():
            assert chosen("auto", modules("t5"), q, k, v) == "flex"
    finally:
        torch.use_deterministic_algorithms(False)


def test_auto_takes_blocks_without_triton(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_triton_missing", lambda: "there is none")
    assert chosen("auto", modules("alibi"), *fake()) == "blocked"
