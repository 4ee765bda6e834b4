"""The rotation on a GPU: one launch rotates q and k together, and touches nothing but the turning pairs when in place.

A program takes a block of rows (token-major, so that heads of one token share its tables) of one of the two tensors.
Bytes moved per turning channel: one read and one write; tables are read once per block of heads.
"""

from __future__ import annotations

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
    if step == 1:  # halves: two runs of n channels
        o_a = first_a + o_pair[None, :]
        o_b = first_b + o_pair[None, :]
        b_a = tl.load(in_ptr + p_in + o_a, mask=mask, other=0.0).to(MATH)
        b_b = tl.load(in_ptr + p_in + o_b, mask=mask, other=0.0).to(MATH)
    else:  # neighbours: one run of 2 n channels, read in one piece and taken apart in registers
        o_both = tl.arange(0, 2 * PAIRS)
        m_both = m_row[:, None] & (o_both < 2 * n)[None, :]
        o_both = first_a + o_both[None, :]
        b_both = tl.load(in_ptr + p_in + o_both, mask=m_both, other=0.0).to(MATH)
        b_a, b_b = tl.split(tl.reshape(b_both, (ROWS, PAIRS, 2)))
    b_turned_a = (b_a * b_cos - b_b * b_sin).to(out_ptr.dtype.element_ty)
    b_turned_b = (b_b * b_cos + b_a * b_sin).to(out_ptr.dtype.element_ty)
    if step == 1:
        tl.store(out_ptr + p_out + o_a, b_turned_a, mask=mask)
        tl.store(out_ptr + p_out + o_b, b_turned_b, mask=mask)
    else:
        b_turned = tl.reshape(tl.join(b_turned_a, b_turned_b), (ROWS, 2 * PAIRS))
        tl.store(out_ptr + p_out + o_both, b_turned, mask=m_both)

    if COPY:  # out of place: the channels that do not rotate, once
        o_c = tl.arange(0, CHANNELS)
        # in halves two runs of n channels turn, from first_a and first_b; neighbours are one run of 2 n
        still = (o_c < first_a) | (o_c >= first_a + step * n)
        if step == 1:
            still = still & ((o_c < first_b) | (o_c >= first_b + n))
        m_copy = m_row[:, None] & (still & (o_c < head_dim))[None, :]
        b_c = tl.load(in_ptr + p_in + o_c[None, :], mask=m_copy)
        tl.store(out_ptr + p_out + o_c[None, :], b_c, mask=m_copy)


@triton.jit
def turn(
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
