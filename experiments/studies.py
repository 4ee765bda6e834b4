"""The studies: which comparisons each is made of. `study.py` runs them; what two of them ask for is run once.

`python studies.py NAME` says whether there is such a study, and needs nothing but Python.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PRECISION = {"precision": "bf16"}  # said, so that a trial is the same one on a machine that would choose otherwise


@dataclass(frozen=True)
class Part:
    """One comparison of a study: its encodings, and the arguments of `whorl.compare` that are not the defaults."""

    encodings: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """What a paper has for the same question. shares: right past the training length, by part and encoding, each a mean
    over its seeds; reported: the mean reciprocal ranks that it gives."""

    shares: dict[str, dict[str, float]]
    reported: dict[str, float]


@dataclass(frozen=True)
class Study:
    """Comparisons by name. What comes of them is kept in `folder`, beside this file.

    beside  a paper that ranks encodings over all parts: so does the study then (see `ranking.py`)
    """

    folder: str
    question: str
    parts: dict[str, Part]
    seeds: tuple[int, ...] = (0, 1, 2)
    beside: Paper | None = None


MAIN = ("rope", "hope", "p-rope:p=0.5", "nope", "alibi", "t5", "fox", "rope+window:size=32/nope")

BY_CONTENT = (
    "rope",
    "hope",
    "hope:cut=2.2",
    "fox",
    "rope+fox",
    "cope",
    "path",
    "fire",
    "ssmax+rope",
    "learned-rope",
    "darope",
    "rope+window:size=32/nope+log-n",
)

FIVE = ("nope", "t5", "alibi", "partial-rope", "sinusoidal")  # its Rotary turns a quarter of the channels
LENGTH_GENERALIZATION = Paper(  # 2305.19466, graded token by token from its result files; addition and parity: not had
    {
        "copy": dict(zip(FIVE, (0.393, 0.549, 0.427, 0.015, 0.034), strict=True)),
        "copy-rsc": dict(zip(FIVE, (0.986, 0.771, 0.289, 0.0, 0.0), strict=True)),
        "reverse": dict(zip(FIVE, (0.230, 0.242, 0.171, 0.077, 0.023), strict=True)),
        "scan": dict(zip(FIVE, (0.797, 0.798, 0.438, 0.283, 0.057), strict=True)),
    },
    dict(zip(FIVE, (0.687, 0.549, 0.502, 0.330, 0.215), strict=True)),
)

LONG = {"train_length": 2048, "batch_size": 2, "lengths": ("128", "2048")}
LONGER = LONG | {"batch_size": 8, "tokens": 14_745_600}  # as many steps, of four times as many tokens
MORE = {"batch_size": 128, "tokens": 14_745_600}  # the same in texts of 128 tokens

FAR = tuple(  # bounds of what kerple's far keys weigh: in training, at 128 tokens, they change nothing
    f"fox/kerple then fox/kerple+{bound}" for bound in ("window:size=256+log-n", "soft-window+log-n:slope=0.05")
)

GAINS = (  # what might gain from context past the training length: log in the study's folder
    "fox",
    "kerple",
    "kerple+log-n",
    "fox+log-n",
    "fox/nope+log-n",
    "hope+fox",
    "rope+window:size=32/fox",
    "rope+window:size=32/kerple",
    "rope+window:size=32/nope+ssmax",
    "rope+window:size=32/nope+log-n",
    "rope+window:size=32/stick-breaking",
    "fox/nope",
    "fox/kerple",
    "fox/stick-breaking",
    "rope/nope",
    *FAR,
)

OF_IMAGES: dict[str, Any] = {"task": "images", "windows": 340, "batch_size": 8, "tokens": 6_451_200}  # 5,600 steps

MAPPINGS = (  # as the paper's models have them: of cross each distance of the grid has a bucket, of euclidean nearly so
    "irpe:method=euclidean,alpha=20,beta=40,gamma=160",
    "irpe:method=quantization,alpha=33,beta=66,gamma=264",
    "irpe:method=cross,alpha=11,beta=11,gamma=88",
    "irpe",  # product
)
OF_IRPE = (
    *(f"{name}{',' if ':' in name else ':'}mode=bias" for name in MAPPINGS),
    *MAPPINGS,
    "irpe:mode=bias,heads=own",
    "irpe:heads=own",
    *(f"irpe:on={on}" for on in ("q", "v", "qk", "qkv")),
)

NEAR = "radius=0.7,neighbours=8"
OF_POINTS = (
    f"spe:{NEAR}",
    *(f"spe:codes={code},{NEAR}" for code in ("xyz", "z", "so3")),
    "pape-ri:unit=0.1",
    "euclidean-alibi:unit=0.1",
    "nope",
)


def points(turned: str) -> dict[str, Any]:
    """2,400 steps; 40 clouds of each solid in the evaluation."""
    sizes = {"train_length": 64, "windows": 480, "batch_size": 16, "tokens": 2_457_600}
    return {"task": f"points:turned={turned}", **sizes}


STUDIES = {
    "extrapolation": Study(
        "0009-extrapolation",
        "Who reads past the training length, and is it the fraction of the pairs or their wavelength that decides?",
        {
            "language": Part(
                (
                    *MAIN,
                    "rope:base=128",  # no pair is slower than one turn in the training length
                    "hope:cut=0.5",
                    "hope:cut=2.2",
                    "hope:cut=3",
                    "p-rope:p=0.25",  # below HoPE's cut, 11 of 32 pairs; p=0.5 is above it
                    "p-rope:p=0.34375,base=500000",  # HoPE's fraction, and wavelengths past the training length
                    "hope:base=100",  # twice HoPE's fraction, and every wavelength within it
                    "p-rope:p=0.75,keep=slowest",
                    "partial-rope",
                    "fire",
                    "rope+fox",
                    "rope then rope~yarn:factor=16",  # without training, as one reads with a model that is there
                    "rope+window:size=32",
                    "rope+window:size=32/hope",
                    "rope+window:size=32/nope+log-n",
                )
            )
        },
    ),
    "awareness": Study(
        "0010-awareness",
        "Does retrieval follow perplexity? Does HoPE copy and follow better, and does it fail at decoys?",
        {
            "language": Part(MAIN),
            **{task: Part(MAIN, {"task": task}) for task in ("mqar", "decoy", "segment-copy", "following")},
        },
    ),
    "p-rope-table": Study(
        "0011-p-rope-table",
        "p-RoPE's table of perplexities in range (2410.06205): is any difference larger than its interval?",
        {
            "language": Part(
                (
                    "rope",
                    "rope:base=500000",
                    "p-rope:p=0.75",
                    "p-rope:p=0.75,keep=slowest",
                    "partial-rope:fraction=0.75",
                    "p-rope:p=0.25",
                    "nope",
                )
            )
        },
    ),
    "length-generalization": Study(
        "0012-length-generalization",
        "Is NoPE first in length generalization (2305.19466) where answers are graded token by token?",
        {
            name: Part(
                ("rope", "nope", "t5", "alibi", "partial-rope", "sinusoidal", "hope", "fox"),
                {"task": task, "tokens": 3_686_400},  # half of what compare gives such a task: 144 trials
            )
            for name, task in {
                "copy": "copy-items",
                "copy-rsc": "copy-items:variant=rsc",
                "reverse": "reverse",
                "addition": "addition",
                "parity": "parity",
                "scan": "scan",
            }.items()
        },
        beside=LENGTH_GENERALIZATION,
    ),
    "content": Study(
        "0013-content",
        "What do encodings that go by content, or are learned, give: what extrapolates, what retrieves, at what cost?",
        {"language": Part(BY_CONTENT), "recall": Part(BY_CONTENT, {"task": "recall"})},
        seeds=(0, 1),
    ),
    "gains": Study(
        "0018-gains",
        "Does an encoding read sixteen times its training length better than that length, and answer from there?",
        {
            "language": Part(GAINS),
            # as many steps of as many tokens, in texts of the longest length that the others are asked at
            "ceiling": Part(("fox", "kerple", "rope+window:size=32/nope+log-n"), LONG),
            "ceiling-4x": Part(("fox/kerple", "fox", "rope+window:size=32/nope+log-n"), LONGER),
            "more": Part(("fox/kerple", *FAR, "rope+window:size=32/stick-breaking"), MORE),
            "recall": Part(GAINS, {"task": "recall"}),
        },
    ),
    "images": Study(
        "0015-images",
        "Which encodings of a grid read other resolutions than that of the training, wide images, and moved pictures?",
        {
            "resolution": Part(
                (
                    "learned-2d",
                    "sincos-2d",
                    "axial-rope",
                    "mixed-rope",
                    "irpe",  # contextual, product, on keys
                    "hope-2d",
                    "p-rope-2d",
                    "pape",
                    "euclidean-alibi",
                ),
                OF_IMAGES,
            )
        },
    ),
    "irpe": Study(
        "0016-irpe",
        "iRPE (2107.14222): which mapping, numbers or vectors, on keys, queries or values?",
        {"ablation": Part(("nope", "learned-2d", *OF_IRPE), OF_IMAGES)},
    ),
    "points": Study(
        "0017-points",
        "SPE-Net (2211.08250): which codes of points hold where clouds are turned otherwise than in training?",
        {f"turned-{turned}": Part(OF_POINTS, points(turned)) for turned in ("none", "z", "all")},
    ),
    "roformer": Study(
        "0008-roformer",
        "RoFormer (2104.09864): rope under linear attention, and encoders by masked language modelling",
        {
            "decoders": Part(("rope", "linear", "rope+linear")),
            "encoders": Part(("rope", "learned", "sinusoidal", "nope", "alibi"), {"task": "mlm"}),
        },
        seeds=(0, 1),
    ),
}


def main() -> None:
    fetched = (path.parent.name.partition("-")[2] for path in Path(__file__).parent.glob("*/fetch.py"))
    names = [*STUDIES, *fetched]
    if sys.argv[1] not in names:
        sys.exit(f"there is no study {sys.argv[1]!r}; make study NAME=... takes {', '.join(names)}")


if __name__ == "__main__":
    main()
