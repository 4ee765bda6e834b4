"""Biased attention in compiled loops on the CPU, against the dense reference in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from attention_cases import HEADS, NOTATIONS, agree, arriving, at, data, everything, kinds, modules, problem
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from whorl.ops import Visible, biased_attention
from whorl.ops.impl import cpu_attention, native
from whorl.ops.visible import DenseVisible
from whorl.testing import max_error


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What torch.empty gives is filled with NaN, so that an element that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.matrix(times=4)
@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("tokens", [37, 300], ids=["one tile", "several tiles"])
def test_forward_and_every_gradient(tokens: int, notation: str, dtype: torch.dtype, softcap: float | None) -> None:
    positions = torch.arange(tokens)[None] + 1_000_003
    agree(
        "cpu", modules(notation), data(tokens, tokens, 8, dtype), dtype, causal=True, softcap=softcap,
        sinks=torch.randn(HEADS), **at(positions),
    )  # fmt: skip


def test_a_cap_far_above_the_logits() -> None:
    """tanh of small numbers must be right in itself: its error comes back times the cap."""
    tensors = [torch.randn(2, h, 60, 32) for h in (HEADS, 2, 2)]
    agree("cpu", modules("t5"), tensors, torch.float32, causal=True, softcap=3e3, **at(torch.arange(60)[None]))


SIZES = [*itertools.product((1, 63, 200), (2, 80, 96, 256)), (1000, 16)]


@pytest.mark.matrix
@pytest.mark.parametrize(("tokens", "head_dim"), SIZES)
@pytest.mark.parametrize("notation", ["alibi", "t5"])
def test_odd_sizes(tokens: int, head_dim: int, notation: str) -> None:
    tensors = data(tokens, tokens, head_dim, torch.float32)
    agree("cpu", modules(notation), tensors, torch.float32, causal=True, **at(torch.arange(tokens)[None]))


@pytest.mark.matrix(times=4)
@pytest.mark.parametrize("notation", ["alibi", "t5", "alibi+window:size=9"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["plain", "capped", "sinks", "padded", "tokens first"])
@pytest.mark.parametrize(("keys", "head_dim", "width"), [(1, 24, 24), (37, 5, 40), (300, 80, 24)])
def test_one_query(keys: int, head_dim: int, width: int, how: str, dtype: torch.dtype, notation: str) -> None:
    """As in decoding: a loop of its own."""
    q, k, _ = data(1, keys, head_dim, dtype, batch=8)  # a sink's gradient is one number a row, and few say little
    v, positions = torch.randn(8, 2, keys, width).to(dtype), torch.arange(keys)[None]
    arguments = {"softcap": 2.0} if how == "capped" else {"sinks": torch.randn(HEADS)} if how == "sinks" else {}
    if how == "padded":
        padding = torch.arange(8)[:, None] * keys // 12
        arguments["mask"] = (positions >= padding)[:, None, None]
        positions = (positions - padding).clamp(min=0)
    if how == "tokens first":
        k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    agree("cpu", modules(notation), [q, k, v], dtype, **arguments, **at(positions[:, -1:], positions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("together", [1, 2, 3, 4, 9])
def test_one_query_whose_heads_share_keys(together: int, dtype: torch.dtype) -> None:
    """In pieces of 256 keys, with the last one full, of a single key, and in between; the same by any threads."""
    before = torch.get_num_threads()
    for keys, head_dim in ((256, 64), (257, 130), (700, 72)):
        tensors = [
            torch.randn(2, heads, tokens, head_dim) for heads, tokens in ((2 * together, 1), (2, keys), (2, keys))
        ]
        tensors, biases, positions = (
            [x.to(dtype) for x in tensors],
            modules("t5", 2 * together),
            torch.arange(keys)[None],
        )
        how = {"sinks": torch.randn(2 * together), **at(positions[:, -1:], positions)}
        agree("cpu", biases, tensors, dtype, **how)
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(biased_attention(*tensors, biases, scale=0.3, impl="cpu", **how)[0])
        torch.set_num_threads(before)
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


def test_one_query_reads_no_key_that_it_does_not_see() -> None:
    q, k, v = data(1, 40, 24, torch.float32)
    seen = (torch.arange(40) >= 5) & (torch.arange(40) < 33)
    k[:, :, ~seen], v[:, :, ~seen] = torch.nan, torch.nan
    how = {"scale": 0.4, "impl": "cpu", "mask": seen[None, None, None]}
    out, _ = biased_attention(q, k, v, modules("alibi"), **how, **at(torch.tensor([[32]]), torch.arange(40)[None]))
    assert out.isfinite().all()
    how["mask"] = torch.zeros(1, 1, 1, 40, dtype=torch.bool)
    out, _ = biased_attention(q, k, v, modules("alibi"), **how, **at(torch.tensor([[32]]), torch.arange(40)[None]))
    assert (out == 0).all()


def test_values_of_another_width() -> None:
    q, k, _ = data(70, 150, 24, torch.float32)
    v, positions = torch.randn(2, 2, 150, 40), torch.arange(150)[None]
    agree("cpu", modules("t5"), [q, k, v], torch.float32, causal=True, **at(positions[:, -70:], positions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", ["tokens first", "a slice of a wider head", "every other channel"])
def test_any_strides(memory: str, dtype: torch.dtype) -> None:
    def laid_out(x: torch.Tensor) -> torch.Tensor:
        if memory == "tokens first":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if memory == "a slice of a wider head":
            return torch.cat([x, x, x], -1)[..., x.shape[-1] : 2 * x.shape[-1]]
        return x.repeat_interleave(2, -1)[..., ::2]

    plain, biases, how = data(70, 70, 24, dtype), modules("t5"), at(torch.arange(70)[None])
    expected = everything("cpu", biases, plain, dtype, causal=True, **how)
    leaves = [laid_out(x).detach().requires_grad_() for x in plain]
    assert [x.is_contiguous() for x in leaves] == [False] * 3
    out, _ = biased_attention(*leaves, biases, scale=0.4, impl="cpu", causal=True, **how)
    got = torch.autograd.grad(out, [*leaves, *biases[0].parameters()], laid_out(arriving(out)[0]))
    for x, y in zip([out.detach(), *got], [expected[0], *(gradients[0] for gradients in expected[1:])], strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("wide", ["q and k", "v"])
def test_dtypes_that_differ_under_autocast(wide: str) -> None:
    """Some hosts' norms leave q and k in float32 there: nothing is rounded to the narrower one on the way."""
    q, k, v = data(40, 40, 8, torch.float32)
    narrow = [x.bfloat16() if (name == "v") == (wide != "v") else x for name, x in zip("qkv", (q, k, v), strict=True)]
    positions = torch.arange(40)[None]
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = biased_attention(*narrow, modules("alibi"), scale=0.4, causal=True, impl="cpu", **at(positions))
    exact = [x.double() for x in narrow]
    truth, _ = biased_attention(*exact, modules("alibi"), scale=0.4, causal=True, impl="reference", **at(positions))
    assert out.dtype == narrow[2].dtype
    assert max_error(out, truth) <= 4 * torch.finfo(out.dtype).eps * float(truth.abs().max())


TAKEN = ("packed", "left padded", "cached", "static cache", "bidirectional")


@pytest.mark.parametrize("notation", ["alibi", "t5", "alibi+window:size=9"])
@pytest.mark.parametrize("kind", TAKEN)
def test_positions_and_masks_of_every_kind(notation: str, kind: str) -> None:
    positions, mask, queries = kinds(kind)
    tensors = data(queries, positions.shape[1], 8, torch.float32)
    where = positions[:, 9 : 9 + queries] if kind == "static cache" else positions[:, -queries:]
    arguments = {"mask": mask, **at(where, positions)}
    if kind != "left padded":
        agree("cpu", modules(notation), tensors, torch.float32, **arguments)
        return
    # rows that see nothing are for the host to ignore: nothing comes of them, and nothing goes to the rest
    results = []
    for impl in ("cpu", "reference"):
        leaves, biases = [x.clone().requires_grad_() for x in tensors], modules(notation)
        torch.manual_seed(5)
        for p in biases[0].parameters():
            torch.nn.init.uniform_(p)
        out, _ = biased_attention(*leaves, biases, scale=0.4, impl=impl, **arguments)
        seen = torch.cat([out[0].flatten(), out[1, :, 5:].flatten()])
        results.append([out, seen, *torch.autograd.grad(seen.sin().sum(), [*leaves, *biases[0].parameters()])])
    assert torch.equal(results[0][0][1, :, :5], torch.zeros(HEADS, 5, 8))
    for got, expected in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("kind", "why"), [("gaps", "have gaps"), ("any mask", "more than one run of keys")])
def test_what_the_loops_cannot_take_is_left_to_blocks(kind: str, why: str) -> None:
    positions, mask, queries = kinds(kind)
    tensors, biases = data(queries, queries, 8, torch.float32), modules("t5")
    agree("auto", biases, tensors, torch.float32, mask=mask, **at(positions))
    with pytest.raises(ValueError, match=f"impl='cpu' cannot run here: .*{why}"):
        biased_attention(*tensors, biases, scale=1.0, impl="cpu", mask=mask, **at(positions))
    dropped = biased_attention(*tensors, biases, scale=1.0, dropout=0.5, mask=mask, **at(positions))
    assert dropped[1] is not None, "blocks have no dropout: the dense reference has"


def test_a_gap_that_a_single_query_sees() -> None:
    """Its own distance to the first key says nothing of the keys behind the gap."""
    tensors, positions = data(1, 6, 8, torch.float32), torch.tensor([[0, 1, 2, 7, 8, 9]])
    agree("auto", modules("t5"), tensors, torch.float32, causal=True, **at(positions[:, -1:], positions))
    with pytest.raises(ValueError, match="impl='cpu' cannot run here: the positions of a run of keys have gaps"):
        agree("cpu", modules("t5"), tensors, torch.float32, causal=True, **at(positions[:, -1:], positions))


@pytest.mark.parametrize("hidden", [(0, 0), (63, 127), (20, 0)])
def test_one_key_hidden_from_one_query_of_a_tile(hidden: tuple[int, int]) -> None:
    mask = torch.ones(64, 128, dtype=torch.bool)
    mask[hidden] = False
    keys = torch.arange(128)[None]
    agree("cpu", modules("t5"), data(64, 128, 8, torch.float32), torch.float32, mask=mask[None, None],
          **at(keys[:, 64:], keys))  # fmt: skip


def test_what_is_hidden_by_a_window_is_not_read() -> None:
    tokens, size = 640, 16
    q, k, v = (x.requires_grad_() for x in data(tokens, tokens, 8, torch.float32))
    far = 256  # whole tiles of keys that the last tile of queries does not see
    with torch.no_grad():
        k[:, :, :far] = v[:, :, :far] = torch.nan
    out, _ = biased_attention(
        q, k, v, modules(f"alibi+window:size={size}"), scale=1.0, impl="cpu", causal=True,
        **at(torch.arange(tokens)[None]),
    )  # fmt: skip
    near = out[:, :, 512:]
    assert torch.isfinite(near).all()
    assert out[:, :, :far].isnan().all(), "and a NaN that is seen is shown"
    q_grad = torch.autograd.grad(near.sum(), q)[0]
    assert torch.isfinite(q_grad[:, :, 512:]).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    """With fewer heads of keys than threads, several share one head."""
    tensors, biases = [torch.randn(1, h, 700, 16) for h in (2, 1, 1)], modules("t5", 2)
    positions, before = torch.arange(700)[None], torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        agree("cpu", biases, tensors, torch.float32, causal=True, **at(positions))
    finally:
        torch.set_num_threads(before)


def test_a_second_backward_pass_finds_what_it_needs() -> None:
    q, k, v = (x.requires_grad_() for x in data(20, 20, 8, torch.float32))
    out, _ = biased_attention(q, k, v, modules("t5"), scale=1.0, causal=True, impl="cpu", **at(torch.arange(20)[None]))
    once = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    twice = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_empty_inputs() -> None:
    for batch, tokens in ((0, 5), (2, 0)):
        tensors = [x.requires_grad_() for x in data(tokens, tokens, 8, torch.float32, batch=batch)]
        out, _ = biased_attention(
            *tensors, modules("t5"), scale=1.0, causal=True, impl="cpu", **at(torch.arange(tokens)[None])
        )
        assert out.shape == (batch, HEADS, tokens, 8)
        assert [g.shape for g in torch.autograd.grad(out.sum(), tensors)] == [x.shape for x in tensors]


# --- dropout ---------------------------------------------------------------------------------------------------------


def dropped(seed: int, p: float, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: list, **more):
    torch.manual_seed(seed)
    positions = torch.arange(q.shape[2])[None]
    return biased_attention(q, k, v, biases, scale=0.4, causal=True, dropout=p, impl="cpu", **at(positions), **more)[0]


def test_dropout_keeps_its_share_at_random() -> None:
    tokens, p = 300, 0.3
    q, k, _ = data(tokens, tokens, 8, torch.float32)
    eye = torch.eye(tokens).expand(2, 2, -1, -1)  # what comes out is the weights
    full = dropped(0, 0.0, q, k, eye, modules("alibi"))
    once, again, other = (dropped(seed, p, q, k, eye, modules("alibi")) for seed in (1, 1, 2))
    assert torch.equal(once, again)
    below = torch.ones(tokens, tokens).tril().bool()
    kept, kept_2 = once[..., below] != 0, other[..., below] != 0
    count = kept.numel()
    torch.testing.assert_close(once[once != 0], full[once != 0] / (1 - p))
    for share, expected in ((kept, 1 - p), (kept == kept_2, p**2 + (1 - p) ** 2), (kept[0] == kept[1], 0.58)):
        assert abs(float(share.float().mean()) - expected) < 5 / share.numel() ** 0.5
    whole = (once != 0).float()
    neighbours = (whole[..., 1:, :-1] * whole[..., :-1, :-1])[..., below[:-1, :-1]]
    assert abs(float(neighbours.mean()) - (1 - p) ** 2) < 5 / count**0.5, "rows are independent"
    neighbours = (whole[..., :, 1:] * whole[..., :, :-1])[..., below[:, 1:]]
    assert abs(float(neighbours.mean()) - (1 - p) ** 2) < 5 / count**0.5, "and so are columns"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropouts_gradients_are_those_of_the_weights_that_it_kept(dtype: torch.dtype) -> None:
    tokens, p = 150, 0.25
    q, k, v = data(tokens, tokens, 8, dtype)
    biases = modules("t5")
    kept = dropped(3, p, q, k, torch.eye(tokens, dtype=dtype).expand(2, 2, -1, -1), biases) != 0
    weight, learned = torch.randn(2, HEADS, tokens, 8), list(biases[0].parameters())

    def gradients(cast: torch.dtype | None) -> list[torch.Tensor]:
        leaves = [x.detach().to(cast or dtype).requires_grad_() for x in (q, k, v)]
        if cast is None:
            out = dropped(3, p, *leaves, biases, sinks=torch.ones(HEADS))
        else:
            a, b, c = leaves[0], *(x.repeat_interleave(2, 1) for x in leaves[1:])
            positions = torch.arange(tokens)[None]
            logits = a @ b.mT * 0.4 + biases[0](positions, positions)
            logits = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf)
            logits = torch.cat([logits, torch.ones(2, HEADS, tokens, 1, dtype=cast)], -1)
            out = (logits.softmax(-1)[..., :-1] * kept / (1 - p)).to(dtype if cast != torch.float64 else cast) @ c
        return [out.detach(), *torch.autograd.grad(out, [*leaves, *learned], weight.to(out.dtype))]

    for got, exact in zip(gradients(None), gradients(torch.float64), strict=True):
        eps = torch.finfo(dtype).eps
        assert max_error(got, exact) <= 8 * eps * float(exact.abs().max())


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_a_recomputed_layer_drops_the_same_weights(p: float) -> None:
    """And reads its own tensors: those of the first forward pass are gone by then."""
    leaves, biases = [x.requires_grad_() for x in data(90, 90, 8, torch.float32)], modules("t5")
    wanted = [*leaves, *biases[0].parameters()]

    def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        how = {"scale": 0.4, "causal": True, "dropout": p, "impl": "cpu", **at(torch.arange(90)[None])}
        return biased_attention(q * 2, k * 2, v * 2, biases, **how)[0].sin().sum()

    torch.manual_seed(4)
    expected = torch.autograd.grad(layer(*leaves), wanted)
    torch.manual_seed(4)
    got = torch.autograd.grad(checkpoint(layer, *leaves, use_reentrant=False), wanted)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


# --- what runs -------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, positions = data(5, 5, 8, torch.float32), torch.arange(5)[None]

    def weights(*given: torch.Tensor, notation: str = "alibi", **arguments):
        return biased_attention(*(given or tensors), modules(notation), scale=1.0, **at(positions), **arguments)[1]

    assert weights() is None
    assert weights(dropout=0.1) is None
    assert weights(impl="reference") is not None
    with pytest.raises(ValueError, match="impl='cpu' cannot run here: the loops are float32"):
        weights(*(x.double() for x in tensors), impl="cpu")
    with pytest.raises(ValueError, match="impl='blocked' cannot run here: it has no dropout .* dropout is 0.1; take"):
        weights(impl="blocked", dropout=0.1)
    with pytest.raises(
        ValueError,
        match="impl must be one of auto, reference, cpu, fused, flex, decode, blocked, linear, householder, rows, got",
    ):
        weights(impl="flash")
    monkeypatch.setattr(native, "missing", lambda: "no C compiler")
    with pytest.raises(ValueError, match="impl='cpu' cannot run here: no C compiler"):
        weights(impl="cpu")
    assert weights() is None, "in blocks"
    monkeypatch.undo()
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert weights() is not None


def test_no_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def whorl_attention(call: bytes) -> int:
            return 1

    monkeypatch.setattr(native, "library", lambda: (Library, None))
    with pytest.raises(MemoryError, match="whorl_attention found no memory"):
        native.call("whorl_attention", bytes(16))


def test_layers_share_what_is_found_of_a_mask() -> None:
    class Counted(DenseVisible):
        asked = 0

        def block(self, *at: int) -> torch.Tensor:
            Counted.asked += 1
            return super().block(*at)

    mask = Counted(torch.ones(1, 1, 9, 9).tril().bool(), 9, 9)

    def plan(notation: str, mask: Visible | None) -> cpu_attention.Plan | str:
        return cpu_attention.plan(problem(modules(notation), *data(9, 9, 8, torch.float32), mask))

    plans = [plan("alibi", mask) for _ in range(3)]
    assert plans[0] is plans[2]
    assert Counted.asked == 1
    assert plan("window:size=3", mask).first[0, 8] == 6
    both_ways = plan("window:size=3", None)
    assert [int(x[0, 4]) for x in both_ways[:2]] == [2, 7]


class OfOneForward(DenseVisible):
    """As a host's own mask is."""

    of_one_forward = True


@torch.no_grad()
def test_layers_of_a_step_of_decoding_ask_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs between two of them is seen, each by itself; what lies alike is asked once, whatever it holds."""
    asked = []
    missing = cpu_attention.missing
    monkeypatch.setattr(cpu_attention, "missing", lambda problem: asked.append(problem) or missing(problem))
    keys, alibi, t5 = 300, modules("alibi"), modules("t5")
    mask = OfOneForward(torch.arange(keys)[None, None, None] >= torch.tensor([0, 7])[:, None, None, None], 1, keys)
    positions = torch.arange(keys)[None]
    usual = {"biases": t5, "q_at": positions[:, -1:], "k_at": positions, "scale": 0.3, "softcap": None}
    other = [
        {}, {"biases": alibi}, {"biases": [*t5, *alibi]}, {"q_at": positions[:, -1:] + 5}, {"k_at": positions - 9},
        {"scale": 0.7}, {"softcap": 0.5}, {"dtype": torch.bfloat16}, {"width": 12}, {"tokens_first": True},
        {"sinks": torch.randn(HEADS)}, {"factor": torch.full((1, 1, 1), 3.0)},
    ]  # fmt: skip
    for turn in range(3):
        for change in other:
            how = usual | change
            dtype = how.pop("dtype", torch.float32)
            q, k, v = data(1, keys, how.pop("width", 8), dtype)
            if how.pop("tokens_first", False):
                k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
            biases, at_ = how.pop("biases"), {"query_positions": how.pop("q_at"), "key_positions": how.pop("k_at")}
            before = len(asked)
            ours, theirs = (
                biased_attention(q, k, v, biases, mask=mask, **at_, **how, impl=impl)[0]
                for impl in ("auto", "reference")
            )
            assert ours.dtype == dtype
            assert max_error(ours, theirs) < 100 * torch.finfo(dtype).eps, change
            assert len(asked) - before == (turn == 0 or "sinks" in change or "factor" in change), change


@torch.no_grad()
def test_what_is_more_than_numbers_is_not_taken_for_them() -> None:
    mask = OfOneForward(torch.ones(1, 1, 1, 20, dtype=torch.bool), 1, 20)
    how = {"mask": mask, **at(torch.arange(20)[None, -1:], torch.arange(20)[None]), "scale": 0.3}
    q, k, v = data(1, 20, 8, torch.float32)
    biased_attention(q, k, v, modules("alibi"), **how)
    biases = modules("alibi")
    plainly, _ = biased_attention(q, k, v, biases, **how)
    minus = torch._neg_view(q)
    assert max_error(biased_attention(minus, k, v, biases, **how)[0], biased_attention(-q, k, v, biases, **how)[0]) == 0
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, torch.ones_like(q))
        assert forward_ad.unpack_dual(biased_attention(dual, k, v, biases, **how)[0]).tangent is not None
    with torch.enable_grad():
        out, _ = biased_attention(q.requires_grad_(), k, v, biases, **how)
    assert out.requires_grad
    assert max_error(out, plainly) < 1e-6


def test_runs_of_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whorl.ops.visible.ROWS_AT_ONCE", 8)
    rows = ["11110000", "00111000", "00000000", "00000001"]
    mask = torch.tensor([[int(c) for c in row] for row in rows]).bool()[None, None]
    runs = DenseVisible(mask, 4, 8).runs()
    assert runs.first.tolist() == [[0, 2, 0, 7]]
    assert runs.end.tolist() == [[4, 5, 0, 8]]
    broken = mask.clone()
    broken[..., 3, 0] = True
    assert DenseVisible(broken, 4, 8).runs() is None
    assert DenseVisible(mask.expand(1, 2, 4, 8), 4, 8).runs() is None, "heads may differ"


def test_what_a_block_is_like() -> None:
    class Causal(Visible):
        def block(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
            return (torch.arange(k0, k1) <= torch.arange(q0, q1)[:, None])[None, None]

    mask = Causal(32, 32)
    assert [mask.kind(8, 16, k, k + 8) for k in (0, 8, 16)] == ["all", "causal", "none"]
    assert Causal(30, 32).kind(8, 16, 8, 16) == "some", "causal, but not up to the last key"


def test_loops_for_each_kind_of_machine(loops: str) -> None:
    for dtype, head_dim in ((torch.float32, 20), (torch.bfloat16, 64)):
        positions = torch.arange(300)[None]
        for queries in (150, 1):
            tensors, how = data(queries, 300, head_dim, dtype), at(positions[:, -queries:], positions)
            agree("cpu", modules("t5"), tensors, dtype, causal=True, softcap=2.0, **how)
