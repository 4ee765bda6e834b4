"""Draws docs/kernels.png from the rows of benchmarks/results/kernels-cpu.csv: `python benchmarks/chart.py`."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
COLOURS = ("#8a8f98", "#3b6fb6", "#2a9d8f", "#7aa6d8", "#8fd1c8", "#d1495b", "#edae49", "#9d6b9e")


def main() -> None:
    with (HERE / "results" / "kernels-cpu.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["ratio_50"]]
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.6), constrained_layout=True)
    for axis, (kind, unit) in zip(
        axes, (("rotate float32", "a copy"), ("rotate bfloat16", "a copy"), ("attention", "causal SDPA")), strict=True
    ):
        chosen = [row for row in rows if row["case"].startswith(kind)]
        lengths = sorted({int(row["case"].split()[-1]) for row in chosen})
        for colour, name in zip(COLOURS, dict.fromkeys(row["provider"] for row in chosen), strict=False):
            line = {int(r["case"].split()[-1]): r for r in chosen if r["provider"] == name}
            at = [n for n in lengths if n in line]
            middle, least, most = ([float(line[n][f"ratio_{which}"]) for n in at] for which in ("50", "least", "most"))
            axis.fill_between(at, least, most, color=colour, alpha=0.15, linewidth=0)
            axis.plot(at, middle, marker="o", color=colour, label=name)
        axis.set(xscale="log", yscale="log", title=kind, xlabel="tokens", ylabel=f"time / {unit}, forward + backward")
        axis.set_xticks(lengths, [f"{n:,}" for n in lengths])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.savefig(HERE.parent / "docs" / "kernels.png", dpi=110)


if __name__ == "__main__":
    main()
