"""What the keys of a GGUF say, as a config of transformers.

What a file does not say is what llama.cpp has in its code for the architecture, or the family's default.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whorl.gguf_files import positions
from whorl.gguf_files.architectures import Architecture, architecture_of
from whorl.gguf_files.header import Header

# By their names in a file, below the architecture's own, and in a config.
EPSILON = "attention.layer_norm_rms_epsilon"
SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    EPSILON: "rms_norm_eps",
}
KV_HEADS, KEY_WIDTH, VALUE_WIDTH = "attention.head_count_kv", "attention.key_length", "attention.value_length"
WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
IDS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}
READ = (
    *SIZES, *positions.KEYS, "vocab_size", KV_HEADS, KEY_WIDTH, VALUE_WIDTH, WINDOW, PATTERN, *CAPS,
    *("attention.scale", "attention.causal"),
)  # fmt: skip


def config_arguments(header: Header, factors: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """The arguments of the family's config. Raises ValueError for a key that is missing, and one that nothing reads.

    factors: the tensor `rope_freqs.weight`, where there is one.
    """
    architecture = architecture_of(header)
    _refuse_unread(header, architecture)
    lacking = [key for key in SIZES if header.get(key) is None]
    if lacking or "token_embd.weight" not in header.tensors:
        raise ValueError(f"{header.path} lacks {', '.join(lacking) or 'token_embd.weight'}: it is no whole model")
    if (blocks := header.get("block_count")) > len(header.tensors):  # before so many are made
        raise ValueError(f"{header.path} says block_count {blocks}, and holds {len(header.tensors)} tensors in all")
    config = dict(architecture.fixed) | {ours: header.get(key) for key, ours in SIZES.items()}
    config["rms_norm_eps"] = float(str(np.float32(config["rms_norm_eps"])))
    heads = config["num_attention_heads"]
    kv_heads = header.get(KV_HEADS, heads)
    for name, count in (("attention.head_count", heads), (KV_HEADS, kv_heads)):
        if isinstance(count, list):
            raise ValueError(f"{header.path} has a {name} for each layer, which no {header.architecture} here has")
    head_dim = header.get(KEY_WIDTH, config["hidden_size"] // heads)
    if not header.get("attention.causal", True):
        raise ValueError(f"{header.path} is of a model whose tokens see those after them, and a decoder is wanted")
    if header.get(VALUE_WIDTH, head_dim) != head_dim:
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
        **{key: value for key in CAPS if (value := header.get(key)) is not None},
        **{ours: header.said.get(f"tokenizer.ggml.{theirs}") for theirs, ours in IDS.items()},
    }
    if header.architecture == "llama":
        config["attention_bias"] = any(name.endswith("attn_q.bias") for name in header.tensors)
        config["mlp_bias"] = any(name.endswith("ffn_up.bias") for name in header.tensors)
    if (scalar := architecture.query_width(config)) is not None:
        config["query_pre_attn_scalar"] = scalar
    if architecture.full_every:
        config |= _windows(header, architecture, config["num_hidden_layers"])
    if architecture.local:
        local = positions.local_settings(header, head_dim)
        config["rope_parameters"] = {positions.FULL: config["rope_parameters"], positions.LOCAL: local}
    _check_scale(header, config)
    return config


def _windows(header: Header, architecture: Architecture, layers: int) -> dict[str, Any]:
    """Which layers have a window, and how long it is if the file says so."""
    every = header.get(PATTERN, architecture.full_every)
    windowed = every if isinstance(every, list) else [(i + 1) % every != 0 for i in range(layers)]
    if len(windowed) != layers:
        raise ValueError(f"{header.path} says of {len(windowed)} layers which have a window, and has {layers}")
    window = header.get(WINDOW)
    return {
        "layer_types": [positions.LOCAL if one else positions.FULL for one in windowed],
        **({} if window is None else {"sliding_window": window}),
    }


def _check_scale(header: Header, config: dict[str, Any]) -> None:
    said, head_dim = header.get("attention.scale"), config.get("query_pre_attn_scalar", config["head_dim"])
    if said and abs(said - head_dim**-0.5) > 1e-6 * said:
        raise ValueError(f"{header.path} scales logits by {said:g}, where its family has 1 / sqrt({head_dim})")


def _refuse_unread(header: Header, architecture: Architecture) -> None:
    """Raises ValueError for a key of the architecture that says something and is read by nothing here, or by nothing in
    llama.cpp."""
    prefix = f"{header.architecture}."
    own = {key.removeprefix(prefix): value for key, value in header.said.items() if key.startswith(prefix)}
    instead = positions.run_instead(header)
    ignored = {key: own.pop(key) for key in instead if key in own}
    other = {k: value for k, value in ignored.items() if abs(value - instead[k]) > positions.SINGLE * abs(instead[k])}
    if other:
        said = ", ".join(f"{prefix}{key} = {value:g}" for key, value in other.items())
        runs = " and ".join(f"{instead[key]:g}" for key in other)
        raise ValueError(
            f"{header.path} says {said}, and llama.cpp, which does not read that for {header.architecture}, runs "
            f"{runs}: these are two models. Give the directory that it was converted from"
        )
    unread = {key: value for key, value in own.items() if key not in READ and value not in (0, "", [], None)}
    if not architecture.full_every:
        unread |= {key: own[key] for key in (WINDOW, PATTERN, *CAPS) if own.get(key)}
    if unread:
        said = ", ".join(f"{prefix}{key} = {str(value)[:40]}" for key, value in sorted(unread.items()))
        raise ValueError(
            f"{header.path} says {said}, and whorl does not know what that means for {header.architecture}"
        )
