"""Attention whose queries are turned by every token between them and a key (PaTH), in blocks that double.

A product k_j^T H_{j + 1} ... H_i q_i may be cut anywhere between j and i: into a key that was carried right to the cut
and a query that was carried left to it. So the queries of a block and the keys of its left neighbour, both carried to
the border between them, meet in a plain product, and plain attention does the rest: the loops of attention.c. Within
chunks of CHUNK tokens logits are made by the UT transform (`whorl.encodings.householder`); then blocks of one chunk
meet their left neighbours, blocks of two, of four, and so on. From one level to the next, the right block's queries
and the left block's keys are carried over their neighbour by one matrix [D, D] a block, the product of its turns.

Each query meets each key once, in products as large as those of attention without turns, and carrying costs
O(tokens D^2) a level. Caches are never rewritten: what is carried is of this call. The backward pass carries again and
goes down the levels; it keeps them for some heads at a time, so that memory grows with the tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

from whorl.encodings.householder import solved
from whorl.ops.derivatives import first_only, refuse_batches
from whorl.ops.distances import by_hand
from whorl.ops.impl import loops, native
from whorl.ops.problem import AttentionProblem
from whorl.ops.scores import product
from whorl.ops.visible import Runs, Visible, seen_runs

# Shape letters: N batch x heads, T tokens, C those of a chunk, n chunks, D head dim, p pairs of blocks, E channels.
# What `Runs` hold is [1 or N, T] here.

CHUNK = 32  # tokens: 16 take as long at 2,048 tokens, 64 a tenth longer
ROOM = 128 << 20  # bytes for what the heads that are done together take, if it is more than one
BESIDE = 20  # tensors of T x D that a head takes beside one for each level


class Plan(NamedTuple):
    """Query i stands at key i + shift, and sees the keys first[i] <= j < end[i], int64 [batch or 1, queries]."""

    shift: int
    first: torch.Tensor
    end: torch.Tensor
    whole: bool  # each sees all keys up to its own
    unseen: torch.Tensor | None  # where no query sees a key, bool [batch or 1, keys], if some end before their own key


def missing(problem: AttentionProblem) -> str | None:
    if len(problem.scores) != 1 or not problem.scores[0].module.does("turns_between"):
        return "its logits are products that the tokens between query and key turn, as those of `path` are"
    if problem.device != "cpu":
        return f"the inputs are on {problem.device}"
    if problem.q.dtype == torch.float64:
        return "the loops are float32, and the inputs are float64"
    if problem.biases or problem.sinks is not None or problem.softcap is not None:
        return "it has no biases, sinks or soft cap"
    if problem.q.shape[2] < CHUNK:
        return f"{problem.q.shape[2]} queries are turned over all keys in less time; it begins at {CHUNK}"
    why = by_hand(problem) or native.missing()
    if why is None and isinstance(found := problem.once(_plan), str):
        why = found
    return why


def _plan(problem: AttentionProblem) -> Plan | str:
    return problem.shared(_places, problem.causal)


def _places(
    mask: Visible | None, query_positions: torch.Tensor, key_positions: torch.Tensor, causal: bool
) -> Plan | str:
    queries, keys = query_positions.shape[1], key_positions.shape[1]
    found = seen_runs(mask, queries, keys, causal)
    if isinstance(found, str):
        return found
    (first, end), index = found, torch.arange(queries)
    sees = first < end
    if not bool(sees.any()):
        return "no query sees a key"
    shift = int((end - 1 - index)[sees].max())
    if not 0 <= shift <= keys - queries:
        return "queries see keys after their own"
    whole, unseen = bool((sees & (first == 0) & (end - 1 - index == shift)).all()), None
    if bool(((end - 1 - index < shift) & sees).any()):  # as those do that stand in padding at the end
        by_how_many = torch.zeros(len(first), keys + 1, dtype=torch.int64)
        for at, more in ((first, 1), (end, -1)):
            by_how_many.scatter_add_(1, at, more * sees.long())
        unseen = by_how_many.cumsum(1)[:, :keys] == 0
        so_far = pad((~unseen).long().cumsum(1), (1, 0))
        between = so_far[:, shift + 1 : shift + 1 + queries] - so_far.gather(1, end)
        if bool((sees & (between > 0)).any()):
            return "tokens that turn other queries stand before a query, after the last key that it sees"
    return Plan(shift, first, end.where(sees, 0), whole, unseen)


class Pairs(NamedTuple):
    """`number` pairs of neighbouring blocks of `size` tokens, from token `start` on; the right ones have `rows`."""

    start: int
    number: int
    size: int
    rows: int

    def left(self, x: torch.Tensor) -> torch.Tensor:
        """The left blocks of x [N, T, ...]: a view [N, p, size, ...]."""
        if self.rows < self.size:
            return x[:, None, self.start : self.start + self.size]
        return self._both(x)[:, :, 0]

    def right(self, x: torch.Tensor) -> torch.Tensor:
        """The right ones, [N, p, rows, ...]."""
        if self.rows < self.size:
            return x[:, None, self.start + self.size : self.start + self.size + self.rows]
        return self._both(x)[:, :, 1]

    def _both(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : 2 * self.number * self.size].unflatten(1, (self.number, 2, self.size))

    def over_left(self, turns: torch.Tensor) -> torch.Tensor:
        """The matrices of the left blocks, of those of all blocks of a level [N, blocks, D, D]."""
        at = self.start // self.size
        return turns[:, at : at + 2 * self.number : 2]

    def over_right(self, turns: torch.Tensor) -> torch.Tensor | None:
        """Those of the right ones. Where these end short, nothing comes after them that would be carried over them."""
        return None if self.rows < self.size else turns[:, 1 : 2 * self.number : 2]

    def runs(self, seen: Runs | None, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The run of the left block's keys that each query of the right one sees, [1 or N p, rows]."""
        if seen is None:
            return torch.zeros(1, self.rows, dtype=torch.int64), torch.full((1, self.rows), self.size)
        begin = self.start + 2 * self.size * torch.arange(self.number)[:, None]
        shape = (heads, self.number, self.rows)
        first, end = (
            (self.right(x) - begin).clamp(0, self.size).expand(shape).reshape(-1, self.rows).contiguous() for x in seen
        )
        return first, end


def _levels(tokens: int) -> list[list[Pairs]]:
    found, size = [], CHUNK
    while size < tokens:
        pairs = tokens // (2 * size)
        rest = tokens - 2 * pairs * size
        level = [Pairs(0, pairs, size, size)] if pairs else []
        if rest > size:
            level.append(Pairs(2 * pairs * size, 1, size, rest - size))
        found.append(level)
        size *= 2
    return found


class Tokens(NamedTuple):
    """q, k and v [N, T, D], w [N, T, D], beta [N, T, 1], and channels [N, T, E] or None; a multiple of CHUNK tokens."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    w: torch.Tensor
    beta: torch.Tensor
    of_q: torch.Tensor | None
    of_k: torch.Tensor | None


class Chunked(NamedTuple):
    """logits [N, n, C, C] of the queries and keys of each chunk, hidden ones too; q [N, T, D] carried left to the start
    of its chunk and k right to the end of its; and the product of each chunk's turns [N, n, D, D]."""

    logits: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor
    turns: torch.Tensor


def _chunks(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (-1, CHUNK))


def _chunked(tokens: Tokens, scale: float) -> Chunked:
    """In plain differentiable PyTorch."""
    q, k, w, beta = (_chunks(x) for x in (tokens.q, tokens.k, tokens.w, tokens.beta))
    with_w, with_k = solved(w, k, beta).split([w.shape[-1], CHUNK], -1)
    met = (q @ w.mT).tril()  # those that come after a query do not turn it
    logits = (q @ k.mT - met @ with_k) * scale
    if tokens.of_q is not None and tokens.of_k is not None:
        logits = logits + product(_chunks(tokens.of_q), _chunks(tokens.of_k))
    turns = torch.eye(q.shape[-1], dtype=q.dtype) - w.mT @ with_w
    return Chunked(logits, (q - met @ with_w).flatten(1, 2), (k - with_k.mT @ w).flatten(1, 2), turns)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: float, seen: Runs | None, *given: Any) -> torch.Tensor:
        """given: as `Tokens`."""
        made = _attend(Tokens(*given), scale, seen)
        ctx.scale, ctx.seen = scale, seen
        ctx.save_for_backward(*given, *made)
        return made.out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_batches("householder", *grads)
        saved = ctx.saved_tensors  # once: under checkpointing the forward pass runs again for them
        given, made = saved[:-3], loops.OfRows(*saved[-3:])
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found = _gradients(Tokens(*given), ctx.scale, ctx.seen, made, grads[0].contiguous())
        return None, None, *first_only("householder", found, [*given, *grads])


def _hidden(seen: Runs | None, tokens: int) -> torch.Tensor:
    """True where a query does not see a key of its chunk, [1 or N, n or 1, C, C]."""
    after = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    if seen is None:
        return after[None, None]
    at = torch.arange(tokens).view(-1, 1, CHUNK)
    return after | (at < _chunks(seen.first)[..., None]) | (at >= _chunks(seen.end)[..., None])


def _attend(tokens: Tokens, scale: float, seen: Runs | None) -> loops.OfRows:
    """[N, T, D], [N, T] and [N, T]."""
    logits, q, k, turns = _chunked(tokens, scale)
    top = logits.masked_fill_(_hidden(seen, q.shape[1]), -torch.inf).amax(-1)
    weights = logits.sub_(_finite(top)[..., None]).exp_()
    normal = _inverse(weights.sum(-1))
    out = (weights @ _chunks(tokens.v)).mul_(normal[..., None])
    made = loops.OfRows(*(x.flatten(1, 2) for x in (out, top, normal)))
    for level in _levels(q.shape[1]):
        for pairs in level:
            met = _met(pairs, tokens, pairs.right(q), pairs.left(k))
            _join([pairs.right(x) for x in made], loops.attend(loops.How(scale), *pairs.runs(seen, len(q)), met))
        turns = _carry(level, q, k, turns)
    return made


def _met(pairs: Pairs, tokens: Tokens, q: torch.Tensor, k: torch.Tensor) -> loops.Given:
    """Queries of right blocks and keys of left ones, each pair of blocks as a row of a batch."""
    channels: Any = (None, None)
    if tokens.of_q is not None and tokens.of_k is not None:
        channels = _flat(pairs.right(tokens.of_q)), _flat(pairs.left(tokens.of_k))
    return loops.Given(_flat(q), _flat(k), _flat(pairs.left(tokens.v)), None, None, *channels)


def _flat(x: torch.Tensor) -> torch.Tensor:
    """[N, p, rows, ...] to [N p, 1, rows, ...]."""
    return x.flatten(0, 1)[:, None]


def _copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _finite(top: torch.Tensor) -> torch.Tensor:
    return top.clamp(min=torch.finfo(top.dtype).min)  # of a row that sees nothing: -inf - -inf is no number


def _inverse(total: torch.Tensor) -> torch.Tensor:
    return total.reciprocal().masked_fill_(total == 0, 0)


def _join(rows: list[torch.Tensor], more: loops.OfRows) -> None:
    """What came of rows (`loops.OfRows`) and what came of them and more keys becomes what comes of all, in place."""
    out, top, normal = rows
    more_out, more_top, more_normal = (x.view_as(of) for x, of in zip(more, rows, strict=True))
    both = torch.maximum(top, more_top)
    base = _finite(both)
    share, more_share = _inverse(normal).mul_((top - base).exp_()), _inverse(more_normal).mul_((more_top - base).exp_())
    normal.copy_(_inverse(share + more_share))
    top.copy_(both)
    out.mul_((share * normal)[..., None]).addcmul_(more_out, (more_share * normal)[..., None])


def _carry(level: list[Pairs], q: torch.Tensor, k: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """q and k to the borders of blocks twice as large, in place; and the turns of those blocks that are whole."""
    larger = turns[:, :0]
    if 2 * level[0].size >= q.shape[1]:
        return larger  # the last: nothing is left to meet
    for pairs in level:
        over_left, over_right = pairs.over_left(turns), pairs.over_right(turns)
        of_right, of_left = pairs.right(q), pairs.left(k)
        of_right.copy_(of_right @ over_left)
        if over_right is not None:
            of_left.copy_(of_left @ over_right.mT)
            larger = over_right @ over_left
    return larger


def _gradients(
    tokens: Tokens, scale: float, seen: Runs | None, rows: loops.OfRows, grad: torch.Tensor
) -> list[torch.Tensor | None]:
    leaves = [None if x is None else x.detach().requires_grad_() for x in tokens]
    with torch.enable_grad():
        made = _chunked(Tokens(*leaves), scale)  # type: ignore[arg-type]
    logits, q, k, turns = (x.detach() for x in made)
    q, k = q.clone(), k.clone()
    kept = []  # what each level begins with
    for level in _levels(q.shape[1]):
        blocks = [[_copy(pairs.right(q)), _copy(pairs.left(k))] for pairs in level]
        kept.append((level, turns, blocks))
        turns = _carry(level, q, k, turns)

    hidden, (out, top, normal) = _hidden(seen, q.shape[1]), rows
    weights = logits.masked_fill(hidden, -torch.inf).sub_(_chunks(_finite(top))[..., None]).exp_()
    weights.mul_(_chunks(normal)[..., None])
    to = Tokens(*(None if x is None else torch.zeros_like(x) for x in tokens))  # type: ignore[arg-type]
    torch.matmul(weights.mT, _chunks(grad), out=_chunks(to.v))
    to_logits = _chunks(grad) @ _chunks(tokens.v).mT
    to_logits.sub_(_chunks((out * grad).sum(-1))[..., None]).mul_(weights)

    to_larger = torch.zeros_like(turns)  # none
    for level, turns, blocks in reversed(kept):
        to_turns = torch.zeros_like(turns)
        for pairs, (of_right, of_left) in zip(level, blocks, strict=True):
            to_right, to_left = pairs.right(to.q), pairs.left(to.k)
            if level is not kept[-1][0]:
                _carry_back(pairs, of_right, of_left, turns, to_right, to_left, to_turns, to_larger)
            of_rows = loops.OfRows(_flat(pairs.right(out)), *(_copy(_flat(pairs.right(x))) for x in (top, normal)))
            runs, met = pairs.runs(seen, len(q)), _met(pairs, tokens, of_right, of_left)
            found, _ = loops.gradients(loops.How(scale), *runs, met, of_rows, _flat(pairs.right(grad)))
            for total, part in (
                (to_right, found.q),
                (to_left, found.k),
                (pairs.left(to.v), found.v),
                (None if to.of_q is None else pairs.right(to.of_q), found.of_q),
                (None if to.of_k is None else pairs.left(to.of_k), found.of_k),
            ):
                if total is not None and part is not None:
                    total += part.view_as(total)
        to_larger = to_turns
    sources = [x for x in leaves if x is not None]
    parts = iter(torch.autograd.grad(made, sources, (to_logits, to.q, to.k, to_larger), allow_unused=True))
    q_, k_, _, w_, beta_, *channels = (None if x is None else next(parts) for x in leaves)
    of_both = zip(channels, (to.of_q, to.of_k), strict=True)
    return [q_, k_, to.v, w_, beta_, *(None if x is None or y is None else x + y for x, y in of_both)]


def _carry_back(
    pairs: Pairs,
    of_right: torch.Tensor,
    of_left: torch.Tensor,
    turns: torch.Tensor,
    to_right: torch.Tensor,
    to_left: torch.Tensor,
    to_turns: torch.Tensor,
    to_larger: torch.Tensor,
) -> None:
    """The gradients of what `_carry` made of a right block's queries, a left one's keys and the turns of both, to these
    themselves: `to_right` and `to_left` in place, and added to `to_turns`."""
    over_left, over_right = pairs.over_left(turns), pairs.over_right(turns)
    to_over_left, to_over_right = pairs.over_left(to_turns), pairs.over_right(to_turns)
    to_over_left += of_right.mT @ to_right
    to_right.copy_(to_right @ over_left.mT)
    if over_right is not None and to_over_right is not None:
        to_over_left += over_right.mT @ to_larger
        to_over_right += to_left.mT @ of_left + to_larger @ over_left.mT
        to_left.copy_(to_left @ over_right)


def run(problem: AttentionProblem) -> torch.Tensor:
    plan, (score,) = problem.once(_plan), problem.scores
    assert isinstance(plan, Plan)
    w, beta, turning_channels = score.module.turns_between(
        score.at(problem.query_positions, problem.key_positions, scale=problem.scale)
    )
    if plan.unseen is not None:
        beta = beta.masked_fill(plan.unseen[:, None], 0)  # what a query does not see does not turn it
    batch, heads, queries, dim = problem.q.shape
    keys = plan.shift + queries
    beyond = -keys % CHUNK

    def laid(x: torch.Tensor, before: int = 0) -> torch.Tensor:
        """[B or 1, H or of key heads or 1, tokens, ...] as `Tokens` has it; zeros stand before and after them."""
        x = x[:, :, : keys - before].float()
        if 1 < x.shape[1] < heads:
            x = x.repeat_interleave(heads // x.shape[1], 1)
        x = x.expand(batch, heads, -1, -1)
        return (pad(x, (0, 0, before, beyond)) if before or beyond else x).flatten(0, 1)

    q, v = laid(problem.q, plan.shift), laid(problem.v)
    of_q: Any = [laid(x[0], plan.shift) for x in (problem.channels, turning_channels) if x is not None]
    of_k: Any = [laid(x[1]) for x in (problem.channels, turning_channels) if x is not None]
    of_both = (torch.cat(of_q, -1), torch.cat(of_k, -1)) if of_q else (None, None)
    given = Tokens(q, laid(problem.k), v, laid(w), laid(beta[..., None]), *of_both)
    seen = None
    if plan.shift or not plan.whole:
        rows = Runs(*(pad(x, (plan.shift, beyond)) for x in (plan.first, plan.end)))
        seen = Runs(*(x if len(x) == 1 else x.repeat_interleave(heads, 0) for x in rows))
    tokens = q.shape[1]
    together = max(1, ROOM // (4 * tokens * dim * (BESIDE + len(_levels(tokens)))))
    outs = []
    for at in range(0, batch * heads, together):
        some = slice(at, at + together)
        of_some = None if seen is None else Runs(*(x if len(x) == 1 else x[some] for x in seen))
        outs.append(_Attention.apply(problem.scale, of_some, *(None if x is None else x[some] for x in given)))
    out = torch.cat(outs) if len(outs) > 1 else outs[0]
    return out[:, plan.shift : keys].unflatten(0, (batch, heads))
