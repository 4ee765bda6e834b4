"""Biased attention on a CPU: the compiled loops of attention.c, in which nothing grows with queries times keys.

They take what attention has nearly always: biases of distance alone, and for each query one run of neighbouring keys
at positions without gaps (causal, windowed, padded, packed, with a cache). `plan` says whether that is so.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.ops.derivatives import first_only, refuse_batches
from whorl.ops.distances import by_distance, needs_rows, not_relative, once, reach_of
from whorl.ops.impl import native
from whorl.ops.problem import AttentionProblem
from whorl.ops.visible import Runs, Visible


class Plan(NamedTuple):
    """Query i sees the keys first[i] <= j < end[i], if any; from it to key j it is i + own - j tokens."""

    first: torch.Tensor  # int64 [batch or 1, queries]
    end: torch.Tensor
    own: int
    vectors: dict[tuple[Any, ...], torch.Tensor]  # of biases that nothing is learned of, by their numbers


def missing(problem: AttentionProblem) -> str | None:
    if problem.device != "cpu":
        return f"the inputs are on {problem.device}"
    if problem.channels is not None and problem.q.shape[2] == 1 and not problem.dropout:
        return "with channels, its loop for one query does the work of a tile of 64"
    if problem.q.dtype == torch.float64:
        return "the loops are float32, and the inputs are float64"
    why = needs_rows(problem) or not_relative(problem) or native.missing()
    if why is None and isinstance(found := problem.once(plan), str):
        why = found
    return why


def plan(problem: AttentionProblem) -> Plan | str:
    """What the loops need to know of positions and masks, or the reason why they cannot take them."""
    return problem.shared(_plan, problem.causal, reach_of(problem.biases))


def _plan(
    mask: Visible | None,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    causal: bool,
    reach: int | None,
) -> Plan | str:
    queries, keys = query_positions.shape[1], key_positions.shape[1]
    runs = Runs(*torch.tensor([[0], [keys]]).expand(2, queries)[:, None]) if mask is None else mask.runs()
    if runs is None:
        return "the mask shows a query more than one run of keys, or differs from head to head"
    index = torch.arange(queries)
    first, end = runs
    if causal:
        end = torch.minimum(end, index + 1 + keys - queries)
    own = _own(query_positions, key_positions, first, end)
    if own is None:
        return "the positions of a run of keys have gaps"
    if reach is not None:
        nearest, farthest = (max(-queries, min(shift, keys)) for shift in (own - reach + 1, own + reach))
        first = torch.maximum(first, index + nearest)  # of a window wider than int64 is, these are where all is seen
        end = torch.minimum(end, index + farthest)
    return Plan(first.contiguous(), end.contiguous(), own, {})


def _own(
    query_positions: torch.Tensor, key_positions: torch.Tensor, first: torch.Tensor, end: torch.Tensor
) -> int | None:
    """The number for which query i is i + own - j tokens from every key j that it sees, or None where there is none."""
    if not (query_positions.numel() and key_positions.numel() and first.numel()):
        return 0
    q_shift = query_positions - torch.arange(query_positions.shape[1])
    k_shift = key_positions - torch.arange(key_positions.shape[1])
    if bool((q_shift == q_shift[:1, :1]).all()) and bool((k_shift == k_shift[:1, :1]).all()):
        return int(q_shift[0, 0] - k_shift[0, 0])  # every token stands one after the one before it
    batch = max(x.shape[0] for x in (q_shift, k_shift, first))
    q_shift, k_shift, first, end = (x.expand(batch, -1) for x in (q_shift, k_shift, first, end))
    same = torch.cat([k_shift.new_zeros(batch, 1), k_shift.diff(dim=1).ne(0).long()], 1).cumsum(1)  # numbers the steps
    begin, last = first.clamp(max=k_shift.shape[1] - 1), (end - 1).clamp(min=0)
    own = q_shift - k_shift.gather(1, begin)
    sees = first < end
    if not bool(sees.any()):
        return 0
    value = own[sees][0]
    right = (own == value) & (same.gather(1, begin) == same.gather(1, last))
    return int(value) if bool((right | ~sees).all()) else None


def _tensor(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Its address, and its strides by batch, head and token."""
    return x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)


def _channels(x: torch.Tensor | None) -> tuple[int, int, int, int]:
    if x is None:
        return 0, 0, 0, 0
    return x.data_ptr(), x.stride(0), 0 if x.shape[1] == 1 else x.stride(1), x.stride(2)


def _rows_adjacent(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x with its channels side by side, in a dtype that the loops read, and its own numbers if the view says minus."""
    x = x.to(dtype)
    return (x if x.stride(-1) == 1 else x.contiguous()).resolve_neg()


def _as_the_loops_read(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *others: torch.Tensor | None
) -> tuple[Any, ...]:
    """others: the vector, the sinks, channels of q and of k; all float32."""
    dtype = torch.bfloat16 if q.dtype == k.dtype == v.dtype == torch.bfloat16 else torch.float32
    q, k, v = (_rows_adjacent(x, dtype) for x in (q, k, v))
    return q, k, v, *(None if x is None else x.float().contiguous().resolve_neg() for x in others)


def _address(x: torch.Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


class _How(NamedTuple):
    """What the loops need besides tensors and positions."""

    scale: float
    softcap: float | None
    dropout: float
    seed: int


def _call(loop: str, how: _How, plan: Plan, chunks: int, tensors: tuple[Any, ...], *more: int) -> None:
    """Calls one of the loops of attention.c; the order is that of `Call` there."""
    q, k, v, vector, sinks, of_q, of_k, out, top, normal = tensors
    batch, heads, queries, dim = q.shape
    numbers = (
        q.dtype == torch.bfloat16, torch.get_num_threads(), batch, heads, k.shape[1], queries, k.shape[2], dim,
        v.shape[3], 0 if vector is None or vector.shape[0] == 1 else vector.stride(0),
        0 if plan.first.shape[0] == 1 else queries, chunks, 0 if of_q is None else of_q.shape[3],
        min(2**32 - 1, round(how.dropout * 2**32)), how.seed,
        float(how.scale), 1 / (1 - how.dropout), float(how.softcap or 0), plan.first.data_ptr(), plan.end.data_ptr(),
        _address(vector), _address(sinks), top.data_ptr(), normal.data_ptr(),
        *_tensor(q), *_tensor(k), *_tensor(v), *_tensor(out), *_channels(of_q), *_channels(of_k), *more,
    )  # fmt: skip
    native.call(loop, struct.pack(f"15q3d{len(numbers) - 18}q", *numbers))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: _How,
        plan: Plan,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *others: torch.Tensor | None,
    ) -> torch.Tensor:
        """others: the vector, the sinks, channels of q and of k."""
        given: tuple[Any, ...] = (q, k, v, *others)
        ctx.how, ctx.plan = how, plan
        q, k, v, *_ = read = _as_the_loops_read(*given)
        batch, heads, queries, _ = q.shape
        # The exact output is kept: its product with the gradient is taken from every logit's gradient.
        out = q.new_empty(batch, queries, heads, v.shape[3], dtype=torch.float32).transpose(1, 2)  # as hosts want it
        top, normal = out.new_empty(2, batch, heads, queries)
        if out.numel():
            _call("whorl_attention", how, plan, 1, (*read, out, top, normal))
        ctx.save_for_backward(*given, out, top, normal)
        return out.to(given[2].dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_batches("cpu", *grads)
        saved = ctx.saved_tensors  # once: under checkpointing the forward pass runs again for them
        with torch.no_grad():
            made = _Attention.gradients(ctx, saved, *grads)
        return None, None, *first_only("cpu", made, [*saved[:-3], *grads])

    @staticmethod
    def gradients(ctx: Any, saved: tuple[Any, ...], grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """To q, k, v, the vector, the sinks and the channels."""
        *given, out, top, normal = saved
        q, k, v, vector, sinks, of_q, of_k = read = _as_the_loops_read(*given)
        tensors = (*read, out, top, normal)
        batch, heads, queries, _ = q.shape
        grad = _rows_adjacent(grad, q.dtype)
        to_q = torch.empty_like(q, dtype=torch.float32)
        # where heads are too few to keep all threads busy, several share one, and their sums are added afterwards
        chunks = max(1, min(-(-torch.get_num_threads() // max(1, batch * k.shape[1])), -(-queries // 256)))
        to_k, to_v = (out.new_empty(chunks, *x.shape) for x in (k, v))
        to_vector = out.new_zeros(chunks, batch, heads, vector.shape[1]) if ctx.needs_input_grad[5] else None
        delta, to_of_q, to_of_k = torch.empty_like(top), None, None
        if of_q is not None and of_k is not None:
            to_of_q = torch.zeros_like(of_q)
            to_of_k = out.new_zeros(chunks, batch, heads, *of_k.shape[2:])
        more = (
            *_tensor(grad), *_tensor(to_q),
            *(_address(x) for x in (to_k, to_v, to_vector, delta, to_of_q, to_of_k)),
        )  # fmt: skip
        if out.numel():
            _call("whorl_attention_backward", ctx.how, ctx.plan, chunks, tensors, *more)
        else:
            to_k.zero_(), to_v.zero_()
        if to_vector is not None:
            to_vector = to_vector.sum((0, 1)).sum_to_size(vector.shape)
        to_sinks = None
        if sinks is not None:
            weight = (sinks[:, None] - top).exp_().mul_(normal)
            to_sinks = (weight * delta).sum((0, 2)).neg_()
        if to_of_k is not None:
            to_of_k = to_of_k.sum(0).sum_to_size(of_k.shape)
        to_k, to_v = (x[0] if chunks == 1 else x.sum(0) for x in (to_k, to_v))
        made = (to_q, to_k, to_v, to_vector, to_sinks, to_of_q, to_of_k)
        return tuple(None if x is None else x.to(of.dtype) for x, of in zip(made, given, strict=True))


def run(problem: AttentionProblem) -> torch.Tensor:
    found = problem.once(plan)
    assert isinstance(found, Plan)
    q, k = problem.q, problem.k
    vector = _vector(found, problem.biases, q, k) if problem.biases else None
    seed = int(torch.randint(2**62, ())) if problem.dropout else 0
    how = _How(problem.scale, problem.softcap, problem.dropout, seed)
    return _Attention.apply(how, found, q, k, problem.v, vector, problem.sinks, *(problem.channels or (None, None)))


def _vector(plan: Plan, biases: Sequence[nn.Module], q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The biases' sum at each distance from a query to a key, [heads or 1, queries + keys - 1]."""
    heads = q.shape[1]

    def make() -> torch.Tensor:
        distances = torch.arange(max(0, q.shape[2] + k.shape[2] - 1)) + (plan.own - (k.shape[2] - 1))
        return by_distance(biases, distances, heads, torch.float32)

    return once(plan.vectors, biases, (heads,), make)
