"""Joins an encoding to a host. `attach` replaces whatever encoding a model has; `detach` restores it bit for bit.

Nothing process-wide is patched. What is put in place, and taken away again:

rotary module       an instance `forward` that gives whorl's tables, which travel to the layers as arguments
attention modules   an instance `forward`: the class's own code, with its rotation function rebound
position table      an instance `forward` that gives the new encoding's vectors, or zeros
first layer         a forward pre-hook that adds an encoding to the embedding, where the host has no table
base model          a submodule `whorl` that holds the encoding and its learned parameters
attention interface "whorl", where logits are biased, or q and k turned in a host without a rotary module

Everything that a forward needs is read from its arguments and from `self`, never from a closure, so that
`copy.deepcopy`, gradient checkpointing and several models in one process are safe.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from whorl.encodings import Add, Bias, Encoding, Rotate, Spectrum, parse
from whorl.hosts import OpenHost, open_host
from whorl.ops import Tables, biased_attention, rotate, rotation_tables

INTERFACE = "whorl"


@dataclass
class LayerSeam:
    """What one attention module needs of its encoding, kept in the module's `__dict__` as `whorl_seam`."""

    table: int  # which of the rotary module's tables is this layer's
    spectrum: Spectrum | None  # turned inside the attention interface, where the host has no rotary module
    layout: str
    biases: tuple[nn.Module, ...]
    forward: Callable[..., Any] | None  # the class's forward, rotation rebound


class Attachment(nn.Module):
    """The encoding that a model carries, and its learned parameters; found at `base_model.whorl`."""

    def __init__(self, encoding: Encoding, effects: list[nn.Module], attention_was: str | None) -> None:
        super().__init__()
        self.encoding = encoding
        self.effects = nn.ModuleList(effects)
        self.attention_was = attention_was

    def extra_repr(self) -> str:
        return str(self.encoding)


def attach(model: Any, encoding: Encoding | str) -> Any:
    """Gives `model` this positional encoding in place of the one that it has, and returns the model.

    encoding: an `Encoding`, or its notation ("p-rope:p=0.5"). The model's weights are left as they are; learned
    parameters of the encoding (T5's table, say) join `model.parameters()`. Attaching again replaces.

    Raises ValueError, with the model unchanged, for a model without a known seam, sizes that cannot carry the
    encoding, a layer type without a rule, or a module whose `forward` somebody else has replaced.

    >>> model = whorl.attach(model, whorl.HoPE(train_length=4096))
    """
    encoding = parse(encoding)
    host = open_host(model)
    plan = _plan(host, encoding)
    before = attached(model)
    _refuse_foreign_forwards(host)
    if before is not None:
        detach(model)
    _carry_out(host, encoding, plan)
    _forget_compiled()
    return model


def detach(model: Any) -> Any:
    """Takes the attached encoding off again: the model's outputs are bit for bit what they were. Returns the model.

    Raises ValueError when nothing is attached.
    """
    attachment = attached(model)
    if attachment is None:
        raise ValueError(
            f"nothing is attached to this {type(model).__name__}; whorl.attach(model, encoding) comes first"
        )
    host = open_host(model)
    for module in (*host.attentions, host.rotary, host.position_table):
        if module is not None:
            for name in ("forward", "whorl_seam", "whorl_spectra", "whorl_add"):
                module.__dict__.pop(name, None)
    first = host.layers[0]
    for key in [key for key, hook in first._forward_pre_hooks.items() if hook is _add_to_embedding]:
        del first._forward_pre_hooks[key]
        first._forward_pre_hooks_with_kwargs.pop(key, None)
    first.__dict__.pop("whorl_add", None)
    if attachment.attention_was is not None:
        model.set_attn_implementation(attachment.attention_was)
    del host.base.whorl
    _forget_compiled()
    return model


def attached(model: Any) -> Attachment | None:
    """What `attach` has put on this model, or None."""
    return getattr(getattr(model, "base_model", None), "whorl", None)


@dataclass
class _Plan:
    """Everything that can go wrong is worked out here, before the model is touched."""

    spectra: list[Spectrum]  # distinct ones, in order of first use
    layers: list[LayerSeam]
    add: nn.Module | None
    modules: list[nn.Module]
    needs_interface: bool


def _plan(host: OpenHost, encoding: Encoding) -> _Plan:
    shape = host.shape
    spectra: list[Spectrum] = []
    seams: list[LayerSeam] = []
    modules: list[nn.Module] = []
    add: nn.Module | None = None
    shared: dict[Encoding, tuple[Any, ...]] = {}
    still = Spectrum((), shape.head_dim)
    for index, attention in enumerate(host.attentions):
        of_layer = encoding.for_layer(index, host.layer_types[index])
        spectrum, biases = still, []
        for part in getattr(of_layer, "parts", (of_layer,)):
            effects = shared.get(part)
            if effects is None:
                effects = part.effects(shape)
                modules += [e.module for e in effects if not isinstance(e, Rotate)]
                if all(e.shared for e in effects if isinstance(e, Bias)):
                    shared[part] = effects
            for effect in effects:
                if isinstance(effect, Rotate):
                    spectrum = effect.spectrum
                elif isinstance(effect, Bias):
                    biases.append(effect.module)
                elif isinstance(effect, Add):
                    add = effect.module
        if spectrum not in spectra:
            spectra.append(spectrum)
        cls: Any = type(attention)
        rebound = _rebound(cls, host.host.rotate, host.host.layout) if host.rotary is not None else None
        late = spectrum if host.rotary is None and spectrum.turning else None
        seams.append(LayerSeam(spectra.index(spectrum), late, host.host.layout, tuple(biases), rebound))
    needs_interface = any(seam.biases or seam.spectrum for seam in seams)
    return _Plan(spectra, seams, add, modules, needs_interface)


def _carry_out(host: OpenHost, encoding: Encoding, plan: _Plan) -> None:
    model, base = host.model, host.base
    attention_was = None
    if plan.needs_interface:
        _register_interface()
        attention_was = model.config._attn_implementation
        model.set_attn_implementation(INTERFACE)
        if model.config._attn_implementation != INTERFACE:
            raise ValueError(f"{type(model).__name__} does not let its attention be set, which {encoding} needs")
    parameter = next(model.parameters())
    attachment = Attachment(encoding, plan.modules, attention_was)
    base.whorl = attachment.to(device=parameter.device, dtype=parameter.dtype)
    for attention, seam in zip(host.attentions, plan.layers, strict=True):
        attention.__dict__["whorl_seam"] = seam
        if seam.forward is not None:
            _set_forward(attention, _attention_forward)
    if host.rotary is not None:
        host.rotary.__dict__["whorl_spectra"] = tuple(plan.spectra)
        _set_forward(host.rotary, _rotary_forward)
    if host.position_table is not None:
        host.position_table.__dict__["whorl_add"] = plan.add
        _set_forward(host.position_table, _position_table_forward)
    elif plan.add is not None:
        host.layers[0].__dict__["whorl_add"] = plan.add
        host.layers[0].register_forward_pre_hook(_add_to_embedding, with_kwargs=True)


def _set_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.__dict__["forward"] = types.MethodType(forward, module)


def _refuse_foreign_forwards(host: OpenHost) -> None:
    ours = (_attention_forward, _rotary_forward, _position_table_forward)
    for module in (*host.attentions, host.rotary, host.position_table):
        forward = None if module is None else module.__dict__.get("forward")
        if forward is not None and getattr(forward, "__func__", None) not in ours:
            raise ValueError(
                f"the forward of a {type(module).__name__} has been replaced already, by {forward!r} (accelerate's "
                "hooks do this); attach the encoding first, and dispatch or wrap the model afterwards"
            )


def _forget_compiled() -> None:
    """A compiled graph keeps the functions that it was traced with; drop it, so that the next call traces anew."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


# The functions below run in a forward. Each is bound to one module and reads its state from there.


def _rotary_forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, None]:
    """In place of (cos, sin): (the tables of every distinct spectrum, None)."""
    return tuple(rotation_tables(s, position_ids, x.dtype) for s in self.whorl_spectra), None


def _attention_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The class's own forward, given this layer's tables."""
    seam: LayerSeam = self.whorl_seam
    tables, _ = kwargs.pop("position_embeddings")
    assert seam.forward is not None
    return seam.forward(self, *args, position_embeddings=(tables[seam.table], None), **kwargs)


def _position_table_forward(self: Any, position_ids: torch.Tensor) -> torch.Tensor:
    """The added encoding's vectors, or a zero: the host's own table is silent."""
    if self.whorl_add is None:
        return self.weight.new_zeros(())
    return self.whorl_add(position_ids).to(self.weight.dtype)


def _add_to_embedding(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A pre-hook of the first layer: hidden states + the vectors of their positions."""
    positions = kwargs.get("position_ids")
    if positions is None:
        raise ValueError(f"{type(layer).__name__} was called without position_ids, which an added encoding needs")
    hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
    return (hidden + layer.whorl_add(positions).to(hidden.dtype), *rest), kwargs


@cache
def _rebound(attention: Any, name: str, layout: str) -> Callable[..., Any]:
    """The class's `forward` with the global `name` pointing at whorl's rotation; the class itself is not touched.

    `__name__` is left out of the copied globals: with it, torch.compile looks values up in the real module.
    """
    forward = inspect.unwrap(attention.forward)
    if name not in forward.__code__.co_names:
        raise ValueError(
            f"looked for a call of {name} in {attention.__name__}.forward and found none; "
            "this version of transformers keeps its rotation elsewhere"
        )
    replaced = {key: value for key, value in forward.__globals__.items() if key != "__name__"}
    replaced[name] = {"half": _rotate_half, "interleaved": _rotate_interleaved}[layout]
    rebound = types.FunctionType(
        forward.__code__, replaced, forward.__name__, forward.__defaults__, forward.__closure__
    )
    rebound.__kwdefaults__ = forward.__kwdefaults__
    return rebound


def _rotate_half(q: torch.Tensor, k: torch.Tensor, cos: Tables, sin: None, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    """Stands in for `apply_rotary_pos_emb`; the tables arrive in the place of cos."""
    return rotate(q, k, cos, layout="half", heads_dim=unsqueeze_dim)


def _rotate_interleaved(
    q: torch.Tensor, k: torch.Tensor, cos: Tables, sin: None, unsqueeze_dim: int = 1
) -> tuple[Any, Any]:
    return rotate(q, k, cos, layout="interleaved", heads_dim=unsqueeze_dim)


@cache
def _register_interface() -> None:
    """Registers the attention *and* its mask function: without the latter causality is lost without a word."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
        return sdpa_mask(*args, **kwargs)

    AttentionInterface.register(INTERFACE, _attention_interface)
    AttentionMaskInterface.register(INTERFACE, mask)


def _attention_interface(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    **__: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' attention function: q and k [batch, heads, tokens, head_dim], k and v with the cache's keys."""
    seam: LayerSeam | None = module.__dict__.get("whorl_seam")
    if seam is None:
        raise ValueError(
            f"attn_implementation is 'whorl' on a {type(module).__name__} with no encoding attached; "
            "use whorl.attach(model, encoding), which sets it"
        )
    if position_ids is None:
        raise ValueError(f"{type(module).__name__} passes no position_ids to its attention, which {INTERFACE} needs")
    biases: list[nn.Module] = list(seam.biases)
    mask = visible = attention_mask
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        biases.append(_Given(attention_mask))
        mask, visible = None, attention_mask >= 0
    keys_at = _key_positions(position_ids, visible, key.shape[2])
    if seam.spectrum is not None:
        query, _ = rotate(query, None, rotation_tables(seam.spectrum, position_ids, query.dtype), layout=seam.layout)
        key, _ = rotate(key, None, rotation_tables(seam.spectrum, keys_at, key.dtype), layout=seam.layout)
    output, weights = biased_attention(
        query,
        key,
        value,
        biases,
        query_positions=position_ids,
        key_positions=keys_at,
        mask=mask,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=s_aux,
        dropout=dropout,
    )
    return output.transpose(1, 2).contiguous(), weights


class _Given(nn.Module):
    """An additive mask that the caller made, as one more bias."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        return self.mask


def _key_positions(query_positions: torch.Tensor, visible: torch.Tensor | None, keys: int) -> torch.Tensor:
    """The positions [batch, keys] of the keys that queries at `query_positions` [batch, queries] attend to.

    Without a cache the keys are the queries, and so are their positions. With one, the last key that the last query
    sees is itself, and the keys before it stand at consecutive positions: true of every cache that `generate` fills,
    left padding and static caches included; positions with gaps before the current call are not known here.
    """
    if keys == query_positions.shape[1]:
        return query_positions
    if visible is None:
        raise ValueError(
            f"{query_positions.shape[1]} queries and {keys} keys without a mask: their positions are unknown"
        )
    slots = torch.arange(keys, device=visible.device)
    own = (visible[:, 0, -1, :] * (slots + 1)).amax(-1, keepdim=True) - 1
    return query_positions[:, -1:] + (slots - own)
