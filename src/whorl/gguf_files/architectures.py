"""llama.cpp's architectures that are read and written, as data: what their graphs fix, and how they rotate q and k.

Read in llama.cpp's source (`src/models/*.cpp`, `src/llama-model.cpp`) of build b11549, October 2026. A family whose
graph is built alike is one more entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from whorl.gguf_files.header import Header


@dataclass(frozen=True)
class Architecture:
    """One architecture of llama.cpp, and the family of transformers that is the same model.

    name         general.architecture
    family       model_type
    written      the class of transformers that export writes as it; None where such files are read alone
    layout       which channels its rope takes for a pair: neighbours ("interleaved", rope type NORM), or those half a
                 width apart ("half", NEOX)
    factors      it divides frequencies by `rope_freqs.weight`, in all layers
    partial      it turns fewer channels than a head has, where `rope.dimension_count` says so; others abort
    square       its queries are as wide as the hidden state, whatever the file says of a head
    local        layers with a window have a base of their own, `rope.freq_base_swa`, and no scaling
    full_every   every so many layers one attends to everything, and the others through a window, where the file does
                 not say which; 0 where no layer has one
    largest      the number of layers by which it knows its 27B, which divides queries by another width (`query_width`)
    norm_offset  what is added to a norm's weight in the file: the graph multiplies by it as it stands
    fixed        settings of the config for which the graph has one value, and no key in the file
    """

    name: str
    family: str
    written: str | None = None
    layout: str = "half"
    factors: bool = False
    partial: bool = False
    square: bool = False
    local: bool = False
    full_every: int = 0
    largest: int = 0
    norm_offset: float = 0.0
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def prose(self) -> str:
        return f"llama.cpp's {self.name} architecture"

    def query_width(self, config: Mapping[str, Any]) -> int | None:
        """The width whose root a Gemma's queries are divided by, which no key says; None for other architectures."""
        if not self.largest:
            return None
        wide = config["num_hidden_layers"] == self.largest
        return int(config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"])


ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture(
            "llama",
            "llama",
            written="LlamaForCausalLM",
            layout="interleaved",
            factors=True,
            fixed=MappingProxyType({"hidden_act": "silu"}),
        ),
        Architecture(
            "qwen2",
            "qwen2",
            written="Qwen2ForCausalLM",
            square=True,
            fixed=MappingProxyType({"hidden_act": "silu", "use_sliding_window": False}),
        ),
        Architecture(
            "qwen3",
            "qwen3",
            written="Qwen3ForCausalLM",
            fixed=MappingProxyType({"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}),
        ),
        Architecture("gemma", "gemma", norm_offset=1.0),
        Architecture("gemma2", "gemma2", full_every=2, largest=46, norm_offset=1.0),
        Architecture(
            "gemma3",
            "gemma3_text",
            written="Gemma3ForCausalLM",
            partial=True,
            local=True,
            full_every=6,
            largest=62,
            norm_offset=1.0,
            fixed=MappingProxyType(
                {
                    "hidden_activation": "gelu_pytorch_tanh",
                    "attention_bias": False,
                    "attn_logit_softcapping": None,
                    "use_bidirectional_attention": False,
                }
            ),
        ),
    )
}


def architecture_of(header: Header) -> Architecture:
    """Raises ValueError, with those that are read, for another."""
    if header.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{header.path} is of the architecture {header.architecture!r}; of GGUF files, {', '.join(ARCHITECTURES)} "
            "are read. Give the directory that it was converted from"
        )
    return ARCHITECTURES[header.architecture]


def architecture_writing(cls: str) -> Architecture | None:
    """The one that export writes a class of transformers as, if it does."""
    return next((one for one in ARCHITECTURES.values() if one.written == cls), None)
