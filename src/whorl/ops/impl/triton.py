"""The rotation on a GPU, by the Triton kernel in `triton_kernel`: one launch turns q and k together."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch

from whorl.ops.problem import RotationProblem

ELEMENTS = 2048  # of a row block and half of its turning channels: fills a block of 4 warps with vector loads
WARPS = 4


def missing(problem: RotationProblem) -> str | None:
    """None on CUDA, and anywhere in Triton's interpreter."""
    if problem.device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the inputs are on {problem.device}, and TRITON_INTERPRET=1 is not set"
    return _not_installed()


@cache
def _not_installed() -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the package triton is not installed"
    return None


@cache
def _triton() -> tuple[Any, Any, Any]:
    """The package, its language, and the module of the kernel, which cannot be imported without them."""
    import triton

    from whorl.ops.impl import triton_kernel

    return triton, triton.language, triton_kernel


def run(
    problem: RotationProblem,
    tensors: list[torch.Tensor],
    out: list[torch.Tensor],
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> None:
    triton, tl, kernel = _triton()
    heads_dim, tokens_dim, first = problem.heads_dim, 3 - problem.heads_dim, problem.first
    n = cos.shape[-1]
    pairs = triton.next_power_of_2(n)
    rows = max(1, ELEMENTS // pairs)
    per_head = cos.dim() == 4

    def facts(x: torch.Tensor, y: torch.Tensor) -> list[Any]:
        table = cos.stride(heads_dim) if per_head and cos.shape[heads_dim] > 1 else 0
        strides = [t.stride(d) for t in (x, y) for d in (0, heads_dim, tokens_dim)]
        return [x.shape[heads_dim], x.numel() // x.shape[-1], *strides, table]

    q, k = tensors[0], tensors[-1]
    described = [facts(x, y) for x, y in zip(tensors, out, strict=True)]
    blocks = [triton.cdiv(of[1], rows) for of in described]
    half = problem.layout == "half"
    kernel.turn[(sum(blocks),)](
        q, out[0], k, out[-1], cos, sin, blocks[0], q.shape[tokens_dim], *described[0], *described[-1],
        cos.stride(0) if cos.shape[0] > 1 else 0, cos.stride(tokens_dim if per_head else 1),
        n, first if half else 2 * first, problem.width // 2 + first if half else 2 * first + 1, q.shape[-1],
        step=1 if half else 2, SIGN=problem.sign, MATH=tl.float64 if q.dtype == torch.float64 else tl.float32,
        COPY=not problem.inplace, ROWS=rows, PAIRS=pairs, CHANNELS=triton.next_power_of_2(q.shape[-1]), num_warps=WARPS,
    )  # fmt: skip
