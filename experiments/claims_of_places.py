"""What papers claim of images and points, each with what is held against it here."""

from __future__ import annotations

from claiming import Claim, Paper
from evidence import Evidence, Says, Versus
from studies import MAPPINGS, OF_POINTS

IMAGES = ("0015-images/resolution",)
IRPE = ("0016-irpe/ablation",)
LARGER = (1.5, 2)  # times the training size, 72 and 96 pixels


def clouds(turned: str) -> tuple[str, ...]:
    return (f"0017-points/turned-{turned}",)


def larger(first: str, second: str, says: Says = "better") -> tuple[Evidence, ...]:
    """At larger sizes, with pictures that fill their frame, and with pictures that keep their pixels."""
    return tuple(Versus(first, second, IMAGES, LARGER, says, key) for key in ("", "framed"))


def in_irpe(first: str, second: str, says: Says = "better") -> Evidence:
    return Versus(first, second, IRPE, (1,), says)


VISION = Paper(
    "Images",
    "A ViT of 0.15 M parameters that tells glyphs apart: the order of encodings is asked for, and not a paper's "
    "numbers on ImageNet.",
    (
        Claim(
            "HoPE's rule along each side of a grid reads larger images better than axial RoPE",
            "not claimed: asked here",
            larger("hope-2d", "axial-rope"),
            "Does HoPE on grids extrapolate better than axial RoPE?",
        ),
        Claim(
            "In range it costs nothing against axial RoPE",
            "not claimed: asked here",
            (Versus("hope-2d", "axial-rope", IMAGES, (1,), "alike"),),
        ),
        Claim(
            "Mixed RoPE reads larger images better than axial RoPE",
            "RoPE-ViT, 2403.13298: 81.8 beside 80.0 at 384 pixels, trained at 224",
            larger("mixed-rope", "axial-rope"),
        ),
        Claim(
            "Axial RoPE reads larger images better than a learned table that is resampled",
            "RoPE-ViT: 80.0 beside 79.4",
            larger("axial-rope", "learned-2d"),
        ),
        Claim(
            "In range all three are alike",
            "RoPE-ViT: 80.4 (learned), 80.9 and 80.9",
            tuple(Versus(name, "learned-2d", IMAGES, (1,), "alike") for name in ("axial-rope", "mixed-rope")),
        ),
        Claim(
            "PaPE reads larger images better than the others",
            "2602.01418, of sizes that it was not trained at: by up to 10.5 points",
            tuple(
                one
                for name in ("mixed-rope", "axial-rope", "hope-2d", "sincos-2d", "learned-2d")
                for one in larger("pape", name)
            ),
        ),
        Claim(
            "What goes by how patches stand to one another finds a picture that is moved better than a learned table",
            "follows from their definitions",
            tuple(
                Versus(name, "learned-2d", IMAGES, (1,), key="moved")
                for name in ("axial-rope", "mixed-rope", "hope-2d", "irpe", "pape", "euclidean-alibi")
            ),
        ),
        Claim(
            "Vectors that meet the query's content are better than numbers, in each mapping",
            "iRPE, 2107.14222: by 0.3, 0.2, 0.3 and 0.4 points",
            tuple(in_irpe(name, f"{name}{',' if ':' in name else ':'}mode=bias") for name in MAPPINGS),
        ),
        Claim(
            "Mappings that know directions (cross, product) are better than those that go by distance alone",
            "iRPE: 80.8 and 80.9 beside 80.4 (euclidean) and 80.5 (quantization)",
            tuple(in_irpe(directed, other) for directed in MAPPINGS[2:] for other in MAPPINGS[:2]),
        ),
        Claim(
            "Heads with numbers of their own are better than shared ones; with vectors they are alike",
            "iRPE: 80.54 beside 80.05; 80.99 beside 80.89",
            (in_irpe("irpe:mode=bias,heads=own", "irpe:mode=bias"), in_irpe("irpe:heads=own", "irpe", "alike")),
        ),
        Claim(
            "On keys or on queries it is better than on values",
            "iRPE, without a table of positions: 80.9, 80.9 and 80.2",
            (in_irpe("irpe", "irpe:on=v"), in_irpe("irpe:on=q", "irpe:on=v")),
        ),
        Claim(
            "On all three it is best",
            "iRPE: 81.3 beside 81.0 (queries and keys) and 80.9",
            (in_irpe("irpe:on=qkv", "irpe:on=qk"), in_irpe("irpe:on=qkv", "irpe")),
        ),
        Claim(
            "It is better than a learned table, and both than none",
            "iRPE: 80.9, 79.9 and 77.6",
            (in_irpe("irpe", "learned-2d"), in_irpe("learned-2d", "nope")),
        ),
    ),
)


def held(first: str, second: str, turned: str, key: str, says: Says = "better") -> Evidence:
    """Clouds that are turned so in training and, by the key of a metric, so in testing."""
    return Versus(first, second, clouds(turned), (1,), says, key)


SELECTIVE, XYZ, Z, SO3 = OF_POINTS[:4]
POINTS = Paper(
    "Points",
    "A point transformer of 0.07 M parameters that tells twelve solids apart, trained and tested in other turns. "
    "SPE-Net's (2211.08250) own numbers were not at hand.",
    (
        Claim(
            "Codes that no turn changes hold for clouds that are turned anyhow, where offsets do not",
            "SPE-Net",
            (held(SO3, XYZ, "none", "all_turns"), held(SO3, XYZ, "z", "all_turns")),
        ),
        Claim(
            "Codes that turns about z leave as they are hold for these, and not for other turns",
            "SPE-Net",
            (held(Z, XYZ, "none", "about_z"), held(Z, SO3, "none", "all_turns", "worse")),
        ),
        Claim(
            "All three behind gates are as good as the best of them, however clouds are turned in training",
            "SPE-Net: the gates find out how they are turned",
            tuple(
                held(SELECTIVE, one, turned, "accuracy", "no worse")
                for turned in ("none", "z", "all")
                for one in (XYZ, Z, SO3)
            ),
        ),
        Claim(
            "Codes that no turn changes help where nothing is turned, too",
            "SPE-Net, abstract",
            (held(SELECTIVE, XYZ, "none", "accuracy"),),
        ),
        Claim(
            "What goes by distances alone cannot tell a left coil from a right one",
            "follows from their definitions",
            tuple(held(name, SO3, turned, "hands", "worse") for name in OF_POINTS[4:6] for turned in ("none", "all")),
        ),
    ),
)
