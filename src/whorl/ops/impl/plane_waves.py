"""Turns at the patches of a grid, by the compiled loop in plane_waves.c: the one place that knows the order of `Call`
there."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch

from whorl.ops.impl import native
from whorl.ops.impl.cpu import SMALL
from whorl.ops.problem import side_by_side
from whorl.ops.raster import Raster


def turn(
    tensors: Sequence[torch.Tensor], frequencies: torch.Tensor, raster: Raster, layout: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The tensors turned; and cos and sin of rows and columns, which `turn_back` reads.

    tensors      one or two, [batch, heads, tokens, head dim], float32 or float64 alike
    frequencies  [2, heads, pairs] in float64, radians per row and per column
    """
    heads, pairs = frequencies.shape[1:]
    ready = [side_by_side(x) for x in tensors]
    sides = ready[0].new_empty(heads, raster.grid.height + raster.grid.width, 2, pairs)
    out = [torch.empty_like(x) for x in ready]
    _call(frequencies.contiguous(), sides, raster, layout, out, ready, None, None)
    return out, sides


def turn_back(
    grads: Sequence[torch.Tensor],
    turned: Sequence[torch.Tensor],
    sides: torch.Tensor,
    raster: Raster,
    layout: str,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Gradients turned back; and the frequencies' gradient, [2, heads, pairs] in float64, where what the forward pass
    turned is given (`turned`): else None."""
    heads, _, _, pairs = sides.shape
    ready = [side_by_side(x) for x in grads]
    out = [torch.empty_like(x) for x in ready]
    to_frequencies = sides.new_empty(2, heads, pairs, dtype=torch.float64) if turned else None
    _call(None, sides, raster, layout, out, ready, [side_by_side(x) for x in turned], to_frequencies)
    return out, to_frequencies


def _call(
    frequencies: torch.Tensor | None,
    sides: torch.Tensor,
    raster: Raster,
    layout: str,
    out: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    turned: Sequence[torch.Tensor] | None,
    to_frequencies: torch.Tensor | None,
) -> None:
    """frequencies: None going back."""
    batch, heads, _, dim = given[0].shape
    threads = torch.get_num_threads() if sum(x.numel() * x.element_size() for x in given) > SMALL else 1
    numbers = [
        threads, given[0].dtype == torch.float64, frequencies is None, batch, heads, raster.grid.prefix,
        raster.grid.height, raster.grid.width, sides.shape[3], dim, layout == "interleaved", len(given), *raster.first,
        0 if frequencies is None else frequencies.data_ptr(), sides.data_ptr(),
        0 if to_frequencies is None else to_frequencies.data_ptr(),
    ]  # fmt: skip
    befores: Sequence[torch.Tensor | None] = turned or [None] * len(given)
    for to, x, before in zip(out, given, befores, strict=True):
        address, strides = (0, (0, 0, 0)) if before is None else (before.data_ptr(), before.stride()[:3])
        numbers += [to.data_ptr(), x.data_ptr(), address, *to.stride()[:3], *x.stride()[:3], *strides]
    native.call("whorl_plane_waves", struct.pack(f"{len(numbers)}q", *numbers))
