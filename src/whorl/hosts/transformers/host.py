"""The host of a transformers model: `opening` finds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from whorl.encodings import Effect, Encoding, Known, Rotate, Scaled, Spectrum
from whorl.hosts.protocol import Calls, Host, StockForm, name_of
from whorl.hosts.transformers import compat, stating, stock_form
from whorl.hosts.transformers.closed import turns_latent_keys
from whorl.hosts.transformers.families import Family
from whorl.hosts.transformers.rotary_module import stock_spectrum, stock_width
from whorl.hosts.transformers.sizes import tokens_of


def _layer(attention: Any) -> int:
    return getattr(attention, "layer_idx", -1)


def _attends_by(attention: Any) -> str | None:
    return compat.attention_of(attention.config)


@lru_cache(maxsize=256)
def _rebound(attention: Any, name: str, rotate: Callable[..., Any]) -> Callable[..., Any]:
    """One function for all models of a class."""
    return compat.with_global(attention, name, rotate)


CALLS = Calls(
    rotation=compat.ROTATION,
    positions="position_ids",
    mask="attention_mask",
    cache=compat.cache_in,
    layer=_layer,
    attends_by=_attends_by,
)


@dataclass(frozen=True, kw_only=True)
class OpenHost(Host):
    """A model of transformers. Everything `per layer` counts the layers that attend (not a hybrid's convolutions)."""

    family: Family  # what its family's code calls things

    def refuses(self, effect: Effect) -> str | None:
        if self.pair_axes and not isinstance(effect, Rotate):
            return (
                f"does more than turn q and k by fixed frequencies, and tokens of images have three positions in "
                f"{self.named}, a time, a row and a column (M-RoPE), between which it has no distance; try rope, hope "
                "or p-rope, of which each pair goes by the position that the model's own does"
            )
        if not isinstance(effect, Rotate) or self.rotation is None or self.rotation.free:
            return None
        if any(stock_width(self.rotary, of) != 0 for of in self.layer_types):
            return None
        return (
            f"turns q and k, of which the layers of {self.named} hand over no channel (partial_rotary_factor is 0); "
            "load the model with another one in its config, as whorl.load(path, config=changed), or try alibi"
        )

    @property
    def attending(self) -> Any:
        """The part whose attention implementation these layers read: of a model of several parts, the text's alone."""
        own = getattr(self.base, "config", None) is getattr(self.attentions[0], "config", self)
        return self.base if own and hasattr(self.base, "set_attn_implementation") else self.model

    @property
    def attention(self) -> str | None:
        """The name of the implementation by which its layers attend: "sdpa", "eager", "whorl", ..."""
        return compat.attention_of(self.attending.config)

    def set_attention(self, implementation: str | None) -> None:
        """Sets how this host attends. What else the model holds (a vision tower, a draft model) keeps its own, which
        transformers would set along with it."""
        part = self.attending
        models = [m for m in part.modules() if hasattr(m, "set_attn_implementation")]
        kept = [(m.config, compat.attention_of(m.config)) for m in models if m.config is not part.config]
        part.set_attn_implementation(implementation)
        for config, was in kept:
            compat.set_attention_of(config, was)

    @property
    def part(self) -> str:
        if self.attending.config is self.model.config:
            return ""
        return name_of(self.model, self.base)

    def carry(self, implementation: str, attend: Callable[..., Any]) -> None:
        from whorl.hosts.transformers.interface import register  # brings FlexAttention, which a host can do without

        register(implementation, attend)

    @property
    def named(self) -> str:
        return f"model type {self.model.config.model_type!r} ({type(self.model).__name__})"

    @property
    def unmasked_window(self) -> int | None:
        """transformers' caches drop keys by a `sliding_window` also where the family's code never reads it. A window of
        the declared length or more drops none there."""
        config = self.base.config
        size: int | None = getattr(config, "sliding_window", None)
        if size is None or any(self.windows) or compat.has_word("sliding_window", config, self.base, self.model):
            return None
        return None if size >= (getattr(config, "max_position_embeddings", None) or math.inf) else size

    def reuses_keys(self, index: int) -> bool:
        return bool(getattr(self.attentions[index], "is_kv_shared_layer", False))

    def soft_cap(self, index: int) -> float | None:
        cap: float | None = getattr(self.attentions[index], "attn_logit_softcapping", None)
        return cap

    def has_sinks(self, index: int) -> bool:
        return getattr(self.attentions[index], "sinks", None) is not None

    def rebound(self, index: int, rotate: Callable[..., Any]) -> Callable[..., Any]:
        assert self.rotation is not None
        attention: Any = type(self.attentions[index])
        return _rebound(attention, self.rotation.name, rotate)

    def normalised_after(self, index: int) -> tuple[nn.Module, ...]:
        """The norms, those of values left out, that an attention's code reads after its last call of the rotation."""
        if self.rotation is None:
            return ()
        attention = self.attentions[index]
        after = compat.names_after(type(attention), self.rotation.name)
        names = dict.fromkeys(name for name in after if "norm" in name and not name.startswith("v"))
        return tuple(m for name in names if isinstance(m := getattr(attention, name, None), nn.Module))

    @property
    def table_vectors(self) -> torch.Tensor | None:
        """[positions, width]; OPT's has rows before the first position."""
        table = self.position_table
        return None if table is None else table.weight[getattr(table, "offset", 0) :]

    def own_spectrum(self, index: int) -> Spectrum | None:
        """From its rotary module's buffers."""
        if not self.turns[index]:
            return None
        return stock_spectrum(self.rotary, self.layer_types[index], self.shapes[index].head_dim)

    def own_scaled(self, index: int, spectrum: Spectrum) -> Scaled | None:
        return stating.scaled_of(self, index, spectrum)

    @property
    def precision(self) -> float:
        """That of float32 tables, or of bfloat16: model.to(bfloat16) rounds the buffers."""
        buffer = next(b for name, b in self.rotary.named_buffers() if name.endswith("inv_freq"))
        return {2: 2**-7}.get(buffer.element_size(), super().precision)

    def says(self, index: int) -> Known:
        return stating.known_of(self, index)

    def scaling(self, layer_type: str) -> str | None:
        return stating.scaling_of(self, layer_type)

    def kept(self, index: int) -> int | None:
        return stating.kept_of(self, index)

    def recorded(self, key: str) -> Any:
        return getattr(self.model.config, key, None)

    @property
    def stock(self) -> str:
        return f"stock {self.model.config.model_type}"

    def stock_form(self, encoding: Encoding, wanted: Mapping[str, Spectrum]) -> StockForm | str:
        return stock_form.as_rope_parameters(self, encoding, wanted)

    def stock_table(self, encoding: Encoding, table: torch.Tensor | None) -> StockForm | str:
        return stock_form.as_table(self, encoding, self.family.table_size, table)

    def probe(self) -> torch.Tensor | None:
        """Its logits."""
        model = self.model
        if next(model.parameters()).device.type == "meta":
            return None
        vocabulary = tokens_of(model)
        tokens = (torch.arange(11, device=model.device) * 7 % vocabulary)[None]
        logits: torch.Tensor = model(tokens, use_cache=False)[0]
        return logits

    def doubt(self) -> str | None:
        return turns_latent_keys(self.model)
