"""NTK-aware scaling and the dynamic one, against a pin and the formula."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_dynamic_ntk_steps_in_stated_lengths() -> None:
    encoding = parse("rope~dynamic-ntk:factor=4,original=16,step=10")
    exact = parse("rope~dynamic-ntk:factor=4,original=16,step=1")
    at = {n: encoding.spectrum_at(16, n) for n in range(1, 60)}
    assert at[1] == at[16] == encoding.spectrum(16)
    assert len(set(at.values())) == 6
    assert at[17] == at[26] == exact.spectrum_at(16, 26)
    assert at[27] == exact.spectrum_at(16, 36) != at[26]
    scaling = encoding.scalings[0]
    assert [scaling.same_up_to(n) for n in (1, 16, 17, 26, 27)] == [16, 16, 26, 26, 36]
    assert parse("rope~dynamic-ntk:factor=4,original=16").spectrum_at(16, 17) == exact.spectrum_at(16, 20), (
        "a quarter of the original length"
    )
    assert parse("rope~dynamic-ntk:factor=4,original=3").spectrum_at(16, 4) == parse(
        "rope~dynamic-ntk:factor=4,original=3,step=1"
    ).spectrum_at(16, 4)
    assert parse(str(encoding)) == encoding
    with pytest.raises(ValueError, match="step must be a whole number of at least 1"):
        parse("rope~dynamic-ntk:factor=4,original=16,step=0")
