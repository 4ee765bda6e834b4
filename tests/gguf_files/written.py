"""Small GGUF files of several architectures, as llama.cpp's convert_hf_to_gguf writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from whorl.testing import tiny_model

FAMILIES = {  # by architecture
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
HEAD = 32  # channels, so that blocks of 32 fit
SIZES = {"intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD}
OF_FAMILY = {
    "qwen2": {"head_dim": None, "hidden_size": 128, "use_sliding_window": False, "layer_types": None},
    "gemma2": {"query_pre_attn_scalar": HEAD},
    "gemma3": {"query_pre_attn_scalar": HEAD},
}


def small(architecture: str, **overrides: Any) -> Any:
    """A small model of the family, whose norms are not all alike."""
    model = tiny_model(FAMILIES[architecture], **{**SIZES, **OF_FAMILY.get(architecture, {}), **overrides})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def written(
    model: Any, path: Path, architecture: str, said: dict[str, Any] | None = None, kind: str = "F32", **more: Any
) -> Path:
    """The file. said: keys besides, None leaves one out; kind: the type of matrices; more: tensors."""
    config = model.config
    keys: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
    }
    settings = config.rope_parameters
    keys["rope.freq_base"] = float(settings.get("full_attention", settings)["rope_theta"])
    if architecture in ("gemma2", "gemma3"):
        windowed = [kind == "sliding_attention" for kind in config.layer_types]
        keys |= {"attention.sliding_window": config.sliding_window, "attention.sliding_window_pattern": windowed}
    if architecture == "gemma3":
        keys["rope.freq_base_swa"] = settings["sliding_attention"]["rope_theta"]
    if architecture == "gemma2":
        keys |= {
            f"{name}_logit_softcapping": getattr(config, f"{name}_logit_softcapping") for name in ("attn", "final")
        }
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in {**keys, **(said or {})}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if value is not None:
            add.get(type(value), writer.add_array)(f"{architecture}.{key}", value)
    arch = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for name, value in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):  # pairs side by side
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        theirs, array = names.get_name(name, try_suffixes=(".weight", ".bias")), value.float().numpy()
        stored = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
        writer.add_tensor(theirs, gguf.quants.quantize(array, stored), raw_dtype=stored)
    for name, array in more.items():
        writer.add_tensor(f"{name}.weight", np.asarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
