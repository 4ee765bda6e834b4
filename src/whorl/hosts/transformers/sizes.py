"""The sizes of an attention module of transformers: as it says them itself, or else its config."""

from __future__ import annotations

from typing import Any


def head_dim_of(config: Any, attention: Any) -> int:
    """Channels per head, as the attention module says, or else the config."""
    for name in ("head_dim", "head_size", "attention_head_size"):
        if isinstance(getattr(attention, name, None), int):
            return getattr(attention, name)
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def tokens_of(model: Any) -> int:
    """The tokens that a model has embeddings of."""
    return int(model.get_input_embeddings().weight.shape[0])


def headless(model: Any) -> bool:
    """Whether there are no logits of tokens: a base model, or another head on one."""
    return model.get_output_embeddings() is None


def heads_of(config: Any, attention: Any) -> int:
    """Heads of queries, as the attention module says (layers may differ: Laguna), or else the config.

    Under tensor parallelism, of all ranks together.
    """
    for name in ("num_heads", "num_attention_heads"):
        if isinstance(getattr(attention, name, None), int):
            return getattr(attention, name)
    # a projection of queries may hold a gate, too; that of keys holds keys
    keys, groups = getattr(attention, "k_proj", None), getattr(attention, "num_key_value_groups", None)
    width, head_dim = getattr(keys, "out_features", None), head_dim_of(config, attention)
    if isinstance(width, int) and isinstance(groups, int) and width % head_dim == 0:
        return width // head_dim * groups
    return config.num_attention_heads


def text_config(config: Any) -> Any:
    """That of its text, where a model reads images or sounds too."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config
