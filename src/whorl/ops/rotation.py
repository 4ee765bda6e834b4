"""rotate(): turns pairs of q and k channels by tables made from positions and a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import torch

from whorl.encodings.spectrum import Spectrum
from whorl.encodings.turns import cos_sin
from whorl.ops.impl import reference

LAYOUTS = ("half", "interleaved")


class Tables(NamedTuple):
    """What a rotation needs: cos and sin of the pairs that turn, and which pairs those are.

    cos, sin   float32 (float64 for float64 inputs), [batch or 1, tokens, pairs that turn], amplitude included
    first      index of the first pair that turns; the turning pairs are first .. first + cos.shape[-1] - 1
    width      channels that are in pairs; channels from `width` on pass through
    amplitude  what an unturned pair below `width` is multiplied by (YaRN scales the whole head)
    """

    cos: torch.Tensor
    sin: torch.Tensor
    first: int
    width: int
    amplitude: float = 1.0

    def to(self, device: torch.device | str) -> Tables:
        """The same tables on another device."""
        return self._replace(cos=self.cos.to(device), sin=self.sin.to(device))


def rotation_tables(spectrum: Spectrum, positions: torch.Tensor, dtype: torch.dtype = torch.float32) -> Tables:
    """Tables for integer positions [batch, tokens] or [tokens]. Angles are exact at every position (see `turns`)."""
    if positions.dim() == 1:
        positions = positions[None]
    turning = spectrum.turning
    first, last = (turning[0], turning[-1] + 1) if turning else (0, 0)
    cos, sin = cos_sin(
        positions, spectrum.frequencies[first:last], torch.float64 if dtype == torch.float64 else torch.float32
    )
    if spectrum.amplitude != 1.0:
        cos, sin = cos * spectrum.amplitude, sin * spectrum.amplitude
    return Tables(cos, sin, first, spectrum.width, spectrum.amplitude)


def rotate(
    q: torch.Tensor, k: torch.Tensor | None, tables: Tables, *, layout: str = "half", heads_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """q and k with their turning pairs turned; the others are passed on untouched (RoFormer, 2104.09864, Eq. 34).

    q, k       [batch, heads, tokens, head_dim] (heads_dim=1) or [batch, tokens, heads, head_dim] (heads_dim=2),
               float64, float32, bfloat16 or float16; k may have its own head count, or be None
    layout     "half": pair i is channels (i, i + width/2), as in Llama and GPT-NeoX;
               "interleaved": channels (2i, 2i + 1), as in RoFormer and GPT-J

    The arithmetic is float32 (float64 for float64 inputs), cast back once. Raises ValueError for a layout that
    is neither, or a head narrower than the tables' width.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    for x in (q, k):
        if x is not None and x.shape[-1] < tables.width:
            raise ValueError(f"the tables turn {tables.width} channels and the head has {x.shape[-1]}")
    turned = reference.rotate_one(q, *tables, layout=layout, heads_dim=heads_dim)
    return turned, None if k is None else reference.rotate_one(k, *tables, layout=layout, heads_dim=heads_dim)
