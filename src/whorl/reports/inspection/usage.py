"""Frequency usage: how large each pair is in queries, keys and values."""

import numpy as np

from whorl.reports.bins import mean
from whorl.reports.chart import Chart
from whorl.reports.document import Block
from whorl.reports.formatting import listing
from whorl.reports.inspection.drawing import Models, by_layer_and_pair, carried, heat, layer_options
from whorl.reports.inspection.telling import Charts, Finding, section, share
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
    """How much of the norm lies in the slowest quarter of the pairs."""
    shares = {}
    for words, name in QUANTITIES.items():
        values = m.measured(name)
        if values is None or values.shape[-1] < 4:
            continue
        by_pair = mean(values, (0, 1))
        total = float(np.nansum(by_pair))
        if total > 0:
            shares[words] = float(np.nansum(by_pair[-(len(by_pair) // 4) :])) / total
    turned = {words: part for words, part in shares.items() if words != "values"}
    if not turned:
        return []
    told = [f"{share(part)} of the norm of {words}" for words, part in turned.items()]
    said = f"The slowest quarter of the pairs holds {listing(told)}"
    if "values" in shares:
        said += f", against {share(shares['values'])} of that of values, which no rotation touches"
    most = max(turned.values())
    if most > 0.3:
        said += ": more than an even share"
    elif most < 0.2:
        said += ": less than an even share"
    return [Finding(f"{said}.", "usage")]
