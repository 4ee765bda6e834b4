"""Another base, also of float32 tables."""

from __future__ import annotations

import numpy as np

from whorl.encodings import parse
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.base_change import BaseChange
from whorl.encodings.scalings.yarn import YaRN


def test_closed_form() -> None:
    theta = 5e5 ** (-np.arange(64) / 64)
    np.testing.assert_allclose(parse("rope~base-change:base=5e5").spectrum(128).frequencies, theta, rtol=1e-13)


def test_the_base_is_read_off_float32_tables_too() -> None:
    rounded = Frequencies(tuple(float(np.float32(f)) for f in RoPE(5e5).spectrum(128).frequencies))
    for scaling in (YaRN(8, 4096), BaseChange(1e6)):
        ours = scaling(rounded.spectrum(128))
        np.testing.assert_allclose(ours.frequencies, scaling(RoPE(5e5).spectrum(128)).frequencies, rtol=1e-6)
