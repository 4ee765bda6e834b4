"""cos and sin for a rotation, made from positions and a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import torch

from whorl.checking import shown
from whorl.encodings.spectrum import Spectrum
from whorl.encodings.turns import cos_sin
from whorl.ops.problem import math_dtype


class Tables(NamedTuple):
    """What a rotation needs: cos and sin of the pairs that turn, and which pairs those are.

    cos, sin   float32 (float64 for float64 inputs), [batch or 1, tokens, pairs that turn], amplitude included; or, for
               spectra of their own per head, four dimensions in the order of q's
    first      index of the first pair that turns; the turning pairs are first .. first + cos.shape[-1] - 1
    width      channels that are in pairs; channels from `width` on pass through
    """

    cos: torch.Tensor
    sin: torch.Tensor
    first: int
    width: int

    def to(self, device: torch.device | str) -> Tables:
        """The same tables on another device."""
        return self._replace(cos=self.cos.to(device), sin=self.sin.to(device))


def rotation_tables(spectrum: Spectrum, positions: torch.Tensor, dtype: torch.dtype = torch.float32) -> Tables:
    """Tables for integer positions [batch, tokens] or [tokens]. Angles are exact at every position (see `turns`).

    Where the spectrum names axes, positions are [batch, tokens, axes]: integers (of a grid) or real numbers (of
    points). With an amplitude (YaRN scales the whole head), pairs that stand still are in the tables too.

    Raises ValueError for positions that lack an axis which the spectrum names, and for axes that it does not name.
    """
    if not isinstance(spectrum, Spectrum) or not isinstance(positions, torch.Tensor):
        given = spectrum if not isinstance(spectrum, Spectrum) else positions
        wanted = "a Spectrum, as encoding.spectrum(head_dim)" if given is spectrum else "a tensor of positions"
        raise ValueError(f"{wanted} is wanted, got {shown(given)}")
    if positions.dim() == 1:
        positions = positions[None]
    axes = None if positions.dim() == 2 and not spectrum.axes else _axes_of(spectrum, positions)
    turning = spectrum.turning
    first, last = (turning[0], turning[-1] + 1) if turning else (0, 0)
    if spectrum.amplitude != 1.0:
        first, last = 0, len(spectrum.frequencies)
    axes = axes if axes is None else axes[first:last]
    cos, sin = cos_sin(positions, spectrum.frequencies[first:last], math_dtype(dtype), axes)
    if spectrum.amplitude != 1.0:
        cos, sin = cos * spectrum.amplitude, sin * spectrum.amplitude
    return Tables(cos, sin, first, spectrum.width)


def _axes_of(spectrum: Spectrum, positions: torch.Tensor) -> tuple[int, ...] | None:
    """The axis of these positions that each pair goes by; None where they have one, and no dimension for it."""
    named, dims = spectrum.number_of_axes, positions.dim()
    if dims == 2 and named == 1:
        return None
    if dims != 3 or not spectrum.axes or positions.shape[-1] < named:
        wanted = "[batch, tokens] or [tokens]" if named == 1 else f"[batch, tokens, {named} axes or more]"
        raise ValueError(
            f"positions must be {wanted}, got {list(positions.shape)}: the pairs of this spectrum go by {named} "
            f"{'axes' if named > 1 else 'axis'}; Spectrum(..., axes=...) says which axis each pair goes by"
        )
    return spectrum.axes
