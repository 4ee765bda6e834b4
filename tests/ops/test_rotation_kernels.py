"""Every implementation of rotate() against float64, and what holds of all of them: gradients, in place, compilation.

The Triton kernel runs in Triton's interpreter here (tests/conftest.py); on a GPU, tests/test_gpu.py runs it for real.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator

import pytest
import torch
from attention_cases import Wrapped
from torch.utils.checkpoint import checkpoint

from whorl.encodings import Spectrum, parse
from whorl.ops import Tables, choose, rotate, rotation_tables
from whorl.ops.impl import native
from whorl.testing import max_error

IMPLS = ("cpu", "triton")
LAYOUTS = ("half", "interleaved")


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What torch.empty gives is filled with NaN, so that an element that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def inputs(
    tokens: int, head_dim: int, dtype: torch.dtype, memory: str = "heads first", heads: tuple[int, int] = (4, 2)
) -> list[torch.Tensor]:
    """q and k [2, heads, tokens, head_dim] as they lie in memory in one or another host."""
    made = []
    for h in heads:
        if memory == "heads first":
            x = torch.randn(2, h, tokens, head_dim)
        elif memory == "tokens first":
            x = torch.randn(2, tokens, h, head_dim).transpose(1, 2)
        elif memory == "a slice of a wider head":
            x = torch.randn(2, h, tokens, head_dim + 6)[..., 3 : head_dim + 3]
        else:
            x = torch.randn(2, h, tokens, 2 * head_dim)[..., ::2]
        made.append(x.to(dtype))
        if memory == "every other channel" and dtype != torch.float32:
            made[-1] = x.repeat_interleave(2, -1).to(dtype)[..., ::2]
    return made


MEMORY = ("heads first", "tokens first", "a slice of a wider head", "every other channel")
ENCODINGS = ("rope", "hope:train_length=64", "p-rope:p=0.5,keep=slowest", "frequencies:values=0.9@0@0.1,amplitude=1.3")

CASES = [
    # the sizes that a kernel gets wrong, then the kinds of everything else, at small sizes
    *itertools.product((1, 63, 1000), (2, 80, 96, 256), ("float32",), ("heads first",), ("rope",)),
    *itertools.product((3,), (130, 512, 1024), ("float32", "bfloat16"), ("heads first", "tokens first"), ENCODINGS[:2]),
    *itertools.product((7,), (24, 96), ("float64", "float32", "bfloat16", "float16"), MEMORY, ENCODINGS),
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("lying", ["as they are made", "in the other precision", "with gaps"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", MEMORY)
def test_calls_without_autograd(memory: str, dtype: torch.dtype, lying: str, inplace: bool) -> None:
    """They go to the loops on a shorter way, for which tensors and tables must lie as it takes them."""
    q, k = inputs(7, 24, dtype, memory)
    tables = rotation_tables(parse("p-rope:p=0.5").spectrum(24), torch.arange(7), dtype)
    if lying == "in the other precision":
        other = torch.float32 if dtype == torch.float64 else torch.float64
        tables = tables._replace(cos=tables.cos.to(other), sin=tables.sin.to(other))
    elif lying == "with gaps":
        tables = tables._replace(**{n: getattr(tables, n).repeat_interleave(2, -1)[..., ::2] for n in ("cos", "sin")})
    expected = rotate(q, k, tables, impl="reference")
    for x, y in zip(rotate(q, k, tables, impl="cpu", inplace=inplace), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.matrix(times=4)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("tokens", "head_dim", "dtype", "memory", "encoding"), CASES)
def test_error_is_at_most_twice_the_references(
    tokens: int, head_dim: int, dtype: str, memory: str, encoding: str, impl: str, layout: str
) -> None:
    """Forward and both gradients, out of place and in place, at the last positions that an int32 holds."""
    if impl == "triton" and tokens * head_dim > 20_000:
        pytest.skip("too slow in Triton's interpreter; tests/test_gpu.py has it")
    kind = getattr(torch, dtype)
    positions = torch.stack([torch.arange(tokens), 2**31 - tokens + torch.arange(tokens)])
    spectrum = parse(encoding).spectrum(head_dim)
    tables, exact = rotation_tables(spectrum, positions, kind), rotation_tables(spectrum, positions, torch.float64)
    data = inputs(tokens, head_dim, kind, memory)
    weights = [torch.randn_like(x) for x in data]

    def run(impl: str, tables: Tables, cast: torch.dtype, inplace: bool = False) -> list[torch.Tensor]:
        leaves = [x.detach().to(cast).requires_grad_() for x in data]
        given = [leaf * 1 if inplace else leaf for leaf in leaves]  # a leaf cannot be changed in place
        turned = rotate(*given, tables, layout=layout, impl=impl, inplace=inplace)
        if inplace:
            assert all(a is b for a, b in zip(turned, given, strict=True))
        grads = torch.autograd.grad(turned, leaves, [w.to(cast) for w in weights])
        return [*(t.detach() for t in turned), *grads]

    truth = run("reference", exact, torch.float64)
    same_precision = run("reference", tables, kind)
    for inplace in (False, True):
        for got, exactly, reference in zip(run(impl, tables, kind, inplace), truth, same_precision, strict=True):
            assert got.dtype == kind
            rounding = torch.finfo(kind).eps * float(exactly.abs().max())
            assert max_error(got, exactly) <= 2 * max_error(reference, exactly) + rounding


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("memory", MEMORY)
def test_in_place_neither_reads_nor_writes_what_stands_still(impl: str, layout: str, memory: str) -> None:
    spectrum = parse("hope:train_length=64").spectrum(32)
    still = torch.tensor([(c % 16 if layout == "half" else c // 2) not in spectrum.turning for c in range(32)])
    assert still.sum() > 10
    q, k = inputs(9, 32, torch.float32, memory)
    expected = rotate(q, k, rotation_tables(spectrum, torch.arange(9)), layout=layout, impl="reference")
    for x in (q, k):
        x[..., still] = torch.nan
    for x, y in zip(rotate(q, k, rotation_tables(spectrum, torch.arange(9)), layout=layout, impl=impl, inplace=True),
                    expected, strict=True):  # fmt: skip
        torch.testing.assert_close(x[..., ~still], y[..., ~still])
        assert x[..., still].isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_out_of_place_what_does_not_rotate_is_copied_to_the_bit(dtype: torch.dtype, impl: str, layout: str) -> None:
    info, whole = torch.finfo(dtype), torch.int32 if dtype == torch.float32 else torch.int16
    odd = [torch.inf, -torch.inf, torch.nan, -0.0, 0.0, info.max, info.tiny, info.tiny / 4]
    for pairs, first, last in ((12, 0, 6), (24, 0, 18), (33, 3, 32), (33, 31, 33), (64, 0, 32), (64, 62, 64)):
        channels, frequencies = range(2 * pairs), tuple(0.5 * (first <= i < last) for i in range(pairs))
        tables = rotation_tables(Spectrum(frequencies, 2 * pairs), torch.arange(5))
        turns = [c for c in channels if first <= (c % pairs if layout == "half" else c // 2) < last]
        still = sorted({*channels} - {*turns})
        q, k = inputs(5, 2 * pairs, dtype, "tokens first")
        for x in (q, k):
            x[..., still] = torch.tensor(odd, dtype=dtype).repeat(len(still))[: len(still)]
        made, expected = (rotate(q, k, tables, layout=layout, impl=one) for one in (impl, "reference"))
        for x, got, wanted in zip((q, k), made, expected, strict=True):
            assert torch.equal(got[..., still].contiguous().view(whole), x[..., still].contiguous().view(whole))
            torch.testing.assert_close(got[..., turns], wanted[..., turns])


@pytest.mark.matrix
@pytest.mark.parametrize("impl", ["reference", *IMPLS])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("heads_dim", [1, 2])
def test_gradients_reach_learned_frequencies(impl: str, layout: str, per_head: bool, heads_dim: int) -> None:
    shape = {1: (2, 3, 4, 8), 2: (2, 4, 3, 8)}[heads_dim]
    q = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    frequencies = torch.tensor([0.9, 0.3], dtype=torch.float64).expand(3, 2).clone().requires_grad_()
    positions = torch.tensor([[0.0, 1, 2, 5], [7, 8, 9, 10]], dtype=torch.float64)

    def turned(q: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
        if per_head:
            angles = positions[:, None, :, None] * frequencies[None, :, None]
            angles = angles if heads_dim == 1 else angles.transpose(1, 2)
        else:
            angles = positions[..., None] * frequencies[0]
        tables = Tables(angles.cos(), angles.sin(), 1, 8)
        return rotate(q, None, tables, layout=layout, heads_dim=heads_dim, impl=impl)[0]

    assert torch.autograd.gradcheck(turned, (q, frequencies), fast_mode=impl == "triton")
    if impl != "triton":
        assert torch.autograd.gradgradcheck(turned, (q, frequencies))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pair", [True, False])
def test_the_operators_pass_torchs_own_checks(layout: str, pair: bool) -> None:
    torch.use_deterministic_algorithms(False)  # opcheck compares empty outputs too
    tables = rotation_tables(parse("hope:train_length=64").spectrum(16), torch.arange(5))
    q, k = inputs(5, 16, torch.float32, "tokens first")
    how = (tables.first, tables.width, layout, 1, 1, "cpu")
    for needs in (False, True):
        given = (q.clone().requires_grad_(needs), k.clone().requires_grad_(needs) if pair else None)
        torch.library.opcheck(torch.ops.whorl.rotate.default, (*given, tables.cos, tables.sin, *how))
    torch.library.opcheck(torch.ops.whorl.rotate_.default, (q, k if pair else None, tables.cos, tables.sin, *how))


@pytest.mark.parametrize("inplace", [False, True])
def test_compiles_in_one_graph_with_the_same_gradients(inplace: bool) -> None:
    torch.use_deterministic_algorithms(False)
    tables = rotation_tables(parse("hope:train_length=64").spectrum(16), torch.arange(5))
    leaves = [x.requires_grad_() for x in inputs(5, 16, torch.float32, "tokens first")]

    def loss(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        a, b = rotate(q * 1, k * 1, tables, inplace=inplace)
        return (a.square().sum(1) * b.sum(1)).sum()

    plain, compiled = loss(*leaves), torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves)
    torch.testing.assert_close(compiled, plain)
    expected = torch.autograd.grad(plain, leaves)
    for got, wanted in zip(torch.autograd.grad(compiled, leaves), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_recomputed_rotation_does_not_turn_twice(impl: str, inplace: bool) -> None:
    tables = rotation_tables(parse("rope").spectrum(16), torch.arange(5))
    x, weight = torch.randn(2, 3, 5, 16, requires_grad=True), torch.randn(16, 16)

    def layer(x: torch.Tensor) -> torch.Tensor:
        q = rotate(x @ weight, None, tables, inplace=inplace, impl=impl)[0]
        return q.square().sum()

    expected = torch.autograd.grad(layer(x), x)[0]
    got = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False), x)[0]
    assert torch.equal(got, expected)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
@pytest.mark.parametrize("compiled", [False, True])
def test_in_place_leaves_gradients_to_the_branches_that_share_them(impl: str, compiled: bool) -> None:
    """A sum hands one gradient to both of its terms, and sum() one number for all elements."""
    torch.use_deterministic_algorithms(False)
    if compiled and impl == "triton":
        pytest.skip("its interpreter does not run in a compiled graph")
    tables = rotation_tables(parse("rope").spectrum(16), torch.arange(5))
    x, weight = torch.randn(2, 3, 5, 16, requires_grad=True), torch.randn(2, 3, 5, 16)

    def shared(x: torch.Tensor, inplace: bool, impl: str) -> torch.Tensor:
        before = x * 3
        turned, _ = rotate(before * 1, None, tables, inplace=inplace, impl=impl)
        return ((turned + before) * weight).sum()

    def expanded(x: torch.Tensor, inplace: bool, impl: str) -> torch.Tensor:
        return rotate(x * 1, None, tables, inplace=inplace, impl=impl)[0].sum()

    for loss in (shared, expanded):
        made = torch.compile(loss, backend="aot_eager") if compiled else loss
        expected = torch.autograd.grad(loss(x, False, "reference"), x)[0]
        torch.testing.assert_close(torch.autograd.grad(made(x, True, impl), x)[0], expected)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_what_shares_memory_is_not_turned_in_place(impl: str) -> None:
    memory = torch.randn(1, 4, 5, 16)
    before, shared = memory.clone(), "q and k share memory, which would turn twice in place; use inplace=False"
    for q, k in ((memory, memory), (memory, memory.view(1, 4, 5, 16)), (memory[:, :3], memory[:, 1:])):
        with pytest.raises(ValueError, match=shared):
            rotate(q, k, table(), inplace=True, impl=impl)
        expected = rotate(q.clone(), k.clone(), table(), impl="reference")
        torch.testing.assert_close(rotate(q, k, table(), impl=impl), expected)
    windows = memory.flatten().as_strided((1, 2, 5, 16), (0, 8, 16, 1))
    with pytest.raises(ValueError, match=r"q overlaps itself \(its shape is \(1, 2, 5, 16\) and its strides are"):
        rotate(windows, None, table(), inplace=True, impl=impl)
    assert torch.equal(memory, before), "refused before anything is turned"
    expected, _ = rotate(windows.clone(), None, table(), impl="reference")
    torch.testing.assert_close(rotate(windows, None, table(), impl=impl)[0], expected)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_parts_of_one_projection_are_turned_in_place(impl: str) -> None:
    """They lie between one another and share nothing."""
    projected = torch.randn(2, 5, 8 * 16)
    q, k, v = (x.unflatten(2, (-1, 16)).transpose(1, 2) for x in projected.split([64, 32, 32], 2))
    expected, values = rotate(q.clone(), k.clone(), table(), impl="reference"), v.clone()
    rotate(q, k, table(), inplace=True, impl=impl)
    for x, y in zip((q, k, v), (*expected, values), strict=True):
        torch.testing.assert_close(x, y)


def test_overlap_is_noticed_while_a_graph_is_compiled() -> None:
    def turned(x: torch.Tensor, first: int) -> list[torch.Tensor]:
        x = x * 1
        return [y.clone() for y in rotate(x[:, :2], x[:, first:], table(), inplace=True, impl="cpu")]

    x, compiled = torch.randn(2, 4, 5, 16), torch.compile(turned, backend="aot_eager")
    with pytest.raises(Exception, match="q and k share memory"):  # which torch.compile wraps
        compiled(x, 1)
    torch.testing.assert_close(compiled(x, 2), turned(x, 2))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("impl", ["reference", *IMPLS])
@pytest.mark.parametrize("which", ["q", "k", "cos", "sin", "gradient", "the imaginary part of a conjugate"])
def test_views_that_say_minus(which: str, impl: str, inplace: bool) -> None:
    """A lazy conjugate's imaginary part has the opposite numbers in memory, and a bit that says so."""
    names = dict(zip(("q", "k"), inputs(5, 16, torch.float32), strict=True), **table()._asdict())
    names["gradient"] = torch.randn(2, 4, 5, 16)
    expected_names = dict(names)
    if which in names:
        names[which] = torch._neg_view(-names[which])
    else:
        names["q"] = torch.randn(2, 4, 5, 16, dtype=torch.complex64).conj().imag
        expected_names["q"] = names["q"].resolve_neg()
    assert any(isinstance(x, torch.Tensor) and x.is_neg() for x in names.values())

    def run(given: dict, impl: str, inplace: bool) -> list[torch.Tensor]:
        tables = Tables(given["cos"], given["sin"], 0, 16)
        leaf = given["q"].detach().clone().requires_grad_()
        turned, _ = rotate(leaf * 1, None, tables, impl=impl, inplace=inplace)
        q, k = rotate(given["q"], given["k"], tables, impl=impl, inplace=inplace)
        return [q, k, torch.autograd.grad(turned, leaf, given["gradient"])[0]]

    expected = [x.clone() for x in run(expected_names, "reference", False)]
    for got, wanted in zip(run(names, impl, inplace), expected, strict=True):
        torch.testing.assert_close(got, wanted)


class Named(torch.Tensor):
    """A subclass that holds its own numbers, as torchvision's are."""


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("impl", ["auto", "reference", *IMPLS])
def test_tensor_subclasses(impl: str, inplace: bool) -> None:
    x = torch.randn(2, 3, 5, 16)
    expected = rotate(x.clone(), None, table(), impl="reference")[0]
    named, inner = x.clone().as_subclass(Named), x.clone()
    got = rotate(named, None, table(), impl=impl, inplace=inplace)[0]
    assert type(got) is Named
    torch.testing.assert_close(got.as_subclass(torch.Tensor), expected)
    got = rotate(Wrapped(inner), None, table(), impl=impl, inplace=inplace)[0]
    assert type(got) is Wrapped
    torch.testing.assert_close(got.inner, expected)
    torch.testing.assert_close(inner, expected if inplace else x)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_nothing_to_turn(impl: str) -> None:
    q, k = inputs(5, 16, torch.bfloat16)
    still = rotation_tables(parse("p-rope:p=0").spectrum(16), torch.arange(5))
    assert rotate(q, k, still, impl=impl) == (q, k)
    empty = torch.empty(2, 4, 0, 16)
    turned, _ = rotate(empty, None, rotation_tables(parse("rope").spectrum(16), torch.arange(0)), impl=impl)
    assert turned.shape == empty.shape
    no_channels = torch.empty(2, 4, 5, 0)
    assert (
        rotate(no_channels, None, Tables(torch.ones(1, 5, 0), torch.ones(1, 5, 0), 0, 0), impl=impl)[0] is no_channels
    )
    no_batch = rotate(torch.empty(0, 4, 5, 16), torch.empty(0, 2, 5, 16), table(), impl=impl)
    assert [x.shape for x in no_batch] == [(0, 4, 5, 16), (0, 2, 5, 16)]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_one_of_two_has_no_heads(impl: str, inplace: bool) -> None:
    """The other turns all the same."""
    x, none = torch.randn(2, 3, 5, 16), torch.empty(2, 0, 5, 16)
    expected = rotate(x, None, table(), impl="reference")[0]
    torch.testing.assert_close(rotate(none, x.clone(), table(), impl=impl, inplace=inplace)[1], expected)
    torch.testing.assert_close(rotate(x.clone(), none, table(), impl=impl, inplace=inplace)[0], expected)


def table(tokens: int = 5, head_dim: int = 16, batch: int = 1) -> Tables:
    return rotation_tables(parse("rope").spectrum(head_dim), torch.arange(tokens).expand(batch, -1))


BAD = {
    "layout must be one of half, interleaved, got 'neox'": {"layout": "neox"},
    "heads_dim must be 1 or 2, got 3": {"heads_dim": 3},
    "impl must be one of auto, reference, cpu, triton, got 'cuda'": {"impl": "cuda"},
    "the tables turn 16 channels and q's heads have 8": {"q": torch.randn(2, 4, 5, 8), "k": None},
    "the tables hold 4 tokens and q has 5": {"tables": table(4)},
    "the tables are for a batch of 3 and q has one of 2": {"tables": table(batch=3)},
    "q must have four dimensions": {"q": torch.randn(5, 16)},
    "q must be float64, float32, bfloat16 or float16, got torch.int64": {"q": torch.ones(2, 4, 5, 16).long()},
    "q and k must agree in batch, head dim and dtype": {"k": torch.randn(2, 2, 5, 16).half()},
    "k is on meta and the tables are on cpu": {"k": torch.randn(2, 2, 5, 16, device="meta")},
    "tables.cos is on cpu and tables.sin on meta": {"tables": table()._replace(sin=torch.ones(1, 5, 8, device="meta"))},
    "q is expanded": {"q": torch.randn(2, 1, 5, 16).expand(2, 4, 5, 16), "inplace": True},
    "tables.cos and tables.sin must be": {"tables": Tables(torch.ones(5, 8), torch.ones(5, 8), 0, 16)},
    "tables must hold pairs within their width": {"tables": table()._replace(first=3)},
    "the tables are for 3 heads and q has 4": {"tables": Tables(torch.ones(1, 3, 5, 8), torch.ones(1, 3, 5, 8), 0, 16)},
    "learned tables need what was turned": {
        "tables": Tables(torch.ones(1, 5, 8).requires_grad_(), torch.ones(1, 5, 8), 0, 16), "inplace": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_calls_name_the_argument(message: str) -> None:
    q, k = inputs(5, 16, torch.float32)
    arguments = {"q": q, "k": k, "tables": table(), **BAD[message]}
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        rotate(**arguments)


@pytest.mark.parametrize("grads", [True, False])
@pytest.mark.parametrize("impl", ["reference", *IMPLS])
def test_autograd_notices_what_is_turned_in_place(impl: str, grads: bool) -> None:
    q, _ = inputs(5, 16, torch.float32)
    weight = torch.ones_like(q, requires_grad=True)
    kept = weight * q
    with torch.set_grad_enabled(grads):
        rotate(q, None, table(), inplace=True, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_a_backend_asked_for_by_name_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = inputs(5, 16, torch.float32)
    here, there = torch.device("cpu"), torch.device("mps")
    assert choose("auto", here) == "cpu"
    assert choose("auto", there) == "reference"
    with pytest.raises(ValueError, match="impl='cpu' cannot run here: the inputs are on"):
        choose("cpu", there)
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert choose("auto", here) == "reference"
    assert choose("cpu", here) == "cpu", "what is asked for in the call comes first"
    monkeypatch.setenv("WHORL_IMPL", "fast")
    with pytest.raises(ValueError, match="got 'fast' .from the environment's WHORL_IMPL"):
        rotate(q, k, table())
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="impl='triton' cannot run here: the inputs are on cpu"):
        rotate(q, k, table(), impl="triton")


def test_without_a_compiler_auto_takes_the_reference_and_cpu_says_why(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("PATH", "/nowhere")
    fresh.delenv("CC", raising=False)
    assert choose("auto", torch.device("cpu")) == "reference"
    with pytest.raises(ValueError, match="impl='cpu' cannot run here: no C compiler .cc, gcc or clang. is on the PATH"):
        rotate(*inputs(5, 16, torch.float32), table(), impl="cpu")


def test_the_library_is_built_once_and_kept(fresh: pytest.MonkeyPatch, tmp_path) -> None:
    q, k = inputs(5, 16, torch.float32)
    expected = rotate(q, k, table(), impl="reference")
    made: list[int] = []
    for _ in range(2):
        native.library.cache_clear()
        for x, y in zip(rotate(q, k, table(), impl="cpu"), expected, strict=True):
            torch.testing.assert_close(x, y)
        (library,) = (tmp_path / "whorl").glob("*.so")
        made.append(library.stat().st_mtime_ns)
    assert made[0] == made[1]
    (tmp_path / "file").write_text("")
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # nowhere to keep it: built for this process
    native.library.cache_clear()
    torch.testing.assert_close(rotate(q, k, table(), impl="cpu")[0], expected[0])


def test_loops_for_each_kind_of_machine(loops: str) -> None:
    for dtype, memory, encoding, layout in itertools.product(
        (torch.float32, torch.bfloat16, torch.float16), MEMORY[:2], ENCODINGS, LAYOUTS
    ):
        q, k = inputs(7, 92, dtype, memory)
        tables = rotation_tables(parse(encoding).spectrum(92), torch.arange(7))
        expected = rotate(q, k, tables, layout=layout, impl="reference")
        for x, y in zip(rotate(q, k, tables, layout=layout, impl="cpu"), expected, strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_rounded_to_nearest_even(loops: str, dtype: torch.dtype, layout: str) -> None:
    """Scaled by 1 + m / 2**12, numbers of 8 or 11 bits fall on every kind of fraction, and often in the very middle."""
    pairs = 96
    special = [torch.inf, -torch.inf, torch.nan, 0.0, -0.0, torch.finfo(dtype).max, -torch.finfo(dtype).max]
    if dtype == torch.float16:  # what is below 2**-14 is not normal
        special += [m * 2.0**-24 for m in (*range(1, 40), *range(1000, 1050))]
    numbers = torch.cat([torch.arange(-400, 400) / 256, torch.tensor(special)]).to(dtype)
    x = torch.zeros(1, 1, len(numbers), 2 * pairs, dtype=dtype)
    x[..., :pairs] = numbers[:, None]
    if layout == "interleaved":
        x = x.unflatten(-1, (2, pairs)).transpose(-1, -2).flatten(-2).contiguous()
    scales = (1 + torch.arange(pairs) / 2**12).expand(1, len(numbers), -1)
    tables = Tables(scales, torch.zeros_like(scales), 0, 2 * pairs)
    expected = (numbers.float()[:, None] * scales).to(dtype)
    assert (expected.double() - numbers.double()[:, None] * scales.double()).nan_to_num(0, 0, 0).abs().max() > 0
    got = rotate(x, None, tables, layout=layout, impl="cpu")[0]
    got = got[..., :pairs] if layout == "half" else got[..., ::2]
    torch.testing.assert_close(got[0, 0], expected[0], rtol=0, atol=0, equal_nan=True)
    poisoned = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)  # CUDA's NaN: rounded up, minus zero
    tables = tables._replace(cos=poisoned.expand_as(scales).contiguous())
    assert rotate(torch.ones_like(x), None, tables, layout=layout, impl="cpu")[0].isnan().any(-1).all()


def test_a_compiler_without_openmp_makes_loops_of_one_thread(fresh: pytest.MonkeyPatch, tmp_path) -> None:
    without = tmp_path / "cc"
    without.write_text(f'#!/bin/sh\nfor x; do [ "$x" = -fopenmp ] && exit 1; done\nexec {shutil.which("cc")} "$@"\n')
    without.chmod(0o755)
    fresh.setenv("CC", str(without))
    q, k = inputs(300, 64, torch.float32)
    for got, expected in zip(*(rotate(q, k, table(300, 64), impl=impl) for impl in ("cpu", "reference")), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_compiler_that_fails_is_quoted(fresh: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'cannot allocate registers' >&2\nexit 1\n")
    broken.chmod(0o755)
    fresh.setenv("CC", str(broken))
    assert "could not build whorl's loops: cannot allocate registers" in (native.missing() or "")
