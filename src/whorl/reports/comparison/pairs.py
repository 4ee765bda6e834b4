"""Which channel pairs turn."""

import math
from collections.abc import Sequence

from whorl.reports.chart import Pair, Strip, StripChart
from whorl.reports.document import Block, Figure, Heading
from whorl.reports.strips import pair_of, strip_chart
from whorl.results.comparison import Comparison
from whorl.results.over_seeds import Encoding
from whorl.tasks import parse


def blocks(c: Comparison) -> list[Block]:
    chart = pairs_turning(c)
    return [] if chart is None else [Heading("Pairs"), Figure(chart)]


def pairs_turning(c: Comparison) -> StripChart | None:
    """Which channel pairs turn; None when no encoding is rotary, or positions are not those of a sequence."""
    if parse(c.config.task)[0].body not in ("decoder", "encoder"):
        return None
    strips = tuple(strip for e in c.encodings if (strip := _strip(e, c.train_tokens)) is not None)
    if not strips:
        return None
    mark = f"one full turn takes exactly the training length, {c.train_tokens:,} tokens"
    return strip_chart("pairs", strips, f"{c.train_tokens:,} tokens", mark)


def _strip(e: Encoding, train_length: int) -> Strip | None:
    layers = e.wavelengths
    if layers is None:
        return None
    turning = [sum(w is not None for w in layer) for layer in layers]
    words = f"{', '.join(map(str, dict.fromkeys(turning)))} of {e.pairs}"
    pairs = tuple(tuple(_pair(i, w, train_length) for i, w in enumerate(layer)) for layer in layers)
    marks = (mark for layer in layers if (mark := _crossing(layer, train_length)) is not None)
    return Strip(e.name, e.index, words, pairs, next(marks, None))


def _pair(index: int, wavelength: float | None, train_length: int) -> Pair:
    """In results None is a pair that does not rotate, and NaN is a speed that they do not tell."""
    known = math.inf if wavelength is None else None if math.isnan(wavelength) else wavelength
    return pair_of(index, known, train_length)


def _crossing(layer: Sequence[float | None], train_length: int) -> float | None:
    """Where along the strip the wavelength, geometric in the pair, equals the training length.

    Read between the turning pairs, or beyond the last of them while within the strip; None when there are not two.
    """
    known = [(i, math.log(w)) for i, w in enumerate(layer) if w is not None and w > 0]
    if len(known) < 2:
        return None
    goal = math.log(train_length)
    after = next((k for k, (_, log_w) in enumerate(known) if log_w > goal), len(known) - 1)
    (i, a), (j, b) = known[max(after, 1) - 1], known[max(after, 1)]
    if not b > a:
        return None
    mark = i + (goal - a) / (b - a) * (j - i) + 0.5
    return mark if 0 <= mark <= len(layer) else None
