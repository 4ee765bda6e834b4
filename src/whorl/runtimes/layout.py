"""Which channels of a head pair up, changed in the weights: rows of q and k reordered from one layout to another."""

from __future__ import annotations

import torch

from whorl.checking import shown
from whorl.ops.rotation import LAYOUTS


def permute_layout(weight: torch.Tensor, heads: int, width: int, to: str) -> torch.Tensor:
    """The rows of a q or k projection (or of its bias), reordered head by head from one layout of pairs to the other.

    weight   [heads x head_dim, ...]; the first `width` channels of a head are in pairs, the others stay where they are
    to       "interleaved": what comes in halves  [x0 x1 x2 y0 y1 y2] goes out as [x0 y0 x1 y1 x2 y2];
             "half": the other way round

    Reordering q and k alike changes no logit, if the runtime pairs channels as the new layout says.

    >>> permute_layout(torch.arange(8), heads=1, width=6, to="interleaved")
    tensor([0, 3, 1, 4, 2, 5, 6, 7])
    """
    if to not in LAYOUTS:
        raise ValueError(f"to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    if not isinstance(weight, torch.Tensor) or not isinstance(heads, int) or not isinstance(width, int):
        raise ValueError(
            f"the rows of a tensor, heads and a width in channels are wanted, got {shown(weight)}, {heads!r}, {width!r}"
        )
    if heads < 1 or weight.shape[0] % heads or width % 2 or not 0 <= width <= weight.shape[0] // heads:
        raise ValueError(
            f"{weight.shape[0]} rows in {heads} heads cannot have {width} channels in pairs: rows must be a multiple "
            "of heads, and the width even and no more than a head"
        )
    if width == 0:
        return weight
    rows = weight.unflatten(0, (heads, -1))
    pairs = rows[:, :width].unflatten(1, (2, width // 2) if to == "interleaved" else (width // 2, 2))
    return torch.cat([pairs.transpose(1, 2).flatten(1, 2), rows[:, width:]], dim=1).flatten(0, 1)
