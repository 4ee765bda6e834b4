"""What only a GPU can show: `make test-gpu`. Everything here skips where there is no CUDA device."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch

import whorl
from whorl.encodings import Shape, parse
from whorl.ops import biased_attention, choose, rotate, rotation_tables
from whorl.ops.impl import flex
from whorl.ops.scores import BoundScore
from whorl.testing import logits_and_budget, max_error, peaked, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]
DEVICE = "cuda"


@pytest.mark.parametrize("encoding", ["rope", "hope:train_length=4096"])
def test_tables_are_exact_on_the_device(encoding: str) -> None:
    positions = torch.tensor([0, 3, 1_000_003, 2**31 - 1])
    spectrum = parse(encoding).spectrum(128)
    here, there = rotation_tables(spectrum, positions), rotation_tables(spectrum, positions.cuda())
    assert max_error(there.cos.cpu(), here.cos) <= 2e-7
    assert max_error(there.sin.cpu(), here.sin) <= 2e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rotation_is_float32_inside(dtype: torch.dtype) -> None:
    spectrum, positions = parse("rope").spectrum(64), torch.arange(10**6, 10**6 + 257)
    x = torch.randn(1, 2, 257, 64).to(dtype)
    truth, _ = rotate(x.double(), None, rotation_tables(spectrum, positions, torch.float64))
    turned, _ = rotate(x.cuda(), None, rotation_tables(spectrum, positions.cuda()))
    rounding = torch.finfo(dtype).eps * float(truth.abs().max())
    assert max_error(turned.cpu(), truth) <= rounding / 2 + 4e-6 * (dtype == torch.float32)


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# every size in both layouts; every layout, dtype and encoding beside every other
SIZES = itertools.product([1, 63, 1000], [2, 80, 96, 256], ["half", "interleaved"])
KERNELS = [(*size, DTYPES[i % 3], ["rope", "p-rope:p=0.5"][i // 2 % 2]) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize(("tokens", "head_dim", "layout", "dtype", "encoding"), KERNELS)
def test_the_triton_kernel_is_right(tokens: int, head_dim: int, layout: str, dtype: torch.dtype, encoding: str) -> None:
    """Forward and gradients, out of place and in place, by the rule of tests/ops/test_rotation_kernels.py."""
    positions = torch.stack([torch.arange(tokens), 2**31 - tokens + torch.arange(tokens)])
    spectrum = parse(encoding).spectrum(head_dim)
    data = [torch.randn(2, tokens, heads, head_dim).to(dtype).transpose(1, 2) for heads in (4, 2)]
    weights = [torch.randn_like(x) for x in data]

    def run(impl: str, cast: torch.dtype, device: str, inplace: bool = False) -> list[torch.Tensor]:
        tables = rotation_tables(spectrum, positions.to(device), cast)
        leaves = [x.to(device, cast).requires_grad_() for x in data]
        given = [leaf * 1 if inplace else leaf for leaf in leaves]
        turned = rotate(*given, tables, layout=layout, impl=impl, inplace=inplace)
        grads = torch.autograd.grad(turned, leaves, [w.to(device, cast) for w in weights])
        return [t.detach().cpu() for t in (*turned, *grads)]

    truth, plain = run("reference", torch.float64, "cpu"), run("reference", dtype, "cpu")
    for inplace in (False, True):
        for got, exact, reference in zip(run("triton", dtype, "cuda", inplace), truth, plain, strict=True):
            rounding = torch.finfo(dtype).eps * float(exact.abs().max())
            assert max_error(got, exact) <= 2 * max_error(reference, exact) + rounding


@torch.no_grad()
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_what_was_compiled_for_one_call_serves_the_next(layout: str) -> None:
    """Other memory, and memory that does not begin at a multiple of 16 bytes, for which Triton compiles anew."""
    spectrum, kept, shape = parse("hope:train_length=4096").spectrum(64), [], (2, 4, 33, 64)
    for turn, offset in enumerate((0, 0, 0, 1, 1, 0)):
        held = torch.randn(offset + math.prod(shape), dtype=torch.bfloat16)
        positions = torch.arange(33) + 100 * turn
        here, there = (rotation_tables(spectrum, p) for p in (positions, positions.cuda()))
        expected, _ = rotate(held[offset:].view(shape), None, here, layout=layout)
        turned, _ = rotate(held.cuda()[offset:].view(shape), None, there, layout=layout, impl="triton")
        kept.append((turned, expected))  # in memory of its own each time
    for turned, expected in kept:
        assert max_error(turned.cpu(), expected) <= torch.finfo(torch.bfloat16).eps * float(expected.abs().max())


@torch.no_grad()
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_tensors_on_a_device_that_is_not_the_current_one() -> None:
    x, spectrum = torch.randn(1, 2, 33, 64), parse("rope").spectrum(64)
    expected, _ = rotate(x, None, rotation_tables(spectrum, torch.arange(33)))
    there = rotation_tables(spectrum, torch.arange(33, device="cuda:1"))
    for _ in range(2):
        turned, _ = rotate(x.to("cuda:1"), None, there, impl="triton")
        assert max_error(turned.cpu(), expected) <= 1e-5


def test_auto_takes_triton_on_the_device() -> None:
    assert choose("auto", torch.device("cuda")) == "triton"


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("encoding", ["hope:train_length=16", "t5", "rope+window:size=8/nope", "sinusoidal"])
def test_a_model_gives_on_the_device_what_it_gives_on_the_cpu(family: str, encoding: str) -> None:
    model = whorl.attach(tiny_model(family), encoding)
    tokens = torch.randint(3, 97, (2, 40))
    here = model(tokens).logits
    there = model.cuda()(tokens.cuda()).logits
    exact = model.cpu().double()(tokens).logits
    assert max_error(there.cpu(), exact) <= 4 * max_error(here, exact) + 1e-5


def test_a_comparison_runs(tmp_path: Path) -> None:
    settings = {"train_length": 32, "lengths": ("1x", "2x"), "tokens": 40 * 8 * 32, "batch_size": 8, "tail": 8}
    results = whorl.compare(["rope", "t5"], out=tmp_path / "out", windows=8, quiet=True, **settings)
    assert results.machine.device == torch.cuda.get_device_name()
    for trial in results.trials:
        assert trial.train.loss < 6.5


HEADS, KEY_HEADS, HEAD_DIM = 4, 2, 64


def bias_modules(encoding: str) -> list[torch.nn.Module]:
    biases = [e.module for e in parse(encoding).effects(Shape(head_dim=HEAD_DIM, heads=HEADS, width=256))]
    for parameter in (p for module in biases for p in module.parameters()):
        torch.nn.init.uniform_(parameter, 0.2, 1.0)
    return biases


def attention_is_right(impl: str, encoding: str, dtype: torch.dtype, queries: int, keys: int, **how) -> None:
    """Forward and every gradient, by the rule of tests/ops/attention_cases.py."""
    biases = bias_modules(encoding)
    shapes = (HEADS, queries), (KEY_HEADS, keys), (KEY_HEADS, keys)
    data = [torch.randn(2, heads, tokens, HEAD_DIM).to(dtype) for heads, tokens in shapes]
    weight = torch.randn(2, HEADS, queries, HEAD_DIM).to(dtype)
    positions = how.pop("positions", torch.arange(keys)[None])
    how = {"causal": True, "query_positions": positions[:, -queries:], "key_positions": positions, **how}

    def run(impl: str, cast: torch.dtype, device: str) -> list[torch.Tensor]:
        double = torch.float64 if cast == torch.float64 else None
        modules = [copy.deepcopy(m).to(device, double) for m in biases]
        leaves = [x.to(device, cast).requires_grad_() for x in data]
        there = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in how.items()}
        learned = [p for module in modules for p in module.parameters()]
        if "sinks" in there:
            there["sinks"] = there["sinks"].to(double).requires_grad_()
            learned.append(there["sinks"])
        out, _ = biased_attention(*leaves, modules, scale=0.125, impl=impl, **there)
        grads = torch.autograd.grad(out, [*leaves, *learned], weight.to(device, cast))
        return [t.detach().cpu() for t in (out, *grads)]

    truth, plain = run("reference", torch.float64, "cpu"), run("reference", dtype, "cpu")
    for index, (got, exactly, reference) in enumerate(zip(run(impl, dtype, "cuda"), truth, plain, strict=True)):
        roundings = keys if dtype == torch.float64 else 4
        if index > 3:  # what is learned: the sum over all rows, whose terms cancel, and their roundings do not
            roundings *= queries**0.5
        rounding = torch.finfo(dtype).eps * float(exactly.abs().max())
        assert max_error(got, exactly) <= 2 * max_error(reference, exactly) + roundings * rounding


@pytest.mark.parametrize("tokens", [128, 512])
def test_a_window_in_bfloat16_fits(tokens: int) -> None:
    """Of lengths that are whole blocks: on an H200 the kernel that PyTorch chooses took more memory than there is."""
    attention_is_right("flex", "window:size=32", torch.bfloat16, tokens, tokens)


@pytest.mark.parametrize("impl", ["blocked", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoding", ["alibi", "t5", "kerple", "alibi+window:size=100"])
def test_biased_attention_is_right(encoding: str, dtype: torch.dtype, impl: str) -> None:
    attention_is_right(impl, encoding, dtype, 700, 700)


def masked(kind: str, queries: int, keys: int) -> dict:
    """Arguments of `biased_attention`."""
    own = torch.arange(keys)
    if kind == "softcap and sinks":
        return {"softcap": 2.0, "sinks": torch.randn(HEADS)}
    if kind == "gaps":
        return {"positions": (own + 3 * (own > 50)).repeat(2, 1) + torch.tensor([[0], [7]])}
    if kind == "packed":
        document = own >= keys // 2
        same = document[-queries:, None] == document
        return {"mask": same[None, None], "positions": torch.where(document, own - keys // 2, own)[None]}
    mask = torch.rand(2, HEADS if kind == "a mask for each head" else 1, queries, keys) > 0.3
    mask[..., 0] = True  # every row sees a key
    return {"mask": mask}


ASKED = ["softcap and sinks", "gaps", "packed", "a mask", "a mask for each head"]
LENGTHS = [(300, 300), (100, 100), (150, 300), (1, 300)]
# a kernel takes a while to compile: every kind at every length, with one encoding or the other in turn
CALLS = [
    (kind, *LENGTHS[i], ["t5", "alibi+window:size=100"][(i + k) % 2])
    for k, kind in enumerate(ASKED)
    for i in range(len(LENGTHS))
]


@pytest.mark.parametrize(("kind", "queries", "keys", "encoding"), CALLS)
def test_flex_takes_what_attention_can_be_asked(kind: str, encoding: str, queries: int, keys: int) -> None:
    """Lists of blocks, short queries in one block (100, where PyTorch's own choice of tiles fails), and decoding."""
    attention_is_right("flex", encoding, torch.float32, queries, keys, **masked(kind, queries, keys))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """Calls of FlexAttention."""
    made: list = []
    original = flex.run
    monkeypatch.setattr(flex, "run", lambda *how: (made.append(how), original(*how))[1])
    return made


@pytest.mark.parametrize("encoding", ["alibi", "t5", "kerple"])
def test_auto_takes_flex_on_the_device(encoding: str, calls: list) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        attention_is_right("auto", encoding, dtype, 200, 200)
    assert len(calls) == 2
    attention_is_right("auto", encoding, torch.float64, 20, 20)
    assert len(calls) == 2, "not in float64"


@torch.no_grad()
@pytest.mark.parametrize("queries", [300, 1])
def test_channels_through_the_fused_kernels_keep_what_is_left_of_large_sums(queries: int) -> None:
    module = next(m for e in parse("fox").effects(Shape(HEAD_DIM, HEADS, 256)) for m in e.modules)
    state = -900 - torch.rand(2, 300, HEADS, 1).cumsum(1)
    data = [
        torch.randn(2, h, n, HEAD_DIM).bfloat16() for h, n in ((HEADS, queries), (KEY_HEADS, 300), (KEY_HEADS, 300))
    ]
    at = torch.arange(300)[None]

    def run(impl: str, dtype: torch.dtype, device: str) -> torch.Tensor:
        here = [state.to(device, torch.float64 if dtype == torch.float64 else torch.float32), at.to(device)]
        scores = [BoundScore(module.to(device), here[0][:, -queries:], here[0])]
        how = {"query_positions": here[1][:, -queries:], "key_positions": here[1], "causal": True, "scale": 0.125}
        tensors = [x.to(device, dtype) for x in data]
        return biased_attention(*tensors, [], scores=scores, impl=impl, **how)[0].cpu()

    truth, plain = run("reference", torch.float64, "cpu"), run("reference", torch.bfloat16, "cpu")
    rounding = torch.finfo(torch.bfloat16).eps * float(truth.abs().max())
    assert max_error(run("fused", torch.bfloat16, DEVICE), truth) <= 2 * max_error(plain, truth) + rounding


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])  # softcap; windows; sinks
def test_a_models_masks_go_through_flex(
    family: str, padded: bool, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list = []
    original = flex._blocks
    monkeypatch.setattr(flex, "_blocks", lambda *how: (lists.append(how), original(*how))[1])
    model = whorl.attach(peaked(tiny_model(family, max_position_embeddings=512)), "alibi")
    tokens, own = torch.randint(3, 97, (2, 200)), torch.arange(200)
    how: dict = {"use_cache": False}
    if padded:
        how["attention_mask"] = torch.stack([own >= 0, own >= 7]).long()
        how["position_ids"] = torch.stack([own, (own - 7).clamp(min=0)])
    expected, budget = logits_and_budget(model, tokens, **how)
    there = {n: x.cuda() if isinstance(x, torch.Tensor) else x for n, x in how.items()}
    logits = model.cuda()(tokens.cuda(), **there).logits.cpu()
    assert len(calls) == model.config.num_hidden_layers
    assert len(lists) < len(calls), "layers share what their mask is made into"
    seen = how.get("attention_mask", torch.ones(2, 200)).bool()
    assert max_error(logits[seen], expected[seen]) <= 2 * budget


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", "t5", "rope+window:size=24"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_decoding_with_a_cache_on_the_device(encoding: str, cache: str, calls: list) -> None:
    """The prompt at once, a few tokens together, and then one by one: the logits of all at once."""
    from transformers import DynamicCache, StaticCache

    model = peaked(tiny_model("llama", max_position_embeddings=512)).cuda()
    tokens = torch.randint(3, 97, (2, 160), device="cuda")
    # the budget of this device: its sums are in other orders than the CPU's, and a peaked model makes much of that
    expected, budget = logits_and_budget(whorl.attach(model, encoding, impl="reference"), tokens, use_cache=False)
    model = whorl.attach(model, encoding)
    past = DynamicCache() if cache == "dynamic" else StaticCache(model.config, max_cache_len=200)
    parts = tokens.split([140, 12, *[1] * 8], dim=1)
    logits = [model(part, past_key_values=past, use_cache=True).logits for part in parts]
    assert len(calls) == len(parts) * model.config.num_hidden_layers
    assert max_error(torch.cat(logits, 1), expected) <= 2 * budget
    assert model.generate(tokens[:, :20], max_new_tokens=9, do_sample=False).shape == (2, 29)


def test_no_matrix_of_logits_or_mask_is_in_memory() -> None:
    """Training at 8,192 tokens with 8 heads: one float32 matrix for each head would take 2 GiB."""
    q, k, v = (torch.randn(1, 8, 8192, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    at = torch.arange(8192, device="cuda")[None]
    modules = [e.module.cuda() for e in parse("t5").effects(Shape(head_dim=64, heads=8, width=512))]
    how = {"query_positions": at, "key_positions": at, "causal": True, "scale": 0.125, "impl": "flex"}
    for _ in range(2):  # compiled in the first
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out, _ = biased_attention(q, k, v, modules, **how)
        torch.autograd.grad(out.sum(), (q, k, v, *modules[0].parameters()))
        assert torch.cuda.max_memory_allocated() - before < 200 << 20


def test_lengths_and_caches_are_no_reason_to_compile_anew() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    module = bias_modules("alibi")[0].cuda()

    def graphs(*sizes: tuple[int, int]) -> int:
        before = counters["stats"]["unique_graphs"]
        for queries, keys in sizes:
            q, k = (torch.randn(2, 4, n, 64, device="cuda") for n in (queries, keys))
            at = torch.arange(keys, device="cuda")[None]
            with torch.no_grad():
                biased_attention(
                    q, k, k, [module], query_positions=at[:, -queries:], key_positions=at, causal=True, scale=0.125,
                    impl="flex",
                )  # fmt: skip
        return counters["stats"]["unique_graphs"] - before

    graphs((200, 200), (300, 300), (333, 400), (40, 40), (50, 60), (1, 60), (1, 61))
    assert graphs((410, 410), (500, 777), (150, 150), (60, 61), (33, 90), (1, 62), (1, 63), (1, 500)) <= 2
