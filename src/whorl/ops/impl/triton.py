"""The rotation on a GPU: one launch turns q and k together, and touches nothing but the turning pairs when in place.

A program takes a block of rows (token-major, so that heads of one token share its tables) of one of the two tensors.
Bytes moved per turning channel: one read and one write; tables are read once per block of heads.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _turn_rows(
    in_ptr,
    out_ptr,
    cos_ptr,
    sin_ptr,
    block,
    heads,
    tokens,
    rows,
    in_b,
    in_h,
    in_t,
    out_b,
    out_h,
    out_t,
    tab_b,
    tab_h,
    tab_t,
    n,
    first_a,
    first_b,
    head_dim,
    step: tl.constexpr,
    SIGN: tl.constexpr,
    MATH: tl.constexpr,
    COPY: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    # rows are numbered token by token, heads of a token next to one another
    o_row = block * ROWS + tl.arange(0, ROWS)
    m_row = o_row < rows
    head = (o_row % heads).to(tl.int64)
    token = ((o_row // heads) % tokens).to(tl.int64)
    batch = (o_row // (heads * tokens)).to(tl.int64)
    o_pair = tl.arange(0, PAIRS)
    mask = m_row[:, None] & (o_pair < n)[None, :]

    p_tab = (batch * tab_b + head * tab_h + token * tab_t)[:, None] + o_pair[None, :]
    b_cos = tl.load(cos_ptr + p_tab, mask=mask, other=1.0)
    b_sin = tl.load(sin_ptr + p_tab, mask=mask, other=0.0) * SIGN

    p_in = (batch * in_b + head * in_h + token * in_t)[:, None]
    p_out = (batch * out_b + head * out_h + token * out_t)[:, None]
    o_a = first_a + step * o_pair[None, :]
    o_b = first_b + step * o_pair[None, :]
    b_a = tl.load(in_ptr + p_in + o_a, mask=mask, other=0.0).to(MATH)
    b_b = tl.load(in_ptr + p_in + o_b, mask=mask, other=0.0).to(MATH)
    tl.store(out_ptr + p_out + o_a, (b_a * b_cos - b_b * b_sin).to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(out_ptr + p_out + o_b, (b_b * b_cos + b_a * b_sin).to(out_ptr.dtype.element_ty), mask=mask)

    if COPY:  # out of place: the channels that stand still, once
        o_c = tl.arange(0, CHANNELS)
        # in halves two runs of n channels turn, from first_a and first_b; neighbours are one run of 2 n
        still = (o_c < first_a) | (o_c >= first_a + step * n)
        if step == 1:
            still = still & ((o_c < first_b) | (o_c >= first_b + n))
        m_copy = m_row[:, None] & (still & (o_c < head_dim))[None, :]
        b_c = tl.load(in_ptr + p_in + o_c[None, :], mask=m_copy)
        tl.store(out_ptr + p_out + o_c[None, :], b_c, mask=m_copy)


@triton.jit
def _kernel(
    q_in, q_out, k_in, k_out, cos, sin, q_blocks, tokens,
    q_heads, q_rows, q_in_b, q_in_h, q_in_t, q_out_b, q_out_h, q_out_t, q_tab_h,
    k_heads, k_rows, k_in_b, k_in_h, k_in_t, k_out_b, k_out_h, k_out_t, k_tab_h,
    tab_b, tab_t, n, first_a, first_b, head_dim, step: tl.constexpr,
    SIGN: tl.constexpr, MATH: tl.constexpr, COPY: tl.constexpr,
    ROWS: tl.constexpr, PAIRS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    if block < q_blocks:
        _turn_rows(
            q_in, q_out, cos, sin, block, q_heads, tokens, q_rows, q_in_b, q_in_h, q_in_t, q_out_b, q_out_h, q_out_t,
            tab_b, q_tab_h, tab_t, n, first_a, first_b, head_dim, step, SIGN, MATH, COPY, ROWS, PAIRS, CHANNELS,
        )  # fmt: skip
    else:
        _turn_rows(
            k_in, k_out, cos, sin, block - q_blocks, k_heads, tokens, k_rows, k_in_b, k_in_h, k_in_t, k_out_b, k_out_h,
            k_out_t, tab_b, k_tab_h, tab_t, n, first_a, first_b, head_dim, step, SIGN, MATH, COPY, ROWS, PAIRS,
            CHANNELS,
        )  # fmt: skip


ELEMENTS = 2048  # of a row block and half of its turning channels: fills a block of 4 warps with vector loads


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
    """Writes the turned `tensors` to `out`, which may be the same ones; see `whorl.ops.impl.cpu.rotate`."""
    cos, sin = cos.contiguous(), sin.contiguous()
    n, tokens_dim = cos.shape[-1], 3 - heads_dim
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
    half = layout == "half"
    _kernel[(sum(blocks),)](
        q, out[0], k, out[-1], cos, sin, blocks[0], q.shape[tokens_dim], *described[0], *described[-1],
        cos.stride(0) if cos.shape[0] > 1 else 0, cos.stride(tokens_dim if per_head else 1),
        n, first if half else 2 * first, width // 2 + first if half else 2 * first + 1, q.shape[-1],
        step=1 if half else 2, SIGN=sign, MATH=tl.float64 if q.dtype == torch.float64 else tl.float32,
        COPY=out[0].data_ptr() != q.data_ptr(), ROWS=rows, PAIRS=pairs, CHANNELS=triton.next_power_of_2(q.shape[-1]),
    )  # fmt: skip
