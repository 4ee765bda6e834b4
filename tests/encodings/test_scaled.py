"""Scalings of an encoding in turn, their original length, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from whorl.encodings import Known, Layers, Scaled, Spectrum, Sum, from_dict, parse
from whorl.encodings.hope import HoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.scalings.clip import Clip
from whorl.encodings.scalings.linear import Linear
from whorl.encodings.scalings.ntk import NTK
from whorl.encodings.scalings.yarn import NTKByParts, YaRN

ROPE = RoPE().spectrum(128)


def test_scalings_compose_in_turn() -> None:
    linear_then_yarn = parse("rope~linear:factor=2~yarn:factor=4,original=2048,attention_factor=1.5").spectrum(128)
    halved = RoPE().spectrum(128)
    halved = Spectrum(tuple(f / 2 for f in halved.frequencies), 128)
    # half the frequencies in 2048 tokens turn as often as whole ones in 1024
    other = NTKByParts(4, 1024)(RoPE().spectrum(128))
    np.testing.assert_allclose(linear_then_yarn.frequencies, [f / 2 for f in other.frequencies], rtol=1e-13)
    twice = parse("rope~yarn:factor=2,original=512~linear:factor=2").spectrum(64)
    assert twice.amplitude == YaRN(2).amplitude
    # a dynamic one in the middle: what follows sees the spectrum of that length
    chain = parse("rope~dynamic-ntk:factor=2,original=100~linear:factor=2")
    assert chain.length_dependent
    assert chain.spectrum_at(64, 300) == Linear(2)(NTK(5)(RoPE().spectrum(64)))
    assert chain.spectrum(64) == Linear(2)(RoPE().spectrum(64))
    assert halved.frequencies == Linear(2)(ROPE).frequencies


def test_an_unset_original_length_is_the_training_length() -> None:
    hope = parse("hope:train_length=4096~yarn:factor=4")
    assert hope.spectrum(128) == parse("hope:train_length=4096~yarn:factor=4,original=4096").spectrum(128)
    assert str(hope.filled(Known(train_length=128))) == "hope:train_length=4096~yarn:factor=4,original=4096"
    assert str(parse("hope~linear:factor=2").filled(Known(train_length=128))) == "hope:train_length=128~linear:factor=2"
    hope = parse("hope~yarn:factor=2").filled(Known(train_length=64))
    assert str(hope) == "hope:train_length=64~yarn:factor=2,original=64"
    rope = parse("rope~yarn:factor=4~llama3:factor=8,original=512")
    assert str(rope.filled(Known(train_length=64))) == "rope~yarn:factor=4,original=64~llama3:factor=8,original=512"
    with pytest.raises(ValueError, match="yarn needs original.*try yarn:factor=4,original=2048"):
        rope.spectrum(64)
    with pytest.raises(ValueError, match="dynamic-ntk needs original"):
        parse("rope~dynamic-ntk:factor=2").spectrum_at(64, 10)


def test_python_and_notation_say_the_same() -> None:
    chain = Scaled(Scaled(HoPE(64), Linear(2)), [Clip(512)])
    assert parse("hope:train_length=64~linear:factor=2~clip:wavelength=512") == chain
    assert chain.to_dict() == {
        "name": "scaled",
        "inner": {"name": "hope", "train_length": 64},
        "scalings": [{"name": "linear", "factor": 2}, {"name": "clip", "wavelength": 512}],
    }
    assert isinstance(parse("rope~linear:factor=2+alibi"), Sum)
    assert isinstance(parse("rope~linear:factor=2/nope"), Layers)
    assert parse("rope~yarn:factor=2,truncate=False") == Scaled(RoPE(), YaRN(2, truncate=False))
    assert parse("rope~linear:factor=2").kinds == ("rotate",)
    with pytest.raises(AttributeError):
        chain.inner = RoPE()  # type: ignore[misc]


def test_python_is_refused_alike() -> None:
    with pytest.raises(ValueError, match="at least one scaling, got none; rope alone"):
        Scaled(RoPE(), ())
    with pytest.raises(ValueError, match="Scaled takes scalings .*, got RoPE"):
        Scaled(RoPE(), [RoPE()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="a scaling's JSON form is an object with a 'name'"):
        from_dict({"name": "scaled", "inner": {"name": "rope"}, "scalings": [{"factor": 2}]})
    with pytest.raises(ValueError, match="linear has no argument 'original'"):
        from_dict({"name": "scaled", "inner": {"name": "rope"}, "scalings": [{"name": "linear", "original": 2}]})
    for length in (0, 2.5):
        with pytest.raises(ValueError, match="length must be a whole number of at least 1"):
            parse("rope~linear:factor=2").spectrum_at(64, length)
