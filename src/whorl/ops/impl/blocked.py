"""Biased attention in blocks: memory that grows with the number of tokens, forward and backward, on any device.

For a block of queries and a block of keys, logits and their softmax are made, used and dropped; the backward pass makes
them again from the log-sum-exp of each row (Dao et al., FlashAttention-2, arXiv 2307.08691, section 3).

A bias that depends on distance alone is one number per head and distance. Within a block of consecutive positions the
matrix of those numbers is a *view* of them: with the queries in reverse order, entry (i, j) is number i + j of a
vector, so both strides are 1 (a Hankel matrix). No bias matrix is made, and its gradient is a sum along antidiagonals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from whorl.numerics import math_dtype
from whorl.ops.axes import bias_at, seen_by
from whorl.ops.block_sizes import block_size
from whorl.ops.derivatives import first_only, refuse_batches, saveable
from whorl.ops.distances import by_distance, by_hand, fitting, needs_rows, not_relative
from whorl.ops.learned import Learned, learned_by
from whorl.ops.problem import AttentionProblem
from whorl.ops.scores import Channels, product
from whorl.ops.visible import Visible

# Shape letters: B batch, G key heads, R queries per key head and row (repeats x rows), Q queries, K keys, D head dim.

BLOCK_BYTES = 2 << 20  # of logits: what fits in the second-level caches of two cores
KEYS = 512
FEWEST = 128  # queries: with fewer, matrix products are slow, whatever fits where


@dataclass
class Blocks:
    """What does not change from block to block. Rows are in reverse order within a block of queries."""

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    scale: float
    softcap: float | None
    causal: bool
    mask: Visible | None
    query_positions: torch.Tensor
    key_positions: torch.Tensor
    biases: tuple[nn.Module, ...]
    learned: Learned  # the biases, as the forward pass has them, where it asks them block by block
    start: int | None  # query position 0 - key position 0 where all positions are consecutive whole numbers, and alike
    # in the batch

    def each(self) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """(first query, end, the blocks of keys that any of them may see)."""
        room, most = block_size(self.key_positions.device.type, BLOCK_BYTES, KEYS)
        rows = room // (4 * self.batch * self.heads)  # entries for each head
        keys = min(self.keys, max(KEYS, min(most, rows // FEWEST)))
        queries = rows // keys
        queries = max(FEWEST, min(most, 1 << max(0, queries.bit_length() - 1)))
        for q0 in range(0, self.queries, queries):
            q1 = min(q0 + queries, self.queries)
            last = self.keys - self.queries + q1 if self.causal else self.keys
            spans = ((k0, min(k0 + keys, last)) for k0 in range(0, last, keys))
            yield q0, q1, [span for span in spans if self._seen(q0, q1, *span) and self._in_reach(q0, q1, *span)]

    def _seen(self, q0: int, q1: int, k0: int, k1: int) -> bool:
        return self.mask is None or self.mask.kind(q0, q1, k0, k1) != "none"

    def _in_reach(self, q0: int, q1: int, k0: int, k1: int) -> bool:
        """False where a window hides every key from every query."""
        for module in self.biases:
            reach = getattr(module, "reach", None)
            if reach is None:
                continue
            if self.start is not None:
                low, high = self.start + q0 - (k1 - 1), self.start + q1 - 1 - k0
            else:
                q, k = self.query_positions[:, q0:q1], self.key_positions[:, k0:k1]
                if q.dim() == 3:
                    q, k = seen_by(module, q), seen_by(module, k)
                low, high = int((q.amin(1) - k.amax(1)).min()), int((q.amax(1) - k.amin(1)).max())
            if low >= reach or high <= -reach:
                return False
        return True

    def bias(self, vector: torch.Tensor | None, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor | None:
        """[B or 1, G or 1, R / rows or 1, rows, keys], rows reversed."""
        if vector is not None:
            # numbered from the largest distance down: entry i + j is that of row i and key j
            offset = self.queries - q1 + k0
            heads = vector.shape[0]
            view = vector.as_strided(
                (heads, q1 - q0, k1 - k0), (vector.stride(0), 1, 1), vector.storage_offset() + offset
            )
            return self._grouped(view[None])
        total: torch.Tensor | None = None
        sizes = {"batch": self.batch, "heads": self.heads, "queries": q1 - q0, "keys": k1 - k0}
        for module in self.biases:
            at = self.query_positions[:, q0:q1].flip(1), self.key_positions[:, k0:k1]
            one = fitting(module, bias_at(module, *at), sizes)
            total = one if total is None else total + one
        return None if total is None else self._grouped(total)

    def _grouped(self, x: torch.Tensor) -> torch.Tensor:
        """[.., heads or 1, rows, keys] -> [.., G or 1, repeats or 1, rows, keys]."""
        shape = (self.key_heads, self.heads // self.key_heads) if x.shape[1] > 1 else (1, 1)
        return x.unflatten(1, shape)

    def channels(
        self, of_q: torch.Tensor | None, of_k: torch.Tensor | None, q0: int, q1: int, k0: int, k1: int
    ) -> Channels | None:
        """Those of q [B, G, repeats, rows, E], rows reversed, and of k [B, G or 1, repeats or 1, keys, E]."""
        if of_q is None or of_k is None:
            return None
        return self._grouped(of_q[:, :, q0:q1].flip(2)), self._grouped(of_k[:, :, k0:k1])

    def seen(self, q0: int, q1: int, k0: int, k1: int) -> int:
        """How many keys the block's first row (its last query) sees, each row after it one fewer; or all, always."""
        causal = self.causal or (self.mask is not None and self.mask.kind(q0, q1, k0, k1) == "causal")
        return self.keys - self.queries + q1 - k0 if causal else 1 << 40

    def hidden(self, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor | None:
        """True where a key is not to be seen for another reason, [B or 1, G or 1, repeats or 1, rows, keys]."""
        if self.mask is None or self.mask.kind(q0, q1, k0, k1) != "some":
            return None
        return self._grouped(~self.mask.block(q0, q1, k0, k1).flip(2))

    def logits(
        self,
        vector: torch.Tensor | None,
        q: torch.Tensor,
        k: torch.Tensor,
        channels: Channels | None,
        q0: int,
        q1: int,
        k0: int,
        k1: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, G, repeats, rows, keys] with hidden keys at -inf; and their tanh, where there is a cap.

        q [B, G, R, D] scaled already, k [B, G, keys, D]; channels as `channels` gives them.
        """
        shape = (*q.shape[:2], -1, q1 - q0, k1 - k0)
        s = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).view(shape)
        tanh = None
        if self.softcap is not None:
            tanh = s.div_(self.softcap).tanh_()
            s = tanh * self.softcap
        if channels is not None:
            s.add_(product(*channels))
        bias = self.bias(vector, q0, q1, k0, k1)
        if bias is not None:
            s.add_(bias)
        hidden = self.hidden(q0, q1, k0, k1)
        if hidden is not None:
            s.masked_fill_(hidden, -torch.inf)
        seen = self.seen(q0, q1, k0, k1)
        if seen - (q1 - q0) < k1 - k0:
            limit = seen - torch.arange(q1 - q0, device=s.device)[:, None]
            s.masked_fill_(torch.arange(k1 - k0, device=s.device) >= limit, -torch.inf)
        return s, tanh


@dataclass
class Rows:
    """What the softmax keeps of each row: its largest logit, and 1 / the sum of exp(logit - top), sink included."""

    top: torch.Tensor
    normal: torch.Tensor

    def weights(self, s: torch.Tensor) -> torch.Tensor:
        """Logits to weights, in place."""
        return _exp(s.sub_(self.top.clamp(min=torch.finfo(s.dtype).min))).mul_(self.normal)


def _softened(s: torch.Tensor, top: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(s - top), and what earlier outputs are to be multiplied by. Updates top and total to all keys so far."""
    base = torch.maximum(top, s.amax(-1, keepdim=True))
    finite = base.clamp(min=torch.finfo(s.dtype).min)  # a row that sees nothing: -inf - -inf is no number
    fade = _exp(top - finite).masked_fill_(top == -torch.inf, 0.0)
    hidden = base == -torch.inf
    _exp(s.sub_(finite)).masked_fill_(hidden, 0.0)
    total.mul_(fade).add_(s.sum(-1, keepdim=True))
    top.copy_(base)
    return s, fade


def _rows(x: torch.Tensor, q0: int, q1: int, key_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Queries q0 .. q1 of x [B, heads, Q, D], reversed: [B, G, repeats x rows, D], a copy of our own."""
    return x[:, :, q0:q1].flip(2).to(dtype).unflatten(1, (key_heads, -1)).flatten(2, 3)


def _back(x: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse: [B, G, repeats x rows, D] -> [B, heads, rows, D] in the queries' order."""
    return x.unflatten(2, (-1, rows)).flatten(1, 2).flip(2)


class BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        blocks: Blocks,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        vector: torch.Tensor | None,
        sinks: torch.Tensor | None,
        of_q: torch.Tensor | None,
        of_k: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """of_q, of_k: channels."""
        dtype = math_dtype(q.dtype)
        G, B = blocks.key_heads, q.shape[0]
        k_m, v_m = k.to(dtype).contiguous(), v.to(dtype).contiguous()
        # The exact output is kept: its product with the gradient is taken from every logit's gradient.
        out = torch.empty(*q.shape[:3], v.shape[3], dtype=dtype, device=q.device)
        per_row: list[torch.Tensor] = []
        for q0, q1, spans in blocks.each():
            rows = q1 - q0
            q_b = _rows(q, q0, q1, G, dtype).mul_(blocks.scale)
            top = q_b.new_full((B, G, blocks.heads // G, rows, 1), -torch.inf)
            total = torch.zeros_like(top)
            o = q_b.new_zeros(B * G, q_b.shape[2], v.shape[3])
            for first, (k0, k1) in enumerate(spans):
                channels = blocks.channels(of_q, of_k, q0, q1, k0, k1)
                s, _ = blocks.logits(vector, q_b, k_m[:, :, k0:k1], channels, q0, q1, k0, k1)
                p, fade = _softened(s, top, total)
                if first:
                    o.mul_(fade.view(B * G, -1, 1))
                o += torch.bmm(p.view(B * G, -1, k1 - k0), v_m[:, :, k0:k1].flatten(0, 1))
            if sinks is not None:
                sink = sinks.to(dtype).view(1, G, -1, 1, 1)
                base = torch.maximum(top, sink)
                total.mul_((top - base).exp_()).add_((sink - base).exp_())
                o.mul_((top - base).exp_().view(B * G, -1, 1))
                total.masked_fill_(top == -torch.inf, 0.0)  # nothing is seen: all is 0, with a sink and without
                top = base
            normal = total.reciprocal().masked_fill_(total == 0, 0.0)
            per_row += (top, normal)
            o.mul_(normal.view(B * G, -1, 1))
            out[:, :, q0:q1] = _back(o.view(B, G, -1, v.shape[3]), rows)
        ctx.blocks, ctx.of_rows = blocks, len(per_row)
        at = blocks.query_positions, blocks.key_positions  # saved too: PyTorch says if they were written to
        ctx.save_for_backward(*map(saveable, at), q, k, v, out, vector, sinks, of_q, of_k, *per_row, *parameters)
        return out.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_batches("blocked", *grads)
        _, _, *saved = ctx.saved_tensors  # once: under checkpointing the forward pass runs again for them
        with torch.no_grad(), torch.autocast(grads[0].device.type, enabled=False):
            made = BlockedAttention.gradients(ctx, saved, *grads)
        q, k, v, _, *given = saved
        del given[4 : 4 + ctx.of_rows]
        return None, *first_only("blocked", made, [q, k, v, *given, *grads])

    @staticmethod
    def gradients(ctx: Any, saved: Sequence[Any], grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """To q, k, v, the vector, the sinks, the channels and the parameters."""
        q, k, v, out, vector, sinks, of_q, of_k, *rest = saved
        per_row, parameters = rest[: ctx.of_rows], rest[ctx.of_rows :]
        blocks: Blocks = ctx.blocks
        dtype, G, B = out.dtype, blocks.key_heads, q.shape[0]
        k_m, v_m = k.to(dtype).contiguous(), v.to(dtype).contiguous()
        to_q = torch.empty_like(q, memory_format=torch.contiguous_format)
        to_k, to_v = torch.zeros_like(k_m), torch.zeros_like(v_m)
        to_vector = torch.zeros_like(vector) if vector is not None and ctx.needs_input_grad[4] else None
        to_sinks = torch.zeros_like(sinks, dtype=dtype) if sinks is not None else None
        to_of_q, to_of_k = (None if x is None else torch.zeros_like(x) for x in (of_q, of_k))
        held = [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        if held:
            blocks = replace(blocks, biases=blocks.learned.holding(held))
        learned = [p for p in held if p.requires_grad]
        to_parameters = [torch.zeros_like(p, dtype=dtype) for p in learned]
        for block, (q0, q1, spans) in enumerate(blocks.each()):
            rows, row = q1 - q0, Rows(*per_row[2 * block : 2 * block + 2])
            q_b = _rows(q, q0, q1, G, dtype).mul_(blocks.scale)
            g_b = _rows(grad, q0, q1, G, dtype)
            delta = (g_b * _rows(out, q0, q1, G, dtype)).sum(-1).view_as(row.top)
            if to_sinks is not None:
                weight = (sinks.to(dtype).view(1, G, -1, 1, 1) - row.top).exp_().mul_(row.normal)
                to_sinks -= (weight * delta).sum((0, 3, 4)).flatten()
            q_f, g_f = q_b.flatten(0, 1), g_b.flatten(0, 1)
            dq = torch.zeros_like(q_f)
            for k0, k1 in spans:
                k_b, v_b = k_m[:, :, k0:k1].flatten(0, 1), v_m[:, :, k0:k1].flatten(0, 1)
                ds = torch.bmm(g_f, v_b.transpose(1, 2)).view(B, G, -1, rows, k1 - k0)
                channels = blocks.channels(of_q, of_k, q0, q1, k0, k1)
                s, tanh = blocks.logits(vector, q_b, k_m[:, :, k0:k1], channels, q0, q1, k0, k1)
                p = row.weights(s)
                ds.sub_(delta).mul_(p)
                if to_vector is not None:
                    offset = blocks.queries - q1 + k0
                    to_vector[:, offset : offset + rows + k1 - k0 - 1] += _antidiagonals(ds, to_vector.shape[0])
                if channels is not None and to_of_q is not None and to_of_k is not None:
                    to_of_q[:, :, q0:q1] += (ds @ channels[1]).flatten(1, 2).flip(2)
                    to_keys = ds.transpose(-1, -2) @ channels[0]
                    to_of_k[:, :, k0:k1] += to_keys.flatten(1, 2).sum_to_size(to_of_k[:, :, k0:k1].shape)
                if learned:
                    with torch.enable_grad():
                        bias = blocks.bias(None, q0, q1, k0, k1)
                        assert bias is not None
                    wanted = ds.sum_to_size(bias.shape).to(bias.dtype)
                    for total, part in zip(to_parameters, torch.autograd.grad(bias, learned, wanted), strict=True):
                        total += part
                if tanh is not None:
                    ds.mul_(1 - tanh.square_())
                p_f, ds_f = p.view(B * G, -1, k1 - k0), ds.view(B * G, -1, k1 - k0)
                _add_product(to_v[:, :, k0:k1], p_f, g_f)
                _add_product(to_k[:, :, k0:k1], ds_f, q_f)
                dq.baddbmm_(ds_f, k_b)
            to_q[:, :, q0:q1] = _back(dq.mul_(blocks.scale).view_as(q_b), rows)
        found = iter(to_parameters)
        for_parameters = [next(found).to(p.dtype) if p.requires_grad else None for p in parameters]
        return (
            to_q, to_k.to(k.dtype), to_v.to(v.dtype), to_vector,
            None if to_sinks is None else to_sinks.to(sinks.dtype), to_of_q, to_of_k, *for_parameters,
        )  # fmt: skip


def _add_product(to: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """to [B, G, keys, D] += a^T b."""
    to += torch.bmm(a.transpose(1, 2), b).view_as(to)


def _exp(x: torch.Tensor) -> torch.Tensor:
    """exp in place, 1e-26 at the least, which no sum beside a 1 can tell from 0.

    Results that are no normal numbers (ALiBi far away) take up to 30 times as long on a CPU, and so does what they are
    multiplied to.
    """
    return x.clamp_(min=-60.0 if x.dtype == torch.float32 else -600.0).exp_()


def _antidiagonals(grouped: torch.Tensor, heads: int) -> torch.Tensor:
    """Sums over entries of equal i + j: [B, G, repeats, rows, keys] -> [heads or 1, rows + keys - 1]."""
    summed = grouped.sum(0).flatten(0, 1) if grouped.shape[0] > 1 else grouped[0].flatten(0, 1)
    if heads == 1:
        summed = summed.sum(0, keepdim=True)
    rows, keys = summed.shape[-2:]
    # padded to rows + keys and read with rows one shorter, every row moves one to the right of the one above
    padded = torch.nn.functional.pad(summed, (0, rows)).flatten(1)[:, : rows * (rows + keys - 1)]
    return padded.view(-1, rows, rows + keys - 1).sum(1)


def missing(problem: AttentionProblem) -> str | None:
    return by_hand(problem) or needs_rows(problem)


def run(problem: AttentionProblem) -> torch.Tensor:
    q, k, biases = problem.q, problem.k, problem.biases
    query_positions, key_positions = problem.query_positions, problem.key_positions
    if not query_positions.is_floating_point():  # int32 ends where distances may not
        query_positions, key_positions = query_positions.long(), key_positions.long()
    start = _start(query_positions, key_positions)
    vector = None
    if biases and not_relative(problem) is None and start is not None:
        span = torch.arange(start + q.shape[2] - 1, start - k.shape[2], -1, device=q.device)
        vector = by_distance(biases, span, q.shape[1], math_dtype(q.dtype))
    learned = learned_by(biases if vector is None and torch.is_grad_enabled() else ())
    blocks = Blocks(
        batch=q.shape[0],
        heads=q.shape[1],
        key_heads=k.shape[1],
        queries=q.shape[2],
        keys=k.shape[2],
        scale=problem.scale,
        softcap=problem.softcap,
        causal=problem.causal,
        mask=problem.mask,
        query_positions=query_positions,
        key_positions=key_positions,
        biases=biases,
        learned=learned,
        start=start,
    )
    channels = problem.channels or (None, None)
    return BlockedAttention.apply(blocks, q, k, problem.v, vector, problem.sinks, *channels, *learned.tensors)


def _start(query_positions: torch.Tensor, key_positions: torch.Tensor) -> int | None:
    """Query position 0 - key position 0, if positions are consecutive and that is the same in the whole batch."""
    if query_positions.dim() == 3 or query_positions.is_floating_point():
        return None
    first = query_positions[:, :1] - key_positions[:, :1]
    steps_are_one = all(bool((p.diff(dim=1) == 1).all()) for p in (query_positions, key_positions))
    if steps_are_one and bool((first == first[0]).all()):
        return int(first[0])
    return None
