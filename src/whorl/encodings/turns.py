"""Exact cos and sin of position x frequency, the one place where angles become numbers.

The product is taken in float64 and handed to the float64 cosine, whose own argument reduction is exact. (An
explicit `remainder(angle, 2 pi)` would be worse: 2 pi rounded to float64 puts the angle off by 8e-8 radians at
position 2**31.) So the float32 values are within 2e-7 of the truth at every position up to 2**31 - 1. A pair that goes
by several axes adds up such products, and each sum is rounded once, in float64 as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def cos_sin(
    positions: torch.Tensor,
    frequencies: Sequence[float] | Sequence[Sequence[float]],
    dtype: torch.dtype = torch.float32,
    axes: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of positions [...] x frequencies [n] (radians per token): two tensors [..., n] of `dtype`.

    axes: which axis of positions [..., axes], integers or real numbers, each frequency goes by; None where they have
    one, and no dimension for it. Frequencies [n, axes] go by all axes: their angles along each are added up.

    The tables land on the positions' device; a device without float64 (MPS) has them made on the CPU.
    """
    device = positions.device
    if not frequencies:
        shape = positions.shape if axes is None else positions.shape[:-1]
        return torch.empty(*shape, 0, dtype=dtype, device=device), torch.empty(*shape, 0, dtype=dtype, device=device)
    where = torch.device("cpu") if device.type == "mps" else device
    omega = torch.tensor(frequencies, dtype=torch.float64, device=where)
    at = positions.to(where, torch.float64)
    if omega.dim() == 2:
        along = (at[..., axis, None] * omega[:, axis] for axis in range(omega.shape[1]))
        angles = sum(along, start=torch.zeros((), dtype=torch.float64, device=where))
    else:
        angles = (at[..., None] if axes is None else at[..., list(axes)]) * omega
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)
