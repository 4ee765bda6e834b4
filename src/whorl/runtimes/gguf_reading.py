"""What a GGUF of the llama architecture says, in transformers' words: sizes, frequencies, weights.

llama.cpp turns pair i by position x base^(-2i/d) / factor_i, for all d/2 pairs of a head. A pair that stands still has
the factor 1e30, as in llama.cpp's own Gemma 4: its cos is 1, and its sin below 1e-20, which float32 sums do not see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from whorl.checking import check_path
from whorl.encodings.spectrum import rope_frequencies
from whorl.extras import require
from whorl.runtimes.layout import permute_layout

STILL = 1e30  # the factor of a pair that does not turn


class GGUFLlama(NamedTuple):
    """A GGUF of the llama architecture. See `read_gguf_llama`."""

    config: dict[str, Any]
    frequencies: tuple[float, ...]
    weights: dict[str, torch.Tensor]


def read_gguf_llama(path: str | Path) -> GGUFLlama:
    """What an exported GGUF says: a config, one frequency per pair (radians per token), and weights in half layout.

    config: the arguments of a LlamaConfig, but for its rotation; `attention_factor`, which multiplies cos and sin;
    `encoding`, in whorl's notation; `tokenizer`, the kind of it. Weights go by transformers' names, in the file's
    dtype. The channels of heads that turn in part come back in another order than they had, and give the same logits.

    Raises ValueError for another architecture, for quantized weights and for scalings that `export` does not write.
    """
    path = Path(check_path("path", path, "the path of a GGUF file"))
    if not path.is_file():
        raise ValueError(f"there is no file {path}; whorl export --runtime gguf writes one")
    require("read_gguf_llama", "gguf")
    import gguf

    reader = gguf.GGUFReader(path)
    config, frequencies = settings_of(reader)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"]).mapping
    # Several families' names lead to one tensor; Llama's are those below "model." and lm_head.
    back = {v[1]: k for k, v in names.items() if k == "lm_head" or (k.startswith("model.") and _is_llamas(k))}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        stem, _, kind = tensor.name.rpartition(".")
        name, value = back[stem], tensor_of(tensor)
        module = name.rpartition(".")[2]
        if module in heads:
            value = permute_layout(value, heads[module], config["head_dim"], to="half")
        weights[f"{name}.{kind}"] = value
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    return GGUFLlama(config, frequencies, weights)


LAYER = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def _is_llamas(name: str) -> bool:
    parts = name.split(".", 3)
    return name in ("model.embed_tokens", "model.norm") or (
        len(parts) == 4 and parts[1] == "layers" and parts[3] in LAYER
    )


def settings_of(reader: Any) -> tuple[dict[str, Any], tuple[float, ...]]:
    """A GGUFReader's config and frequencies (see `read_gguf_llama`), without reading a weight."""
    said = {key: field.contents() for key, field in reader.fields.items()}
    if said.get("general.architecture") != "llama":
        raise ValueError(f"this GGUF is of the architecture {said.get('general.architecture')!r}; llama alone is read")
    scaling = sorted(k for k in said if k.startswith("llama.rope.scaling.") and not k.endswith(".attn_factor"))
    if scaling or said["llama.rope.dimension_count"] != said["llama.attention.key_length"]:
        raise ValueError(f"this GGUF has rotary settings that whorl does not write: {scaling or 'a partial width'}")
    head_dim = said["llama.rope.dimension_count"]
    factors = np.ones(head_dim // 2)
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            factors = tensor.data.astype(np.float64)
    own = rope_frequencies(said["llama.rope.freq_base"], head_dim)
    frequencies = tuple(0.0 if x >= 0.999 * STILL else f / float(x) for f, x in zip(own, factors, strict=True))
    config = {
        "vocab_size": said["llama.vocab_size"],
        "hidden_size": said["llama.embedding_length"],
        "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"],
        "num_attention_heads": said["llama.attention.head_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "head_dim": said["llama.attention.key_length"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": said["llama.attention.layer_norm_rms_epsilon"],
        "attention_bias": any(t.name.endswith("attn_q.bias") for t in reader.tensors),
        "mlp_bias": any(t.name.endswith("ffn_up.bias") for t in reader.tensors),
        "attention_factor": said.get("llama.rope.scaling.attn_factor", 1.0),
        "encoding": said.get("whorl.encoding"),
        "tokenizer": said.get("tokenizer.ggml.model"),
    }
    return config, frequencies


def tensor_of(tensor: Any) -> torch.Tensor:
    """A tensor of a GGUFReader, whose shape it says innermost first."""
    from gguf import GGMLQuantizationType as kinds

    if tensor.tensor_type not in (kinds.F32, kinds.F16, kinds.BF16):
        raise ValueError(f"{tensor.name} is quantized ({tensor.tensor_type.name}); whorl reads f32, f16 and bf16")
    value = torch.from_numpy(np.array(tensor.data))
    if tensor.tensor_type == kinds.BF16:
        value = value.view(torch.bfloat16)
    return value.reshape(tuple(int(n) for n in reversed(tensor.shape)))
