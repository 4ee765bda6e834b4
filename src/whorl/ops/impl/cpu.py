"""The rotation on a CPU, by the compiled loop in rotate.c (see `native`)."""

from __future__ import annotations

import struct
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch

from whorl.ops.impl import native

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
BLOCK = 16  # tokens per unit of work: a few of their heads fit in the second-level cache
SMALL = 1 << 16  # bytes below which waking a second thread costs more than it gains


class Call(NamedTuple):
    """What rotate.c needs besides threads and addresses; and the size of the tensors in bytes."""

    numbers: bytes
    size: int


def available() -> str | None:
    """None when the rotation can run here, else the reason why not."""
    return native.missing()


def rotate(
    tensors: list[torch.Tensor],
    out: list[torch.Tensor],
    cos: torch.Tensor,
    sin: torch.Tensor,
    first: int,
    width: int,
    *,
    layout: str,
    heads_dim: int,
    sign: int = 1,
) -> None:
    """Writes the turned `tensors` to `out`, which may be the same ones; see `whorl.ops.rotate` for the rest.

    Channels must be adjacent (stride 1) in all of them. cos and sin: [batch or 1, tokens, n] or, per head, four
    dimensions in the order of the tensors' own.
    """
    cos, sin = cos.contiguous(), sin.contiguous()
    seen = tuple((x.shape, x.stride(), y.stride()) for x, y in zip(tensors, out, strict=True))
    call = described(tensors[0].dtype, seen, cos.shape, first, width, layout, heads_dim, sign)
    run(call, tensors, out, cos, sin)


def run(call: Call, tensors: list[torch.Tensor], out: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Calls the loop for tensors that are as `described`."""
    rest, size = call
    threads = torch.get_num_threads() if size > SMALL else 1
    x, y = tensors[-1], out[-1]  # with one tensor they are the same again, and not read
    addresses = (cos.data_ptr(), sin.data_ptr(), out[0].data_ptr(), tensors[0].data_ptr(), y.data_ptr(), x.data_ptr())
    native.call("whorl_rotate", _FIRST.pack(threads, *addresses) + rest)


_FIRST = struct.Struct("7q")


@lru_cache(maxsize=1024)
def described(
    dtype: torch.dtype,
    seen: tuple[tuple[torch.Size, tuple[int, ...], tuple[int, ...]], ...],
    table: torch.Size,
    first: int,
    width: int,
    layout: str,
    heads_dim: int,
    sign: int,
) -> Call:
    """How rotate.c is called for tensors that lie like these.

    seen   the shape, the strides and the output's strides of each tensor
    """
    order = (0, heads_dim, 3 - heads_dim)  # batch, heads, tokens
    steps = [prod(table[dim + 1 :]) if table[dim] > 1 else 0 for dim in range(len(table))]
    by = [steps[dim] for dim in order] if len(table) == 4 else [steps[0], 0, steps[1]]
    numbers = [
        DTYPES[dtype], len(seen), sign, seen[0][0][3], first, table[-1], width, layout == "interleaved", BLOCK,
    ]  # fmt: skip
    for each in seen:
        numbers += [of[dim] for of in each for dim in order] + by
    size = sum(shape.numel() for shape, *_ in seen) * dtype.itemsize
    return Call(struct.pack(f"{len(numbers)}q", *numbers), size)
