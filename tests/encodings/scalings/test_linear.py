"""Position interpolation, against Keras."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whorl.encodings import parse
from whorl.ops.rotation import rotate, rotation_tables


@pytest.mark.parametrize(
    ("name", "tokens", "first"), [("keras_rope_linear2", 3, 0), ("keras_rope_linear5_offset12", 1, 12)]
)
def test_linear_turns_like_keras(pins: dict, name: str, tokens: int, first: int) -> None:
    pin = pins[name]
    spectrum = parse(f"rope~linear:factor={pin['config']['linear_factor']}").spectrum(4)
    x = torch.ones(1, tokens, 2, 4)
    turned, _ = rotate(x, None, rotation_tables(spectrum, torch.arange(tokens) + first), heads_dim=2)
    np.testing.assert_allclose(turned, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])


def test_closed_form() -> None:
    theta = 10000.0 ** (-np.arange(64) / 64)
    np.testing.assert_allclose(parse("rope~linear:factor=4").spectrum(128).frequencies, theta / 4, rtol=1e-14)
