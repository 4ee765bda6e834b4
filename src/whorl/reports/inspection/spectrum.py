"""The rotation of the pairs: which of them turn, and which fully within the training length."""

import math
from dataclasses import replace

from whorl.reports.chart import Chart, Strip
from whorl.reports.document import Block, Row, Table
from whorl.reports.formatting import DASH, capital, plural
from whorl.reports.inspection.drawing import Models, wavelengths
from whorl.reports.inspection.telling import Charts, Finding, runs_in_words, section
from whorl.reports.strips import pair_of, strip_chart
from whorl.results.inspection import Inspection, LayerSpectrum

FEW_WAYS = 3
"""In which layers turn, and that are told one by one."""


def charts(models: Models) -> list[Chart | None]:
    """Layers that agree are drawn once."""
    told = [m for m in models if "wavelength" in m.arrays and m.wavelength.size]
    if not told:
        return []
    strips = tuple(_strip(i, m) for i, m in enumerate(told))
    lengths = {f"{m.train_length:,} tokens" for m in models}
    length = lengths.pop() if len(lengths) == 1 else "the training length"
    return [strip_chart("spectrum", strips, length, "HoPE's cut: what is slower would not rotate")]


def _strip(index: int, m: Inspection) -> Strip:
    count, pairs = m.wavelength.shape
    layers = list(dict.fromkeys(tuple(wavelengths(m, layer, pairs)) for layer in range(count)))
    turning = dict.fromkeys(str(sum(w is not None and math.isfinite(w) for w in layer)) for layer in layers)
    cells = tuple(tuple(pair_of(i, w, m.train_length) for i, w in enumerate(layer)) for layer in layers)
    cut = told[0].hope_cut if len(layers) == 1 and (told := m.summary.spectrum.layers) else 0
    return Strip(m.name, index, f"{', '.join(turning)} of {pairs}", cells, float(cut) if 0 < cut <= pairs else None)


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = "The wavelength of a pair is the distance in tokens at which it has made one full turn."
    found = section("Spectrum", said, models, [charts.get("spectrum")], ["spectrum", "pairs"])
    rows = [row for m in models for row in _rows(m)]
    within = f"within {models[0].train_length:,} tokens" if len(models) == 1 else "within training"
    heads = [
        ("model", ""), ("base", ""), ("head dim", ""), ("layout", ""), ("pairs", ""), ("turning", ""),
        ("never turn fully", within), ("HoPE", "keeps"), ("p-RoPE 0.75", "keeps"), ("amplitude", ""),
    ]  # fmt: skip
    return [*found, Table("The rotation of the pairs.", heads, rows)] if rows else found


def _rows(m: Inspection) -> list[Row]:
    """One for all layers that are alike."""
    told = m.summary.spectrum
    groups: dict[LayerSpectrum, list[int]] = {}
    for layer in told.layers:
        groups.setdefault(replace(layer, layer=0), []).append(layer.layer)
    rows = []
    for one, layers in groups.items():
        name = m.name if len(groups) == 1 else f"{m.name}, layers {_listed(layers)}"
        base = DASH if told.base is None else f"{told.base:,.10g}"
        counts = (one.pairs, one.turning, one.never_full, one.hope_cut, one.p_rope_cut, one.amplitude)
        values = [name, base, str(m.summary.model.head_dim), told.layout or DASH, *(f"{n:,.4g}" for n in counts)]
        rows.append(Row([(value, "") for value in values]))
    return rows


def _listed(layers: list[int]) -> str:
    return ", ".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]}, {layers[1]}, … {layers[-1]}"


def findings(m: Inspection) -> list[Finding]:
    """How many pairs turn, and how many of them not once within the training length, of layers that are alike."""
    alike: dict[tuple[int, int, int], list[int]] = {}
    for row in m.summary.spectrum.layers:
        alike.setdefault((row.pairs, row.turning, row.never_full), []).append(row.layer)
    if len(alike) > FEW_WAYS:
        return [Finding(f"The layers turn in {plural(len(alike), 'different way')}: see the spectrum.", "spectrum")]
    every = m.summary.model.layers
    said = [
        capital(f"in {len(layers)} of {every} layers ({runs_in_words(layers)}) {turn}" if len(alike) > 1 else turn)
        for counts, layers in alike.items()
        for turn in [_turn(*counts, m.train_length)]
    ]
    return [Finding(f"{'. '.join(said)}.", "spectrum")] if said else []


def _turn(pairs: int, turning: int, never: int, train_length: int) -> str:
    if not turning:
        return "no pair turns"
    some = f"{never} of them never {'turns' if never == 1 else 'turn'} fully" if never else "all of them turn fully"
    return f"{turning} of {pairs} pairs turn; {some} within {train_length:,} tokens"
