"""What a rotary module of timm turns by, as an encoding."""

from __future__ import annotations

from typing import Any

from whorl.encodings import Encoding
from whorl.encodings.axial_rope import AxialRoPE
from whorl.encodings.dinov3_rope import DINOv3RoPE
from whorl.encodings.mixed_rope import MixedRoPE


def rotation_of(rope: Any) -> Encoding:
    """Raises ValueError, naming what it has, for one that no encoding says. Shifts and scales that are drawn in
    training are left to augmentation."""
    kind = type(rope).__name__
    if kind == "RotaryEmbeddingMixed":
        return MixedRoPE(base=float(rope.temperature))  # its frequencies are the model's (`Host.own_frequencies`)
    if kind == "RotaryEmbeddingCat" and rope.grid_type == "index" and rope.grid_offset == 0 and not rope.in_pixels:
        scale = None if rope.ref_feat_shape is None else tuple(rope.ref_feat_shape)
        return AxialRoPE(base=float(rope.temperature), order=rope.grid_indexing, scale=scale)
    by_base = getattr(rope, "min_period", None) is None and getattr(rope, "normalize_coords", None) == "separate"
    if kind == "RotaryEmbeddingDinoV3" and by_base and (rope.grid_indexing, rope.grid_offset) == ("ij", 0):
        return DINOv3RoPE(base=float(rope.temperature))
    names = ("grid_type", "grid_offset", "grid_indexing", "normalize_coords", "min_period", "mrope_section")
    settings = ", ".join(f"{name}={getattr(rope, name)}" for name in names if getattr(rope, name, None) is not None)
    raise ValueError(
        f"this model rotates q and k by a {kind} with {settings}, which no encoding of whorl's says; attaching another "
        "takes it out, and whorl.detach puts it back"
    )
