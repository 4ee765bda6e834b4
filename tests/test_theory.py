"""Bounds and curves, held against the numbers of their papers and against sums and searches written otherwise."""

from __future__ import annotations

import ast
import cmath
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from whorl import theory
from whorl.encodings.hope import HoPE
from whorl.encodings.p_rope import PRoPE
from whorl.encodings.partial_rope import PartialRoPE
from whorl.encodings.rope import RoPE
from whorl.encodings.spectrum import Spectrum

# head dim -> base: first m with B(m) < 0. Computed for facts/papers.md section 2 by another program.
FIRST_NEGATIVE = {
    64: {1e4: 725, 5e5: 9937, 1e6: 6235},
    128: {
        500: 171, 1e3: 361, 1e4: 1707, 2.7e4: 4079, 3e4: 3679, 4e4: 2969, 5e4: 5306, 5.5e4: 3924, 6e4: 5666,
        8.4e4: 8592, 1e5: 7757, 1.5e5: 10791, 1.79e5: 8102, 2e5: 12122, 5e5: 18438, 1e6: 27115, 5e6: 82999, 1e7: 144660,
    },
    256: {1e4: 2653, 5e5: 37791, 1e6: 71627},
}  # fmt: skip

NEVER_NEGATIVE = [
    PartialRoPE(0.5).spectrum(128),
    PRoPE(0.5).spectrum(64),
    Spectrum((math.pi,), head_dim=4),  # B(m) = 1 + cos(m pi): exactly 0 at every odd m
    Spectrum((math.pi, 2.5, math.pi), head_dim=12),
    Spectrum((), head_dim=8),
]


def rope(base: float = 1e4, head_dim: int = 128) -> Spectrum:
    return RoPE(base).spectrum(head_dim)


def b(spectrum: Spectrum, m: int) -> float:
    """Eq. 9 of 2405.14591 in plain Python; the channels that are in no pair count 1 each pair."""
    still = spectrum.head_dim // 2 - len(spectrum.frequencies)
    return math.fsum([math.cos(m * f) for f in spectrum.frequencies]) + still


@pytest.mark.parametrize("head_dim", FIRST_NEGATIVE)
def test_the_first_negative_is_that_of_the_papers_curve(head_dim: int) -> None:
    for base, first in FIRST_NEGATIVE[head_dim].items():
        spectrum = rope(base, head_dim)
        assert theory.max_context(spectrum) == first
        curve = theory.b_curve(spectrum, first + 1)
        assert np.flatnonzero(curve < 0).tolist() == [first]


def test_the_search_ends_at_its_limit() -> None:
    assert theory.max_context(rope(), limit=1706) is None
    assert theory.max_context(rope(), limit=1707) == 1707
    assert theory.max_context(rope(1e9)) is None


@pytest.mark.parametrize(
    "spectrum",
    [rope(), rope(5e5, 64), HoPE(512).spectrum(64), PartialRoPE(0.25).spectrum(96), Spectrum((3.0, 0.0), 14)],
)
def test_the_curve_is_the_sum(spectrum: Spectrum) -> None:
    pairs = spectrum.head_dim // 2
    length = 2 * theory.BLOCK // pairs + 3
    curve = theory.b_curve(spectrum, length)
    assert (curve.shape, curve.dtype, curve[0]) == ((length,), np.float64, pairs)
    edges = [theory.BLOCK // pairs * k + j for k in (0, 1, 2) for j in (-1, 0, 1, 2) if k + j >= 0]
    for m in [*edges, *range(0, length, 997)]:
        assert curve[m] == pytest.approx(b(spectrum, m), abs=pairs**2 * 2.0**-53, rel=0)  # pairs terms, pairs roundings


def test_negatives_are_counted_where_the_curve_is_negative() -> None:
    for spectrum in (rope(), rope(500.0, 64), rope(2.7e4, 256), PRoPE(0.75, keep="slowest").spectrum(64)):
        for length in (1, 1024, 1025, 3000, 20_000):
            assert theory.negatives(spectrum, length) == (theory.b_curve(spectrum, length) < 0).sum()


@pytest.mark.parametrize("spectrum", NEVER_NEGATIVE)
def test_pairs_that_stand_still_outweigh_as_many_that_turn(spectrum: Spectrum) -> None:
    """Su: partial rotary of a half satisfies B >= 0 at every m. No rounding may make it -1e-16."""
    assert theory.max_context(spectrum, limit=200_000) is None
    assert theory.negatives(spectrum, 200_000) == 0
    assert theory.b_curve(spectrum, 20_000).min() >= 0


def test_table_4_counts_negatives() -> None:
    """Table 4 of 2405.14591: "0,0" and "97,2554" (its header says B >= 0; the counts are of B < 0, k = 1024)."""
    method_1 = rope(5e6)
    fast, slow = RoPE(1e4 * 8 ** (128 / 88)).spectrum(128), RoPE().spectrum(128)
    method_2 = Spectrum((*fast.frequencies[:44], *(f / 8 for f in slow.frequencies[44:])), 128)
    counts = [[theory.negatives(method, n * 1024) for n in (15, 30)] for method in (method_1, method_2)]
    assert counts == [[0, 0], [97, 2554]]


def smallest_base(length: int, head_dim: int, low: float, tolerance: float = 1e-7) -> float:
    """RoPE's smallest base by a search that misses nothing wider than `tolerance`, without a grid.

    With x = ln(base), |dB(m)/dx| <= m sum_i (2i/d) theta_i, which falls as x grows. So a base that fails by B(m) = -v
    fails as far as v over that; step there, by whichever m reaches farthest.
    """
    share = 2 * np.arange(head_dim // 2) / head_dim
    every = np.arange(1, length + 1)
    witnesses, x = every[:1], math.log(low)
    while True:
        theta = np.exp(-share * x)
        reach = -np.cos(np.outer(witnesses, theta)).sum(axis=1) / (witnesses * (share * theta).sum())
        if reach.max() < 1e-5:
            reach = -np.cos(np.outer(every, theta)).sum(axis=1) / (every * (share * theta).sum())
            if reach.max() < 0:
                return math.exp(x)
            witnesses = every[np.argsort(reach)[-30:]]
        x += max(reach.max(), tolerance)


@pytest.mark.parametrize(("length", "paper"), [(1024, "4.3e+03"), (2048, "1.2e+04"), (4096, "2.7e+04")])
def test_the_smallest_base_is_the_smallest(length: int, paper: str) -> None:
    """The values are Su's, which the paper's Table 2 shares at 1k and 4k (at 2k it prints 1.6e4)."""
    found = theory.min_base(length, 128)
    assert f"{found:.1e}" == paper
    assert theory.max_context(rope(found), limit=length) is None
    assert theory.max_context(rope(found * (1 - 1e-6)), limit=length) is not None
    assert found == pytest.approx(smallest_base(length, 128, 100.0), rel=1e-6)


def test_the_smallest_base_at_other_lengths_and_head_dims() -> None:
    assert f"{theory.min_base(8192, 128, low=5e4):.1e}" == "8.4e+04"
    assert theory.min_base(1024, 64, low=1e3) == pytest.approx(smallest_base(1024, 64, 1e3), rel=1e-6)
    assert theory.min_base(1000, 256, low=1e3) == pytest.approx(smallest_base(1000, 256, 1e3), rel=1e-6)


def test_the_bases_that_hold_are_not_an_interval() -> None:
    holds = {base: theory.max_context(rope(base), limit=4096) is None for base in (26_960, 28_000, 29_000, 4e4, 6e4)}
    assert holds == {26_960: True, 28_000: False, 29_000: True, 4e4: False, 6e4: True}
    # the range from 26,952 to 26,971 is 7e-4 wide: a coarser grid steps over it, and says what it can
    assert theory.min_base(4096, 128, low=2e4, step=5e-3) > 28_000
    assert theory.min_base(4096, 128, low=26_960.0) == 26_960


def test_the_smallest_base_holds_at_the_length_itself() -> None:
    """Eq. 11 asks for m = 0 .. L: base 1e4, whose first negative is at 1,707, holds for 1,706 and not for 1,707."""
    assert theory.min_base(1706, 128, low=1e4) == 1e4
    assert theory.min_base(1707, 128, low=1e4) > 1e4


def test_the_smallest_base_of_other_encodings() -> None:
    def of(build: Callable[[float], RoPE | HoPE | PRoPE | PartialRoPE]) -> Callable[[float], Spectrum]:
        return lambda base: build(base).spectrum(64)

    assert theory.min_base(1024, 64, of(RoPE), step=1e-3) == theory.min_base(1024, 64, step=1e-3)
    assert theory.min_base(1024, 64, of(lambda base: PartialRoPE(0.5, base))) == 2  # the lowest that is tried
    for build in (lambda base: PRoPE(0.75, base), lambda base: HoPE(1024, base)):
        found = theory.min_base(1024, 64, of(build), step=1e-3)
        assert 2 < found < theory.min_base(1024, 64, step=1e-3)
        assert theory.max_context(build(found).spectrum(64), limit=1024) is None
        assert theory.max_context(build(found * (1 - 1e-6)).spectrum(64), limit=1024) is not None


def test_the_decay_bound_is_a_mean_of_partial_sums() -> None:
    for spectrum in (rope(head_dim=32), Spectrum((1.0, 0.0), head_dim=8)):
        thetas = [*spectrum.frequencies, *[0.0] * (spectrum.head_dim // 2 - len(spectrum.frequencies))]
        for m in (0, 1, 50, 1000):
            sums = [abs(sum(cmath.exp(1j * m * t) for t in thetas[:j])) for j in range(1, len(thetas) + 1)]
            budget = len(thetas) ** 2 * 2.0**-52
            assert theory.decay_bound(spectrum, m) == pytest.approx(sum(sums) / len(sums), abs=budget, rel=0)
    many = theory.decay_bound(rope(), np.arange(20_000).reshape(2, -1))
    assert many.shape == (2, 10_000)
    assert many[0, 0] == 32.5
    for m in (1, 9_999, 16_383, 16_384, 19_999):
        assert many.flat[m] == theory.decay_bound(rope(), [m])[0]
    assert many[0, 1] > many[0, 10] > many[0, 100] > many[0, 1000]


def test_the_decay_bound_bounds_a_logit() -> None:
    """Eq. 37: |sum_i h_i e^{i m theta_i}| <= max_i |h_{i+1} - h_i| x sum_j |S_j|, with h_{d/2} = 0."""
    rng = np.random.default_rng(0)
    for m in (0, 3, 200, 5000):
        bound = 64 * theory.decay_bound(rope(), m)
        turns = np.exp(1j * m * np.array(rope().frequencies))
        for _ in range(20):
            h = rng.normal(size=64) + 1j * rng.normal(size=64)
            assert abs((h * turns).sum()) <= np.abs(np.diff([*h, 0])).max() * bound
        # equal h make it tight at j = d/2, up to the partial sums that their steps of 0 leave out
        assert abs(turns.sum()) <= bound


def test_the_critical_dimension() -> None:
    assert theory.critical_dimension(4096, 128) == 92  # Llama 2
    assert theory.critical_dimension(2048, 128) == 82
    assert theory.critical_dimension(8192, 128) == 100
    assert theory.critical_dimension(8192, 128, 5e5) == 70  # Llama 3
    assert theory.critical_dimension(100_000, 128) == 128
    assert theory.critical_dimension(6, 128) == 0
    for length in (50, 1000, 5000, 70_000):
        assert theory.critical_dimension(length, 128) == 2 * theory.hope_pairs(length, 128)


def test_the_critical_base_and_the_extrapolation_bound() -> None:
    assert round(theory.critical_base(4096, 16_384)) == 71_738
    assert theory.critical_base(4096, 4096) == 1e4
    bounds = {
        2e4: 7754, 4e4: 12_762, 6e4: 17_080, 8e4: 21_003, 1e5: 24_656, 1.2e5: 28_109, 5e5: 78_400, 6e5: 89_377,
        1e6: 129_027, 5e6: 410_265,
    }  # fmt: skip
    assert {base: round(theory.extrapolation_bound(base, 4096, 128)) for base in bounds} == bounds
    # at the critical base or below it, what is tuned at is what is reached
    assert [theory.extrapolation_bound(base, 4096, 128) for base in (500, 1e4)] == [4096, 4096]
    assert [round(theory.extrapolation_bound(base, 4096, 128, 16_384)) for base in (500, 71_738, 8e4)] == [
        16_384, 16_384, 21_003,
    ]  # fmt: skip
    assert theory.extrapolation_bound(1e6, 8192, 128, trained_base=5e5) == pytest.approx(
        2 * math.pi * 1e6 ** (70 / 128)
    )
    assert theory.extrapolation_bound(1e6, 100_000, 128) == math.inf


def test_the_thresholds_of_small_bases() -> None:
    assert theory.small_base_thresholds(4096) == pytest.approx((2607.6, 1303.8, 651.9), abs=0.05)
    assert theory.small_base_thresholds(16_384) == pytest.approx((10_430, 5215, 2608), abs=0.5)


# base, head dim, training length: K, from facts/hope-and-p-rope.md A1, and its longest kept wavelength
HOPE = [
    (1e4, 64, 512, 16, 471), (1e4, 128, 512, 31, 471), (1e4, 64, 1024, 18, 838), (1e4, 64, 2048, 21, 1987),
    (1e4, 128, 2048, 41, 1987), (1e4, 64, 4096, 23, 3533), (1e4, 128, 4096, 46, 4080), (5e5, 64, 4096, 16, 2948),
    (5e5, 128, 4096, 32, 3619), (1e4, 256, 8192, 100, 7797),
]  # fmt: skip


@pytest.mark.parametrize(("base", "head_dim", "length", "pairs", "wavelength"), HOPE)
def test_hopes_pairs_and_its_p(base: float, head_dim: int, length: int, pairs: int, wavelength: int) -> None:
    assert theory.hope_pairs(length, head_dim, base) == pairs
    p = theory.hope_p(length, head_dim, base)
    assert p == pairs / (head_dim / 2)
    hope = HoPE(length, base).spectrum(head_dim)
    assert PRoPE(p, base).spectrum(head_dim) == hope
    assert round(rope(base, head_dim).wavelengths[pairs - 1]) == pytest.approx(wavelength, abs=1)
    assert theory.out_of_range(hope, length) == ()
    assert theory.out_of_range(rope(base, head_dim), length) == tuple(range(pairs, head_dim // 2))


def test_hopes_p_survives_the_floor() -> None:
    """K / (d/2) itself is floored to K - 1 at some head dims; so is transformers' partial_rotary_factor."""
    rounded_down = 0
    for head_dim in range(2, 260, 2):
        for length in (1, 7, 19, 100, 777, 4096, 50_000, 10**6):
            pairs, p = theory.hope_pairs(length, head_dim), theory.hope_p(length, head_dim)
            assert int(p * head_dim // 2) == pairs
            assert PRoPE(p).spectrum(head_dim) == HoPE(length).spectrum(head_dim)
            rounded_down += int(pairs / (head_dim / 2) * head_dim // 2) < pairs
    assert rounded_down > 0


def test_pairs_out_of_range() -> None:
    assert theory.out_of_range(PRoPE(0.75).spectrum(128), 4096) == (46, 47)
    assert theory.out_of_range(Spectrum((1e-3, 1.0, 0.0), 8), 1000) == (0,)
    assert theory.out_of_range(Spectrum((2 * math.pi / 64,), 2), 64) == ()
    assert theory.out_of_range(Spectrum((2 * math.pi / 64,), 2), 63) == (0,)


@pytest.mark.parametrize(
    "work",
    [
        lambda: theory.b_curve(rope(head_dim=256), 300_000),
        lambda: theory.max_context(rope(1e12, 256), 2**24),
        lambda: theory.decay_bound(rope(head_dim=256), np.arange(100_000)),
    ],
)
def test_memory_is_bounded(work: Callable[[], object]) -> None:
    """Six blocks and the result. Without blocks these take 300, 16,000 and 400 MiB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * theory.BLOCK + 8 * 300_000


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: theory.b_curve(rope(), 0), "length must be a whole number of at least 1 tokens, got 0; try 4096"),
    (
        lambda: theory.b_curve(RoPE(), 8),
        r"a Spectrum is needed, got RoPE\(base=None, fraction=None\); an encoding gives one",
    ),
    (lambda: theory.max_context(rope(), 1e6), "limit must be a whole number of at least 1 tokens, got 1000000.0"),
    (lambda: theory.negatives(rope(), True), "length must be a whole number .* got True"),
    (lambda: theory.min_base(64, 7), "even head dim of at least 2, got 7"),
    (lambda: theory.min_base(64, 8, low=1), "1 < low < high, got low=1"),
    (lambda: theory.min_base(64, 8, step=0), r"step .* in \(0, 1\), got 0; try 1e-4"),
    (lambda: theory.min_base(64, 8, lambda base: rope(base, 16)), r"head dim 8, and spectrum_of\(2\) is of 16"),
    (lambda: theory.min_base(4096, 128, high=2e4, step=1e-2), "no base from 2 to 20000 .* up to 4,096 tokens"),
    (lambda: theory.decay_bound(rope(), [1.0, math.nan]), "finite numbers of tokens; remove nan"),
    (lambda: theory.decay_bound(Spectrum((), 0), [1]), "at least one pair"),
    (lambda: theory.critical_dimension(4096, 128, 1), "base must be a finite number above 1, got 1; RoPE's is 10000"),
    (lambda: theory.critical_base(4096, 2048), "got tune_length=2048 below train_length=4096"),
    (lambda: theory.critical_base(6, 4096), "train_length must be a whole number of at least 7 tokens, got 6"),
    (lambda: theory.extrapolation_bound(math.inf, 4096, 128), "base must be a finite number above 1, got inf"),
    (lambda: theory.extrapolation_bound(1e5, 4096, 128, trained_base=0.5), "trained_base must be .* got 0.5"),
    (lambda: theory.small_base_thresholds(0), "tune_length must be a whole number"),
    (lambda: theory.hope_pairs(4096, 9), "even head dim of at least 2, got 9"),
    (lambda: theory.hope_p(0, 64), "train_length must be a whole number"),
    (lambda: theory.out_of_range(rope(), -1), "train_length must be a whole number"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_theory_is_a_leaf() -> None:
    tree = ast.parse(Path(theory.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {m for m in modules if m and m.startswith("whorl")} == {"whorl.encodings.spectrum"}
    assert modules <= {"__future__", "math", "collections.abc", "numpy", "numpy.typing", "whorl.encodings.spectrum"}
