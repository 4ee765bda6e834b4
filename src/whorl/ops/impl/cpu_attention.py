"""Biased attention on a CPU: the compiled loops of attention.c, in which nothing grows with queries times keys.

They take what attention has nearly always: biases of distance alone, one bias or score that goes by runs of distance
(`whorl.ops.runs`), in a text or in each row of an image (`whorl.ops.raster`), and for each query one run of
neighbouring keys at positions without gaps (causal, windowed, padded, packed, with a cache). `plan` says whether that
is so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.ops.derivatives import first_only, refuse_batches
from whorl.ops.distances import by_distance, needs_rows, not_relative, once, reach_of
from whorl.ops.impl import loops, native
from whorl.ops.problem import AttentionProblem
from whorl.ops.raster import in_a_row
from whorl.ops.runs import Tables, apart, tables, without
from whorl.ops.visible import Visible, seen_runs

takes_factor = True


class Plan(NamedTuple):
    """Query i sees the keys first[i] <= j < end[i], if any; from it to key j it is i + own - j tokens."""

    first: torch.Tensor  # int64 [batch or 1, queries]
    end: torch.Tensor
    own: int
    of_one_forward: bool  # in which nothing is learned, so that a bias is the same whenever it is asked
    vectors: dict[tuple[Any, ...], torch.Tensor]  # of biases: by themselves in one forward, else by their numbers


def missing(problem: AttentionProblem) -> str | None:
    if problem.device != "cpu":
        return f"the inputs are on {problem.device}"
    if problem.q.dtype == torch.float64:
        return "the loops are float32, and the inputs are float64"
    problem = problem.once(in_a_row)
    rest = without(problem, problem.once(apart))
    why = needs_rows(rest) or not_relative(rest) or native.missing()
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
    found = seen_runs(mask, queries, keys, causal)
    if isinstance(found, str):
        return found
    first, end = found
    own = _own(query_positions, key_positions, first, end)
    if own is None:
        return "the positions of a run of keys have gaps"
    if reach is not None:
        index = torch.arange(queries)
        nearest, farthest = (max(-queries, min(shift, keys)) for shift in (own - reach + 1, own + reach))
        first = torch.maximum(first, index + nearest)  # of a window wider than int64 is, these are where all is seen
        end = torch.minimum(end, index + farthest)
    return Plan(first.contiguous(), end.contiguous(), own, mask is not None and mask.of_one_forward, {})


def _own(
    query_positions: torch.Tensor, key_positions: torch.Tensor, first: torch.Tensor, end: torch.Tensor
) -> int | None:
    """The number for which query i is i + own - j tokens from every key j that it sees, or None where there is none."""
    if not (query_positions.numel() and key_positions.numel() and first.numel()):
        return 0
    q_start, k_start = _start(query_positions), _start(key_positions)
    if q_start is not None and k_start is not None:
        return q_start - k_start
    q_shift = query_positions - torch.arange(query_positions.shape[1])
    k_shift = key_positions - torch.arange(key_positions.shape[1])
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


def _start(positions: torch.Tensor) -> int | None:
    """The first of them, where every token stands one after the one before it, in all rows alike."""
    first = int(positions[0, 0])
    if positions.numel() == 1:
        return first
    run = torch.arange(first, first + positions.shape[1])
    return first if torch.equal(positions.long(), run.expand(len(positions), -1)) else None


def _attend(how: loops.How, plan: Plan, sums: bool, given: loops.Given) -> tuple[loops.OfRows, torch.Tensor | None]:
    """And the weights of each kind of run, added up [batch, heads, kinds, queries], where `sums` asks for them."""
    mass = None
    if sums and how.begin is not None:
        batch, heads, queries, _ = given.q.shape
        mass = given.q.new_empty(batch, heads, how.kinds, queries, dtype=torch.float32)
    return loops.attend(how, plan.first, plan.end, given, mass), mass


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: loops.How,
        plan: Plan,
        sums: bool,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *others: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """others: what else `loops.Given` has. Gives the output, and what `_attend` gives beside it."""
        ctx.how, ctx.plan = how, plan
        # The exact output is kept: its product with the gradient is taken from every logit's gradient.
        made, mass = _attend(how, plan, sums, loops.Given(q, k, v, *others))
        ctx.save_for_backward(q, k, v, *others, *made, mass)
        return made.out.to(v.dtype), mass

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        refuse_batches("cpu", *(x for x in grads if x is not None))
        saved = ctx.saved_tensors  # once: under checkpointing the forward pass runs again for them
        with torch.no_grad():
            made = _Attention.gradients(ctx, saved, *grads)
        return None, None, None, *first_only("cpu", made, [*saved[:-4], *grads])

    @staticmethod
    def gradients(
        ctx: Any, saved: tuple[Any, ...], grad: torch.Tensor, to_mass: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """To all that is given."""
        given, of_rows = loops.Given(*saved[:-4]), loops.OfRows(*saved[-4:-1])
        needed = dict(zip(loops.Given._fields, ctx.needs_input_grad[3:], strict=True))
        found, delta = loops.gradients(
            ctx.how, ctx.plan.first, ctx.plan.end, given, of_rows, grad, mass=saved[-1], to_mass=to_mass,
            of_vector=needed["vector"], of_feature=needed["feature"], of_factor=needed["factor"],
        )  # fmt: skip
        if given.sinks is not None:
            weight = (given.sinks.float()[:, None] - of_rows.top).exp_().mul_(of_rows.normal)
            found = found._replace(sinks=(weight * delta).sum((0, 2)).neg_())
        return tuple(None if x is None else x.to(of.dtype) for x, of in zip(found, saved[:-4], strict=True))


def run(problem: AttentionProblem) -> torch.Tensor:
    problem = problem.once(in_a_row)
    found = problem.once(plan)
    assert isinstance(found, Plan)
    module, q, k = problem.once(apart), problem.q, problem.k
    rest = without(problem, module)
    vector = _vector(found, rest.biases, q, k) if rest.biases else None
    seed = int(torch.randint(2**62, ())) if problem.dropout else 0
    runs = Tables() if module is None else tables(module, problem, found.first, found.end, found.own)
    how = loops.How(problem.scale, problem.softcap, problem.dropout, seed, runs.begin, runs.rows, runs.kinds)
    of_q, of_k = problem.channels or (None, None)
    others = vector, problem.sinks, of_q, of_k, runs.values, runs.slopes, runs.feature, problem.factor
    given, sums = loops.Given(q, k, problem.v, *others), runs.vectors is not None
    if torch.is_grad_enabled():
        out, mass = _Attention.apply(how, found, sums, *given)
    else:
        (out, *_), mass = _attend(how, found, sums, given)
    return out if mass is None else out + runs.added(mass).to(out.dtype)


def again(problem: AttentionProblem) -> loops.Again | None:
    """For one query: see `whorl.ops.implementations`."""
    found, (q, k, v) = problem.once(plan), problem[:3]
    read = q.dtype in (torch.float32, torch.bfloat16) and q.dtype == k.dtype == v.dtype
    if not read or problem.once(apart) is not None or any(x.stride(-1) != 1 for x in (q, k, v)):
        return None
    assert isinstance(found, Plan)
    vector = _vector(found, problem.biases, q, k) if problem.biases else None
    how = loops.How(problem.scale, problem.softcap)
    return loops.Again(how, found.first, found.end, loops.Given(q, k, v, vector))


def _vector(plan: Plan, biases: Sequence[nn.Module], q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The biases' sum at each distance from a query to a key, [heads or 1, queries + keys - 1]."""
    heads = q.shape[1]

    def make() -> torch.Tensor:
        first = plan.own - (k.shape[2] - 1)
        distances = torch.arange(first, first + max(0, q.shape[2] + k.shape[2] - 1))
        return by_distance(biases, distances, heads, torch.float32)

    if not plan.of_one_forward or torch.is_grad_enabled():  # a gradient's way back is each layer's own
        return once(plan.vectors, biases, (heads,), make)
    vector = plan.vectors.get((*biases, heads))
    if vector is None:
        vector = plan.vectors[*biases, heads] = make()
    return vector
