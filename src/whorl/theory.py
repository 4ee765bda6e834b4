"""What a spectrum alone says of the context that a model can use: bounds, curves and critical values.

B(m)                 how far a similar key outscores a random one at distance m (2405.14591)
decay bound          how large a logit can be at distance m (RoFormer, 2104.09864)
critical dimension   the channels whose pairs turn fully in training, and what becomes of the rest (2310.05209)
HoPE's K             the same cut as a number of pairs (2410.21216), and as the p of p-RoPE (2410.06205)

Everything here reads spectra and nothing else: no model, no text. Distances m are in tokens, frequencies in radians
per token, all arithmetic in float64. A spectrum's amplitude scales its curves and is left out of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from whorl.encodings.spectrum import Spectrum, check_head_dim, rope_frequencies, share_of, turns_fully

BLOCK = 2**20
"""Numbers that a block may hold: 8 MiB of float64, whatever the length asked for."""


def b_curve(spectrum: Spectrum, length: int) -> np.ndarray:
    """B(m) = sum_i cos(m theta_i) over all head_dim / 2 pairs, for m = 0 .. length - 1 (2405.14591, Eq. 8-9).

    For random q and k, 2 sigma^2 B(m) is by how much the logit of a key that resembles the query exceeds, on average,
    that of one that does not, m tokens away. A pair that does not rotate, and a pair of channels that are in no pair
    (partial rotary), counts 1 at every distance. Result: float64 [length].
    """
    length = _whole("length", length)
    frequencies = _frequencies(spectrum)
    curve = np.empty(length)
    rows = max(1, BLOCK // max(1, len(frequencies)))
    for start in range(0, length, rows):
        stop = min(start + rows, length)
        curve[start:stop] = _term_by_term(frequencies, np.arange(start, stop))
    return curve


def max_context(spectrum: Spectrum, limit: int = 2**20) -> int | None:
    """The first distance m <= `limit` with B(m) < 0, or None where there is none (2405.14591, Eq. 10).

    As a number of tokens it is the largest context: among m tokens the distances are 0 .. m - 1, where B >= 0. Every
    integer distance is looked at, and the search stops at the first.

    >>> max_context(Spectrum(rope_frequencies(10000.0, 128), 128))
    1707
    """
    frequencies = _frequencies(spectrum)
    for start, values in _curve_in_blocks(frequencies, _whole("limit", limit) + 1):
        negative = values < 0
        if negative.any():
            return start + int(negative.argmax())
    return None


def negatives(spectrum: Spectrum, length: int) -> int:
    """At how many distances m < `length` B(m) is negative (the counts of 2405.14591, Table 4)."""
    frequencies = _frequencies(spectrum)
    return sum(int((values < 0).sum()) for _, values in _curve_in_blocks(frequencies, _whole("length", length)))


def min_base(
    length: int,
    head_dim: int,
    spectrum_of: Callable[[float], Spectrum] | None = None,
    *,
    low: float = 2.0,
    high: float = 1e9,
    step: float = 1e-4,
) -> float:
    """The smallest base with B(m) >= 0 at every distance m <= `length` (2405.14591, Eq. 11), by grid search.

    The bases that satisfy this are **not an interval**: at head dim 128, 2.7e4 reaches 4,079 tokens and 3e4 only
    3,679. So neither bisection nor a few probes will do. Bases are tried from `low` upwards, each `step` (relative)
    above the last; the gap below the first that holds is then searched again, twice, in 64 parts. The result holds.
    What can be missed is a range of bases narrower than `step` that lies below it (docs/theory.md).

    spectrum_of: from base to spectrum, for another encoding than RoPE:
    `min_base(4096, 128, lambda base: PRoPE(0.75, base).spectrum(128))`.
    A result of `low` means that the lowest base asked for holds already.

    Raises ValueError when no base up to `high` holds.
    """
    length = _whole("length", length)
    check_head_dim(head_dim, "rope")
    if not 1 < low < high < math.inf:
        raise ValueError(f"the bases to search must satisfy 1 < low < high, got low={low}, high={high}")
    if not 0 < step < 1:
        raise ValueError(f"step is the relative distance of neighbouring bases, in (0, 1), got {step}; try 1e-4")

    def frequencies_of(base: float) -> np.ndarray:
        if spectrum_of is None:
            return np.array(rope_frequencies(base, head_dim))
        spectrum = spectrum_of(base)
        frequencies = _frequencies(spectrum)
        if spectrum.head_dim != head_dim:
            raise ValueError(
                f"min_base was asked for head dim {head_dim}, and spectrum_of({base:g}) is of {spectrum.head_dim}; "
                "give both the same"
            )
        return frequencies

    count = math.ceil(math.log(high / low) / math.log1p(step))
    grid = (min(high, low * (1 + step) ** i) for i in range(count + 1))
    found = _first_that_holds(grid, frequencies_of, length)
    if found is None:
        raise ValueError(
            f"no base from {low:g} to {high:g} keeps B(m) >= 0 up to {length:,} tokens at head dim {head_dim}; "
            f"try a higher one (high={high * 1000:g}), a shorter length or a larger head dim"
        )
    if found == low:
        return float(low)
    below = max(low, found / (1 + step))
    for _ in range(2):
        parts = [*np.geomspace(below, found, 65)[:-1].tolist(), found]
        found = _first_that_holds(parts[1:], frequencies_of, length) or found
        below = parts[parts.index(found) - 1]
    return found


def decay_bound(spectrum: Spectrum, distances: ArrayLike) -> np.ndarray:
    """RoFormer's bound on long-term decay (2104.09864, section 3.4.3, Eq. 36-37; the curve of its Figure 2).

    The mean over j = 1 .. head_dim / 2 of |S_j|, where S_j = sum_{i < j} e^{i m theta_i}: a logit at distance m is at
    most this mean times head_dim / 2 times the largest step between neighbouring pairs of q k*. At m = 0 it is
    (head_dim / 2 + 1) / 2. Pairs that do not rotate count as in `b_curve`.

    distances: finite numbers, tokens, of any shape. Result: float64 of that shape.
    """
    frequencies = _frequencies(spectrum)
    m = np.asarray(distances, dtype=np.float64)
    if not len(frequencies):
        raise ValueError(f"the bound needs at least one pair of channels, got a head of {spectrum.head_dim}")
    if not np.isfinite(m).all():
        raise ValueError("distances must be finite numbers of tokens; remove nan and inf")
    bound = np.empty(m.size)
    rows = max(1, BLOCK // len(frequencies))
    for start in range(0, m.size, rows):
        angles = np.outer(m.reshape(-1)[start : start + rows], frequencies)
        bound[start : start + rows] = np.abs(np.exp(1j * angles).cumsum(axis=1)).mean(axis=1)
    return bound.reshape(m.shape)


def critical_dimension(train_length: int, head_dim: int, base: float = 10000.0) -> int:
    """The channels whose pairs turn fully in training: 2 ceil((d/2) log_base(T / 2 pi)) (2310.05209).

    From 0 (no pair turns fully) to head_dim (all do; the formula itself would go on). Llama 2 (4,096 tokens, d = 128)
    has 92: its last 36 channels meet new angles past 4,096 tokens.
    """
    check_head_dim(head_dim, "rope")
    _check_base("base", base)
    turns = math.log(_whole("train_length", train_length) / (2 * math.pi), base)
    return min(max(2 * math.ceil(head_dim / 2 * turns), 0), head_dim)


def critical_base(train_length: int, tune_length: int, base: float = 10000.0) -> float:
    """beta_0 = base^(log_{T/2pi}(T_tune / 2pi)): below it, tuning at `tune_length` turns new pairs fully (2310.05209).

    base: what the model was trained with, at `train_length` tokens. Tuning at 16,384 a model of 4,096 and base 10,000
    gives 71,738. Raises ValueError for a `tune_length` below `train_length`, and where no pair turns fully.
    """
    _check_base("base", base)
    train, tune = _whole("train_length", train_length, 7), _whole("tune_length", tune_length, 7)
    if tune < train:
        raise ValueError(
            f"the law is of tuning at the training length or longer, got tune_length={tune} below train_length={train}"
        )
    return base ** math.log(tune / (2 * math.pi), train / (2 * math.pi))


def extrapolation_bound(
    base: float, train_length: int, head_dim: int, tune_length: int | None = None, trained_base: float = 10000.0
) -> float:
    """The context in tokens that a model reaches after tuning with `base` (2310.05209, Theorem 3).

    The model was trained with `trained_base` at `train_length` tokens and is tuned with `base` at `tune_length`
    (`train_length` when None). With beta_0 the `critical_base`, the context is

        base > beta_0     2 pi base^(d_extra / d), d_extra the `critical_dimension` of the training
        base <= beta_0    tune_length

    and infinite where all pairs turn fully in training, since none of them can meet a new angle.
    """
    _check_base("base", base)
    _check_base("trained_base", trained_base)
    critical = critical_base(train_length, train_length if tune_length is None else tune_length, trained_base)
    dimension = critical_dimension(train_length, head_dim, trained_base)
    if dimension == head_dim:
        return math.inf
    if base > critical:
        return 2 * math.pi * base ** (dimension / head_dim)
    return float(train_length if tune_length is None else tune_length)


def small_base_thresholds(tune_length: int) -> tuple[float, float, float]:
    """2T/pi, T/pi and T/2pi: tuned at T tokens with a base below them, every pair turns by pi/2, pi or 2 pi.

    Below each the perplexity past T improves by a marked step (2310.05209); retrieval does not (2405.14591).
    """
    length = _whole("tune_length", tune_length)
    return 2 * length / math.pi, length / math.pi, length / (2 * math.pi)


def hope_pairs(train_length: int, head_dim: int, base: float = 10000.0, cut: float = 1.0) -> int:
    """HoPE's K: how many of RoPE's pairs turn fully in `cut` times `train_length` tokens (2410.21216: once)."""
    check_head_dim(head_dim, "hope")
    _check_base("base", base)
    if not cut > 0:
        raise ValueError(f"cut must be above 0 (times the training length), got {cut}")
    length = _whole("train_length", train_length)
    return sum(turns_fully(f, cut * length) for f in rope_frequencies(base, head_dim))


def hope_p(train_length: int, head_dim: int, base: float = 10000.0, cut: float = 1.0) -> float:
    """The p at which p-RoPE (2410.06205) is HoPE: K / (d/2), such that floor(p d / 2) is K.

    Where that floor would round the quotient down to K - 1 (head dim 44, K = 15), the next float above is given. The
    stock `proportional` rotary's `partial_rotary_factor` has the same floor.
    """
    return share_of(2 * hope_pairs(train_length, head_dim, base, cut), head_dim)


def out_of_range(spectrum: Spectrum, train_length: int) -> tuple[int, ...]:
    """The pairs that turn and never fully within `train_length` tokens: past it their angles are new to the model."""
    length = _whole("train_length", train_length)
    return tuple(i for i, f in enumerate(_frequencies(spectrum)) if f > 0 and not turns_fully(f, length))


def _frequencies(spectrum: Spectrum) -> np.ndarray:
    """float64 [head_dim / 2]: those of the spectrum, then 0 for the channels that are in no pair."""
    if not isinstance(spectrum, Spectrum):
        raise ValueError(f"a Spectrum is needed, got {spectrum!r}; an encoding gives one: RoPE().spectrum(128)")
    frequencies = np.zeros(spectrum.head_dim // 2)
    frequencies[: len(spectrum.frequencies)] = spectrum.frequencies
    return frequencies


def _term_by_term(frequencies: np.ndarray, m: np.ndarray) -> np.ndarray:
    """B at the integers m [n], each cosine from its own product, so that partial rotary of a half is never below 0."""
    return np.cos(np.outer(m, frequencies)).sum(axis=1)


def _curve(frequencies: np.ndarray, start: int, stop: int) -> np.ndarray:
    """B(m) for start <= m < stop with the signs of `_term_by_term`, thirty times faster.

    m = start + columns x row + column, and cos(a + b) = cos a cos b - sin a sin b makes it one matrix product. That is
    off by less than `doubt` (two rounded angles of at most m theta_i each, and the product's own rounding, with room
    to spare), so values nearer to 0 are computed again.
    """
    columns = 2 ** round(math.log2(stop - start) / 2)
    rows = -(-(stop - start) // columns)
    a = np.outer(start + columns * np.arange(rows), frequencies)
    b = np.outer(np.arange(columns), frequencies)
    values = np.hstack([np.cos(a), -np.sin(a)]) @ np.hstack([np.cos(b), np.sin(b)]).T
    values = values.reshape(-1)[: stop - start]
    doubt = 2.0**-50 * (stop * frequencies.sum() + len(frequencies) ** 2)
    unsure = np.flatnonzero(np.abs(values) <= doubt)
    for part in np.array_split(unsure, 1 + unsure.size * len(frequencies) // BLOCK):
        values[part] = _term_by_term(frequencies, start + part)
    return values


def _curve_in_blocks(frequencies: np.ndarray, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    """(start, B from there on) for 0 <= m < stop, in blocks that double, so that an early answer is cheap."""
    start, size = 0, 1024
    while start < stop:
        end = min(start + size, stop)
        yield start, _curve(frequencies, start, end)
        start, size = end, min(2 * size, BLOCK)


def _first_that_holds(
    bases: Iterable[float], frequencies_of: Callable[[float], np.ndarray], length: int
) -> float | None:
    """The first base with B(m) >= 0 for all m <= length. What failed one base is tried first on the next."""
    witness = np.array([0])
    for base in bases:
        frequencies = frequencies_of(base)
        if _term_by_term(frequencies, witness)[0] < 0:
            continue
        for start, values in _curve_in_blocks(frequencies, length + 1):
            lowest = int(values.argmin())
            if values[lowest] < 0:
                witness = np.array([start + lowest])
                break
        else:
            return base
    return None


def _check_base(argument: str, base: float) -> None:
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1 < base < math.inf:
        raise ValueError(f"{argument} must be a finite number above 1, got {base!r}; RoPE's is 10000")


def _whole(argument: str, value: int, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{argument} must be a whole number of at least {least} tokens, got {value!r}; try 4096")
    return int(value)
