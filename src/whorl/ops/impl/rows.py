"""Attention whose scores need all keys of a query at once: a block of queries at a time, with the keys that it may see.

What is done to a block is the reference's own code. The backward pass does it again, block by block, and takes its
gradients: memory is what one block takes, rows x keys, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from whorl.numerics import math_dtype
from whorl.ops.axes import bias_at
from whorl.ops.block_sizes import block_size
from whorl.ops.derivatives import first_only, refuse_batches, saveable
from whorl.ops.distances import by_hand, fitting, reach_of
from whorl.ops.impl import reference
from whorl.ops.learned import Learned, learned_by
from whorl.ops.problem import AttentionProblem
from whorl.ops.scores import BoundScore
from whorl.ops.visible import Visible

BLOCK_BYTES = 4 << 20  # of logits
FEWEST, MOST = 16, 256  # queries in a block

Span = tuple[int, int, int, int]  # queries q0 .. q1 and the keys k0 .. k1 that any of them may see
Tensors = Sequence[torch.Tensor | None]
GIVEN = 6  # q, k, v, sinks and channels of q and of k; then the states of queries and of keys, score after score


def missing(problem: AttentionProblem) -> str | None:
    if not problem.scores:
        return "no score here must see all keys of a query at once, and it is for nothing else"
    return by_hand(problem)


def _tensors(problem: AttentionProblem) -> Tensors:
    states = [x for _, *of_tokens in problem.scores for x in of_tokens]
    return [problem.q, problem.k, problem.v, problem.sinks, *(problem.channels or (None, None)), *states]


def _holding(problem: AttentionProblem, tensors: Tensors) -> AttentionProblem:
    """The same with other tensors, in the order of `_tensors`."""
    found: Any = tensors
    q, k, v, sinks, of_q, of_k, *states = found
    channels = None if of_q is None else (of_q, of_k)
    scores = tuple(BoundScore(s.module, *states[2 * i : 2 * i + 2]) for i, s in enumerate(problem.scores))
    return problem._replace(q=q, k=k, v=v, sinks=sinks, channels=channels, scores=scores)


def _cut(tensors: Tensors, span: Span) -> list[torch.Tensor | None]:
    """Those of the queries and keys of a block."""
    q0, q1, k0, k1 = span
    of_queries, of_keys = slice(q0, q1), slice(k0, k1)
    q, k, v, sinks, c_q, c_k = (
        x if x is None or x.dim() == 1 else x[:, :, tokens]
        for x, tokens in zip(tensors[:GIVEN], (of_queries, of_keys, of_keys, of_keys, of_queries, of_keys), strict=True)
    )
    states = [
        None if x is None else x[:, of_keys if i % 2 else of_queries]  # before the heads
        for i, x in enumerate(tensors[GIVEN:])
    ]
    return [q, k, v, sinks, c_q, c_k, *states]


@dataclass(frozen=True)
class Rows:
    """What does not change from block to block."""

    problem: AttentionProblem  # without tensors but for positions
    spans: list[Span]
    ahead: int  # keys before the first query's own, where attention is causal
    learned: Learned  # the problem's modules, as the forward pass has them

    def attend(self, tensors: Tensors, span: Span) -> torch.Tensor:
        """The output of a block of queries [B, H, q1 - q0, D] for what `_cut` gave of it."""
        q0, q1, k0, k1 = span
        here, seen = _holding(self.problem, tensors), self.seen(span)
        at = here.query_positions[:, q0:q1], here.key_positions[:, k0:k1]
        sizes = {"batch": here.q.shape[0], "heads": here.q.shape[1], "queries": q1 - q0, "keys": k1 - k0}
        biases = [fitting(module, bias_at(module, *at), sizes) for module in here.biases]
        scores = [(score.module, score.at(*at, seen, here.scale)) for score in here.scores]
        return reference.attention(
            here.q, here.k, here.v, biases, seen, here.scale, here.softcap, here.sinks, 0.0, here.channels, scores
        )[0]

    def holding(self, tensors: Sequence[torch.Tensor]) -> Rows:
        """The same with modules that hold these as what they have learned."""
        modules: Any = self.learned.holding(tensors)
        biases = len(self.problem.biases)
        scores = (s._replace(module=m) for s, m in zip(self.problem.scores, modules[biases:], strict=True))
        return replace(self, problem=self.problem._replace(biases=modules[:biases], scores=tuple(scores)))

    def seen(self, span: Span) -> torch.Tensor | None:
        q0, q1, k0, k1 = span
        mask = self.problem.mask
        seen = None if mask is None else mask.block(*span)
        first = self.ahead + q0 - k0  # the last key that the first query sees
        if self.problem.causal and first < k1 - k0 - 1:
            device = self.problem.key_positions.device
            below = torch.ones(1, 1, q1 - q0, k1 - k0, dtype=torch.bool, device=device).tril(first)
            seen = below if seen is None else seen & below
        return seen


def _spans(
    mask: Visible | None,
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    causal: bool,
    reach: int | None,
    rows: int,
) -> list[Span]:
    """The blocks, with no more keys than from the first to the last that any of their queries sees."""
    queries, keys = query_positions.shape[1], key_positions.shape[1]
    ends = [(q0, min(q0 + rows, queries)) for q0 in range(0, queries, rows)]
    spans = [(q0, q1, 0, keys - queries + q1 if causal else keys) for q0, q1 in ends]
    if mask is None and reach is None:
        return spans
    found = []
    for q0, q1, _, end in spans:
        seen = torch.ones(end, dtype=torch.bool, device=key_positions.device)
        if mask is not None:
            seen = seen & mask.block(q0, q1, 0, end).flatten(0, 2).any(0)
        if reach is not None:
            q, k = query_positions[:, q0:q1].long(), key_positions[:, :end].long()
            near = (q.amin(1, keepdim=True) - k < reach) & (k - q.amax(1, keepdim=True) < reach)
            seen = seen & near.any(0)
        first, last = seen.byte().argmax(), end - seen.flip(0).byte().argmax()
        found.append(torch.stack([first, last.where(seen.any(), first + 1)]))  # one key at least, if a hidden one
    of_keys = torch.stack(found).tolist()  # the device is waited for once
    return [(q0, q1, k0, k1) for (q0, q1, _, _), (k0, k1) in zip(spans, of_keys, strict=True)]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Rows, count: int, *given: torch.Tensor | None) -> torch.Tensor:
        """given: `count` tensors in the order of `_tensors`, and what the modules have learned."""
        tensors, parts = given[:count], []
        for span in reversed(rows.spans):  # the most keys first: what they took, an allocator gives to the fewer
            parts.append(rows.attend(_cut(tensors, span), span))
        ctx.rows, ctx.count = rows, count
        at = rows.problem.query_positions, rows.problem.key_positions  # saved too: PyTorch says if they were written to
        ctx.save_for_backward(*map(saveable, at), *given)
        return torch.cat(parts[::-1], 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_batches("rows", *grads)
        _, _, *saved = ctx.saved_tensors  # once: under checkpointing the forward pass runs again for them
        with torch.no_grad(), torch.autocast(grads[0].device.type, enabled=False):
            made = _Attention.gradients(ctx.rows, saved, ctx.count, ctx.needs_input_grad[2:], grads[0])
        return None, None, *first_only("rows", made, [*saved, *grads])

    @staticmethod
    def gradients(
        rows: Rows, saved: Tensors, count: int, needed: Sequence[bool], grad: torch.Tensor
    ) -> list[torch.Tensor | None]:
        sought = {at: x for at, (x, need) in enumerate(zip(saved, needed, strict=True)) if need and x is not None}
        # of a parameter that no row goes by there is no gradient, and not one of zeros, by which AdamW would decay it
        made = [torch.zeros_like(sought[at]) if at in sought and at < count else None for at in range(len(saved))]
        given: Any = saved[count:]
        held = [x.detach().requires_grad_(need) for x, need in zip(given, needed[count:], strict=True)]
        rows = rows.holding(held)
        learned = [x for x in held if x.requires_grad]
        for span in reversed(rows.spans):
            leaves = [
                None if x is None else x.detach().requires_grad_(need)
                for x, need in zip(_cut(saved[:count], span), needed[:count], strict=True)
            ]
            with torch.enable_grad():
                out = rows.attend(leaves, span)
            sources = [x for x in leaves if x is not None and x.requires_grad] + learned
            parts = torch.autograd.grad(out, sources, grad[:, :, span[0] : span[1]], allow_unused=True)
            totals = [*_cut(made[:count], span), *made[count:]]
            for at, part in zip(sought, parts, strict=True):
                if part is None:
                    continue
                if (total := totals[at]) is None:
                    made[at] = part.clone()
                else:
                    total += part
        return made


def run(problem: AttentionProblem) -> torch.Tensor:
    batch, heads, queries, _ = problem.q.shape
    keys, dtype = problem.k.shape[2], math_dtype(problem.q.dtype)
    held = heads + max((score.module.held for score in problem.scores), default=0)
    room, most = block_size(problem.device, BLOCK_BYTES, MOST)
    fit = room // (dtype.itemsize * batch * held * keys)
    spans = problem.shared(_spans, problem.causal, reach_of(problem.biases), max(FEWEST, min(most, fit)))
    q, k, v = (x.to(dtype) for x in (problem.q, problem.k, problem.v))
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
    tensors = _tensors(problem._replace(q=q, k=k, v=v))
    learned = learned_by(problem.modules if torch.is_grad_enabled() else ())
    rows = Rows(_holding(problem, [None] * len(tensors)), spans, keys - queries, learned)
    return _Attention.apply(rows, len(tensors), *tensors, *learned.tensors)
