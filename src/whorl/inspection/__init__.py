"""whorl inspect: how a checkpoint uses positions, at any length, in memory that grows with the number of tokens.

watching.py   reads q, k and v where they reach the attention interface
measures.py   what is measured of one layer: pair norms, logits by distance through an FFT, streamed softmax
passes.py     windows of one length through a model, and the sums over them
analysis.py   the U-shape and its pairs, positional heads, what leaves its range
ablation.py   slow pairs stilled at inference
running.py    inspect(): stage by stage
result.py     Inspection: arrays with named axes
sources.py    models, runs and texts by name
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.inspection.result import Inspection
    from whorl.inspection.running import inspect

__all__ = ["Inspection", "inspect"]


def __getattr__(name: str) -> Any:
    if name == "Inspection":
        from whorl.inspection.result import Inspection

        return Inspection
    if name == "inspect":
        from whorl.inspection.running import inspect

        return inspect
    raise AttributeError(f"module 'whorl.inspection' has no attribute {name!r}")
