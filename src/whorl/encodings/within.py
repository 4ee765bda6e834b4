"""Learned numbers that have to stay in a range."""

from __future__ import annotations

from typing import Any

import torch


class Within(torch.autograd.Function):
    """x clamped to lowest .. highest; past a bound, a gradient passes if following it leads back.

    A plain clamp gives no gradient there, and what has once left the range stays outside. The official code clamps the
    parameters' data in each forward instead, and so always learns on; this writes to nothing, which sharded parameters
    and recomputed forwards need. What passes goes by the sign of a gradient: where a parameter is past its bound, those
    of the parts of a batch (accumulated, or of several processes) may add up to another than the whole batch's.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, lowest: float, highest: float) -> torch.Tensor:
        return x.clamp(lowest, highest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, ctx.lowest, ctx.highest = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (x,) = ctx.saved_tensors
        outwards = ((x < ctx.lowest) & (grad > 0)) | ((x > ctx.highest) & (grad < 0))  # a step goes against grad
        return torch.where(outwards, 0.0, grad), None, None
