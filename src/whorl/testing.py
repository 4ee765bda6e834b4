"""What a test of an encoding or a kernel needs: inputs, tiny models, and tolerances that are derived, not typed.

Public, so that others can test their own encodings the way whorl tests its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def error_budget(
    function: Callable[..., torch.Tensor], arguments: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, float]:
    """The float64 truth of `function(*arguments)` and the error that an implementation in `dtype` may have.

    The budget is twice the error that the same function makes in `dtype`, plus one rounding of the largest value: the
    tolerance rule of CONTRIBUTING.md.
    """
    truth = function(*(a.double() for a in arguments))
    same_precision = function(*(a.to(dtype) for a in arguments))
    rounding = torch.finfo(dtype).eps * float(truth.abs().max())
    return truth, 2 * max_error(same_precision, truth) + rounding


def max_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest absolute difference, taken in float64."""
    return float((value.double() - truth.double()).abs().max())


@torch.no_grad()
def peaked(model: Any, factor: float = 8.0) -> Any:
    """Scales the query and key weights until attention is peaked, so that positions matter. Returns the model.

    On a default random model a fault in the positions moves the logits by 5e-5, which no test would see.
    """
    for module in model.modules():
        for name in ("q_proj", "k_proj"):
            if hasattr(module, name):
                getattr(module, name).weight.mul_(factor)
        if hasattr(module, "c_attn"):
            query_and_key = 2 * module.c_attn.weight.shape[1] // 3
            module.c_attn.weight[:, :query_and_key].mul_(factor)
    return model


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> Any:
    """A random three-layer model of a family, grouped heads where the family has them, attention peaked, in eval mode.

    >>> tiny_model("llama").config.num_key_value_heads
    2
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if model_type == "gpt2":
        for name in ("intermediate_size", "num_key_value_heads", "head_dim"):
            del sizes[name]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**sizes, **overrides})
    return peaked(AutoModelForCausalLM.from_config(config)).eval()
