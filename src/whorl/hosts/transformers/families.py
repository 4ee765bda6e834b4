"""Where each model family keeps its seams: names, as data. A new family adds one line to `FAMILIES`.

What can be read from the host's own code (pairing, width, where biases go in) is read there, by `opening`, and stands
in no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


def _use_rope(attention: Any) -> bool:
    return bool(getattr(attention, "use_rope", True))


def _sliding_layers_turn(attention: Any) -> bool:
    return attention.sliding_window is None or bool(attention.is_sliding)


def _windowed_layers_turn(attention: Any) -> bool:
    return attention.sliding_window is not None


@dataclass(frozen=True)
class Family:
    """Attribute names, dotted, below the base model (layers, rotary, position_table) or one of its layers (attention).

    rotary          the module that computes cos and sin once per forward, or None
    rotate          the global name under which an attention's `forward` finds the rotation function
    position_table  a module that maps positions to vectors added to the embedding, or None
    turns           whether the host lets this attention module rotate q and k at all (layers without rotary)
    table_size      the config field that holds the number of rows of the position table
    """

    layers: str = "layers"
    attention: str = "self_attn"
    rotary: str | None = "rotary_emb"
    rotate: str = "apply_rotary_pos_emb"
    position_table: str | None = None
    turns: Callable[[Any], bool] = _use_rope
    table_size: str = "max_position_embeddings"


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "gemma4_text": Family(),
    "phi": Family(),
    "phi3": Family(),
    "gpt_neox": Family(attention="attention"),
    "smollm3": Family(),
    "olmo2": Family(),
    "olmo3": Family(),
    "cohere": Family(),
    "cohere2": Family(turns=_windowed_layers_turn),
    "glm": Family(),
    "stablelm": Family(),
    "starcoder2": Family(),
    "granite": Family(),
    "gpt_oss": Family(),
    "llama4_text": Family(rotate="apply_rotary_emb"),
    "falcon": Family(layers="h", attention="self_attention"),
    "persimmon": Family(),
    "modernbert-decoder": Family(attention="attn"),
    "exaone4": Family(turns=_sliding_layers_turn),
    "nemotron": Family(),
    "helium": Family(),
    "ernie4_5": Family(),
    "lfm2": Family(),
    "apertus": Family(),
    "seed_oss": Family(),
    "hunyuan_v1_dense": Family(),
    "gpt2": Family(layers="h", attention="attn", rotary=None, position_table="wpe"),
    "opt": Family(layers="decoder.layers", rotary=None, position_table="decoder.embed_positions"),
    "modernbert": Family(attention="attn"),
    "bert": Family(
        layers="encoder.layer",
        attention="attention.self",
        rotary=None,
        position_table="embeddings.position_embeddings",
    ),
}

ENCODERS = ("modernbert", "bert")

# Decoders of texts, images and films, a position of which is a time, a row and a column (M-RoPE, arXiv 2409.12191); and
# their parts that read alone.
MULTIMODAL: dict[str, Family] = {
    f"{whole}{part}": Family()
    for whole in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
    for part in ("", "_text")
}


@dataclass(frozen=True)
class ImageFamily(Family):
    """A family of images: names below the module that is given pixels.

    embed     makes tokens of pixels. Vectors of positions are added there by a method `interpolate_pos_encoding`, if it
              has any
    table     in it: those vectors, a parameter [1, tokens, width] or a table with rows as `weight`
    prefix    in it: the tokens that stand before the patches
    registers in it: those that are put between the two after vectors have been added
    antialias whether it resamples vectors with antialiasing
    """

    attention: str = "attention"
    rotary: str | None = None
    embed: str = "embeddings"
    table: str = "position_embeddings"
    prefix: tuple[str, ...] = ("cls_token",)
    registers: str | None = None
    antialias: bool = False


IMAGES: dict[str, ImageFamily] = {
    "vit": ImageFamily(),
    "deit": ImageFamily(prefix=("cls_token", "distillation_token")),
    "dinov2": ImageFamily(layers="encoder.layer"),
    "dinov2_with_registers": ImageFamily(layers="encoder.layer", registers="register_tokens", antialias=True),
    "dinov3_vit": ImageFamily(layers="model.layer", rotary="rope_embeddings", prefix=("cls_token", "register_tokens")),
    "beit": ImageFamily(),
    "siglip_vision_model": ImageFamily(
        layers="encoder.layers", attention="self_attn", table="position_embedding", prefix=()
    ),
    "clip_vision_model": ImageFamily(
        layers="encoder.layers", attention="self_attn", table="position_embedding", prefix=("class_embedding",)
    ),
}

_TOWER = Family(layers="blocks", attention="attn", rotary="rotary_pos_emb", rotate="apply_rotary_pos_emb_vision")
_TOWER_WITH_TABLE = replace(_TOWER, position_table="pos_embed")
PACKED = {  # towers of images of any sizes in one row
    "qwen2_vl_vision": _TOWER,
    "qwen2_5_vl_vision": _TOWER,
    "qwen3_vl_vision": _TOWER_WITH_TABLE,
    "qwen3_vl_moe_vision": _TOWER_WITH_TABLE,
    "qwen3_5_vision": _TOWER_WITH_TABLE,
    "qwen3_5_moe_vision": _TOWER_WITH_TABLE,
}

# What a family that is not in the list may look like: every combination is tried, and then proved by a forward.
GUESSES = tuple(
    Family(layers=layers, attention=attention, rotate=rotate)
    for layers in ("layers", "h", "blocks")
    for attention in ("self_attn", "attention", "attn", "self_attention")
    for rotate in ("apply_rotary_pos_emb", "apply_rotary_emb")
)
