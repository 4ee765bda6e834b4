"""NTK-aware scaling and the dynamic one, against a pin and the formula."""

from __future__ import annotations

import numpy as np

from whorl.encodings import parse
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.ntk import grown_base


def test_frequencies_equal_the_pin(pins: dict) -> None:
    pin = pins["hf_dynamic_ntk"]
    spectrum = parse("rope~dynamic-ntk:factor=10,original=2048").spectrum_at(
        pin["config"]["head_dim"], pin["config"]["seq_len"]
    )
    np.testing.assert_allclose(spectrum.frequencies, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])
    assert spectrum.amplitude == 1


def test_closed_forms() -> None:
    d, i = 128, np.arange(64)
    base = 10000.0 * 4.0 ** (d / (d - 2))
    np.testing.assert_allclose(parse("rope~ntk:factor=4").spectrum(d).frequencies, base ** (-2 * i / d), rtol=1e-13)
    assert grown_base(10000.0, 4.0, d) == base


def test_the_dynamic_one_is_ntk_by_the_current_length_and_continuous_at_the_original_one() -> None:
    dynamic = parse("rope~dynamic-ntk:factor=1,original=1000,step=1")
    by_four = parse("rope~ntk:factor=4").spectrum(128)
    np.testing.assert_allclose(dynamic.spectrum_at(128, 4000).frequencies, by_four.frequencies, rtol=1e-14)
    np.testing.assert_allclose(dynamic.spectrum_at(128, 1001).frequencies, 10000.0 ** (-np.arange(64) / 64), rtol=2e-3)
    assert dynamic.spectrum_at(128, 1000) == dynamic.spectrum(128) == RoPE().spectrum(128)
