"""Makes results.json of the stages in a folder, and the figures: `python gather.py DIR`; without DIR, only figures.

Of stages that the folder does not have, or has not finished where results.json has, what results.json has stays.
"""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from healing import HEALED, HEALED_EDGES, HEALED_WINDOWS, HEALING
from reading import TEXTS, TRAINED, interval
from study import CUT_WINDOWS, EVERY, LONG_WINDOWS, PAIRS, RESULTS, edges

from whorl.encodings.rope import RoPE
from whorl.encodings.spectrum import turns_fully
from whorl.files import write_atomically
from whorl.reports import png
from whorl.reports.axes import axis
from whorl.reports.chart import Axis, Curve, CurveChart, CurveFrame, CurvePanel, CurveView, Grid, Marks

HERE = Path(__file__).parent
NAMES = {"smollm2": "SmolLM2-135M-Instruct", "gemma3": "Gemma 3 270M"}
BASES = {"smollm2": {"": 100_000.0}, "gemma3": {"global": 1_000_000.0, "local": 10_000.0}}
HEADS = {"smollm2": 64, "gemma3": 256}  # channels
FAST = 0.25
"""The share of the pairs that are called fast, as in docs/inspect.md; the slow half are the slow ones."""
NAMES_OF_CUTS = {"hope:train_length=8192": "HoPE", "p-rope:p=0.75": "p 0.75"}
LEAST = 0.001  # nats: what the logarithmic axis begins at


def main() -> None:
    results = json.loads(RESULTS.read_text())
    if len(sys.argv) > 1:
        results = together(results, gathered(Path(sys.argv[1])))
    lines = [f" {json.dumps(stage)}: {json.dumps(results[stage], sort_keys=True)}" for stage in sorted(results)]
    write_atomically(RESULTS, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    if all(f"{kind}-{name}" in results for kind in ("cuts", "usage") for name in NAMES):
        draw(figure(results))
    if "heal-smollm2" in results:
        draw(healing(results["heal-smollm2"]))


def together(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is known of each stage."""
    kept = {
        stage: found
        for stage, found in earlier.items()
        if "unfinished" not in found and "unfinished" in now.get(stage, {})
    }
    return {**earlier, **now, **kept}


def draw(chart: CurveChart) -> None:
    for file, image in png.png(chart).items():
        write_atomically(HERE / "figures" / file, image)


def gathered(folder: Path) -> dict[str, Any]:
    """What the stages found, summed up; a stage that is not done with what it has."""
    stages = {}
    for path in sorted(folder.glob("*-*.json"), reverse=True):  # a part before the whole, which takes its place
        found = json.loads(path.read_text())
        name = path.name.removesuffix(".json").removesuffix(".part")
        stages[name] = (
            {**found.pop("about", {}), "found": found, "unfinished": True}
            if path.name.endswith(".part.json")
            else found
        )
    results: dict[str, Any] = {}
    for stage, made in stages.items():
        kind, _, name = stage.partition("-")
        summed = SUMS[kind](name, made["found"])
        about = {key: made[key] for key in ("seconds", "date", "machine", "versions") if key in made}
        results[stage] = {**about, **summed, **({"unfinished": True} if "unfinished" in made else {})}
    return results


def cuts(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Losses, and by how much each window's is above that of the untouched model, with 95 % intervals."""
    losses, rows = found["losses"], []
    for encoding, of in losses.items():
        for text in TEXTS:
            here, own = of.get(text, []), losses["own"][text]
            count = min(len(here), len(own))
            if count < 2:
                continue
            change, low, high = interval(np.subtract(here[:count], own[:count]))
            rows.append(
                {
                    "encoding": encoding,
                    "text": text,
                    "windows": count,
                    "loss": float(np.mean(here[:count])),
                    "change": change,
                    "low": low,
                    "high": high,
                }
            )
    return {"length": CUT_WINDOWS[0], "every": EVERY[name], "rows": rows, "windows": losses}


def usage(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Norms by layer and pair, their shares, positional heads, the U-shape."""
    return {
        text: {**_usage(name, of["arrays"], of["summary"]), **_summary(name, of["summary"])}
        for text, of in found.items()
    }


def _usage(name: str, arrays: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Shares of the norm by layer, and the wavelength of each layer's largest pair over what the layer sees."""
    wavelengths = np.array(arrays["wavelength"], dtype=float)
    seen = np.array([window or TRAINED[name] for window in summary["model"]["windows"]])
    shares = {}
    for key in ("norm_q", "norm_k", "norm_v"):
        norms = np.array(arrays[key])
        part = norms / norms.sum(1, keepdims=True)
        fast, half = round(FAST * norms.shape[1]), norms.shape[1] // 2
        largest = norms.argmax(1)
        shares[key] = {
            "fast_share_by_layer": part[:, :fast].sum(1).round(4).tolist(),
            "slow_half_share_by_layer": part[:, half:].sum(1).round(4).tolist(),
            "largest_pair_by_layer": largest.tolist(),
            "its_wavelength_over_reach": (wavelengths[np.arange(len(norms)), largest] / seen).round(3).tolist(),
        }
    kept = ("wavelength", "norm_q", "norm_k", "attention_near", "random_attention_near")
    return {"shares": shares, **{key: arrays[key] for key in kept}}


def _summary(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    for shape in summary["u_shape"].values():
        if shape["activated"] is not None:  # which inspect counted by the windows' length then, and does not any more
            waves = {row["pair"]: row["wavelength"] for row in shape["pairs"]}
            removed = [pair for pair in shape["activated"]["pairs"] if waves[pair] > TRAINED[name]]
            shape["activated"]["removed_by_hope"] = len(removed)
    kept = ("settings", "u_shape", "heads", "first_token", "absent", "seconds")
    return {**{key: summary.get(key) for key in kept}, "windows_of_layers": summary["model"]["windows"]}


def as_it_is(name: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"found": found}


def long(name: str, found: dict[str, Any]) -> dict[str, Any]:
    length, _ = LONG_WINDOWS[name]
    kept = {key: found[key] for key in ("losses", "bfloat16") if key in found}
    return {"length": length, "every": EVERY[name], "edges": edges(length), **kept}


def reach(name: str, found: dict[str, Any]) -> dict[str, Any]:
    kept = ("settings", "u_shape", "out_of_range", "absent", "seconds")
    curves = {key: found["arrays"][key] for key in ("wavelength", "distance", "logit", "random_logit")}
    means = {key: np.mean(np.array(curves[key], dtype=float), 0).round(4) for key in ("logit", "random_logit")}
    means = {key: [None if np.isnan(v) else float(v) for v in x] for key, x in means.items()}
    return {**{key: found["summary"].get(key) for key in kept}, "distance": curves["distance"], "mean_curve": means}


def heal(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """By how much losses between HEALED_EDGES are above rope's at the same time, before and after the training, and by
    how much the trained ones are above the untouched model's: paired by window, with 95 % intervals."""
    losses, rows = found["losses"], []
    pairs = [
        (encoding, when, "rope", when) for encoding in HEALED if encoding != "rope" for when in ("before", "after")
    ]
    for encoding, when, other, then in [*pairs, *((encoding, "after", "rope", "before") for encoding in HEALED)]:
        for text in TEXTS:
            here, there = (losses.get(e, {}).get(w, {}).get(text, []) for e, w in ((encoding, when), (other, then)))
            count = min(len(here), len(there))
            if not count:
                continue
            changes = np.subtract(here[:count], there[:count])
            spans = [interval(change) for change in changes.T]
            rows.append(
                {
                    "encoding": encoding,
                    "when": when,
                    "above": f"{other}, {then}",
                    "text": text,
                    "windows": count,
                    "loss": np.mean(here[:count], 0).round(5).tolist(),
                    "change": [round(mean, 5) for mean, _, _ in spans],
                    "low": [round(low, 5) for _, low, _ in spans],
                    "high": [round(high, 5) for _, _, high in spans],
                }
            )
    trained = found.get("trained", {})
    return {"length": HEALED_WINDOWS[0], "edges": HEALED_EDGES, "trained": trained, "rows": rows, "windows": losses}


SUMS = {"tokens": as_it_is, "cuts": cuts, "usage": usage, "reach": reach, "long": long, "heal": heal}


# --- the figures -----------------------------------------------------------------------------------------------------


def figure(results: dict[str, Any]) -> CurveChart:
    """Above, which pairs queries and keys use; below, what it costs to let only the pairs left of a place turn."""
    x = Axis(
        "pair, fastest first, as a share of all", "linear", 0.0, 1.0, tuple((t / 4, f"{t / 4:g}") for t in range(5))
    )
    used = [usage_panel(name, results[f"usage-{name}"]) for name in NAMES]
    cost = [loss_panel(name, results[f"cuts-{name}"]) for name in NAMES]
    even = ((1.0, ""),)
    upper = CurveView(
        "norm of queries and keys by pair", (_axis("norm / mean over pairs", used),), tuple(used), even, x=x
    )
    label = "loss when only the pairs left of here turn"
    lower = CurveView(label, (_axis("nats above all pairs (from 0.001)", cost),), tuple(cost), x=x, markers=True)
    return CurveChart(
        "llms",
        "Which pairs two pretrained LLMs use, and which they need",
        "",
        (("pair", x),),
        (upper, lower),
        pictured=2,
    )


def _axis(label: str, panels: list[CurvePanel]) -> Axis:
    frames = [frame for panel in panels for frame in panel.frames if frame is not None]
    values = [
        v for frame in frames for curve in frame.curves for v in (*curve.y, *curve.low, *curve.high) if v is not None
    ]
    return axis(label, "log", values)


def healing(found: dict[str, Any]) -> CurveChart:
    """What each cut costs by position, before the training and after it."""
    x = axis("position in the window, tokens", "log", [100.0, *HEALED_EDGES[1:]])
    rows = [row for row in found["rows"] if row["above"] == f"rope, {row['when']}" and row["encoding"] != "rope"]
    panels = [healing_panel(text, [row for row in rows if row["text"] == text]) for text in TEXTS]
    y = _axis("nats above rope, trained alike (from 0.001)", panels)
    view = CurveView("loss under a cut", (y,), tuple(panels), x=x, markers=True)
    return CurveChart("healing", "What a cut costs, before healing and after it", "", (("position", x),), (view,))


def healing_panel(text: str, rows: list[dict[str, Any]]) -> CurvePanel:
    spans = list(pairwise(HEALED_EDGES))
    curves = []
    for index, row in enumerate(rows):
        words = f"{NAMES_OF_CUTS[row['encoding']]}, {'before' if row['when'] == 'before' else 'healed'}"
        y, low, high = (tuple(max(value, LEAST) for value in row[key]) for key in ("change", "low", "high"))
        curves.append(Curve(words, index, y, low, high))
    grid = Grid(tuple(math.sqrt(max(a, 128) * b) for a, b in spans), tuple(f"{a:,} to {b - 1:,}" for a, b in spans))
    trained = ((float(HEALING.train_length), "trained to here"),)
    return CurvePanel(f"SmolLM2, {text}", (grid,), (CurveFrame(0, tuple(curves)),), trained)


def usage_panel(name: str, found: dict[str, Any]) -> CurvePanel:
    pairs = PAIRS[name]
    windows = found["code"]["windows_of_layers"]
    kinds = {"": range(len(windows))} if name == "smollm2" else {
        "global": [i for i, w in enumerate(windows) if w is None],
        "local": [i for i, w in enumerate(windows) if w is not None],
    }  # fmt: skip
    curves = []
    for kind, layers in kinds.items():
        for key, word in (("norm_q", "queries"), ("norm_k", "keys")):
            norms = np.mean([np.array(found[text][key])[list(layers)] for text in TEXTS], 0)
            shares = (norms / norms.mean(1, keepdims=True)).mean(0)
            curves.append(Curve(f"{word}, {kind}" if kind else word, len(curves), tuple(shares.tolist())))
    places = tuple((i + 0.5) / pairs for i in range(pairs))
    grid = Grid(places, tuple(f"pair {i}" for i in range(pairs)))
    return CurvePanel(NAMES[name], (grid,), (CurveFrame(0, tuple(curves)),), marks(name))


def loss_panel(name: str, found: dict[str, Any]) -> CurvePanel:
    cut = [(share(row["encoding"]), row) for row in found["rows"]]
    places = sorted({place for place, _ in cut if place is not None})
    curves = []
    for index, text in enumerate(TEXTS):
        rows = {place: row for place, row in cut if row["text"] == text}
        y, low, high = (
            tuple(max(rows[p][key], LEAST) if p in rows else None for p in places) for key in ("change", "low", "high")
        )
        curves.append(Curve(text, index, y, low, high))
    grid = Grid(tuple(places), tuple(f"{100 * p:.0f} % of the pairs" for p in places))
    return CurvePanel(NAMES[name], (grid,), (CurveFrame(0, tuple(curves)),), marks(name))


def share(encoding: str) -> float | None:
    """The share of the pairs that turn, where the fastest do in all layers alike."""
    if encoding == "nope":
        return 0.0
    if encoding.startswith("p-rope:p=") and "," not in encoding and "/" not in encoding:
        return float(encoding.removeprefix("p-rope:p="))
    return None


def marks(name: str) -> Marks:
    """HoPE's cut at the training length, by kind of layer; and p-RoPE's."""
    found = []
    for kind, base in BASES[name].items():
        spectrum = RoPE(base=base).spectrum(HEADS[name])
        kept = sum(turns_fully(f, TRAINED[name]) for f in spectrum.frequencies)
        found.append((kept / PAIRS[name], f"HoPE {kind}" if kind == "local" else "HoPE"))
    return tuple(sorted([*found, (0.75, "p 0.75")]))


if __name__ == "__main__":
    main()
