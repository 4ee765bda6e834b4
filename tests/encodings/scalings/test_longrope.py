"""LongRoPE."""

from __future__ import annotations

import math

import numpy as np

from whorl.encodings import parse
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.longrope import LongRoPE


def test_longrope_takes_the_short_list_up_to_the_original_length_and_the_long_one_past_it() -> None:
    encoding = parse("rope~longrope:short_factor=1@2,long_factor=4@8,factor=4,original=1000")
    short, long = encoding.spectrum_at(4, 1000), encoding.spectrum_at(4, 1001)
    np.testing.assert_allclose(short.frequencies, [1, 0.01 / 2])
    np.testing.assert_allclose(long.frequencies, [1 / 4, 0.01 / 8])
    assert short == encoding.spectrum(4)
    assert short.amplitude == long.amplitude == math.sqrt(1 + math.log(4) / math.log(1000))
    assert not parse("rope~longrope:short_factor=4@8,long_factor=4@8,factor=4,original=1000").length_dependent
    # past float32: still in stock's tables, and still here
    assert LongRoPE((1.0, 1e39), (1.0, 1e39), attention_factor=1)(RoPE().spectrum(4)).turning == (0,)
