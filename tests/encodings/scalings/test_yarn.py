"""YaRN, against a pin."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whorl.encodings import Scaled, parse
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.yarn import YaRN


def test_frequencies_equal_the_pin(pins: dict) -> None:
    pin = pins["hf_yarn"]
    spectrum = parse("rope~yarn:factor=10,original=2048").spectrum(pin["config"]["head_dim"])
    np.testing.assert_allclose(spectrum.frequencies, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])
    assert spectrum.amplitude == 0.1 * math.log(10) + 1


def test_amplitudes_equal_the_pins(method_pins: dict) -> None:
    for factor, amplitude in method_pins["logit_scalings"]["yarn mscale 0.1 ln s+1"].items():
        assert YaRN(float(factor), 512)(RoPE().spectrum(128)).amplitude == pytest.approx(amplitude, rel=1e-7)


def test_the_attention_factor_multiplies_the_amplitude_that_there_is() -> None:
    assert Scaled(Frequencies((1.0, 0.01), amplitude=3.0), YaRN(2, 512)).spectrum(4).amplitude == 3 * YaRN(2).amplitude


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, 0.1 * math.log(40) + 1),
        ({"mscale": 0.707}, 0.1 * 0.707 * math.log(40) + 1),
        ({"mscale_all_dim": 0.8}, (0.1 * math.log(40) + 1) / (0.1 * 0.8 * math.log(40) + 1)),
        ({"attention_factor": 1.5}, 1.5),
    ],
)
def test_mscale_is_deepseeks(given: dict[str, float], wanted: float) -> None:
    assert YaRN(40, 4096, **given)(RoPE().spectrum(128)).amplitude == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize(
    ("yarn", "base", "divided"),
    [
        (YaRN(4, 24, beta_slow=8), 1e4, True),  # all pairs turn less than beta_slow times
        (YaRN(4, 6), 1e4, True),
        (YaRN(4, 6, truncate=False), 1e4, True),
        (YaRN(4, 10**6), 20.0, False),  # all pairs turn more than beta_fast times
    ],
)
def test_where_no_pair_lies_on_the_ramp_the_paper_decides(yarn: YaRN, base: float, divided: bool) -> None:
    spectrum = RoPE(base).spectrum(128)
    turns = [(yarn.original or 0) / w for w in spectrum.wavelengths]
    assert max(turns) < yarn.beta_slow if divided else min(turns) > yarn.beta_fast
    wanted = np.array(spectrum.frequencies) / (4 if divided else 1)
    np.testing.assert_allclose(yarn(spectrum).frequencies, wanted, rtol=1e-14)
