"""Draws docs/kernels.png from one machine's rows of kernels-cpu.csv: `python benchmarks/chart.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

import rows

from whorl.reports import png
from whorl.reports.axes import axis
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid

CASES = {"rotate float32": "a copy", "rotate bfloat16": "a copy", "attention": "causal SDPA"}
"""What is timed, and the yardstick of its ratio."""


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
    views = tuple(
        view([row for row in drawn if row["case"].startswith(kind)], kind, unit) for kind, unit in CASES.items()
    )
    title = f"{cpu}, {drawn[0]['threads']} threads"
    chart = CurveChart("kernels", title, "", (("tokens", views[0].axes[0]),), views, named=True)
    options.out.write_bytes(png.image(png.draw(chart), dpi=110))


def view(chosen: list[dict[str, str]], kind: str, unit: str) -> CurveView:
    """The ratio of every provider by length: the median, with the least and the most as its band."""
    lengths = sorted({int(row["case"].split()[-1]) for row in chosen})
    at = {(row["provider"], int(row["case"].split()[-1])): row for row in chosen}
    curves = []
    for i, name in enumerate(dict.fromkeys(row["provider"] for row in chosen)):
        found = [at.get((name, n)) for n in lengths]
        y, low, high = (
            tuple(None if row is None else float(row[f"ratio_{which}"]) for row in found)
            for which in ("50", "least", "most")
        )
        curves.append(Curve(name, i, y, low, high))
    values = [v for curve in curves for v in (*curve.low, *curve.high) if v is not None]
    grid = Grid(tuple(map(float, lengths)), tuple(f"{n:,} tokens" for n in lengths))
    ticks = tuple((float(n), f"{n:,}") for n in lengths)
    x = Axis("tokens", "log", lengths[0] / 1.1, lengths[-1] * 1.1, ticks)
    y_axis = axis(f"time / {unit}, forward + backward", "log", values)
    panel = CurvePanel("", (grid,), (CurveFrame(0, tuple(curves)),))
    return CurveView(kind, (y_axis,), (panel,), ((1.0, ""),), x=x, markers=True)


if __name__ == "__main__":
    main()
