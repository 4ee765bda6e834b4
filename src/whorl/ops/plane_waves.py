"""Turns by angles that are linear in row and column, at all patches of a grid, by a loop that makes no angle of each.

    cos(y a + x b) = cos ya cos xb - sin ya sin xb        sin(y a + x b) = sin ya cos xb + cos ya sin xb

A grid of 32 x 32 has 1,024 patches and 64 rows and columns. Only these take a cosine, in float64, which is rounded once
to the tensors' dtype; the others are made of them in that dtype, where they are used (`impl/plane_waves.c`): to 1.5e-7
in float32, where one rounding would be 3e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from whorl.ops.derivatives import batch_of_gradients, plain, transformed
from whorl.ops.impl import plane_waves
from whorl.ops.raster import Raster, raster_of
from whorl.ops.turning import choose


def raster_for_loop(positions: torch.Tensor) -> Raster | None:
    """The grid whose patches these positions are, row by row, where `turn_on_grid` can turn at it; else None.

    None too off a CPU, where the loop does not run, where the environment asks for another implementation, and where
    PyTorch follows more than numbers: in a graph that is compiled, under torch.func, with a forward-mode derivative.
    """
    if positions.device.type != "cpu" or positions.dim() != 3 or positions.is_floating_point():
        return None
    if torch.compiler.is_compiling() or transformed() is not None or not plain((positions,)):
        return None
    if choose("auto", positions.device) != "cpu":
        return None
    return raster_of(positions)


def turn_on_grid(
    tensors: Sequence[torch.Tensor], frequencies: torch.Tensor, raster: Raster, layout: str
) -> list[torch.Tensor]:
    """The tensors with pair t of head h turned by y frequencies[0, h, t] + x frequencies[1, h, t] radians in row y and
    column x; tokens before the patches, and channels past the pairs, as they are.

    tensors      one or two of the same shape, [batch, heads, tokens, head dim], float32 or float64
    frequencies  [2, heads, pairs] in float64, radians per row and per column
    layout       as in `whorl.ops.rotate`

    Gradients of any order reach the tensors and the frequencies. Raises ValueError for tensors that are not alike, of
    other heads or tokens, or with fewer channels than are turned.
    """
    (heads, pairs), tokens = frequencies.shape[1:], raster.order.shape[1]
    alike = {(x.shape, x.dtype) for x in tensors}
    if len(tensors) not in (1, 2) or len(alike) > 1:
        raise ValueError(f"one tensor or two of one shape and dtype are turned, got {[tuple(one) for one in alike]}")
    for x in tensors:
        if x.shape[1:3] != (heads, tokens) or x.shape[3] < 2 * pairs or x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"these frequencies turn {pairs} pairs of channels in {heads} heads, and the grid has {tokens} tokens; "
                f"got {x.dtype} of the shape {list(x.shape)} ([batch, heads, tokens, channels])"
            )
    if torch.is_grad_enabled() and any(x.requires_grad for x in (frequencies, *tensors)):
        return list(_OnGrid.apply(frequencies, raster, layout, *tensors))
    return plane_waves.turn(tensors, frequencies, raster, layout)[0]


class _OnGrid(torch.autograd.Function):
    """Beside the tensors, cos and sin of rows and columns are all that is kept."""

    @staticmethod
    def forward(ctx: Any, frequencies: torch.Tensor, raster: Raster, layout: str, *tensors: torch.Tensor) -> Any:
        out, sides = plane_waves.turn(tensors, frequencies, raster, layout)
        learned = ctx.needs_input_grad[0]
        ctx.raster, ctx.layout, ctx.learned = raster, layout, learned
        ctx.save_for_backward(frequencies, sides, *(tensors if learned else ()))
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        frequencies, sides, *tensors = ctx.saved_tensors
        further = torch.is_grad_enabled() and any(x.requires_grad for x in (frequencies, *grads, *tensors))
        if further or transformed() is not None or any(map(batch_of_gradients, grads)):
            to_frequencies, to_tensors = _plainly(frequencies, tensors, grads, ctx.raster, ctx.layout)
        else:
            to_tensors, to_frequencies = plane_waves.turn_back(grads, tensors, sides, ctx.raster, ctx.layout)
        return to_frequencies, None, None, *to_tensors


def _plainly(
    frequencies: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    raster: Raster,
    layout: str,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The same gradients by operations of PyTorch alone, which follow whatever gradients are."""
    y, x = raster.places(frequencies.device)
    angles = y[:, None] * frequencies[0, :, None] + x[:, None] * frequencies[1, :, None]
    cos, sin = angles.cos().to(grads[0].dtype), angles.sin().to(grads[0].dtype)
    halves = [_pairs(grad, cos.shape[-1], layout) for grad in grads]
    back = [(a * cos + b * sin, b * cos - a * sin) for a, b in halves]
    to_tensors = [_joined(*pair, grad, layout) for pair, grad in zip(back, grads, strict=True)]
    if not tensors:
        return None, to_tensors
    to_angles = torch.zeros_like(cos)
    for given, (to_a, to_b) in zip(tensors, back, strict=True):
        a, b = _pairs(given, cos.shape[-1], layout)
        to_angles = to_angles + (a * to_b - b * to_a).sum(0)
    to_angles = to_angles.double()
    return torch.stack([(at[:, None] * to_angles).sum(1) for at in (y, x)]), to_tensors


def _pairs(x: torch.Tensor, pairs: int, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second channels, in operations that a batch of gradients has too."""
    width = 2 * pairs
    if layout == "half":
        return x[..., :pairs], x[..., pairs:width]
    return x[..., 0:width:2], x[..., 1:width:2]


def _joined(a: torch.Tensor, b: torch.Tensor, like: torch.Tensor, layout: str) -> torch.Tensor:
    """The same as channels, and those of `like` that are in no pair."""
    width = 2 * a.shape[-1]
    both = torch.cat([a, b], -1) if layout == "half" else torch.stack([a, b], -1).reshape(*a.shape[:-1], width)
    return torch.cat([both, like[..., width:]], -1)
