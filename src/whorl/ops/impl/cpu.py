"""The rotation on a CPU, by the compiled loop in rotate.c (see `native`)."""

from __future__ import annotations

import torch

from whorl.ops.impl import native

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
BLOCK = 16  # tokens per unit of work: a few of their heads fit in the second-level cache
SMALL = 1 << 16  # bytes below which waking a second thread costs more than it gains


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
    tokens_dim = 3 - heads_dim
    table, steps = cos.shape, cos.stride()
    by_batch = steps[0] if table[0] > 1 else 0
    if len(table) == 4:
        by_head, by_token = steps[heads_dim] if table[heads_dim] > 1 else 0, steps[tokens_dim]
    else:
        by_head, by_token = 0, steps[1]
    described: list[int] = []
    size = 0
    for x, y in zip(tensors, out, strict=True):
        shape, strides = x.shape, x.stride()
        to = strides if y is x else y.stride()
        described += (
            y.data_ptr(), x.data_ptr(), shape[0], shape[heads_dim], shape[tokens_dim],
            strides[0], strides[heads_dim], strides[tokens_dim], to[0], to[heads_dim], to[tokens_dim],
            by_batch, by_head, by_token,
        )  # fmt: skip
        size += x.nbytes
    native.call(
        "whorl_rotate", DTYPES[x.dtype], len(tensors), cos.data_ptr(), sin.data_ptr(), sign, shape[3], first,
        table[-1], width, layout == "interleaved", BLOCK, torch.get_num_threads() if size > SMALL else 1, *described,
    )  # fmt: skip
