"""cos and sin for a rotation, made from positions and a spectrum."""

from __future__ import annotations

from typing import NamedTuple

import torch

from whorl.checking import shown
from whorl.encodings.spectrum import Spectrum
from whorl.encodings.turns import cos_sin
from whorl.numerics import math_dtype


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
    points). With an amplitude (YaRN scales the whole head), pairs that do not rotate are in the tables too. Of a
    spectrum in which no pair turns, positions may have any axes.

    Raises ValueError for positions that lack an axis which the spectrum names, and for axes that it does not name.
    """
    if not isinstance(spectrum, Spectrum) or not isinstance(positions, torch.Tensor):
        given = spectrum if not isinstance(spectrum, Spectrum) else positions
        wanted = "a Spectrum, as encoding.spectrum(head_dim)" if given is spectrum else "a tensor of positions"
        raise ValueError(f"{wanted} is wanted, got {shown(given)}")
    if positions.dim() == 1:
        positions = positions[None]
    turning = spectrum.turning
    first, last = (turning[0], turning[-1] + 1) if turning else (0, 0)
    if spectrum.amplitude != 1.0:
        first, last = 0, len(spectrum.frequencies)
    if positions.dim() == 2 and not spectrum.axes and not spectrum.vectors:
        axes = None
    elif last == first and positions.dim() == 3:
        axes, positions = None, positions[..., 0]
    else:
        _check_axes(spectrum, positions)
        axes = spectrum.axes[first:last] if positions.dim() == 3 and spectrum.axes else None
    frequencies = (spectrum.vectors or spectrum.frequencies)[first:last]
    cos, sin = cos_sin(positions, frequencies, math_dtype(dtype), axes)
    if spectrum.amplitude != 1.0:
        cos, sin = cos * spectrum.amplitude, sin * spectrum.amplitude
    return Tables(cos, sin, first, spectrum.width)


def _check_axes(spectrum: Spectrum, positions: torch.Tensor) -> None:
    """Raises ValueError for positions that lack an axis that the pairs go by, and where that is not said."""
    named, dims = spectrum.number_of_axes, positions.dim()
    if dims == 2 and named == 1:
        return
    if dims != 3 or not (spectrum.axes or spectrum.vectors) or positions.shape[-1] < named:
        wanted = "[batch, tokens] or [tokens]" if named == 1 else f"[batch, tokens, {named} axes or more]"
        raise ValueError(
            f"positions must be {wanted}, got {list(positions.shape)}: the pairs of this spectrum go by {named} "
            f"{'axes' if named > 1 else 'axis'}; Spectrum(..., axes=...) says which axis each pair goes by"
        )
