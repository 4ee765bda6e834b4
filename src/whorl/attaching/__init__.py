"""JOINS: an encoding and a host. What others need is here; everything is imported on first use.

plan       what each layer will do, and everything that can go wrong, before the model is touched
placing    puts it on and takes it off; `forwards`, `turns` and `interface` are what then runs in the model
seams      what is left on a model: an `Attachment`, and a `LayerSeam` for each layer that attends
present    the same where layers were taken out or moved since
reading    the encoding that a model has, `stock` how stock transformers would say it, `filling` what a config says
saving     and loading, `adapters` of PEFT among it; `keeping` for all other ways by which weights leave a model
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "attach": "whorl.attaching.joining",
    "detach": "whorl.attaching.joining",
    "attached": "whorl.attaching.seams",
    "seams_of": "whorl.attaching.seams",
    "encoding_of": "whorl.attaching.reading",
    "load": "whorl.attaching.loading",
    "save": "whorl.attaching.folders",
}

__all__ = ["attach", "attached", "detach", "encoding_of", "load", "save", "seams_of"]

if TYPE_CHECKING:
    from whorl.attaching.folders import save
    from whorl.attaching.joining import attach, detach
    from whorl.attaching.loading import load
    from whorl.attaching.reading import encoding_of
    from whorl.attaching.seams import attached, seams_of


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
