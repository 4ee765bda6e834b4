"""whorl: attach, compare and inspect positional encodings on transformers.

>>> import whorl
>>> whorl.attach(model, whorl.HoPE(train_length=4096))
>>> whorl.detach(model)

Everything is imported on first use, so `import whorl` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "attach": "whorl.attaching",
    "attached": "whorl.attaching",
    "detach": "whorl.attaching",
    "compare": "whorl.comparison",
    "convert": "whorl.conversion.folders",
    "doctor": "whorl.diagnosis",
    "Diagnosis": "whorl.diagnosis",
    "encoding_of": "whorl.attaching",
    "evaluate": "whorl.evaluation",
    "extend": "whorl.conversion.folders",
    "export": "whorl.runtimes.exporting",
    "inspect": "whorl.inspection",
    "Inspection": "whorl.inspection",
    "inspect_images": "whorl.inspection",
    "ImageInspection": "whorl.inspection",
    "load": "whorl.attaching",
    "save": "whorl.attaching",
    "parse": "whorl.encodings",
    "Encoding": "whorl.encodings",
    "Spectrum": "whorl.encodings",
    "Layers": "whorl.encodings",
    "RoPE": "whorl.encodings.rope",
    "HoPE": "whorl.encodings.hope",
    "Taper": "whorl.encodings.taper",
    "PRoPE": "whorl.encodings.p_rope",
    "PartialRoPE": "whorl.encodings.partial_rope",
    "AxialRoPE": "whorl.encodings.axial_rope",
    "HoPE2D": "whorl.encodings.hope_2d",
    "PRoPE2D": "whorl.encodings.p_rope_2d",
    "MixedRoPE": "whorl.encodings.mixed_rope",
    "DINOv3RoPE": "whorl.encodings.dinov3_rope",
    "SinCos2D": "whorl.encodings.sincos_2d",
    "Learned2D": "whorl.encodings.learned_2d",
    "Frequencies": "whorl.encodings.frequencies",
    "NoPE": "whorl.encodings.nope",
    "Sinusoidal": "whorl.encodings.sinusoidal",
    "Learned": "whorl.encodings.learned",
    "ALiBi": "whorl.encodings.alibi",
    "T5Bias": "whorl.encodings.t5",
    "Kerple": "whorl.encodings.kerple",
    "FIRE": "whorl.encodings.fire",
    "Sandwich": "whorl.encodings.sandwich",
    "CoPE": "whorl.encodings.cope",
    "Shaw": "whorl.encodings.shaw",
    "IRPE": "whorl.encodings.irpe",
    "DAPE": "whorl.encodings.dape",
    "PaTH": "whorl.encodings.path",
    "PaTHFoX": "whorl.encodings.path",
    "StickBreaking": "whorl.encodings.stick_breaking",
    "Linear": "whorl.encodings.linear",
    "Window": "whorl.encodings.window",
    "SoftWindow": "whorl.encodings.soft_window",
    "Randomized": "whorl.encodings.randomized",
    "LogN": "whorl.encodings.log_n",
    "SSMax": "whorl.encodings.ssmax",
    "Llama4Scale": "whorl.encodings.llama4_scale",
    "MistralScale": "whorl.encodings.mistral_scale",
    "HeadScale": "whorl.encodings.head_scale",
    "FoX": "whorl.encodings.fox",
    "GrapeA": "whorl.encodings.grape_a",
    "PaPE": "whorl.encodings.pape",
    "PaPERI": "whorl.encodings.pape_ri",
    "SPE": "whorl.encodings.spe",
    "SelfExtend": "whorl.encodings.self_extend",
    "ReRoPE": "whorl.encodings.rerope",
}

__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:
    from whorl.attaching import attach, attached, detach, encoding_of, load, save
    from whorl.comparison import compare
    from whorl.conversion.folders import convert, extend
    from whorl.diagnosis import Diagnosis, doctor
    from whorl.encodings import Encoding, Layers, Spectrum, parse
    from whorl.encodings.alibi import ALiBi
    from whorl.encodings.axial_rope import AxialRoPE
    from whorl.encodings.cope import CoPE
    from whorl.encodings.dape import DAPE
    from whorl.encodings.dinov3_rope import DINOv3RoPE
    from whorl.encodings.fire import FIRE
    from whorl.encodings.fox import FoX
    from whorl.encodings.frequencies import Frequencies
    from whorl.encodings.grape_a import GrapeA
    from whorl.encodings.head_scale import HeadScale
    from whorl.encodings.hope import HoPE
    from whorl.encodings.hope_2d import HoPE2D
    from whorl.encodings.irpe import IRPE
    from whorl.encodings.kerple import Kerple
    from whorl.encodings.learned import Learned
    from whorl.encodings.learned_2d import Learned2D
    from whorl.encodings.linear import Linear
    from whorl.encodings.llama4_scale import Llama4Scale
    from whorl.encodings.log_n import LogN
    from whorl.encodings.mistral_scale import MistralScale
    from whorl.encodings.mixed_rope import MixedRoPE
    from whorl.encodings.nope import NoPE
    from whorl.encodings.p_rope import PRoPE
    from whorl.encodings.p_rope_2d import PRoPE2D
    from whorl.encodings.pape import PaPE
    from whorl.encodings.pape_ri import PaPERI
    from whorl.encodings.partial_rope import PartialRoPE
    from whorl.encodings.path import PaTH, PaTHFoX
    from whorl.encodings.randomized import Randomized
    from whorl.encodings.rerope import ReRoPE
    from whorl.encodings.rope import RoPE
    from whorl.encodings.sandwich import Sandwich
    from whorl.encodings.self_extend import SelfExtend
    from whorl.encodings.shaw import Shaw
    from whorl.encodings.sincos_2d import SinCos2D
    from whorl.encodings.sinusoidal import Sinusoidal
    from whorl.encodings.soft_window import SoftWindow
    from whorl.encodings.spe import SPE
    from whorl.encodings.ssmax import SSMax
    from whorl.encodings.stick_breaking import StickBreaking
    from whorl.encodings.t5 import T5Bias
    from whorl.encodings.taper import Taper
    from whorl.encodings.window import Window
    from whorl.evaluation import evaluate
    from whorl.inspection import ImageInspection, Inspection, inspect, inspect_images
    from whorl.runtimes.exporting import export


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    meant = {known.lower(): known for known in _EXPORTS}.get(name.lower().replace("_", ""))
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise AttributeError(f"module 'whorl' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted(__all__)
