"""RoPE, HoPE, p-RoPE, partial rotary: which pairs turn, how fast, and exactly so at every position."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from attended import pinned_qkv

from whorl.encodings import Known, Spectrum, from_dict, parse
from whorl.encodings.frequencies import Frequencies
from whorl.encodings.hope import HoPE
from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.scaled import Scaled
from whorl.encodings.spectrum import rope_frequencies, same_spectrum
from whorl.encodings.turns import cos_sin
from whorl.ops import rotate, rotation_tables

# (base, head dim, training length) -> pairs that turn; from issue 2 and facts/hope-and-p-rope.md A1.
HOPE_PAIRS = [
    (1e4, 64, 128, 11),
    (1e4, 64, 512, 16),
    (1e4, 128, 512, 31),
    (1e4, 64, 1024, 18),
    (1e4, 64, 2048, 21),
    (1e4, 128, 2048, 41),
    (1e4, 64, 4096, 23),
    (1e4, 128, 4096, 46),
    (5e5, 64, 4096, 16),
    (5e5, 128, 4096, 32),
    (1e4, 256, 8192, 100),
]


@pytest.mark.parametrize(("base", "head_dim", "train_length", "pairs"), HOPE_PAIRS)
def test_hope_keeps_the_pairs_whose_turn_fits(base: float, head_dim: int, train_length: int, pairs: int) -> None:
    spectrum = HoPE(train_length, base).spectrum(head_dim)
    assert spectrum.turning == tuple(range(pairs))
    assert len(spectrum.frequencies) == head_dim // 2
    assert max(w for w in spectrum.wavelengths if math.isfinite(w)) <= train_length
    assert RoPE(base).spectrum(head_dim).wavelengths[pairs] > train_length


def test_hope_is_p_rope_with_the_right_p() -> None:
    assert HoPE(2048).spectrum(128) == PRoPE(p=41 / 64).spectrum(128)


def test_p_rope_runs_from_nope_to_rope_and_backwards() -> None:
    rope = RoPE().spectrum(64)
    assert PRoPE(p=1).spectrum(64) == rope
    assert PRoPE(p=0).spectrum(64).turning == ()
    assert PRoPE(p=0.75).spectrum(64).turning == tuple(range(24))
    slowest = PRoPE(p=0.25, keep="slowest").spectrum(64)
    assert slowest.turning == tuple(range(24, 32))
    assert slowest.frequencies[24:] == rope.frequencies[24:]


def test_partial_rope_is_a_smaller_rope() -> None:
    spectrum = PartialRoPE(0.25).spectrum(64)
    assert spectrum == Spectrum(RoPE().spectrum(16).frequencies, head_dim=64)
    assert spectrum.width == 16
    # the paper's figures: d=256, fraction .75 reaches 57,084 tokens where p-RoPE stops at 5,847
    assert PartialRoPE(0.75).spectrum(256).wavelengths[-1] == pytest.approx(57084, rel=1e-4)
    assert max(w for w in PRoPE(0.75).spectrum(256).wavelengths if w < math.inf) == pytest.approx(5847, rel=1e-4)


@pytest.mark.parametrize("name", ["hf_default", "hf_proportional"])
def test_frequencies_equal_the_pins(pins: dict, name: str) -> None:
    pin = pins[name]
    encoding = parse("rope") if name == "hf_default" else PRoPE(p=pin["config"]["partial_rotary_factor"])
    frequencies = encoding.spectrum(pin["config"]["head_dim"]).frequencies
    np.testing.assert_allclose(frequencies, pin["expected"], atol=pin["atol"], rtol=pin["rtol"])


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_logits_equal_the_pins(method_pins: dict, layout: str) -> None:
    q, k, _ = pinned_qkv()
    tables = rotation_tables(RoPE(base=10000).spectrum(4), torch.arange(5), torch.float64)
    turned_q, turned_k = rotate(q, k, tables, layout=layout)
    logits, plain = (0.5 * (x @ y.mT)[0, 0] for x, y in ((turned_q, turned_k), (q, k)))
    for query, row in zip((3, 4), method_pins[f"rope_logits_{layout}"]["rows 3,4"], strict=True):
        np.testing.assert_allclose(logits[query, : query + 1], row, atol=1e-7)
    np.testing.assert_allclose(plain[4], method_pins["_inputs"]["logits_nope (row 4)"], atol=1e-7)


def exact_cos_sin(position: int, frequency: float) -> tuple[float, float]:
    """cos and sin of position x frequency with 60 decimal digits: Taylor series after an exact reduction."""
    getcontext().prec = 60
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
    angle = (Decimal(position) * Decimal(frequency)) % (2 * pi)
    cos, sin, term = Decimal(0), Decimal(0), Decimal(1)
    for n in range(60):
        if n % 2 == 0:
            cos += term if n % 4 == 0 else -term
        else:
            sin += term if n % 4 == 1 else -term
        term = term * angle / (n + 1)
    return float(cos), float(sin)


@pytest.mark.parametrize("position", [0, 3, 1999, 1_000_003, 2**31 - 1])
@pytest.mark.parametrize("encoding", ["rope", "rope:base=5e5", "hope:train_length=4096", "partial-rope:fraction=0.5"])
def test_tables_are_exact_at_every_position(position: int, encoding: str) -> None:
    frequencies = parse(encoding).spectrum(128).frequencies
    cos, sin = cos_sin(torch.tensor([position]), frequencies)
    assert cos.dtype == torch.float32
    truth = np.array([exact_cos_sin(position, f) for f in frequencies])
    np.testing.assert_allclose(cos[0].double().numpy(), truth[:, 0], atol=2e-7, rtol=0)
    np.testing.assert_allclose(sin[0].double().numpy(), truth[:, 1], atol=2e-7, rtol=0)


@pytest.mark.parametrize("encoding", ["rope", "hope:train_length=128", "p-rope", "partial-rope"])
@pytest.mark.parametrize("head_dim", [0, 7, -2])
def test_an_odd_head_dim_is_refused(encoding: str, head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"even head dim.*got {head_dim}"):
        parse(encoding).spectrum(head_dim)


def test_a_fraction_that_leaves_half_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match=r"odd number that cannot be paired; try fraction=0.1 or 0.2$"):
        PartialRoPE(0.15).spectrum(20)


@pytest.mark.parametrize("head_dim", range(2, 300, 2))
def test_the_fractions_to_try_are_taken(head_dim: int) -> None:
    for odd in range(1, head_dim, 2):
        with pytest.raises(ValueError, match="try fraction=") as refused:
            PartialRoPE((odd + 0.5) / head_dim).spectrum(head_dim)
        shares = re.search(r"try fraction=(\S+) or (\S+)$", str(refused.value))
        widths = [PartialRoPE(float(share)).width(head_dim) for share in shares.groups()]
        assert widths == [odd - 1, odd + 1]


def test_hope_without_a_length_asks_for_one() -> None:
    assert HoPE().filled(Known(train_length=128)) == HoPE(128)
    assert HoPE(64).filled(Known(train_length=128)) == HoPE(64)
    with pytest.raises(ValueError, match="train_length=4096"):
        HoPE().spectrum(64)


def test_frequencies_are_taken_as_they_are() -> None:
    encoding = parse("frequencies:values=0.9@0@1e-3,amplitude=1.5")
    assert encoding == Frequencies((0.9, 0.0, 0.001), amplitude=1.5)
    spectrum = encoding.spectrum(16)
    assert (spectrum.frequencies, spectrum.width, spectrum.amplitude) == ((0.9, 0.0, 0.001), 6, 1.5)
    assert spectrum.turning == (0, 2)
    assert parse("frequencies:values=0.5").spectrum(2).frequencies == (0.5,)


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("frequencies:values=0.9@fast", "numbers joined by '@'"),
        ("frequencies:values=0.9@-1", "finite, not negative"),
        ("frequencies:values=inf", "finite, not negative"),
        ("frequencies", "frequencies needs values"),
    ],
)
def test_frequencies_refuse_nonsense(notation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(notation)


def test_more_frequencies_than_pairs_say_how_many_fit() -> None:
    with pytest.raises(ValueError, match="3 frequencies turn 6 channels, and this host lets 4 turn; give at most 2"):
        parse("frequencies:values=0.9@0.5@0.1").spectrum(4)


def test_a_spectrum_says_which_axis_each_pair_goes_by() -> None:
    assert Spectrum((1.0, 0.5), 8).number_of_axes == 1
    spectrum = Spectrum((1.0, 0.5), 8, axes=[2, 0])
    assert (spectrum.axes, spectrum.number_of_axes) == ((2, 0), 3)
    assert spectrum != Spectrum((1.0, 0.5), 8, axes=(0, 2))
    for axes, message in (((0,), "one axis for each of 2 pairs, got 1"), ((0, -1), "whole numbers from 0"),
                          ((0, 0.5), "whole numbers from 0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Spectrum((1.0, 0.5), 8, axes=axes)


def test_a_mixed_spectrum_has_a_vector_for_each_pair() -> None:
    spectrum = Spectrum.mixed([(3.0, -4.0), (0.0, 0.5), (0.0, 0.0)], 8)
    assert (spectrum.frequencies, spectrum.turning, spectrum.number_of_axes) == ((5.0, 0.5, 0.0), (0, 1), 2)
    assert spectrum != Spectrum.mixed([(3.0, 4.0), (0.0, 0.5), (0.0, 0.0)], 8)
    assert Spectrum((1.0, 0.5), 8, axes=(2, 0)).by_axis == ((0.0, 0.0, 1.0), (0.5, 0.0, 0.0))
    assert Spectrum((1.0, 0.5), 8).by_axis == ((1.0,), (0.5,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spectrum.mixed([(1.0, 0.5), (1.0,)], 8), r"the same number in all pairs, .* vectors of \[1, 2\] axes"),
        (lambda: Spectrum.mixed([(1.0,), (1.0,)], 8), "two axes or more"),
        (lambda: Spectrum((1.0,), 8, vectors=((1.0, 0.5),)), "lengths of its vectors"),
        (lambda: Spectrum((1.0,), 8, axes=(0,), vectors=((1.0, 0.0),)), "stand in the place of axes"),
        (lambda: Spectrum.mixed([(1.0, math.inf)], 8), "finite"),
        (lambda: Spectrum.mixed([(1.0, "a")], 8), "of numbers"),
        (lambda: Spectrum.mixed([(1.0, 0.5)] * 5, 8), "5 pairs do not fit"),
        (lambda: Spectrum.mixed([(0.0, 0.0)], 8).with_frequencies((1.0,)), "no direction in which to turn"),
    ],
)
def test_a_mixed_spectrum_refuses_nonsense(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "scaling",
    [
        "linear:factor=2",
        "yarn:factor=4,original=64",
        "ntk:factor=4",
        "base-change:base=50000",
        "clip:wavelength=100",
        "soft-clip:wavelength=30",
        "llama3:factor=8,original=64",
        "longrope:short_factor=2@2@3@4,long_factor=2@2@3@4,factor=2,original=64",
    ],
)
def test_scalings_slow_a_mixed_pair_as_they_slow_one_axis_and_keep_its_direction(scaling: str) -> None:
    base = Spectrum(rope_frequencies(10000.0, 8), 8)
    scaled = parse(f"rope~{scaling}")
    assert isinstance(scaled, Scaled)
    plain, mixed = base, Spectrum.mixed([(0.6 * f, -0.8 * f) for f in base.frequencies], 8)
    for one in scaled.scalings:
        plain, mixed = one(plain), one(mixed)
    assert mixed.amplitude == plain.amplitude
    wanted = [(0.6 * f, -0.8 * f) for f in plain.frequencies]
    for got, vector in zip(mixed.vectors, wanted, strict=True):
        assert math.dist(got, vector) <= 2**-47 * math.hypot(*vector)


def test_same_spectra_agree_along_every_axis() -> None:
    assert same_spectrum(Spectrum((1.0, 0.5), 8), Spectrum((1.0, 0.5), 8, axes=(0, 0)))
    assert not same_spectrum(Spectrum((1.0, 0.5), 8, axes=(0, 1)), Spectrum((1.0, 0.5), 8, axes=(1, 0)))
    mixed = Spectrum.mixed([(1.0, 0.0), (0.0, 0.5)], 8)
    assert same_spectrum(mixed, Spectrum((1.0, 0.5), 8, axes=(0, 1)))
    assert not same_spectrum(mixed, Spectrum.mixed([(-1.0, 0.0), (0.0, 0.5)], 8))
    assert same_spectrum(mixed, Spectrum.mixed([(1.0, 1e-6), (0.0, 0.5)], 8))


def test_frequencies_with_axes_in_notation_and_json() -> None:
    encoding = parse("frequencies:values=1@0.5@0.25,axes=0@1@1")
    assert encoding.spectrum(8) == Spectrum((1.0, 0.5, 0.25), 8, axes=(0, 1, 1))
    assert parse(str(encoding)) == encoding == from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert "axes" not in parse("frequencies:values=1@0.5").to_dict(), "files are what they were"
    scaled = parse("frequencies:values=1@0.5@0.25,axes=0@1@1~linear:factor=2").spectrum(8)
    assert (scaled.frequencies, scaled.axes) == ((0.5, 0.25, 0.125), (0, 1, 1))
    for axes in ("0@1", "0@1@0.5", "-1@0@0"):
        with pytest.raises(ValueError, match="axes must be 3 whole numbers from 0, one for each value"):
            parse(f"frequencies:values=1@0.5@0.25,axes={axes}")
