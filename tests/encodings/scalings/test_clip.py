"""Clipping, hard (HoPE's rule) and soft (the paper's taper)."""

from __future__ import annotations

import numpy as np

from whorl.encodings import parse
from whorl.encodings.hope import HoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.clip import Clip, SoftClip

ROPE = RoPE().spectrum(128)


def test_clip_is_hopes_rule() -> None:
    assert parse("rope~clip:wavelength=512").spectrum(128).frequencies == HoPE(512).spectrum(128).frequencies


def test_soft_clip_is_the_taper_of_clipped_rope_on_its_band() -> None:
    """2602.05258's code: the last 20 of 64 frequencies x 0.5 (1 + cos(linspace(0, pi, 20)))."""
    w = RoPE().spectrum(128).wavelengths
    for wavelength in (w[43], 0.5 * (w[43] + w[44])):
        got = np.array(SoftClip(wavelength)(ROPE).frequencies)
        expected = np.array(ROPE.frequencies)
        expected[-20:] *= 0.5 * (1 + np.cos(np.linspace(0, np.pi, 20)))
        np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-20)
        assert got[44] == ROPE.frequencies[44]
        assert got[63] == 0
    assert SoftClip(1e9)(ROPE) == ROPE
    assert SoftClip(0.5 * (w[62] + w[63]))(ROPE) == ROPE, "a lone pair keeps its frequency"
    assert Clip(w[43])(ROPE).turning == tuple(range(44))
    # HoPE's still pairs are not in the band: it ends on the last pair that turns
    hope = HoPE(512).spectrum(128)
    last = len(hope.turning) - 1
    soft = SoftClip(w[last - 3])(hope).frequencies
    tapered = np.array(hope.frequencies[last - 2 : last + 1]) * (1, 0.5, 0)
    np.testing.assert_allclose(soft[last - 2 : last + 1], tapered, rtol=1e-14, atol=1e-20)
    assert soft[: last - 2] == hope.frequencies[: last - 2]
