"""A tiny random model of any family, for tests and for questions about what a family's stock code does."""

from __future__ import annotations

import copy
from typing import Any

import torch

from whorl.hosts.transformers.families import ENCODERS, IMAGES

FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv")
SEPARATE = ("q_proj", "k_proj", "query", "key")
NORMS = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm")


@torch.no_grad()
def peaked(model: Any, factor: float = 8.0) -> Any:
    """Scales queries and keys until attention is peaked, so that positions matter. Returns the model.

    On a default random model a fault in the positions moves the logits by 5e-5, which no test would see. Weights are
    scaled, and no constants, so that what is saved is peaked too: the projections, or the norms that come after them.
    """
    for module in model.modules():
        for name, child in module.named_children():
            weight = getattr(child, "weight", None)
            if name in NORMS and weight is not None:
                weight.copy_(torch.where(weight == 0, 2.0, 3 * weight))  # Gemma's norms multiply by 1 + weight
            elif name in SEPARATE and weight is not None:
                weight.mul_(factor)
            elif name in FUSED and weight is not None:
                weight.mul_(factor / 2)  # values too, which does no harm
    return model


SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "experts_implementation": "eager",  # the only one in float64
}
_WINDOWS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 24}
_DROP = dict.fromkeys(("intermediate_size", "num_key_value_heads", "head_dim"))

# What a tiny model of a family needs besides `SIZES`; None takes a size away. Windows are shorter than the tests'
# inputs, and layers without rotary stand between layers with it, so that ignoring them is seen.
OVERRIDES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 24},
    "qwen2": {**_WINDOWS, "use_sliding_window": True},
    "qwen3_moe": {**_MOE, "decoder_sparse_step": 1},
    "gemma2": {**_WINDOWS, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "gemma3_text": _WINDOWS,
    "gemma4_text": {
        **_WINDOWS,
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 97,
        "num_kv_shared_layers": 1,
    },
    "phi": {"num_key_value_heads": 2},
    "phi3": {"sliding_window": 24},
    "gpt_neox": {"num_key_value_heads": None, "head_dim": None},
    "cohere2": _WINDOWS,
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "olmo3": _WINDOWS,
    "starcoder2": {"sliding_window": 24},
    "gpt_oss": {**_MOE, **_WINDOWS},
    "llama4_text": {
        **_MOE,
        "no_rope_layers": [1, 0, 1],
        "attention_chunk_size": 64,
        "intermediate_size_mlp": 96,
        "num_experts_per_tok": 1,
    },
    "falcon": {**_DROP, "num_kv_heads": 2, "new_decoder_architecture": True},
    "modernbert-decoder": {**_WINDOWS, "num_key_value_heads": None, "head_dim": None},
    "exaone4": _WINDOWS,
    "lfm2": {"layer_types": ["full_attention", "conv", "full_attention"]},
    "gpt2": _DROP,
    "opt": {**_DROP, "ffn_dim": 96, "word_embed_proj_dim": 64},
    "persimmon": {"num_key_value_heads": None, "head_dim": None},
    "modernbert": {**_WINDOWS, "num_key_value_heads": None, "head_dim": None},
    "bert": {"num_key_value_heads": None, "head_dim": None},
}


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> Any:
    """A random three-layer model of a family, grouped heads where the family has them, attention peaked, in eval mode.

    Decoders come with their language modelling head, encoders with that of masked tokens.

    >>> tiny_model("llama").config.num_key_value_heads
    2
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    sizes = copy.deepcopy({**SIZES, **OVERRIDES.get(model_type, {}), **overrides})
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{k: v for k, v in sizes.items() if v is not None})
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)  # two runs must agree
    auto = AutoModelForMaskedLM if model_type in ENCODERS else AutoModelForCausalLM
    return peaked(auto.from_config(config)).eval()


IMAGE_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "mlp_ratio": 2,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "num_register_tokens": 2,
    "use_absolute_position_embeddings": True,  # BEiT's: it has a bias of its own else
}


def tiny_image_model(model_type: str, seed: int = 0, **overrides: Any) -> Any:
    """A random two-layer model of images of 32 x 32 pixels, in patches of 8 x 8, attention peaked, in eval mode.

    What a new model has at zeros (vectors of positions, relative biases) is drawn too.

    >>> tiny_image_model("vit").config.patch_size
    8
    """
    from transformers import AutoConfig, AutoModel

    assert model_type in IMAGES
    torch.manual_seed(seed)
    known = AutoConfig.for_model(model_type)
    config = AutoConfig.for_model(
        model_type, **{k: v for k, v in IMAGE_SIZES.items() if hasattr(known, k)}, **overrides
    )
    model = peaked(AutoModel.from_config(config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position" in name:
                parameter.normal_(std=0.5)
    return model
