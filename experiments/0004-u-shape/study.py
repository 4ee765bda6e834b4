"""Gathers the inspections of this study into results.json, and draws its figure (see README.md).

python study.py INSPECTIONS    both
python study.py                the figure alone, from results.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import whorl
from whorl.encodings import parse
from whorl.reports.axes import axis
from whorl.reports.bins import rounded
from whorl.reports.chart import Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid
from whorl.reports.png import png

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
LENGTH, HEAD_DIM = 128, 64


def main() -> None:
    for folder in sys.argv[1:]:
        paths = sorted(path.parent for path in Path(folder).glob("*/inspection.json"))
        rows = [row(path.name, whorl.Inspection.load(path).summary.to_json()) for path in paths]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "figures" / "u-shape.png").write_bytes(png(chart(json.loads(RESULTS.read_text())))["u-shape.png"])


def row(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    keep = ("u_shape", "out_of_range", "ablation", "first_token", "heads")
    return {
        "trial": name,
        "encoding": summary["model"]["encoding"],
        "settings": summary["settings"],
        "machine": summary["machine"],
        "versions": summary["versions"],
        **{key: summary.get(key) for key in keep},
        "training": [
            {"step": at["step"], "u_shape": {k: brief(u) for k, u in at["u_shape"].items()}}
            for at in summary.get("training", [])
        ],
    }


def brief(shape: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if shape is None else {k: shape[k] for k in ("appears", "rise", "stderr", "near", "activated")}


def chart(rows: list[dict[str, Any]]) -> CurveChart:
    """What each pair adds to the far end on random tokens: every seed thin, their mean strong."""
    spectrum = parse(f"hope:train_length={LENGTH}").spectrum(HEAD_DIM)
    pairs = tuple(float(pair) for pair in range(HEAD_DIM // 2))
    cut = (sum(f != 0 for f in spectrum.frequencies) - 0.5, f"HoPE's cut: one turn = {LENGTH} tokens")
    grid = Grid(pairs, tuple(f"pair {pair:.0f}" for pair in pairs))
    panels = []
    for index, kind in enumerate(("rope", "hope")):
        found = [r["u_shape"]["random"]["pairs"] for r in rows if r["trial"].startswith(kind)]
        seeds = np.array([[pair["rise"] for pair in seed] for seed in found])
        mean = Curve(f"{kind}, {len(seeds)} seeds", index, rounded(seeds.mean(0)), thin=tuple(map(rounded, seeds)))
        panels.append(CurvePanel(kind, (grid,), (CurveFrame(0, (mean,)),), (cut,)))
    known = [value for panel in panels for curve in panel.frames[0].curves for run in curve.thin for value in run]
    view = CurveView("rise", (axis("rise of the far end, z-scores", "linear", known),), tuple(panels), ((0.0, ""),))
    x = axis("pair, fastest first", "linear", [0.0, pairs[-1]])
    title = f"Which pairs make the U-shape: far end above the middle, trained at {LENGTH} tokens"
    return CurveChart("u-shape", title, "", (("pair", x),), (view,))


if __name__ == "__main__":
    main()
