"""From a rotation that was asked for to the implementation that does it, in eager mode or through torch's operator."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch.autograd.graph import increment_version

from whorl.numerics import math_dtype
from whorl.ops.derivatives import plain, transformed
from whorl.ops.environment import asked_by_environment
from whorl.ops.impl import reference
from whorl.ops.implementations import ROTATIONS
from whorl.ops.problem import RotationProblem, one_pair, seen, side_by_side


class How(NamedTuple):
    """What an operator needs besides tensors."""

    first: int
    width: int
    layout: str
    heads_dim: int
    sign: int  # -1 turns back
    impl: str

    def back(self) -> How:
        return self._replace(sign=-self.sign)


def choose(impl: str, device: torch.device) -> str:
    """The implementation that will run. Raises ValueError for a name that is not one, or that cannot run here."""
    return chosen(impl, one_pair(device))


def chosen(impl: str, problem: RotationProblem) -> str:
    """The same for what is asked in full."""
    if impl == "auto" and (asked := asked_by_environment()) is not None:
        ROTATIONS.check(asked, " (from the environment's WHORL_IMPL)")
        impl = asked
    return ROTATIONS.chosen(impl, problem, transformed())


def turn(
    tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: How, inplace: bool = False
) -> list[torch.Tensor]:
    """The tensors turned: at once where they are plain; else, and while a graph is compiled, by the operator."""
    if not torch.compiler.is_compiling() and plain((*tensors, cos, sin)):
        return turn_now(tensors, cos, sin, how, inplace)
    if not inplace:
        return through_torch(tensors, cos, sin, how)
    torch.ops.whorl.rotate_(tensors[0], tensors[1] if len(tensors) > 1 else None, cos, sin, *how)
    return tensors


def through_torch(tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: How) -> list[torch.Tensor]:
    """By the operator, which torch takes apart for whatever the tensors are."""
    k = tensors[1] if len(tensors) > 1 else None
    return list(torch.ops.whorl.rotate(tensors[0], k, cos, sin, *how))[: len(tensors)]


def turn_now(
    tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: How, inplace: bool = False
) -> list[torch.Tensor]:
    """The tensors turned, by whichever implementation it is."""
    math = math_dtype(tensors[0].dtype)
    if cos.dtype != math:
        cos, sin = cos.to(math), sin.to(math)
    # of a derivative or gradients, which the forward pass did not know of, in the first case
    impl = "reference" if transformed() is not None else how.impl
    if impl == "auto":
        impl = choose(impl, tensors[0].device)
    if impl == "reference":
        tables = (cos, how.sign * sin, how.first, how.width)
        turned = [reference.rotate_one(x, *tables, layout=how.layout, heads_dim=how.heads_dim) for x in tensors]
        return [x.copy_(y) for x, y in zip(tensors, turned, strict=True)] if inplace else turned
    cos, sin = cos.contiguous().resolve_neg(), sin.contiguous().resolve_neg()
    ready = [side_by_side(x) for x in tensors]
    here = inplace and all(x is y for x, y in zip(ready, tensors, strict=True))
    q, k = ready[0], ready[1] if len(ready) > 1 else None
    problem = _same(RotationProblem(seen(q), None if k is None else seen(k), seen(cos), seen(sin), *how[:5], here))
    turned = run(impl, problem, ready, cos, sin)
    return [x.copy_(y) for x, y in zip(tensors, turned, strict=True)] if inplace and not here else turned


@lru_cache(maxsize=1024)
def _same(problem: RotationProblem) -> RotationProblem:
    """The first problem that was equal to this one: it has what implementations have worked out."""
    return problem


def run(
    impl: str, problem: RotationProblem, tensors: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor
) -> list[torch.Tensor]:
    """The tensors turned by an implementation, where everything lies as it takes it (`problem.ready`)."""
    out = tensors if problem.inplace else [torch.empty_like(x) for x in tensors]
    ROTATIONS[impl].run(problem, tensors, out, cos, sin)
    if problem.inplace:
        increment_version(tensors)  # or a backward pass that has kept what was there would not notice
    return out
