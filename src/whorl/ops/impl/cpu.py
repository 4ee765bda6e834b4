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
    table = [cos.stride(0) if cos.shape[0] > 1 else 0, 0, cos.stride(1)]
    if cos.dim() == 4:
        table[1:] = cos.stride(heads_dim) if cos.shape[heads_dim] > 1 else 0, cos.stride(tokens_dim)
    described: list[int] = []
    size = 0
    for x, y in zip(tensors, out, strict=True):
        shape, strides, out_strides = x.shape, x.stride(), y.stride()
        described += (
            y.data_ptr(), x.data_ptr(), shape[0], shape[heads_dim], shape[tokens_dim],
            strides[0], strides[heads_dim], strides[tokens_dim],
            out_strides[0], out_strides[heads_dim], out_strides[tokens_dim], *table,
        )  # fmt: skip
        size += x.nbytes
    native.call(
        "whorl_rotate", DTYPES[tensors[0].dtype], len(tensors), cos.data_ptr(), sin.data_ptr(), sign,
        tensors[0].shape[-1], first, cos.shape[-1], width, layout == "interleaved", BLOCK,
        torch.get_num_threads() if size > SMALL else 1,
        *described,
    )  # fmt: skip
