"""Which of timm's models have seams that are known, by the names of their classes. A new family adds one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimmFamily:
    """attentions  the classes by which its blocks attend, in their attribute `attn`
    relative    they hand relative biases to it, where others hand a mask (`relative`)
    """

    attentions: tuple[str, ...]
    relative: bool = False


FAMILIES: dict[str, TimmFamily] = {
    "VisionTransformer": TimmFamily(attentions=("Attention",)),  # and what derives from it, as DeiT's with two heads
    "Eva": TimmFamily(attentions=("EvaAttention", "AttentionRope")),
    "VisionTransformerRelPos": TimmFamily(attentions=("RelPosAttention",), relative=True),
}
