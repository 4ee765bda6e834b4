"""The rotation on a CPU, by the compiled loop in rotate.c (see `native`)."""

from __future__ import annotations

import struct
from math import prod

import torch

from whorl.ops.impl import native
from whorl.ops.problem import RotationProblem

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
BLOCK = 16  # tokens per unit of work: a few of their heads fit in the second-level cache
SMALL = 1 << 16  # bytes below which waking a second thread costs more than it gains


def missing(problem: RotationProblem) -> str | None:
    return native.missing() if problem.device == "cpu" else f"the inputs are on {problem.device}"


def run(
    problem: RotationProblem,
    tensors: list[torch.Tensor],
    out: list[torch.Tensor],
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> None:
    rest, size = problem.once(_call)
    threads = torch.get_num_threads() if size > SMALL else 1
    x, y = tensors[-1], out[-1]  # with one tensor they are the same again, and not read
    addresses = (cos.data_ptr(), sin.data_ptr(), out[0].data_ptr(), tensors[0].data_ptr(), y.data_ptr(), x.data_ptr())
    native.call("whorl_rotate", _FIRST.pack(threads, *addresses) + rest)


_FIRST = struct.Struct("7q")


def _call(problem: RotationProblem) -> tuple[bytes, int]:
    """What rotate.c needs besides threads and addresses; and the size of the tensors in bytes."""
    order = (0, problem.heads_dim, 3 - problem.heads_dim)  # batch, heads, tokens
    table, dtype, tensors = problem.cos[0], problem.q[2], problem.tensors
    steps = [prod(table[dim + 1 :]) if table[dim] > 1 else 0 for dim in range(len(table))]
    by = [steps[dim] for dim in order] if len(table) == 4 else [steps[0], 0, steps[1]]
    numbers = [
        DTYPES[dtype], len(tensors), problem.sign, problem.q[0][3], problem.first, table[-1], problem.width,
        problem.layout == "interleaved", BLOCK,
    ]  # fmt: skip
    for (shape, strides, *_), strides_of_output in zip(tensors, problem.strides_of_outputs, strict=True):
        numbers += [of[dim] for of in (shape, strides, strides_of_output) for dim in order] + by
    size = sum(shape.numel() for shape, *_ in tensors) * dtype.itemsize
    return struct.pack(f"{len(numbers)}q", *numbers), size
