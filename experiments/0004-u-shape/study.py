"""Gathers the inspections of this study into results.json and a figure: python study.py INSPECTIONS (see README.md)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import whorl

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
COLOURS = {"rope": "#3b6fb6", "hope": "#2a9d8f", "nope": "#8a8f98", "learned": "#d1495b", "kerple": "#edae49"}
LENGTH = 128


def main() -> None:
    folders = sorted(path.parent for path in Path(sys.argv[1]).glob("*/inspection.json"))
    inspections = {folder.name: whorl.Inspection.load(folder) for folder in folders}
    (HERE / "results.json").write_text(
        json.dumps([row(n, i.summary.to_json()) for n, i in inspections.items()], indent=1) + "\n"
    )
    draw(inspections)


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


def draw(inspections: dict[str, Any]) -> None:
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.3), constrained_layout=True)
    for name, found in inspections.items():
        kind = name.split("-")[0]
        curve = found.random_logit[:, :, : LENGTH - 1].mean((0, 1))
        # weighted means over eight neighbours, since single distances near L have few samples
        smooth = np.convolve(curve, np.ones(8) / 8, mode="valid")
        label = kind if name.endswith("s0") else None
        left.plot(
            np.arange(len(smooth)) + 3.5, smooth - smooth[40:76].mean(), color=COLOURS[kind], alpha=0.8, label=label
        )
    left.axvline(LENGTH, color="black", linestyle=":", linewidth=1)
    left.set(title="Random tokens: mean logit, z-scores", xlabel="distance, tokens", ylabel="above the middle")
    left.set_ylim(-1.6, 2.2)
    left.legend()
    for axis, kind in ((middle, "rope"), (right, "hope")):
        rows = [i for n, i in inspections.items() if n.startswith(kind)]
        for at, found in enumerate(rows):
            pairs = found.summary.u_shape.random.pairs
            rises = [p.rise for p in pairs]
            axis.bar(
                np.arange(len(rises)) + (at - 1) * 0.27, rises, 0.27, color=COLOURS[kind], alpha=(1, 0.7, 0.45)[at]
            )
        cut = rows[0].summary.spectrum.layers[0].hope_cut
        axis.axvline(cut - 0.5, color="black", linestyle="--", linewidth=1)
        axis.text(cut - 0.3, axis.get_ylim()[1] * 0.93, "HoPE's cut: one turn = 128 tokens", fontsize=8)
        axis.set(title=f"{kind}, 3 seeds: each pair at the far end", xlabel="pair, fastest first")
    figure.savefig(HERE / "figures" / "u-shape.png", dpi=110)


if __name__ == "__main__":
    main()
