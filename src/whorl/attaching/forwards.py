"""The forwards that `placing` puts on a host's modules. Each is bound to one module and reads its state from there."""

from __future__ import annotations

from typing import Any

import torch

from whorl.attaching import origins
from whorl.attaching.interface import CARRIERS
from whorl.attaching.key_positions import Call, asked, key_positions
from whorl.attaching.seams import INTERFACE, LayerSeam
from whorl.attaching.states import Told, told
from whorl.attaching.turns import LayerTables, Turns
from whorl.ops import rotation_tables
from whorl.ops.axes import seen_by


def rotary_forward(
    self: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None, **_: Any
) -> tuple[Turns, Turns]:
    """In place of (cos, sin), for code that unpacks or slices them: the same `Turns` twice."""
    spectra = self.whorl_spectra.get(layer_type, ())
    if self.whorl_reposition is not None:
        position_ids = self.whorl_reposition(position_ids, x.shape[0])
    turns = Turns(position_ids, tuple(rotation_tables(s, position_ids, x.dtype) for s in spectra))
    return turns, turns


def three_axes_rotary_forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[Turns, Turns]:
    """The same for M-RoPE, whose positions are [3, batch, tokens]: times, rows and columns; of a text, one for all. The
    layers are told the times: no encoding here goes by more than the tables, and who watches them reads texts."""
    times, *_ = positions = position_ids.expand(3, -1, -1)
    spectra = self.whorl_spectra.get(None, ())
    turns = Turns(times, tuple(rotation_tables(s, positions.movedim(0, -1), x.dtype) for s in spectra))
    return turns, turns


def attention_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The class's own forward, given this layer's tables, and positions where its logits are biased."""
    seam: LayerSeam = self.whorl_seam
    if seam.first:
        origins.check(seam, seam.calls.cache(kwargs))
    turns, _ = kwargs.pop(seam.calls.rotation)
    tables = LayerTables(turns.tables[seam.table], seam.impl)
    kwargs[seam.calls.rotation] = tables if seam.call == "complex" else (tables, None)
    if seam.in_mask:
        kwargs[seam.calls.mask] = _biased_mask(self, turns, kwargs, tables.tables.cos.dtype)
    elif carried(self):
        kwargs["whorl_positions"] = turns.positions
        kwargs["whorl_keys"] = _asked(self, kwargs, turns.forward)
        if seam.scaled is not None:
            kwargs["whorl_contexts"] = turns.contexts
        if seam.keeps_state:
            kwargs["whorl_told"] = _told(self, args, kwargs)
    assert seam.forward is not None
    return seam.forward(self, *args, **kwargs)


def unturned_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The class's own forward, for a host without a rotary module, which hands its layers the positions themselves."""
    seam: LayerSeam = self.whorl_seam
    if seam.first:
        origins.check(seam, seam.calls.cache(kwargs))
    positions = kwargs.get(seam.calls.positions)
    if carried(self) and positions is not None:
        kwargs["whorl_positions"] = positions
        kwargs["whorl_keys"] = _asked(self, kwargs, positions)
    if seam.keeps_state:
        kwargs["whorl_told"] = _told(self, args, kwargs)
    return type(self).forward(self, *args, **kwargs)


def _asked(attention: Any, kwargs: dict[str, Any], positions: torch.Tensor) -> Call:
    calls = attention.whorl_seam.calls
    return asked(calls.cache(kwargs), calls.layer(attention), positions)


def _told(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Told:
    calls = attention.whorl_seam.calls
    return told(calls.cache(kwargs), calls.layer(attention), args[0] if args else kwargs["hidden_states"])


def carried(attention: Any) -> bool:
    """Whether this layer attends through whorl. Raises ValueError where it must and does not."""
    seam: LayerSeam = attention.whorl_seam
    found = seam.calls.attends_by(attention)
    if found in CARRIERS:
        return True
    if seam.in_interface:
        where = f"model.get_submodule({seam.part!r})" if seam.part else "model"
        raise ValueError(
            f"{seam.notation} is attached to this {type(attention).__name__} through the attention implementation "
            f"{INTERFACE!r}, and somebody has set {found!r}, which would drop it{_why_not(str(found))}. "
            f"{where}.set_attn_implementation({INTERFACE!r}) puts it back; whorl.detach(model) takes the encoding off. "
            "(`model` is what it is attached to: of one on a tower the tower, as in whole.model.visual. Of models that "
            "were built from one config object, attaching to one and detaching it set it for all.)"
        )
    return False


def _why_not(implementation: str) -> str:
    for name, kind in (("paged", "paged attention"), ("flash", "flash attention")):
        if name in implementation:
            return (
                f": {kind} (as generate_batch and continuous batching set it) has no place for biases, windows of "
                "whorl's own and turns that go by the length; use model.generate, or an encoding that rotates q and k "
                "and does nothing else (rope, hope, p-rope)"
            )
    return ""


def _biased_mask(attention: Any, turns: Turns, kwargs: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """The host's mask with the biases added, [batch, heads, queries, keys], for a host that adds it to its logits.

    dtype: float32, or float64 where q and k are, since SDPA on a CPU reads a mask of another width as noise.
    """
    seam: LayerSeam = attention.whorl_seam
    mask: torch.Tensor | None = kwargs[seam.calls.mask]
    if mask is None or mask.ndim != 4:
        raise ValueError(
            f"{seam.notation} goes in through the attention mask of this {type(attention).__name__}, [batch, heads, "
            f"queries, keys], and under {seam.calls.attends_by(attention)!r} it gets "
            f"{'none' if mask is None else f'one of {mask.ndim} dimensions'}; build or load the model with "
            'attn_implementation="sdpa" or "eager"'
        )
    visible = mask if mask.dtype == torch.bool else mask >= 0
    keys_at = key_positions(_asked(attention, kwargs, turns.forward), visible, mask.shape[-1])
    bias = torch.zeros((), dtype=dtype, device=visible.device)
    for module in seam.biases:
        bias = bias + module(seen_by(module, turns.positions), seen_by(module, keys_at)).to(dtype)
    lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=bias.device)
    return torch.where(visible, bias, lowest).clamp(min=lowest)


def position_table_forward(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The added encoding's vectors, or a zero: the host's own table is silent."""
    given = kwargs.get(self.whorl_calls.positions)
    if self.whorl_add is None:
        return self.weight.new_zeros(())
    positions = args[0] if given is None else given
    if self.whorl_reposition is not None:
        positions = self.whorl_reposition(positions, len(positions))
    positions = seen_by(self.whorl_add, positions)
    if not positions.is_floating_point():
        positions = positions.clamp(min=0)  # OPT gives padding the position -1, which no query that matters sees
    vectors: torch.Tensor = self.whorl_add(positions)
    return vectors.to(self.weight.dtype)


def add_to_embedding(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A pre-hook of the first layer: hidden states + the vectors of their positions."""
    hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
    turns, _ = kwargs[layer.whorl_calls.rotation]
    vectors = layer.whorl_add(seen_by(layer.whorl_add, turns.positions))
    return (hidden + vectors.to(hidden.dtype), *rest), kwargs


def before_repositioned(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """A pre-hook of the part of a model that counts positions, where they are changed: each forward in training has a
    draw of its own, and keeps no cache.

    Raises ValueError in training with a cache, whose keys would have other positions than those that go on from them.
    """
    part.whorl_reposition.begin()
    if not part.whorl_reposition.training:
        return None
    if part.whorl_calls.cache(kwargs) is not None:
        raise ValueError(
            "randomized draws positions anew for every forward in training, and a cache needs some that go on; call "
            "model.eval() before generating, or leave past_key_values out"
        )
    given = kwargs.get("use_cache")
    if given or (given is None and getattr(getattr(part, "config", None), "use_cache", False)):
        kwargs = {**kwargs, "use_cache": False}
    return args, kwargs
