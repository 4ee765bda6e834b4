"""Which architectures of GGUF are read, and what their keys say as a config of transformers.

What a file does not say is what llama.cpp has in its code for the architecture, or the family's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whorl.gguf_files import positions
from whorl.gguf_files.header import Header


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp as a family of transformers.

    family       its model_type
    layout   which channels its rope takes for a pair: neighbours ("interleaved"), or those half a width apart ("half")
    factors  it divides frequencies by `rope_freqs.weight`
    partial  it turns fewer channels than a head has, where `rope.dimension_count` says so
    local    layers with a window have a base of their own
    offset   norms are stored as their weight plus 1
    """

    family: str
    layout: str = "half"
    factors: bool = False
    partial: bool = False
    local: bool = False
    offset: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", layout="interleaved", factors=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", offset=True),
    "gemma2": Architecture("gemma2", offset=True),
    "gemma3": Architecture("gemma3_text", partial=True, local=True, offset=True),
}

# By their names in a file, below the architecture's own, and in a config.
SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}
READ = (
    *SIZES, *positions.KEYS, "vocab_size", WINDOW, PATTERN, *CAPS,
    *(f"attention.{key}" for key in ("head_count_kv", "key_length", "value_length", "scale", "causal")),
)  # fmt: skip
FULL_EVERY = 6  # layers of Gemma 3
LARGEST = {"gemma2": 46, "gemma3": 62}  # layers of the 27B, whose logits are scaled by the width per head


def architecture_of(header: Header) -> Architecture:
    """Raises ValueError, with those that are read, for another."""
    if header.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{header.path} is of the architecture {header.architecture!r}; of GGUF files, {', '.join(ARCHITECTURES)} "
            "are read. Give the directory that it was converted from"
        )
    return ARCHITECTURES[header.architecture]


def config_arguments(header: Header, factors: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """The arguments of the family's config. Raises ValueError for a key that is missing, and one that nothing reads.

    factors: the tensor `rope_freqs.weight`, where there is one.
    """
    architecture = architecture_of(header)
    _refuse_unread(header)
    lacking = [key for key in SIZES if header.get(key) is None]
    if lacking or "token_embd.weight" not in header.tensors:
        raise ValueError(f"{header.path} lacks {', '.join(lacking) or 'token_embd.weight'}: it is no whole model")
    config = {ours: header.get(key) for key, ours in SIZES.items()}
    config["rms_norm_eps"] = float(str(np.float32(config["rms_norm_eps"])))
    heads = config["num_attention_heads"]
    kv_heads = header.get("attention.head_count_kv", heads)
    for name, count in (("attention.head_count", heads), ("attention.head_count_kv", kv_heads)):
        if isinstance(count, list):
            raise ValueError(f"{header.path} has a {name} for each layer, which no {header.architecture} here has")
    head_dim = header.get("attention.key_length", config["hidden_size"] // heads)
    if not header.get("attention.causal", True):
        raise ValueError(f"{header.path} is of a model whose tokens see those after them, and a decoder is wanted")
    if header.get("attention.value_length", head_dim) != head_dim:
        raise ValueError(
            f"{header.path} has values of another width than keys, which no {header.architecture} here has"
        )
    if (width := positions.turned(header, head_dim)) != head_dim and not architecture.partial:
        raise ValueError(
            f"{header.path} turns {width} of {head_dim} channels, which no {header.architecture} here does"
        )
    if factors is not None and not architecture.factors:
        raise ValueError(
            f"{header.path} has {positions.FACTORS}, which llama.cpp does not read for {header.architecture}: what it "
            "means here is not known"
        )
    config |= {
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "rope_parameters": positions.rope_settings(header, head_dim, factors),
        **{ours: value for key, ours in CAPS.items() if (value := header.get(key)) is not None},
        **{ours: header.said.get(f"tokenizer.ggml.{theirs}") for theirs, ours in IDS.items()},
    }
    if header.architecture == "llama":
        config["attention_bias"] = any(name.endswith("attn_q.bias") for name in header.tensors)
        config["mlp_bias"] = any(name.endswith("ffn_up.bias") for name in header.tensors)
    if header.architecture in ("gemma2", "gemma3"):
        config |= _of_gemma(header, config)
    if architecture.local:
        local = positions.local_settings(header, head_dim)
        config["rope_parameters"] = {"full_attention": config["rope_parameters"], positions.LOCAL: local}
    _check_scale(header, config)
    return config


def _of_gemma(header: Header, config: dict[str, Any]) -> dict[str, Any]:
    """What layers with a window, and the scale of the logits, are in Gemma 2 and 3."""
    layers, third = config["num_hidden_layers"], header.architecture == "gemma3"
    wide = layers == LARGEST[header.architecture]
    found: dict[str, Any] = {
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"]
    }
    if (window := header.get(WINDOW)) is not None:
        found["sliding_window"] = window
    every = header.get(PATTERN, FULL_EVERY if third else 2)
    windowed = every if isinstance(every, list) else [(i + 1) % every != 0 for i in range(layers)]
    if len(windowed) != layers:
        raise ValueError(f"{header.path} says of {len(windowed)} layers which have a window, and has {layers}")
    found["layer_types"] = ["sliding_attention" if one else "full_attention" for one in windowed]
    return found


def _check_scale(header: Header, config: dict[str, Any]) -> None:
    said, head_dim = header.get("attention.scale"), config.get("query_pre_attn_scalar", config["head_dim"])
    if said and abs(said - head_dim**-0.5) > 1e-6 * said:
        raise ValueError(f"{header.path} scales logits by {said:g}, where its family has 1 / sqrt({head_dim})")


def _refuse_unread(header: Header) -> None:
    """Raises ValueError for a key of the architecture that says something and is read by nothing here."""
    prefix = f"{header.architecture}."
    own = {key.removeprefix(prefix): value for key, value in header.said.items() if key.startswith(prefix)}
    unread = {key: value for key, value in own.items() if key not in READ and value not in (0, "", [], None)}
    if header.architecture not in ("gemma2", "gemma3"):
        unread |= {key: own[key] for key in (WINDOW, PATTERN, *CAPS) if own.get(key)}
    if unread:
        said = ", ".join(f"{prefix}{key} = {str(value)[:40]}" for key, value in sorted(unread.items()))
        raise ValueError(
            f"{header.path} says {said}, and whorl does not know what that means for {header.architecture}"
        )
