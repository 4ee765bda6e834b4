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

    With an amplitude (YaRN scales the whole head), pairs that stand still are in the tables too.
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
    cos, sin = cos_sin(positions, spectrum.frequencies[first:last], math_dtype(dtype))
    if spectrum.amplitude != 1.0:
        cos, sin = cos * spectrum.amplitude, sin * spectrum.amplitude
    return Tables(cos, sin, first, spectrum.width)
