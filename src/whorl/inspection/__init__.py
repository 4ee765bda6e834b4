"""whorl inspect: how a checkpoint uses positions, at any length, in memory that grows with the number of tokens.

measures.py   what is measured of one layer: pair norms, logits by distance through an FFT, streamed softmax
passes.py     windows of one length through a model, and the sums over them
analysis.py   the U-shape and its pairs, positional heads, what leaves its range
ablation.py   slow pairs stopped at inference
stages.py     inspect(): stage by stage
images.py     inspect_images(): image models, by axis and by offset
reporting.py  from names to a folder
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.inspection.images import inspect_images
    from whorl.inspection.stages import inspect
    from whorl.results.image_inspection import ImageInspection
    from whorl.results.inspection import Inspection

__all__ = ["ImageInspection", "Inspection", "inspect", "inspect_images"]


def __getattr__(name: str) -> Any:
    if name == "Inspection":
        from whorl.results.inspection import Inspection

        return Inspection
    if name == "ImageInspection":
        from whorl.results.image_inspection import ImageInspection

        return ImageInspection
    if name == "inspect_images":
        from whorl.inspection.images import inspect_images

        return inspect_images
    if name == "inspect":
        from whorl.inspection.stages import inspect

        return inspect
    raise AttributeError(f"module 'whorl.inspection' has no attribute {name!r}")
