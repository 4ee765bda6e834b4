"""Frequency usage: how large each pair is in queries, keys and values."""

import numpy as np

from whorl.reports.chart import Chart
from whorl.reports.document import Block
from whorl.reports.formatting import listing
from whorl.reports.inspection.drawing import Models, by_layer_and_pair, carried, heat, layer_options
from whorl.reports.inspection.telling import Charts, Finding, of_measured, section, share
from whorl.results.inspection import Inspection

QUANTITIES = {"queries": "norm_q", "keys": "norm_k", "values": "norm_v"}


def charts(models: Models) -> list[Chart | None]:
    views = []
    for label, name in QUANTITIES.items():
        found = [m.measured(name) for m in models]
        shared = any(v is not None and v.shape[1] < m.summary.model.heads for m, v in zip(models, found, strict=True))
        noun = "key head" if shared else "head"
        views.append(by_layer_and_pair(models, label, "mean 2-norm", "sequential", found, noun))
    usage = heat(
        "usage",
        "Frequency usage: the norm of each pair",
        "The mean 2-norm of each pair of channels. The rotation keeps it, and the product of a query's and a key's "
        "norm bounds what their pair can add to a logit. Values are not rotated: they are the control."
        + carried(models),
        "pair, fastest first",
        views,
        "layer",
        layer_options(models),
    )
    return [usage]


def blocks(models: Models, charts: Charts) -> list[Block]:
    said = (
        "How large each pair of channels is in queries, keys and values, read where the rotation is applied. A pair "
        "that is small in queries or keys cannot matter to attention."
    )
    return section("Frequency usage", said, models, [charts.get("usage")], ["usage", "norms", "pairs"])


def findings(m: Inspection) -> list[Finding]:
    """How much of the norm lies in the slowest quarter of the pairs, of queries and of keys apart."""
    known = {words: m.measured(name) for words, name in QUANTITIES.items()}
    slow = {words: part for words, x in known.items() if x is not None and (part := _slow_part(x)) is not None}
    against: dict[str, list[str]] = {}
    for words in ("queries", "keys"):
        if words in slow:
            than = "more than" if slow[words] > 0.3 else "less than" if slow[words] < 0.2 else "about"
            against.setdefault(than, []).append(f"{share(slow[words])} of the norm of {words}")
    if not against:
        return []
    parts = [f"{listing(told)}, {than} an even share" for than, told in against.items()]
    said = f"In the mean over heads{of_measured(m)}, the slowest quarter of the pairs holds {'; '.join(parts)}"
    if "values" in slow:
        said += f". Of values, which no rotation touches, it holds {share(slow['values'])}"
    return [Finding(f"{said}.", "usage")]


def _slow_part(norms: np.ndarray) -> float | None:
    """The part of a head's norm that is in the slowest quarter of its pairs, mean over heads, of [layer, head, pair].
    None where no head has four pairs."""
    parts = []
    for head in norms.reshape(-1, norms.shape[-1]).astype(float):
        there = head[np.isfinite(head)]  # a layer of fewer pairs ends in NaN
        if there.size >= 4 and there.sum() > 0:
            parts.append(float(there[-(there.size // 4) :].sum() / there.sum()))
    return float(np.mean(parts)) if parts else None
