"""Why a model has no seam that whorl knows, in words: kinds of models that are not supported, or not yet."""

from __future__ import annotations

from inspect import signature
from typing import Any

from whorl.hosts.transformers.families import FAMILIES, IMAGES, MULTIMODAL, PACKED
from whorl.hosts.transformers.rope_settings import rope_parameters


def why_closed(model: Any) -> str | None:
    """What keeps a model of an unknown family closed, whatever its layers look like; None where nothing is known to."""
    config, name = _text_config(model), type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        return (
            f"{name} is an encoder-decoder, whose two stacks and cross-attention have positions of their own; whorl "
            "attaches to decoders and encoders"
        )
    if getattr(model, "main_input_name", None) == "pixel_values" and config is model.config:
        biased = next((at for at, module in model.named_modules() if at.endswith("relative_position_bias")), None)
        why = f", and its layers have a relative position bias of their own ({biased})" if biased else ""
        return f"{name} reads images and is of none of the families that are known, {', '.join(IMAGES)}{why}"
    if hasattr(model.config, "spatial_merge_size") and not hasattr(model.config, "vocab_size") and _is_tower(model):
        return (
            f"{name} reads images of any sizes packed in one row, and turns q and k by the rows and columns that "
            "grid_thw says; of such towers those of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 are known"
        )
    named = (f"{at} {type(module).__name__}".lower() for at, module in model.named_modules())
    if not any("attn" in words or "attention" in words for words in named):
        layers = next((m for m in model.modules() if type(m).__name__ == "ModuleList" and len(m)), None)
        held = ", ".join(n for n, _ in layers[0].named_children()) if layers is not None else ""
        found = f" (its layers hold {held})" if held else ""
        return f"{name} has no attention{found}, so there are no queries and keys to turn and no logits to bias"
    sections = _mrope_sections(model, config)
    if sections is not None:
        return (
            f"its rotary embedding goes by three positions per token, time, height and width (M-RoPE, mrope_section "
            f"{sections}), in a way that is not known; of such models Qwen2-VL's, Qwen2.5-VL's and Qwen3-VL's are"
        )
    return None


def of_images(model: Any) -> str | None:
    """That a model is of a known family of images, where one of texts is wanted; None where it is not."""
    name, of = type(model).__name__, model.config.model_type
    if of not in (*IMAGES, *PACKED):
        return None
    how = "images" if of in IMAGES else "images packed in one row"
    return (
        f"{name} reads {how}, and this is done with models of texts; whorl.attach, whorl.encoding_of, "
        "whorl.inspect_images and whorl.doctor take it"
    )


def _is_tower(model: Any) -> bool:
    return "grid_thw" in signature(model.forward).parameters


def turns_latent_keys(model: Any) -> str | None:
    """That a model's attention is multi-head latent attention (MLA, 2405.04434), if it is: many of its ways to turn are
    not known. (One that turns as other families do, MiniCPM 3's, opens.)"""
    config = _text_config(model)
    if getattr(config, "kv_lora_rank", None) is None:
        return None
    apart = getattr(config, "qk_rope_head_dim", None)
    return (
        f"its multi-head latent attention (MLA, kv_lora_rank={config.kv_lora_rank}) keeps one compressed key for all "
        f"heads and turns {apart or 'some'} channels apart from the rest, in a way that is not supported yet"
    )


def part_that_opens(model: Any) -> str | None:
    """The name of the outermost module inside a model that is a model of a known family by itself, or None."""
    known = {*FAMILIES, *MULTIMODAL, *IMAGES, *PACKED}
    for name, module in model.named_modules():
        model_type = getattr(getattr(module, "config", None), "model_type", None)
        if name and model_type in known and hasattr(module, "base_model"):
            return name
    return None


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", None) or model.config


def _mrope_sections(model: Any, config: Any) -> Any:
    """Pairs per axis of a multimodal rotary embedding, from a rotary module or the config, or None."""
    for module in model.modules():
        if getattr(module, "mrope_section", None):
            return module.mrope_section
    return rope_parameters(config).get("mrope_section")
