"""Llama 3's scaling, against torchtune and a pin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from whorl.encodings import Spectrum, parse
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.llama3 import Llama3
from whorl.ops.rotation import rotate, rotation_tables


def test_frequencies_equal_the_pin(pins: dict) -> None:
    pin = pins["hf_llama3"]
    spectrum = parse("rope~llama3:factor=10,original=2048").spectrum(pin["config"]["head_dim"])
    np.testing.assert_allclose(spectrum.frequencies, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])
    assert spectrum.amplitude == 1


def test_torchtune_checksums(pins: dict) -> None:
    pin = pins["torchtune_llama31_scaled_default"]
    c = pin["config"]
    torch.manual_seed(0)
    x = torch.randn(4, 2048, 32, 128)
    encoding = f"rope:base={c['base']}~llama3:factor={c['factor']},original={c['original']}"

    def checksums(encoding: str) -> tuple[float, float]:
        tables = rotation_tables(parse(encoding).spectrum(128), torch.arange(2048))
        turned, _ = rotate(x, None, tables, layout="interleaved", heads_dim=2)
        return float(turned.double().sum()), float(turned.max())

    _, total, largest = pin["expected"]
    assert checksums(encoding) == (pytest.approx(total, abs=pin["atol"]), pytest.approx(largest, abs=1e-4))
    assert abs(checksums("rope")[0] - total) > 100 * pin["atol"], "unscaled, it is another number"


@pytest.mark.parametrize("turns", [1.0, 4.0])
def test_without_a_band_it_is_a_step_and_a_pair_right_at_it_is_kept(turns: float) -> None:
    """Llama 4 Scout ships so."""
    llama3, rope = Llama3(8.0, 512, turns, turns), RoPE().spectrum(128)
    wanted = [f if 512 / w > turns else f / 8 for f, w in zip(rope.frequencies, rope.wavelengths, strict=True)]
    np.testing.assert_allclose(llama3(rope).frequencies, wanted, rtol=1e-14)
    at = 2 * math.pi * turns / 512
    assert llama3(Spectrum((at, at * (1 - 1e-9)), 4)).frequencies == pytest.approx((at, at / 8))
