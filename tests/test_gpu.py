"""What only a GPU can show: `make test-gpu`. Everything here skips where there is no CUDA device."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import whorl
from whorl.encodings import Shape, parse
from whorl.ops import biased_attention, choose, rotate, rotation_tables
from whorl.testing import max_error, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]


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


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("head_dim", [2, 80, 96, 256])
@pytest.mark.parametrize("tokens", [1, 63, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("encoding", ["rope", "p-rope:p=0.5"])
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
    assert results["machine"]["device"] == torch.cuda.get_device_name()
    for trial in results["trials"]:
        assert trial["train"]["loss"] < 6.5


@pytest.mark.parametrize("impl", ["blocked", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoding", ["alibi", "t5", "kerple", "alibi+window:size=100"])
def test_biased_attention_is_right(encoding: str, dtype: torch.dtype, impl: str) -> None:
    """Forward and every gradient, by the rule of tests/ops/test_attention_blocked.py."""
    tokens, (heads, key_heads, head_dim) = 700, (4, 2, 64)
    biases = [e.module for e in parse(encoding).effects(Shape(head_dim=head_dim, heads=heads, width=256))]
    for parameter in (p for module in biases for p in module.parameters()):
        torch.nn.init.uniform_(parameter, 0.2, 1.0)
    data = [torch.randn(2, h, tokens, head_dim).to(dtype) for h in (heads, key_heads, key_heads)]
    weight = torch.randn(2, heads, tokens, head_dim).to(dtype)

    def run(impl: str, cast: torch.dtype, device: str) -> list[torch.Tensor]:
        modules = [copy.deepcopy(m).to(device, torch.float64 if cast == torch.float64 else None) for m in biases]
        leaves = [x.to(device, cast).requires_grad_() for x in data]
        at = torch.arange(tokens, device=device)[None]
        out, _ = biased_attention(
            *leaves, modules, query_positions=at, key_positions=at, causal=True, scale=0.125, impl=impl
        )
        learned = [p for module in modules for p in module.parameters()]
        grads = torch.autograd.grad(out, [*leaves, *learned], weight.to(device, cast))
        return [t.detach().cpu() for t in (out, *grads)]

    truth, plain = run("reference", torch.float64, "cpu"), run("reference", dtype, "cpu")
    for got, exactly, reference in zip(run(impl, dtype, "cuda"), truth, plain, strict=True):
        rounding = 4 * torch.finfo(dtype).eps * float(exactly.abs().max())
        assert max_error(got, exactly) <= 2 * max_error(reference, exactly) + rounding
