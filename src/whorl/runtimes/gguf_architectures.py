"""The architectures of llama.cpp that whorl writes, as data: what a graph's own code fixes, and how it turns q and k.

Read in llama.cpp's source (`src/models/*.cpp`, `src/llama-model.cpp`) of build b11549, October 2026, and run there. A
family whose graph is built alike is one more entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

LAYER = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)
NORMS = ("self_attn.q_norm", "self_attn.k_norm")
SLIDING = "sliding_attention"


@dataclass(frozen=True)
class Architecture:
    """One graph of llama.cpp, for one class of transformers.

    name         general.architecture
    layout       which channels its rope takes for a pair: "interleaved" (rope type NORM) or "half" (NEOX)
    factors      it divides frequencies by `rope_freqs.weight`, in all layers
    partial      it turns fewer channels than a head has, where `rope.dimension_count` says so; others abort
    local        layers with a sliding window have a base of their own, `rope.freq_base_swa`, and no scale
    layer        the modules of a layer
    norm_offset  what is added to a norm's weight in the file: the graph multiplies by it as it stands
    fixed        settings of the config for which the graph has one value, and no key in the file
    query_scale  the width whose root queries are divided by, which the graph reckons itself
    """

    name: str
    layout: str
    factors: bool = False
    partial: bool = False
    local: bool = False
    layer: tuple[str, ...] = LAYER
    norm_offset: float = 0.0
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"hidden_act": "silu"}))
    query_scale: Callable[[Any], float] | None = None

    @property
    def prose(self) -> str:
        return f"llama.cpp's {self.name} architecture"


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", "interleaved", factors=True),
    "Qwen2ForCausalLM": Architecture(
        "qwen2", "half", fixed=MappingProxyType({"hidden_act": "silu", "use_sliding_window": False})
    ),
    "Qwen3ForCausalLM": Architecture(
        "qwen3",
        "half",
        layer=(*LAYER, *NORMS),
        fixed=MappingProxyType({"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}),
    ),
    "Gemma3ForCausalLM": Architecture(
        "gemma3",
        "half",
        partial=True,
        local=True,
        layer=(*LAYER, *NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        norm_offset=1.0,
        fixed=MappingProxyType(
            {
                "hidden_activation": "gelu_pytorch_tanh",
                "attention_bias": False,
                "attn_logit_softcapping": None,
                "use_bidirectional_attention": False,
            }
        ),
        # llama.cpp knows Gemma 3 27B by its 62 layers.
        query_scale=lambda config: (
            config.hidden_size / config.num_attention_heads if config.num_hidden_layers == 62 else config.head_dim
        ),
    ),
}


def architecture_named(name: str) -> Architecture | None:
    """The one that a file's `general.architecture` names; None where whorl does not write it."""
    return next((one for one in ARCHITECTURES.values() if one.name == name), None)


def names_of(architecture: Architecture, layers: int) -> dict[str, str]:
    """The names of a file's tensors by those of transformers' modules, both without `.weight` and `.bias`."""
    import gguf

    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name.upper()], layers)
    modules = ["model.embed_tokens", "model.norm", "lm_head"]
    modules += [f"model.layers.{i}.{module}" for i in range(layers) for module in architecture.layer]
    return {module: known.get_name(module) for module in modules}


def heads_of(queries: int, keys: int) -> dict[str, int]:
    """The modules whose rows (a norm's weights) are channels of heads that turn, and how many heads each has."""
    return {"q_proj": queries, "k_proj": keys, "q_norm": 1, "k_norm": 1}
