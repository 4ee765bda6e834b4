"""What the loops of attention.c are told, and what they give: the one place that knows the order of `Call` there.

Not an implementation: one that runs on the loops says what q, k and v are, and which run of keys each query sees.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import torch

from whorl.ops.impl import native


class How(NamedTuple):
    """What the loops need besides tensors and runs of keys."""

    scale: float
    softcap: float | None = None
    dropout: float = 0.0
    seed: int = 0
    begin: torch.Tensor | None = None  # the first key of each of a query's runs but the first: see `whorl.ops.runs`
    rows: torch.Tensor | None = None  # which of its numbers each run has, where runs share them
    kinds: int = 0  # how many those are: as many as runs, but for these


class Given(NamedTuple):
    """q [batch, heads, queries, dim], k and v of key heads; the biases by distance, the sinks, and channels of q and k;
    values and slopes by run [batch, heads, kinds of runs, queries], and the feature by distance, as the biases are;
    what q is multiplied by, [batch or 1, heads or 1, queries].

    Or the gradients to them.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    vector: torch.Tensor | None = None
    sinks: torch.Tensor | None = None
    of_q: torch.Tensor | None = None
    of_k: torch.Tensor | None = None
    values: torch.Tensor | None = None
    slopes: torch.Tensor | None = None
    feature: torch.Tensor | None = None
    factor: torch.Tensor | None = None


class OfRows(NamedTuple):
    """What came of each query, float32: its output [batch, heads, queries, dim of v], its largest logit, and 1 / the
    sum of exp(logit - top), both [batch, heads, queries] and with the sink. 0 is that of a query that sees nothing."""

    out: torch.Tensor
    top: torch.Tensor
    normal: torch.Tensor


def attend(how: How, first: torch.Tensor, end: torch.Tensor, given: Given, mass: torch.Tensor | None = None) -> OfRows:
    """Query i sees the keys first[i] <= j < end[i], int64 [batch or 1, queries], contiguous.

    mass: where the weights of each kind of run are written, added up: float32 [batch, heads, kinds, queries].
    """
    read = _as_the_loops_read(given)
    batch, heads, queries, _ = read.q.shape
    of_tokens = read.q.new_empty(batch, queries, heads, read.v.shape[3], dtype=torch.float32)  # as hosts want it
    out = of_tokens.transpose(1, 2)
    made = OfRows(out, out.new_empty(batch, heads, queries), out.new_empty(batch, heads, queries))
    if out.numel():
        _call("whorl_attention", how, first, end, 1, read, made, (mass, *NO_RUNS[1:]))
    return made


class Again:
    """`attend` of one query, and its `out` alone, for other q, k and v that lie as those given, in a dtype that the
    loops read. One call at a time."""

    def __init__(self, how: How, first: torch.Tensor, end: torch.Tensor, given: Given) -> None:
        q, _, v = given[:3]
        self.shape = (q.shape[0], 1, q.shape[1], v.shape[3])
        out = q.new_empty(self.shape, dtype=torch.float32).transpose(1, 2)
        made = OfRows(out, *(out.new_empty(out.shape[:3]) for _ in range(2)))
        self.kept = first, end, given.vector, made  # addresses of theirs are among the numbers
        packed = _packed(_numbers(how, first, end, 1, given, made, NO_RUNS))
        self.before, self.after = packed[: TENSORS.start], packed[TENSORS.stop :]
        self.strides = [_tensor(x)[1:] for x in (*given[:3], out)]

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        of_q, of_k, of_v, of_out = self.strides
        out = q.new_empty(self.shape, dtype=torch.float32)
        tensors = FOUR.pack(q.data_ptr(), *of_q, k.data_ptr(), *of_k, v.data_ptr(), *of_v, out.data_ptr(), *of_out)
        native.call("whorl_attention", self.before + tensors + self.after)
        return out.transpose(1, 2)


def gradients(
    how: How,
    first: torch.Tensor,
    end: torch.Tensor,
    given: Given,
    of_rows: OfRows,
    grad: torch.Tensor,
    *,
    mass: torch.Tensor | None = None,
    to_mass: torch.Tensor | None = None,
    of_vector: bool = False,
    of_feature: bool = False,
    of_factor: bool = False,
) -> tuple[Given, torch.Tensor]:
    """To all that is given, float32, but for the sinks; and the product of each query's output and its gradient."""
    read = _as_the_loops_read(given)
    q, k, v, vector, _, of_q, of_k, values, slopes, feature, factor = read
    out, top, *_ = of_rows
    batch, heads, queries, _ = q.shape
    grad = _rows_adjacent(grad, q.dtype)
    to_q = torch.empty_like(q, dtype=torch.float32)
    # where heads are too few to keep all threads busy, several share one, and their sums are added afterwards
    chunks = max(1, min(-(-torch.get_num_threads() // max(1, batch * k.shape[1])), -(-queries // 256)))
    to_k, to_v = (out.new_empty(chunks, *x.shape) for x in (k, v))
    to_vector = None
    if vector is not None and of_vector:
        to_vector = out.new_zeros(chunks, batch, heads, vector.shape[1])
    delta, to_of_q, to_of_k = torch.empty_like(top), None, None
    if of_q is not None and of_k is not None:
        to_of_q = torch.zeros_like(of_q)
        to_of_k = out.new_zeros(chunks, batch, heads, *of_k.shape[2:])
    to_mass = None if to_mass is None else to_mass.contiguous()
    to_values, to_slopes = (None if x is None else torch.empty_like(x) for x in (values, slopes))
    to_feature = None
    if feature is not None and of_feature:
        to_feature = out.new_zeros(chunks, batch, heads, len(feature))
    to_factor = torch.empty_like(top) if factor is not None and of_factor else None
    more = (
        *_tensor(grad), *_tensor(to_q),
        *(_address(x) for x in (to_k, to_v, to_vector, delta, to_of_q, to_of_k, to_factor)),
    )  # fmt: skip
    if out.numel():
        by_run = mass, to_mass, to_values, to_slopes, to_feature
        _call("whorl_attention_backward", how, first, end, chunks, read, of_rows, by_run, *more)
    else:
        to_k.zero_(), to_v.zero_()
        to_factor = None if to_factor is None else to_factor.zero_()
    if to_vector is not None and vector is not None:
        to_vector = to_vector.sum((0, 1)).sum_to_size(vector.shape)
    if to_of_k is not None and of_k is not None:
        to_of_k = to_of_k.sum(0).sum_to_size(of_k.shape)
    if to_feature is not None:
        to_feature = to_feature.sum((0, 1, 2))
    if to_factor is not None and factor is not None:
        to_factor = to_factor.sum_to_size(factor.shape)
    to_k, to_v = (x[0] if chunks == 1 else x.sum(0) for x in (to_k, to_v))
    made = to_q, to_k, to_v, to_vector, None, to_of_q, to_of_k, to_values, to_slopes, to_feature, to_factor
    return Given(*made), delta


def _tensor(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Its address, and its strides by batch, head and token."""
    batch, head, token, _ = x.stride()
    return x.data_ptr(), batch, head, token


def _shared(x: torch.Tensor | None) -> tuple[int, int, int, int]:
    """The same of a tensor that may be missing, or have one batch row or head for all: these have a stride of 0."""
    if x is None:
        return 0, 0, 0, 0
    batch, head, token = (0 if size == 1 else stride for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True))
    return x.data_ptr(), batch, head, token


def _rows_adjacent(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x with its channels side by side, in a dtype that the loops read, and its own numbers if the view says minus."""
    if x.dtype != dtype:
        x = x.to(dtype)
    if x.stride(-1) != 1:
        x = x.contiguous()
    return x.resolve_neg() if x.is_neg() else x


def _as_the_loops_read(given: Given) -> Given:
    q, k, v, *others = given
    dtype = torch.bfloat16 if q.dtype == k.dtype == v.dtype == torch.bfloat16 else torch.float32
    q, k, v = (_rows_adjacent(x, dtype) for x in (q, k, v))
    return Given(q, k, v, *(None if x is None else x.float().contiguous().resolve_neg() for x in others))


def _address(x: torch.Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _runs(how: How) -> tuple[int, ...]:
    """How many runs a query has, and where they begin; how many kinds there are, and where a run's is told."""
    if how.begin is None:
        return 0, 0, 0, 0, 0, 0
    return how.begin.shape[1] + 1, *_of_batch(how.begin), how.kinds, *_of_batch(how.rows)


def _of_batch(x: torch.Tensor | None) -> tuple[int, int]:
    """The stride from row to row of the batch, and the address."""
    return (0, 0) if x is None else (0 if x.shape[0] == 1 else x.stride(0), x.data_ptr())


NO_RUNS = (None,) * 5
FOUR = struct.Struct("16q")  # an address and three strides each: q, k, v and out
TENSORS = slice(24 * 8, 24 * 8 + FOUR.size)  # their place among the bytes


def _call(
    loop: str,
    how: How,
    first: torch.Tensor,
    end: torch.Tensor,
    chunks: int,
    read: Given,
    of_rows: OfRows,
    by_run: tuple[torch.Tensor | None, ...],
    *more: int,
) -> None:
    """Calls one of the loops of attention.c."""
    native.call(loop, _packed((*_numbers(how, first, end, chunks, read, of_rows, by_run), *more)))


def _packed(numbers: tuple[Any, ...]) -> bytes:
    return struct.pack(f"15q3d{len(numbers) - 18}q", *numbers)


def _numbers(
    how: How,
    first: torch.Tensor,
    end: torch.Tensor,
    chunks: int,
    read: Given,
    of_rows: OfRows,
    by_run: tuple[torch.Tensor | None, ...],
) -> tuple[Any, ...]:
    """In the order of `Call` in attention.c, and of `Runs` in it (runs.h), up to what the backward pass alone has."""
    q, k, v, vector, sinks, of_q, of_k, values, slopes, feature, factor = read
    out, top, normal = of_rows
    batch, heads, queries, dim = q.shape
    return (
        q.dtype == torch.bfloat16, torch.get_num_threads(), batch, heads, k.shape[1], queries, k.shape[2], dim,
        v.shape[3], 0 if vector is None or vector.shape[0] == 1 else vector.stride(0),
        0 if first.shape[0] == 1 else queries, chunks, 0 if of_q is None else of_q.shape[3],
        min(2**32 - 1, round(how.dropout * 2**32)), how.seed,
        float(how.scale), 1 / (1 - how.dropout), float(how.softcap or 0), first.data_ptr(), end.data_ptr(),
        _address(vector), _address(sinks), top.data_ptr(), normal.data_ptr(),
        *_tensor(q), *_tensor(k), *_tensor(v), *_tensor(out), *_shared(of_q), *_shared(of_k), *_shared(factor),
        *_runs(how), *map(_address, (values, slopes, feature, *by_run)),
    )  # fmt: skip
