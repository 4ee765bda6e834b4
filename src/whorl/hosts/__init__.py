"""How model families are opened: a map of their seams, as data. A new family adds one line to `FAMILIES`.

A seam is a place where a positional effect can be put in without touching the model's code:

rotary module   computes tables from positions once per forward; its output reaches every layer as an argument
rotate          the global name under which an attention's `forward` finds the rotation function
position table  a module that maps positions to vectors added to the embedding
first layer     its input is the embedding, so an added encoding can be put in there
attention       transformers' AttentionInterface, by which logits are biased (and q and k turned where no
                rotary module is)
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from torch import nn

from whorl.encodings import Shape


@dataclass(frozen=True)
class Host:
    """Where a family keeps its seams: attribute names, below the base model or below one of its layers."""

    layers: str = "layers"
    attention: str = "self_attn"
    rotary: str | None = "rotary_emb"
    rotate: str = "apply_rotary_pos_emb"
    layout: str = "half"
    position_table: str | None = None


FAMILIES: dict[str, Host] = {
    "llama": Host(),
    "mistral": Host(),
    "olmo2": Host(),
    "qwen2": Host(),
    "qwen3": Host(),
    "starcoder2": Host(),
    "gpt2": Host(layers="h", attention="attn", rotary=None, position_table="wpe"),
}


@dataclass(frozen=True)
class OpenHost:
    """A model with its seams found: the modules themselves."""

    model: Any
    base: Any
    host: Host
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    rotary: nn.Module | None
    position_table: nn.Module | None
    shape: Shape
    layer_types: tuple[str, ...]


def open_host(model: nn.Module) -> OpenHost:
    """Finds a model's seams. Raises ValueError naming what was looked for and what was found."""
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type is None or not hasattr(model, "base_model"):
        raise ValueError(
            f"whorl attaches to Hugging Face transformers models and got a {type(model).__name__} without a "
            "config.model_type; pass the model that AutoModelForCausalLM gave"
        )
    if model_type not in FAMILIES:
        close = difflib.get_close_matches(model_type, FAMILIES, n=1)
        hint = f" (nearest: {close[0]})" if close else ""
        raise ValueError(
            f"no known seam in model type {model_type!r} ({type(model).__name__}); known families: "
            f"{', '.join(FAMILIES)}{hint}; CONTRIBUTING.md, 'add a host', says how to add one"
        )
    host, base = FAMILIES[model_type], model.base_model
    assert isinstance(base, nn.Module)
    layers = tuple(_find(base, host.layers, model))
    attentions = tuple(_find(layer, host.attention, model) for layer in layers)
    return OpenHost(
        model=model,
        base=base,
        host=host,
        layers=layers,
        attentions=attentions,
        rotary=_find(base, host.rotary, model) if host.rotary else None,
        position_table=_find(base, host.position_table, model) if host.position_table else None,
        shape=shape_of(config),
        layer_types=tuple(getattr(config, "layer_types", None) or ["full_attention"] * len(layers)),
    )


def shape_of(config: Any) -> Shape:
    """The sizes that encodings depend on, from a transformers config."""
    heads = config.num_attention_heads
    return Shape(
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        heads=heads,
        width=config.hidden_size,
        bidirectional=not getattr(config, "is_causal", True),
    )


def _find(parent: nn.Module, name: str, model: nn.Module) -> Any:
    found = getattr(parent, name, None)
    if found is None:
        children = ", ".join(n for n, _ in parent.named_children())
        raise ValueError(
            f"looked for {name!r} in {type(parent).__name__} of {type(model).__name__} and found only {children}; "
            "its family's entry in whorl.hosts does not fit this version of transformers"
        )
    return found
