"""rotate(): turns pairs of q and k channels by tables made from positions and a spectrum."""

from __future__ import annotations

from functools import lru_cache

import torch

from whorl.ops.autograd import Rotate, RotateInPlace
from whorl.ops.derivatives import PLAIN, exporting, plain, transformed
from whorl.ops.impl import reference
from whorl.ops.overlap import overlap, overlaps_itself
from whorl.ops.problem import FLOATS, RotationProblem, seen
from whorl.ops.shapes import stretches
from whorl.ops.tables import Tables, rotation_tables
from whorl.ops.torch_op import SHARED
from whorl.ops.turning import How, choose, chosen, run, turn

__all__ = ["LAYOUTS", "Tables", "choose", "rotate", "rotation_tables"]

LAYOUTS = ("half", "interleaved")


def rotate(
    q: torch.Tensor,
    k: torch.Tensor | None,
    tables: Tables,
    *,
    layout: str = "half",
    heads_dim: int = 1,
    inplace: bool = False,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """q and k with their turning pairs turned; the others are passed on untouched (RoFormer, 2104.09864, Eq. 34).

    q, k       [batch, heads, tokens, head_dim] (heads_dim=1) or [batch, tokens, heads, head_dim] (heads_dim=2), of any
               strides; float64, float32, bfloat16 or float16; k may have its own head count, or be None
    layout     "half": pair i is channels (i, i + width/2), as in Llama and GPT-NeoX;
               "interleaved": channels (2i, 2i + 1), as in RoFormer and GPT-J
    inplace    q and k themselves are turned and returned; the pairs that do not rotate are neither read nor written.
               q and k may share no memory, or it would turn twice. The backward pass is out of place: gradients may be
               shared.
    impl       "reference", "cpu" (a C loop) or "triton"; one asked for by name runs or raises. "auto" takes the
               environment's WHORL_IMPL, or else the fastest that the inputs' device has; "reference" under torch.func
               and where a forward-mode derivative is taken, which the others cannot follow, and for torch.export, whose
               program then runs where whorl is not (and torch.onnx knows all of its operators).

    The arithmetic is float32 (float64 for float64 inputs), cast back once. Gradients of any order reach q, k and, out
    of place, the tables (and so learned frequencies). Raises ValueError for arguments that do not fit one another.
    """
    cos, sin, first, width = tables
    tensors = [q] if k is None else [q, k]
    compiling = torch.compiler.is_compiling()
    eager = not compiling and (
        # what `plain` says, in a third of the time for tensors as they are made
        (type(q) in PLAIN and (k is None or type(k) in PLAIN) and type(cos) in PLAIN and type(sin) in PLAIN)
        or plain((*tensors, cos, sin))
    )
    k_seen = None if k is None else seen(k)
    problem = RotationProblem(seen(q), k_seen, seen(cos), seen(sin), first, width, layout, heads_dim, 1, inplace)
    if eager:
        problem = _checked(problem)
    else:
        _check(problem)
    if not compiling or transformed() is not None:  # else the operator chooses when it runs
        impl = chosen(impl, problem)
    elif impl == "auto" and exporting():
        impl = "reference"
    if inplace and k is not None:
        followed = impl == "reference" and transformed() is not None  # such tensors may have no memory
        if k is q or (eager and not followed and problem.device != "meta" and _share(q, k, problem.spans)):
            raise ValueError(SHARED)
    if cos.shape[-1] == 0 or q.numel() == 0:
        if k is not None and cos.shape[-1] and k.numel():
            k = rotate(k, None, tables, layout=layout, heads_dim=heads_dim, inplace=inplace, impl=impl)[0]
        return q, k
    learned = cos.requires_grad or sin.requires_grad
    differentiable = torch.is_grad_enabled() and (learned or q.requires_grad or (k is not None and k.requires_grad))
    if inplace and differentiable and learned:
        raise ValueError("learned tables need what was turned in their backward pass; use inplace=False")
    if impl == "reference":
        turned = [reference.rotate_one(x, *tables, layout=layout, heads_dim=heads_dim) for x in tensors]
        if inplace:
            turned = [x.copy_(y) for x, y in zip(tensors, turned, strict=True)]
    elif (
        eager
        and not differentiable
        and problem.ready
        # a view may say minus: what lies in memory is not its numbers
        and not (q.is_neg() or cos.is_neg() or sin.is_neg() or (k is not None and k.is_neg()))
    ):
        turned = run(impl, problem, tensors, cos, sin)
    else:
        how = How(first, width, layout, heads_dim, 1, impl)
        if differentiable and inplace:
            turned = list(RotateInPlace.apply(cos, sin, how, *tensors))
        elif differentiable and eager:
            turned = list(Rotate.apply(cos, sin, how, *tensors))
        else:
            turned = turn(tensors, cos, sin, how, inplace)
    return turned[0], turned[1] if k is not None else None


@lru_cache(maxsize=1024)
def _checked(problem: RotationProblem) -> RotationProblem:
    """Checks a call. Remembered, since a small rotation takes less time than this.

    Gives the first problem that was equal to this one, which has what was worked out of it.
    """
    _check(problem)
    for name, x in (("q", problem.q), ("k", problem.k)):
        if problem.inplace and x is not None and overlaps_itself(*x[:2]):
            raise ValueError(
                f"{name} overlaps itself (its shape is {tuple(x[0])} and its strides are {x[1]}), so that several "
                "elements are one: it cannot be turned in place"
            )
    return problem


def _check(problem: RotationProblem) -> None:
    q, k, cos, sin, first, width, layout, heads_dim, _, inplace = problem
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if heads_dim not in (1, 2):
        raise ValueError(f"heads_dim must be 1 or 2, got {heads_dim}")
    table, device, tokens_dim = cos[0], cos[3], 3 - heads_dim
    if width % 2 or not 0 <= first <= width // 2 - table[-1]:
        raise ValueError(
            f"tables must hold pairs within their width: width {width}, first pair {first}, {table[-1]} pairs"
        )
    per_head = len(table) == 4
    if table != sin[0] or not (per_head or len(table) == 3):
        raise ValueError(
            f"tables.cos and tables.sin must be [batch or 1, tokens, pairs] alike, got {tuple(table)} and "
            f"{tuple(sin[0])}"
        )
    if sin[3] != device:
        raise ValueError(f"tables.cos is on {device} and tables.sin on {sin[3]}; move one of them")
    table_tokens = table[tokens_dim if per_head else 1]
    for name, x in (("q", q), ("k", k)):
        if x is None:
            continue
        shape, strides, dtype, where = x
        if len(shape) != 4:
            raise ValueError(f"{name} must have four dimensions, got the shape {tuple(shape)}")
        if dtype not in FLOATS:
            raise ValueError(f"{name} must be float64, float32, bfloat16 or float16, got {dtype}")
        if shape[3] < width:
            raise ValueError(f"the tables turn {width} channels and {name}'s heads have {shape[3]}")
        if where != device:
            raise ValueError(f"{name} is on {where} and the tables are on {device}; move one of them")
        if shape[tokens_dim] != table_tokens:
            raise ValueError(
                f"the tables hold {table_tokens} tokens and {name} has {shape[tokens_dim]} (in dimension {tokens_dim} "
                f"of {tuple(shape)}; heads_dim={heads_dim})"
            )
        if not stretches(table[0], shape[0]):
            raise ValueError(f"the tables are for a batch of {table[0]} and {name} has one of {shape[0]}")
        if per_head and not stretches(table[heads_dim], shape[heads_dim]):
            raise ValueError(f"the tables are for {table[heads_dim]} heads and {name} has {shape[heads_dim]}")
        if inplace and any(s == 0 and n > 1 for s, n in zip(strides, shape, strict=True)):
            raise ValueError(f"{name} is expanded, so that several elements are one: it cannot be turned in place")
    if k is not None and (k[2] != q[2] or k[0][0] != q[0][0] or k[0][3] != q[0][3]):
        raise ValueError(
            f"q and k must agree in batch, head dim and dtype, got {tuple(q[0])} {q[2]} and {tuple(k[0])} {k[2]}"
        )


def _share(q: torch.Tensor, k: torch.Tensor, spans: tuple[int, ...]) -> bool:
    """Whether an element of q is one of k's. Parts of one projection lie between one another, and share none."""
    apart = k.data_ptr() - q.data_ptr()
    if not -spans[1] < apart < spans[0]:
        return False
    size = q.element_size()
    return bool(apart % size) or overlap(tuple(q.shape), q.stride(), tuple(k.shape), k.stride(), apart // size)
