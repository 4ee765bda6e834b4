"""Strips of channel pairs: which of them turn, and which fully within the training length."""

import math
from typing import Literal

from whorl.reports.axes import cell_ticks
from whorl.reports.chart import Pair, Strip, StripChart
from whorl.reports.formatting import number


def strip_chart(name: str, strips: tuple[Strip, ...], length: str, mark: str) -> StripChart:
    """`length` says the training length in words, `mark` what a strip's mark is."""
    words: dict[str, str] = {
        "within": f"turns fully within {length}",
        "beyond": "turns more slowly: angles past the training length are new to the model",
        "turning": "turns, at a speed that the results do not tell",
        "still": "does not rotate",
    }
    states: set[str] = {pair.state for strip in strips for layer in strip.layers for pair in layer}
    legend = {state: text for state, text in words.items() if state in states}
    if any(strip.mark is not None for strip in strips):
        legend["mark"] = mark
    several = any(len(strip.layers) > 1 for strip in strips)
    return StripChart(
        name,
        "Which channel pairs turn",
        "Each cell is one pair of channels of a head, from the fastest to the slowest."
        + (" Layers that turn differently are drawn one below the other." if several else ""),
        "channel pair (fastest first)",
        cell_ticks(max(len(strip.layers[0]) for strip in strips)),
        legend,
        strips,
    )


def pair_of(index: int, wavelength: float | None, length: int) -> Pair:
    """wavelength: tokens of one full turn, infinity where it does not rotate, None where that is not told."""
    heading = ("pair", str(index))
    if wavelength is None:
        return Pair("turning", (heading, ("one turn", "not told by the results")))
    if not math.isfinite(wavelength):
        return Pair("still", (heading, ("one turn", "never: it does not rotate")))
    state: Literal["within", "beyond"] = "within" if wavelength <= length else "beyond"
    return Pair(state, (heading, ("one turn", f"{number(wavelength)} tokens")))
