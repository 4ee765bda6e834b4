"""The derivatives of a rotation: gradients are turned back by the same tables, which have gradients of their own."""

from __future__ import annotations

from typing import Any

import torch

from whorl.ops.derivatives import batch_of_gradients
from whorl.ops.impl import reference
from whorl.ops.turning import How, through_torch, turn


class Rotate(torch.autograd.Function):
    """Out of place. The backward pass turns the gradients back by the same tables."""

    @staticmethod
    def forward(ctx: Any, cos: torch.Tensor, sin: torch.Tensor, how: How, *tensors: torch.Tensor) -> Any:
        learned = cos.requires_grad or sin.requires_grad
        ctx.how = how
        ctx.save_for_backward(cos, sin, *(tensors if learned else ()))
        return tuple(turn(list(tensors), cos, sin, how))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin, *tensors = ctx.saved_tensors
        turned = turn_back(list(grads), cos, sin, ctx.how)
        to_cos, to_sin = table_gradients(tensors, list(grads), cos, ctx.how) if tensors else (None, None)
        return to_cos, to_sin, None, *turned


class RotateInPlace(torch.autograd.Function):
    """In place. The backward pass is not: autograd hands one gradient to every branch that adds up to it."""

    @staticmethod
    def forward(ctx: Any, cos: torch.Tensor, sin: torch.Tensor, how: How, *tensors: torch.Tensor) -> Any:
        ctx.how = how
        ctx.save_for_backward(cos, sin)
        ctx.mark_dirty(*tensors)
        return tuple(turn(list(tensors), cos, sin, how, inplace=True))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return None, None, None, *turn_back(list(grads), cos, sin, ctx.how)


def turn_back(grads: list[torch.Tensor], cos: torch.Tensor, sin: torch.Tensor, how: How) -> list[torch.Tensor]:
    """Gradients turned by the opposite angle, differentiably where another derivative is asked for."""
    back = how.back()
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*grads, cos, sin)):
        return list(Rotate.apply(cos, sin, back, *grads))
    if not torch.compiler.is_compiling() and any(map(batch_of_gradients, grads)):
        return through_torch(grads, cos, sin, back)
    return turn(grads, cos, sin, back)


def table_gradients(
    tensors: list[torch.Tensor], grads: list[torch.Tensor], cos: torch.Tensor, how: How
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to cos and sin: sums over whatever shares a table."""
    to_cos, to_sin = torch.zeros_like(cos), torch.zeros_like(cos)
    for x, grad in zip(tensors, grads, strict=True):
        (a, b), (ga, gb) = (
            reference.turning_pairs(y.to(cos.dtype), how.first, cos.shape[-1], how.width, how.layout) for y in (x, grad)
        )
        to_cos = to_cos + _like(ga * a + gb * b, cos, how)
        to_sin = to_sin + _like(how.sign * (gb * a - ga * b), cos, how)
    return to_cos, to_sin


def _like(gradient: torch.Tensor, table: torch.Tensor, how: How) -> torch.Tensor:
    if table.dim() == 3:
        gradient = gradient.sum(how.heads_dim)
    return gradient.sum_to_size(table.shape)
