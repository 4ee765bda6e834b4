"""Made-up results of an inspection, shaped like inspection.json and inspection.npz."""

import math
from typing import Any

import numpy as np

from whorl.results.inspection import Inspection, Summary

LENGTH, TRAIN_LENGTH = 1024, 128
PAIRS = 32
CUT = 11  # 2 pi 10000^(i/32) <= 128 up to i = 10


def read(summary: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> Inspection:
    """What `Inspection.load` would give of files that hold these."""
    return Inspection(Summary.from_json(summary), arrays or {})


def only(layers: int = 4, **sections: Any) -> dict[str, Any]:
    """The summary of a model of which nothing but these sections was measured."""
    return {
        "whorl": "0.1.0",
        "created": "2026-11-20T12:34:56+00:00",
        "model": {
            "name": "runs/rope", "type": "llama", "layers": layers, "heads": 2, "key_heads": 2, "head_dim": 2 * PAIRS,
            "parameters": 790_000, "encoding": "rope", "windows": [None] * layers,
        },
        "settings": {"length": LENGTH, "windows": 8, "train_length": TRAIN_LENGTH, "random_windows": 8, "seed": 0},
        "spectrum": {"base": None, "layout": None, "layers": []},
        "machine": {"cpu": "Some CPU", "cores": 2, "device": "cpu"},
        "versions": {"python": "3.11.9", "torch": "2.11.0"},
        "seconds": {},
        "absent": {},
        **sections,
    }  # fmt: skip


def bins(last: int, single: int, widest: int) -> tuple[np.ndarray, np.ndarray]:
    """Width 1 up to `single`, then growing by an eighth, up to `widest`."""
    starts = [0]
    while starts[-1] < last:
        at = starts[-1]
        starts.append(min(last, at + (1 if at < single else min(widest, max(1, at // 8)))))
    edges = np.array(starts)
    return edges[:-1].astype(np.float32), edges[1:].astype(np.float32)


def u(rise: float, stderr: float, near: float, layers: int, activated: dict[str, Any] | None = None) -> dict[str, Any]:
    waves = wavelengths(1)[0]
    bump = np.exp(-(((np.arange(PAIRS) - 14) / 2.5) ** 2))
    shares = bump / bump.sum()
    return {
        "appears": rise > 2 * stderr and near > 0,
        "rise": rise,
        "stderr": stderr,
        "near": near,
        "layers": [{"layer": i, "rise": rise * (2 - i / 2), "stderr": stderr, "near": near} for i in range(layers)],
        "pairs": [
            {
                "pair": i, "wavelength": float(waves[i]), "rise": rise * float(shares[i]),
                "rise_share": float(shares[i]), "variance_share": float(shares[i]),
            }
            for i in range(PAIRS)
        ],
        "activated": activated,
    }  # fmt: skip


def activated(removed: int = 7, share: float = 0.81) -> dict[str, Any]:
    return {"pairs": list(range(11, 18)), "wavelengths": [130.0, 730.0], "share": share, "removed_by_hope": removed}


def head(layer: int, head: int, kind: str = "previous-token", text: float = 0.93, **more: Any) -> dict[str, Any]:
    return {
        "layer": layer, "head": head, "kind": kind, "offset": None, "text": text, "random": 0.91,
        "fast_share": 0.8, "pairs": [0, 1, 2], "bound": 0.79, **more,
    }  # fmt: skip


def wavelengths(layers: int, base: float = 10_000.0) -> np.ndarray:
    waves = 2 * np.pi * base ** (np.arange(PAIRS) / PAIRS)
    return np.tile(waves, (layers, 1)).astype(np.float32)


def rope(
    name: str = "runs/rope", layers: int = 4, heads: int = 2, pairs: int = PAIRS, seed: int = 0, **sections: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A rotary model with a U-shape from pairs 11 to 17, which leave their range first, in layer 0."""
    summary = only(layers)
    summary["model"] |= {"name": name, "heads": heads, "key_heads": heads, "head_dim": 2 * pairs}
    summary["settings"]["text"] = "stdlib"
    summary |= {
        "seconds": {"text": 3.1, "random": 2.2, "ablation": 9.0},
        "spectrum": {
            "base": 10_000.0,
            "layout": "half",
            "layers": [
                {
                    "layer": i, "pairs": pairs, "turning": pairs, "never_full": pairs - CUT, "hope_cut": CUT,
                    "p_rope_cut": 3 * pairs // 4, "amplitude": 1.0,
                }
                for i in range(layers)
            ],
        },
        "u_shape": {
            "text": u(0.21, 0.02, 0.5, layers, activated()),
            "random": u(0.34, 0.03, 0.4, layers, activated(share=0.74)),
        },
        "heads": [
            head(0, 1, pairs=[0, 1, 2, 3]),
            head(1, 0, text=0.81, random=0.79, pairs=[3, 4, 5]),
            head(0, 0, text=0.7, random=0.68, pairs=[1, 2]),
            head(3, 1, "offset", 0.4, random=0.38, offset=4, pairs=[6]),
            head(2, 0, "first-token", 0.6, random=0.2, pairs=[]),
        ],
        "first_token": [{"layer": i, "text": 0.1 + 0.05 * i, "random": 0.2} for i in range(layers)],
        "out_of_range": {
            "multiples": [1, 2, 4, 8],
            "noise": 0.02,
            "layers": [{"layer": i, "departure": [0.02, 0.4 / (i + 1), 0.5, 0.6]} for i in range(layers)],
            "pairs": [
                {"layer": 0, "pair": p, "wavelength": 250.0, "departure": [0.02, 0.5, 0.6, 0.7]} for p in (13, 12)
            ],
            "first_pair": {"layer": 0, "pair": 13, "wavelength": 250.0, "multiple": 2, "departure": 0.5},
            "first_layer": {"layer": 0, "multiple": 2, "departure": 0.4},
        },
        "ablation": {
            "in_range": 2.61,
            "past": 5.4,
            "past_length": LENGTH,
            "hope_cut": CUT,
            "cuts": [
                {
                    "cut": cut, "wavelength": float(2 * math.pi * 10_000 ** (cut / pairs)), "in_range": 2.61 + change,
                    "past": 2.9 + abs(cut - CUT) / 10, "in_range_change": change,
                    "past_change": -2.5 + abs(cut - CUT) / 10,
                    "in_range_stderr": 0.01, "past_stderr": 0.05,
                }
                for cut in sorted({0, 4, 8, CUT, 16, 24, 28})
                for change in [0.09 + 0.02 * max(0, CUT - cut)]
            ],
        },
        "divergence": {
            "lengths": {
                "train_length": TRAIN_LENGTH,
                "length": LENGTH,
                "layers": [0.1 / (i + 1) for i in range(layers)],
            }
        },
        **sections,
    }  # fmt: skip
    return summary, arrays(layers, heads, pairs, seed)


def arrays(layers: int, heads: int, pairs: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    d_from, d_to = bins(LENGTH, 512, 64)
    c_from, c_to = bins(LENGTH, 16, 64)
    p_from, p_to = bins(LENGTH, 16, 64)
    d, c = (d_from + d_to - 1) / 2, (c_from + c_to - 1) / 2
    wave = 2 * np.pi * 10_000.0 ** (np.arange(pairs) / pairs)
    strength = np.exp(-(((np.arange(pairs) - 14 * pairs / PAIRS) / (2.5 * pairs / PAIRS)) ** 2)) / 8
    by_head = 1 + 0.3 * rng.standard_normal((layers, heads, 1, 1)) + np.linspace(1, 0, layers)[:, None, None, None]
    turn = np.cos(2 * np.pi * c / wave[:, None])
    by_pair = by_head * (strength[:, None] * turn) + 0.05 * np.exp(-c / 5)
    logit = np.stack([np.apply_along_axis(lambda y: np.interp(d, c, y), -1, by_pair[i].sum(-2)) for i in range(layers)])
    logit = logit + 3 * rng.standard_normal((layers, heads, 1)) + 0.05 * rng.standard_normal(logit.shape)
    paid = np.exp(logit - logit.max(-1, keepdims=True)) / (1 + d)
    paid = paid / (paid * (d_to - d_from)).sum(-1, keepdims=True)
    paid[0, -1] *= 0.07
    paid[0, -1, 1] = 0.93
    random_by_pair = by_pair.mean(1)
    position = (p_from + p_to) / 2
    entropy = np.log1p(position) * (0.4 + 0.5 * rng.random((layers, heads, 1)))
    slow = np.linspace(0.5, 1.5, pairs)
    norms = [slow * rng.uniform(0.5, 1.5, (layers, heads, pairs)) for _ in range(2)]
    keys = np.arange(64)
    spread = np.exp(-keys / (4 + 10 * rng.random((layers, heads, 1))))
    made = {
        "distance_from": d_from, "distance_to": d_to, "coarse_from": c_from, "coarse_to": c_to,
        "position_from": p_from, "position_to": p_to,
        "wavelength": np.tile(wave, (layers, 1)),
        "norm_q": norms[0], "norm_k": norms[1], "norm_v": rng.uniform(0.8, 1.2, (layers, heads, pairs)),
        "logit": logit, "logit_by_pair": by_pair,
        "random_logit": logit / logit.std(), "random_logit_by_pair": random_by_pair,
        "attention": paid, "random_attention": paid,
        "entropy": entropy, "first_token": 1 / (1 + 0.1 * position) * rng.random((layers, heads, 1)),
        "key_distribution": spread / spread.sum(-1, keepdims=True),
        "departure": rng.uniform(0, 0.6, (layers, 4)),
        "departure_by_pair": rng.uniform(0, 0.05, (layers, pairs, 4)) + (strength[:, None] * np.array([0, 3, 4, 5])),
    }  # fmt: skip
    return {name: values.astype(np.float32) for name, values in made.items()}


def without_rotary(name: str = "runs/alibi") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A model without rotary pairs: nothing by pair, and the summary says why."""
    summary, measured = rope(name, seed=1)
    why = "alibi has no rotary pairs"
    for section in ("out_of_range", "ablation", "divergence"):
        del summary[section]
    for layer in summary["spectrum"]["layers"]:
        layer.update(pairs=0, turning=0, never_full=0, hope_cut=0, p_rope_cut=0)
    summary["absent"] = {"pairs": why, "spectrum": why, "out_of_range": why, "ablation": "not asked for (--ablate)"}
    summary["model"]["encoding"] = "alibi"
    summary["heads"] = [head(0, 1, pairs=[], fast_share=None, bound=None)]
    for protocol in ("text", "random"):
        summary["u_shape"][protocol] = {**u(0.01, 0.02, 0.5, 4), "pairs": []}
    gone = ("wavelength", "norm_q", "norm_k", "norm_v", "logit_by_pair", "random_logit_by_pair", "departure_by_pair")
    return summary, {key: values for key, values in measured.items() if key not in (*gone, "departure")}


def two_models() -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """A rope model and a HoPE one, whose slow pairs do not rotate."""
    first, second = rope(), rope("runs/hope", layers=3, seed=2)
    first[0]["divergence"]["models"] = [0.2, 0.1, 0.05]
    second[0]["u_shape"] = {"text": u(0.01, 0.02, 0.5, 3), "random": u(0.02, 0.03, 0.4, 3)}
    second[0]["heads"] = [head(0, 0)]
    for layer in second[0]["out_of_range"]["layers"]:
        layer["departure"] = [0.02, 0.03, 0.03, 0.03]
    second[0]["out_of_range"].update(pairs=[], first_pair=None, first_layer=None)
    second[1]["wavelength"][:, CUT:] = np.inf
    second[1]["departure_by_pair"][:, CUT:] = np.nan
    return [first, second]


def with_gates() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A model of rope+fox+ssmax, whose heads of layer 0 forget; layer 3 has neither."""
    summary, measured = rope("runs/rope+fox+ssmax")
    lives = [[2.0, 7.5], [40.0, 300.0], [500.0, None]]
    each = [(layer, head, life) for layer, lives_of in enumerate(lives) for head, life in enumerate(lives_of)]
    summary["gates"] = [
        {
            "layer": i,
            "head": h,
            "mean": 1.0 if n is None else 0.5 ** (1 / n),
            "half_life": n,
            "below_half": 0.25 * (i == 0),
        }
        for i, h, n in each
    ]
    summary["added"] = [
        {
            "layer": i,
            "head": h,
            "moved": 0.8 - 0.3 * i - 0.1 * h,
            "share": 0.9 - 0.3 * i - 0.1 * h,
            "spread": 8.0 - i,
            "content_spread": 2.0,
        }
        for i, h, _ in each
    ]
    summary["factors"] = [
        {"layer": i, "head": h, "in_range": 1.0 + 0.1 * h, "past": 1.4 + 0.1 * h, "learned": {"s": 0.2 + 0.02 * h}}
        for i, h, _ in each
    ]
    measured["added"] = np.where(np.arange(4)[:, None, None] < 3, -measured["distance_from"] / 50, np.nan)
    measured["added"] = np.repeat(measured["added"], 2, 1).astype(np.float32)
    measured["added_share"] = np.where(np.isnan(measured["added"]), np.nan, 0.4).astype(np.float32)
    return summary, measured


def with_training() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A run whose U-shape appears at step 64, with its first head at step 16."""
    rises = {4: 0.0, 16: 0.03, 64: 0.4, 256: 0.3, 1024: 0.21}
    summary, measured = rope()
    summary["training"] = [
        {
            "step": step,
            "u_shape": {"text": u(rise, 0.02, 0.5, 4, activated()), "random": u(rise, 0.02, 0.5, 4, activated())},
            "heads": [head(0, i) for i in range(n)],
        }
        for n, (step, rise) in enumerate(rises.items())
    ]
    return summary, measured
