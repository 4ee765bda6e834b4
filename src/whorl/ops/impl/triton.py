"""The rotation on a GPU, by the Triton kernel in `triton_kernel`: one launch rotates q and k together."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch

from whorl.ops.problem import RotationProblem, Seen

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
    launch = problem.once(_Launch)
    memory = (tensors[0], out[0], tensors[-1], out[-1], cos, sin)
    where = problem.q[3].index
    if where is None or where == torch.cuda.current_device():
        launch(memory)
    else:  # a model that lies on several devices: Triton launches on the current one
        with torch.cuda.device(where):
            launch(memory)


class _Launch:
    """The kernel with its arguments besides memory.

    Triton looks at every argument at every call, which takes longer than a small rotation. Of equal problems all of
    them are equal but the addresses, of which it asks whether they are multiples of 16; so what it has compiled for one
    call serves the next.
    """

    def __init__(self, problem: RotationProblem) -> None:
        triton, tl, kernel = _triton()
        heads_dim, tokens_dim = problem.heads_dim, 3 - problem.heads_dim
        table, table_strides = problem.cos[:2]
        n, dtype, half = table[-1], problem.q[2], problem.layout == "half"
        pairs = triton.next_power_of_2(n)
        rows = max(1, ELEMENTS // pairs)
        per_head = len(table) == 4

        def facts(x: Seen, out: tuple[int, ...]) -> list[int]:
            by_head = table_strides[heads_dim] if per_head and table[heads_dim] > 1 else 0
            strides = [of[dim] for of in (x[1], out) for dim in (0, heads_dim, tokens_dim)]
            return [x[0][heads_dim], x[0].numel() // x[0][-1], *strides, by_head]

        described = [facts(x, y) for x, y in zip(problem.tensors, problem.strides_of_outputs, strict=True)]
        blocks = [triton.cdiv(of[1], rows) for of in described]
        head_dim, first = problem.q[0][3], problem.first
        self.kernel = kernel.turn
        self.grid = (sum(blocks), 1, 1)
        self.numbers = (
            blocks[0], problem.q[0][tokens_dim], *described[0], *described[-1],
            table_strides[0] if table[0] > 1 else 0, table_strides[tokens_dim if per_head else 1], n,
            first if half else 2 * first, problem.width // 2 + first if half else 2 * first + 1, head_dim,
            1 if half else 2, problem.sign, tl.float64 if dtype == torch.float64 else tl.float32, not problem.inplace,
            rows, pairs, triton.next_power_of_2(head_dim),
        )  # fmt: skip
        self.compiled: dict[tuple[int, ...], Any] = {}  # by the addresses' remainders

    def __call__(self, memory: tuple[torch.Tensor, ...]) -> None:
        addresses = [x.data_ptr() for x in memory]
        remainders = tuple([address % 16 for address in addresses])
        compiled = self.compiled.get(remainders)
        if compiled is None:  # always, in the interpreter
            self.compiled[remainders] = self.kernel[self.grid](*memory, *self.numbers, num_warps=WARPS)
        else:
            compiled[self.grid](*addresses, *self.numbers)
