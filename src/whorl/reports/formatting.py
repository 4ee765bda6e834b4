"""Numbers as people read them. None is a value that is not there; NaN and infinity are a run that diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what reads numbers alone, as `whorl list` does, loads no results
    from whorl.results.over_seeds import Cell
    from whorl.results.trial import Row

DASH = "–"
DIVERGED = "diverged"


def _decimals(value: float) -> int:
    """Decimals that leave about three significant digits: 4.25, 17.9, 184.3, 1,234."""
    size = abs(value)
    return 2 if size < 10 else 1 if size < 1000 else 0


def _fixed(value: float, decimals: int) -> str:
    return f"{value:.1e}" if abs(value) >= 1e6 else f"{value:z,.{decimals}f}"


def finite(value: float | None) -> float | None:
    """None for what is not a number."""
    return float(value) if value is not None and math.isfinite(value) else None


def number(value: float | None) -> str:
    if value is None:
        return DASH
    if not math.isfinite(value):
        return DIVERGED
    return _fixed(value, _decimals(value))


def percent(value: float | None) -> str:
    """A fraction of 1 as a percentage."""
    if value is None:
        return DASH
    return f"{100 * value:z.1f} %" if math.isfinite(value) else DIVERGED


def with_spread(mean: float | None, spread: float | None, as_percent: bool = False) -> str:
    """`17.9 ± 0.3`: as many decimals for both as keep a spread that is not zero from reading as zero."""
    plain = percent(mean) if as_percent else number(mean)
    if mean is None or spread is None or not math.isfinite(mean) or not math.isfinite(spread):
        return plain
    if as_percent:
        return f"{100 * mean:z.1f} ± {100 * spread:.1f} %"
    decimals = _decimals(mean)
    while 0.0005 <= spread < 0.5 * 10**-decimals:
        decimals += 1
    return f"{_fixed(mean, decimals)} ± {_fixed(spread, decimals)}"


def ratio(value: float | None) -> str:
    """`3.12x`: how many times the in-range value."""
    return DASH if value is None or not math.isfinite(value) else f"{_fixed(value, _decimals(min(value, 9)))}x"


def multiple(length: float, train_length: float) -> str:
    """A length in training lengths: `4x`, `0.5x`."""
    return f"{length / train_length:g}x" if math.isclose(length % train_length, 0) else f"{length / train_length:.3g}x"


def compact(value: float | None) -> str:
    """A large count: `838,912` is `0.84 M`, `4_096_000` is `4.1 M`, `20_000` is `20 k`."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit or (letter == "M" and abs(value) >= 1e5):
            scaled = value / unit
            text = f"{scaled:.2f}" if scaled < 1 else f"{scaled:.1f}" if scaled < 100 else f"{scaled:.0f}"
            return f"{text.removesuffix('.0')} {letter}"
    return f"{value:g}"


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.1f} min"
    hours = minutes / 60
    if hours < 96:
        return f"{hours:.1f} h"
    days = hours / 24
    return f"{days:.0f} days" if days < 730 else f"{days / 365.25:,.0f} years"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def out_of_reach(rows: Iterable[Row | Cell]) -> dict[str, str]:
    """Why lengths were out of reach: each reason once, with the lengths in words."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.unreachable:
            reasons.setdefault(row.unreachable, []).append(f"{row.length:,}")
    return {reason: listing(lengths) for reason, lengths in reasons.items()}


def setting(value: object) -> str:
    """A setting of a run: lists by their items, and a dash for what is not set."""
    if isinstance(value, list | tuple):
        return ", ".join(map(setting, value)) or DASH
    return DASH if value is None else str(value)


def plural(count: int, noun: str) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return f"{words[count] if count < len(words) else f'{count:,}'} {noun}{'' if count == 1 else 's'}"


def capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def tokens(wavelength: float) -> str:
    """A wavelength: `6.28`, `250`, `47,000`, `5.6 M`."""
    return number(wavelength) if wavelength < 10 else f"{wavelength:,.0f}" if wavelength < 1e6 else compact(wavelength)


def wavelength_in_words(wavelength: float | None) -> str:
    if wavelength is None:
        return ""
    return f"one turn in {tokens(wavelength)} tokens" if math.isfinite(wavelength) else "does not rotate"
