"""Draws docs/kernels.png from one machine's rows of kernels-cpu.csv: `python benchmarks/chart.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import rows

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#8a8f98", "#3b6fb6", "#2a9d8f", "#6a4c93", "#7aa6d8", "#8fd1c8", "#d1495b", "#edae49", "#b08968")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=rows.RESULTS, metavar="DIR")
    parser.add_argument("--cpu", help="default: that of the newest row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "kernels.png")
    options = parser.parse_args()
    timed = [row for row in rows.read(options.results / "kernels-cpu.csv", mode="both") if row["ratio_50"]]
    cpu = options.cpu or max(timed, key=lambda row: row["date"])["cpu"]
    drawn = [row for row in timed if row["cpu"] == cpu and row["mode"] == "both"]
    if not drawn:
        parser.error(f"no rows of {cpu!r}; there are {', '.join(sorted({row['cpu'] for row in timed}))}")
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.6), constrained_layout=True)
    for axis, (kind, unit) in zip(
        axes, (("rotate float32", "a copy"), ("rotate bfloat16", "a copy"), ("attention", "causal SDPA")), strict=True
    ):
        chosen = [row for row in drawn if row["case"].startswith(kind)]
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
    figure.suptitle(f"{cpu}, {drawn[0]['threads']} threads")
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
