"""What a GGUF of an architecture that whorl writes says, in transformers' words: sizes, frequencies, weights.

`gguf_rotation` has the formula by which llama.cpp turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from whorl.checking import check_path
from whorl.extras import require
from whorl.gguf_files.layout import back, head_order, reorder_heads
from whorl.runtimes.gguf_architectures import ARCHITECTURES, SLIDING, architecture_named, heads_of, names_of
from whorl.runtimes.gguf_rotation import Rotation


class ReadGGUF(NamedTuple):
    """What a GGUF says. See `read_gguf`."""

    config: dict[str, Any]
    frequencies: tuple[tuple[float, ...], ...]
    weights: dict[str, torch.Tensor]


def read_gguf(path: str | Path) -> ReadGGUF:
    """What an exported GGUF says: a config, for each layer one frequency per pair of a head (radians per token), and
    weights in half layout.

    config: the arguments of the config of transformers' class, but for its rotation; `architecture`, llama.cpp's name;
    `attention_factor`, which multiplies cos and sin; `encoding`, in whorl's notation; `tokenizer`, the kind of it.
    Weights go by transformers' names, in the file's dtype. Where heads turn in part and the pairs that turn are not the
    first, channels come back in another order than they had, and give the same logits.

    Raises ValueError for another architecture, for quantized weights and for scalings that `export` does not write.
    """
    path = Path(check_path("path", path, "the path of a GGUF file"))
    if not path.is_file():
        raise ValueError(f"there is no file {path}; whorl export --runtime gguf writes one")
    require("read_gguf", "gguf")
    import gguf

    reader = gguf.GGUFReader(path)
    config, frequencies = settings_of(reader)
    architecture = architecture_named(config["architecture"])
    assert architecture is not None
    head_dim, turned = config["head_dim"], config.pop("turned") // 2
    order = back(head_order(head_dim, head_dim // 2, range(turned), architecture.layout))
    names = {tensor: module for module, tensor in names_of(architecture, config["num_hidden_layers"]).items()}
    heads = heads_of(config["num_attention_heads"], config["num_key_value_heads"])
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        stem, _, kind = tensor.name.rpartition(".")
        module, value = names[stem], tensor_of(tensor)
        if (last := module.rpartition(".")[2]) in heads:
            value = reorder_heads(value, heads[last], order)
        if last.endswith("norm"):
            value = value - architecture.norm_offset
        weights[f"{module}.{kind}"] = value
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    return ReadGGUF(config, frequencies, weights)


def settings_of(reader: Any) -> tuple[dict[str, Any], tuple[tuple[float, ...], ...]]:
    """A GGUFReader's config and frequencies (see `read_gguf`), and `turned`, the channels that llama.cpp turns, without
    reading a weight."""
    said = {key: field.contents() for key, field in reader.fields.items()}
    name = str(said.get("general.architecture"))
    architecture = architecture_named(name)
    if architecture is None:
        known = ", ".join(one.name for one in ARCHITECTURES.values())
        raise ValueError(f"this GGUF is of the architecture {name!r}; those that are read are {known}")
    said |= {key.removeprefix(f"{name}."): value for key, value in said.items() if key.startswith(f"{name}.")}
    written = ("rope.scaling.attn_factor", "rope.scaling.factor", "rope.scaling.type")
    other = sorted(key for key in said if key.startswith("rope.scaling.") and key not in written)
    other += [f"rope.scaling.type={kind}" for kind in [said.get("rope.scaling.type", "linear")] if kind != "linear"]
    head_dim, turned = said["attention.key_length"], said["rope.dimension_count"]
    if other or (turned != head_dim and not architecture.partial):
        raise ValueError(f"this GGUF has rotary settings that whorl does not write: {other or 'a partial width'}")
    factors = next((t.data for t in reader.tensors if t.name == "rope_freqs.weight"), None)
    channels = tuple(range(head_dim))
    main = Rotation(said["rope.freq_base"], turned, channels, said.get("rope.scaling.factor", 1.0), factors)
    layers = said["block_count"]
    pattern = said.get("attention.sliding_window_pattern", [False] * layers) if architecture.local else [False] * layers
    local = Rotation(said.get("rope.freq_base_swa", 10000.0), turned, channels)
    config = {
        "architecture": name,
        "vocab_size": said["vocab_size"],
        "hidden_size": said["embedding_length"],
        "intermediate_size": said["feed_forward_length"],
        "num_hidden_layers": layers,
        "num_attention_heads": said["attention.head_count"],
        "num_key_value_heads": said["attention.head_count_kv"],
        "head_dim": head_dim,
        "max_position_embeddings": said["context_length"],
        "rms_norm_eps": said["attention.layer_norm_rms_epsilon"],
        "attention_bias": any(t.name.endswith("attn_q.bias") for t in reader.tensors),
        "attention_factor": said.get("rope.scaling.attn_factor", 1.0),
        "encoding": said.get("whorl.encoding"),
        "tokenizer": said.get("tokenizer.ggml.model"),
        "turned": turned,
    }
    if name == "llama":
        config["mlp_bias"] = any(t.name.endswith("ffn_up.bias") for t in reader.tensors)
    if architecture.local:
        config["layer_types"] = [SLIDING if local_one else "full_attention" for local_one in pattern]
        config["sliding_window"] = said.get("attention.sliding_window")
        config["final_logit_softcapping"] = said.get("final_logit_softcapping")
    if architecture.query_scale is not None:
        config["query_pre_attn_scalar"] = head_dim
    return config, tuple((local if is_local else main).frequencies for is_local in pattern)


def tensor_of(tensor: Any) -> torch.Tensor:
    """A tensor of a GGUFReader, whose shape it says innermost first."""
    from gguf import GGMLQuantizationType as kinds

    if tensor.tensor_type not in (kinds.F32, kinds.F16, kinds.BF16):
        raise ValueError(f"{tensor.name} is quantized ({tensor.tensor_type.name}); whorl reads f32, f16 and bf16")
    value = torch.from_numpy(np.array(tensor.data))
    if tensor.tensor_type == kinds.BF16:
        value = value.view(torch.bfloat16)
    return value.reshape(tuple(int(n) for n in reversed(tensor.shape)))
