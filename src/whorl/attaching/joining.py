"""Joins an encoding to a host. `attach` replaces whatever encoding a model has; `detach` restores it bit for bit.

Nothing process-wide is patched. What is put in place, and taken away again:

rotary module       an instance `forward` that gives `Turns`, which travel to the layers as arguments
attention modules   an instance `forward`: the class's own code, with its rotation function rebound where it has one;
                    raises where somebody has taken the attention interface away since
position table      an instance `forward` that gives the new encoding's vectors, or zeros
first layer         a forward pre-hook that adds an encoding to the embedding, where the host has no table
base model          a submodule `whorl` that holds the encoding and its learned parameters
attention interface "whorl", where logits are biased, or q and k turned late: in a layer without a rotation of its own,
                    and where a spectrum depends on the length of the context
cache               the positions of its keys, and methods that keep them true (see `key_positions`)
model               an instance `save_pretrained` that keeps the encoding (see `saving`), and a `name_or_path` that says
                    it: PEFT writes that into adapters, so that a stock load of their base fails by that name

Everything that a forward needs is read from its arguments and from `self`, never from a closure, so that
`copy.deepcopy`, gradient checkpointing and several models in one process are safe.

A spectrum that depends on the length (dynamic NTK, LongRoPE) goes by the query's own position p, whose context is the
p + 1 tokens up to it. Keys stay unturned in the cache, and are turned for each distinct spectrum among the queries. So
cached decoding equals a full forward, and a row of a batch does not depend on a longer one. Stock means something else:
the longest row of a batch sets the spectrum for all, and keys in the cache stay turned by that of the moment they came.
The two agree where no row is longer than the original length.
"""

from __future__ import annotations

import copy
import dis
import inspect
import logging
import sys
import types
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.attaching.filling import filled, what_was_filled
from whorl.attaching.keeping import (
    ENTRY,
    as_tensor,
    before_state_dict,
    before_state_dict_of_model,
    from_tensor,
    in_accelerates_sharding,
    unmark_adapters,
)
from whorl.attaching.key_positions import Call, asked, key_positions
from whorl.attaching.masks import HostMask
from whorl.attaching.parallel import heads_here, heads_share, refuse_sharded, refuse_wrapped
from whorl.encodings import Add, Bias, Encoding, Layers, Rotate, Scaled, Spectrum, parse
from whorl.encodings.learned import PositionTable
from whorl.encodings.window import Window
from whorl.hosts import KNOWN, OpenHost, Rotation, bases_of, open_host, turns_latent_keys
from whorl.ops import Tables, biased_attention, choose, rotate, rotation_tables

log = logging.getLogger(__name__)

INTERFACE = "whorl"
CARRIERS = {INTERFACE}  # the attention implementations that carry an encoding
KEPT = 1 << 22  # entries of tables for keys that are kept for the layers that share them
NAMED = " with the positional encoding whorl:"  # in model.name_or_path, which PEFT records in its adapters


class Turns:
    """What the rotary module hands to the layers in place of (cos, sin): positions, and tables per distinct spectrum.

    Hosts that move (cos, sin) to a device or slice them along the tokens do the same to this. `contexts` is for the
    layers whose spectrum depends on the length. `forward` are the positions of all tokens of the forward, of which a
    host may have gone on with the last ones alone.
    """

    def __init__(
        self, positions: torch.Tensor, tables: tuple[Tables, ...], forward: torch.Tensor | None = None
    ) -> None:
        self.positions = positions
        self.tables = tables
        self.forward = positions if forward is None else forward
        self.contexts = Contexts(positions)

    def to(self, device: Any, **_: Any) -> Turns:
        tables = tuple(t.to(device) for t in self.tables)
        moved = Turns(self.positions.to(device), tables, self.forward.to(device))
        if moved.positions is self.positions:
            moved.contexts = self.contexts
        return moved

    def __getitem__(self, index: tuple[Any, ...]) -> Turns:
        batch, tokens, *_ = index
        tables = (t._replace(cos=t.cos[batch, tokens], sin=t.sin[batch, tokens]) for t in self.tables)
        forward = self.forward if batch == slice(None) else self.forward[batch]
        return Turns(self.positions[batch, tokens], tuple(tables), forward)


class SameSpectrum(NamedTuple):
    """Queries that are scored under one spectrum; all of them lie in first .. last - 1."""

    spectrum: Spectrum
    mine: torch.Tensor  # [batch or 1, last - first]: which of these they are
    first: int
    last: int


class Contexts:
    """The spectra of one forward's queries, each of which goes by its own position, and what layers share of them."""

    def __init__(self, positions: torch.Tensor) -> None:
        self.positions = positions
        self.queries: dict[tuple[Scaled, int], list[SameSpectrum]] = {}
        self.tables: dict[tuple[Spectrum, torch.dtype], list[tuple[torch.Tensor, Tables]]] = {}
        self.entries = 0  # of all these tables

    def of(self, encoding: Scaled, head_dim: int) -> list[SameSpectrum]:
        """The distinct spectra of these queries: those at position p see a context of p + 1 tokens."""
        if (encoding, head_dim) not in self.queries:
            scaling = next(scaling for scaling in encoding.settled if scaling.length_dependent)
            contexts = self.positions.clamp(min=0) + 1  # OPT gives padding the position -1
            lengths = contexts.unique().tolist()
            found = []
            while lengths:
                shortest, longest = lengths[0], scaling.same_up_to(lengths[0])
                mine = (contexts >= shortest) & (contexts <= longest)
                at = mine.any(0).nonzero()
                first, last = int(at[0]), int(at[-1]) + 1
                spectrum = encoding.spectrum_at(head_dim, shortest)
                found.append(SameSpectrum(spectrum, mine[:, first:last].clone(), first, last))
                lengths = lengths[bisect_right(lengths, longest) :]
            self.queries[encoding, head_dim] = found
        return self.queries[encoding, head_dim]

    def tables_of(self, spectrum: Spectrum, positions: torch.Tensor, dtype: torch.dtype) -> Tables:
        """`rotation_tables`, kept for the layers that ask for the same; the oldest go first."""
        key = spectrum, torch.float64 if dtype == torch.float64 else torch.float32
        for at, tables in self.tables.get(key, ()):
            if _same(at, positions):
                return tables
        tables = rotation_tables(spectrum, positions, dtype)
        self.tables.setdefault(key, []).append((positions, tables))
        self.entries += tables.cos.numel()
        while self.entries > KEPT and (oldest := next(iter(self.tables))) != key:
            self.entries -= sum(t.cos.numel() for _, t in self.tables.pop(oldest))
        return tables


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.device == b.device and torch.equal(a, b))


class LayerTables(NamedTuple):
    """What arrives in a host's rotation function in the place of cos."""

    tables: Tables
    impl: str

    def to(self, device: Any) -> LayerTables:
        return self._replace(tables=self.tables.to(device))


@dataclass
class LayerSeam:
    """What one attention module needs of its encoding, kept in the module's `__dict__` as `whorl_seam`."""

    table: int  # which of the rotary module's tables (of this layer's type, where it goes by type) is this layer's
    spectrum: Spectrum  # what this layer's q and k are turned by; where that depends on the length, up to the original
    scaled: Scaled | None  # the encoding that says the spectrum of each context, where that depends on its length
    late: bool  # turned inside the attention interface, keys unturned in the cache: so are `scaled` layers, and those
    # in which the host has no rotation
    layout: str
    call: str  # how the host's code takes the tables: see `whorl.hosts.Rotation`
    biases: tuple[nn.Module, ...]
    in_mask: bool  # biases are added to the mask argument: the host does not use the attention interface
    in_interface: bool  # this model's attention is whorl's, which needs positions
    impl: str  # which implementation of the rotation
    attention: str  # and of biased attention
    forward: Callable[..., Any] | None  # the class's forward, rotation rebound
    notation: str = ""  # for errors: the encoding as a user writes it,
    part: str = ""  # and the name of the part of the model that has it

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerSeam:
        return replace(self, biases=copy.deepcopy(self.biases, memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "pickle and torch.save(model) would lose the positional encoding that whorl attached; "
            "use model.save_pretrained(directory) and whorl.load(directory), or whorl.detach(model) first"
        )


class Attachment(nn.Module):
    """The encoding that a model carries, and its learned parameters; found at `base_model.whorl`."""

    def __init__(self, encoding: Encoding, effects: list[nn.Module], attention_was: str | None) -> None:
        super().__init__()
        self.encoding = encoding
        self.effects = nn.ModuleList(effects)
        self.attention_was = attention_was
        self.in_save = ""  # while the model's own save_pretrained runs: "stock" where nothing of whorl is written
        self.stock_directory = False  # whether the directory of the model's name says this encoding in stock terms
        self.register_state_dict_pre_hook(before_state_dict)

    def get_extra_state(self) -> torch.Tensor:
        """The encoding, which so goes wherever the weights go: see `whorl.attaching.keeping`."""
        return as_tensor(self.encoding)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Raises ValueError for weights that were trained with another encoding."""
        theirs = from_tensor(state)
        if theirs != self.encoding:
            raise ValueError(
                f"these weights were trained with {theirs}, and the model has {self.encoding} attached; attach theirs "
                "before loading them (their own directory loads with whorl.load)"
            )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.in_save == "stock" or in_accelerates_sharding():
            del destination[prefix + ENTRY]

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, strict: Any, missing: Any, *a: Any) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *a)
        if prefix + ENTRY in missing:  # a stock model's weights, or older than this entry
            missing.remove(prefix + ENTRY)

    def extra_repr(self) -> str:
        return str(self.encoding)


def attach(model: Any, encoding: Encoding | str, *, impl: str = "auto") -> Any:
    """Gives `model` this positional encoding in place of the one that it has, and returns the model.

    encoding: an `Encoding`, or its notation ("p-rope:p=0.5"). Arguments that it leaves unset are the model's own: base,
    training length and turning share of its config (see `whorl.attaching.filling`), or the registry's defaults
    where that says nothing; `encoding_of` then says them. The model's weights are left as they are; learned
    parameters of the encoding (T5's table, say) join `model.parameters()`, and a learned table of positions starts
    from the host's own where it has one. Attaching again replaces; one `detach` gives the stock model back.

    A pretrained model reads worse with an encoding that it was not trained with, until it is trained on: a small
    Llama's loss of 0.75 nats per token became 1.73 under HoPE, 4.17 under NoPE. `whorl convert` swaps and heals.

    What the host declares itself stays: its windows, soft caps, sinks and scales, and the layers that it does not turn
    (unless `Layers` gives such a layer a rotary encoding by name). A model inside torch.compile or PEFT is found.

    An encoding that biases logits, hides keys or goes by the length runs in an attention implementation of its own,
    "whorl". A forward raises ValueError where somebody has set another since (transformers' `generate_batch` sets flash
    or paged attention), where the positions of cached keys are unknown, and for packed documents in a call that fills a
    cache: see `whorl.attaching.key_positions`.

    impl: which implementation of whorl's operations runs, as in `whorl.ops.rotate`; "reference" gives the readable one,
    and "flex" takes the biases (only) through PyTorch's FlexAttention.

    Of a model that also sees or hears, the text's layers get the encoding; its towers attend as before.

    Raises ValueError, with the model unchanged, for a model without a known seam (`whorl list` names the families;
    encoder-decoders, models without attention, M-RoPE and most latent attention have none), sizes that cannot carry the
    encoding, a layer type without a rule, a window wider than the host's own, a data-parallel wrapper, learned
    parameters on a model that is sharded already (see `whorl.attaching.parallel`), or a module whose `forward`
    somebody else has replaced; and for a spectrum that depends on the length, on an encoder and where the host cannot
    be turned late (falcon; hunyuan, which normalises q and k after it has turned them). Such a spectrum is not exported
    either: torch.export and torch.jit.trace of the model raise ValueError.

    >>> model = whorl.attach(model, whorl.HoPE(train_length=4096))
    """
    asked = parse(encoding)
    refuse_wrapped(model)
    host = open_host(model)
    encoding = filled(host, asked)
    rotation = "auto" if impl == "flex" else impl
    choose(rotation, next(host.model.parameters()).device)
    plan = layer_plan(host, encoding)
    for seam in plan.layers:
        seam.impl, seam.attention = rotation, impl if impl in ("reference", "flex") else "auto"
    if any(True for module in plan.modules for _ in module.parameters()):
        refuse_sharded(host.model, encoding)
    before = attached(model)
    _refuse_foreign_forwards(host)
    if before is not None:
        detach(model)
    elif not host.known:
        prove(host)
        if any(seam.scaled is not None for seam in plan.layers):
            prove(host, late=True)
    _carry_out(host, encoding, plan)
    _forget_compiled()
    if words := what_was_filled(host, asked, encoding):
        log.info("%s", words)
    return model


def detach(model: Any) -> Any:
    """Takes the attached encoding off again: the model's outputs are bit for bit what they were. Returns the model.

    Raises ValueError when nothing is attached, or when somebody else has replaced a `forward` since.
    """
    attachment = attached(model)
    if attachment is None:
        raise ValueError(
            f"nothing is attached to this {type(model).__name__}; whorl.attach(model, encoding) comes first"
        )
    host = open_host(model)
    _refuse_foreign_forwards(host)
    for module in _seams(host):
        _restore_forward(module)
        for name in ("whorl_seam", "whorl_spectra", "whorl_add"):
            module.__dict__.pop(name, None)
    first = host.first_layer
    for key in [key for key, hook in first._forward_pre_hooks.items() if hook is _add_to_embedding]:
        del first._forward_pre_hooks[key]
        first._forward_pre_hooks_with_kwargs.pop(key, None)
    first.__dict__.pop("whorl_add", None)
    if attachment.attention_was is not None:
        host.set_attention(attachment.attention_was)
    for saved in _saved(host):
        if getattr(saved.__dict__.get("save_pretrained"), "__func__", None) is _save_pretrained:
            del saved.save_pretrained
    hooks = host.model._state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "__wrapped__", hook) is before_state_dict_of_model]:
        del hooks[key]
    unmark_adapters(host.model)
    if getattr(host.model, "name_or_path", ""):
        host.model.name_or_path = host.model.name_or_path.partition(NAMED)[0]
    del host.base.whorl
    _forget_compiled()
    return model


def attached(model: Any) -> Attachment | None:
    """What `attach` has put on this model, wrapped or not, or None. One that is on a model inside it is not its own."""
    for base in bases_of(model):
        found = base._modules.get("whorl")
        if isinstance(found, Attachment):
            return found
    return None


@dataclass
class Plan:
    """What each layer will do. Everything that can go wrong is worked out here, before the model is touched."""

    spectra: dict[str | None, list[Spectrum]]  # distinct ones, by layer type where the rotary module goes by type
    layers: list[LayerSeam]
    add: nn.Module | None
    modules: list[nn.Module]
    needs_interface: bool


def layer_plan(host: OpenHost, encoding: Encoding) -> Plan:
    """What each layer of a host will do under an encoding. Raises ValueError where it cannot; touches nothing."""
    by_type: dict[str | None, list[Spectrum]] = {}
    seams: list[LayerSeam] = []
    modules: list[nn.Module] = []
    add: nn.Module | None = None
    shared: dict[Any, tuple[Any, ...]] = {}
    for index, shape in enumerate(host.shapes):
        of_layer = encoding.for_layer(index, host.layer_types[index])
        spectrum = Spectrum((), shape.head_dim)
        scaled: Scaled | None = None
        biases: list[nn.Module] = []
        for part in getattr(of_layer, "parts", (of_layer,)):
            if isinstance(part, Window) and _window_is_the_hosts(host, index, part):
                continue
            # A module depends on the heads and the width, and layers of another head dim share it.
            key = (part, shape if "rotate" in part.kinds else replace(shape, head_dim=0))
            effects = shared.get(key)
            if effects is None:
                effects = part.effects(shape)
                modules += [e.module for e in effects if not isinstance(e, Rotate)]
                if all(e.shared for e in effects if isinstance(e, Bias)):
                    shared[key] = effects
            for effect in effects:
                if isinstance(effect, Rotate):
                    spectrum = effect.spectrum
                    scaled = part if isinstance(part, Scaled) and part.length_dependent else None
                elif isinstance(effect, Bias):
                    biases.append(effect.module)
                elif isinstance(effect, Add):
                    add = effect.module
        if not host.turns[index] and host.rotary is not None and not isinstance(encoding, Layers):
            spectrum, scaled = Spectrum((), shape.head_dim), None  # the host declares this layer position-free
        if scaled is not None:
            _check_by_length(host, index, scaled)
        late = scaled is not None or (not host.turns[index] and bool(spectrum.turning))
        early = Spectrum((), shape.head_dim) if late else spectrum  # by the host's own rotation
        spectra = by_type.setdefault(host.layer_types[index] if host.typed else None, [])
        if early not in spectra:
            spectra.append(early)
        rotation = host.rotation
        attention: Any = type(host.attentions[index])
        seams.append(
            LayerSeam(
                table=spectra.index(early),
                spectrum=spectrum,
                scaled=scaled,
                late=late,
                layout="half" if rotation is None else rotation.layout,
                call="pair" if rotation is None else rotation.call,
                biases=tuple(biases),
                in_mask=bool(biases) and host.biases == "mask",
                in_interface=False,
                impl="auto",
                attention="auto",
                forward=None if rotation is None else _rebound(attention, host.family.rotate, rotation),
            )
        )
    if isinstance(add, PositionTable) and host.position_table is not None:
        _start_from_the_hosts_table(add, host.position_table)
    _check_shared_keys(host, seams)
    share = heads_share(host.model)
    for seam, attention, shape in zip(seams, host.attentions, host.shapes, strict=True):
        if share is not None and seam.biases:
            seam.biases = heads_here(seam.biases, attention, shape.heads, share, encoding)
    needs_interface = any((s.biases and not s.in_mask) or s.late for s in seams)
    for seam in seams:
        seam.in_interface = needs_interface
    return Plan(by_type, seams, add, modules, needs_interface)


def _window_is_the_hosts(host: OpenHost, index: int, window: Window) -> bool:
    """Whether the host hides these keys already. Raises ValueError for a window that is wider than its own."""
    own = host.windows[index]
    if own is not None and window.size > own:
        raise ValueError(
            f"layer {index} of {type(host.model).__name__} hides keys at distances of {own} or more by itself "
            f"(config.sliding_window), so window:size={window.size} would see no more; "
            "leave the window out, or build the model with a wider one"
        )
    return window.size == own


def _check_by_length(host: OpenHost, index: int, scaled: Scaled) -> None:
    """Raises ValueError where a layer cannot have a spectrum that depends on the length of the context."""
    shape, attention, name = host.shapes[index], host.attentions[index], type(host.model).__name__
    code: Any = type(attention)
    spectrum = scaled.spectrum_at(shape.head_dim, 1)  # says what is missing
    fixed = f"try a scaling that is the same at every length, as {scaled.inner}~ntk:factor=4"
    if shape.bidirectional:
        raise ValueError(
            f"{scaled} goes by the tokens up to a query's own, and {name} attends in both directions; {fixed}"
        )
    if host.biases == "mask":
        raise ValueError(
            f"{scaled} depends on the length, so q and k must be turned in transformers' attention interface, which "
            f"{name} does not use; {fixed}"
        )
    norms = () if host.rotary is None else _normalised_after(code, host.family.rotate)
    modules = [m for name in norms if isinstance(m := getattr(attention, name, None), nn.Module)]
    # One without weights keeps its hands off the angles, and takes an amplitude away again.
    if any(spectrum.amplitude != 1 or any(True for _ in m.parameters()) for m in modules):
        raise ValueError(
            f"{scaled} depends on the length, so q and k must be turned last of all, and layer {index} of {name} "
            f"normalises them after its own rotation; {fixed}"
        )


@cache
def _normalised_after(attention: Any, rotate: str) -> tuple[str, ...]:
    """The norms (by name, those of values left out) that an attention's code reads after its last call of `rotate`."""
    names = [i.argval for i in dis.get_instructions(inspect.unwrap(attention.forward)) if isinstance(i.argval, str)]
    after = names[len(names) - names[::-1].index(rotate) :]
    return tuple(name for name in after if "norm" in name and not name.startswith("v"))


def _check_shared_keys(host: OpenHost, seams: list[LayerSeam]) -> None:
    """A layer that reuses the keys of an earlier one (Gemma 4) must turn its queries as that one turned its keys."""
    keys: dict[str, int] = {}
    for index, (attention, layer_type) in enumerate(zip(host.attentions, host.layer_types, strict=True)):
        if not getattr(attention, "is_kv_shared_layer", False):
            keys[layer_type] = index
        elif _turning(seams[index]) != _turning(seams[keys[layer_type]]):
            raise ValueError(
                f"layer {index} of {type(host.model).__name__} reuses the keys of layer {keys[layer_type]} "
                "(num_kv_shared_layers), so both must turn alike; give layers of one type the same rotary encoding"
            )


def _turning(seam: LayerSeam) -> tuple[Any, ...]:
    return seam.spectrum, seam.scaled, seam.late


@torch.no_grad()
def _start_from_the_hosts_table(table: PositionTable, own: Any) -> None:
    rows = own.weight[getattr(own, "offset", 0) :]
    if rows.device.type == "meta" or rows.shape[-1] != table.weight.shape[-1]:
        return
    count = min(len(rows), len(table.weight))
    table.weight[:count] = rows[:count].to(table.weight)


def _carry_out(host: OpenHost, encoding: Encoding, plan: Plan) -> None:
    model, base = host.model, host.base
    attention_was = None
    if plan.needs_interface:
        _register_interface()
        attention_was = host.attending.config._attn_implementation
        host.set_attention(INTERFACE)
        if host.attending.config._attn_implementation != INTERFACE:
            raise ValueError(f"{type(model).__name__} does not let its attention be set, which {encoding} needs")
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    attachment = Attachment(encoding, plan.modules, attention_was)
    base.whorl = attachment if weight is None else attachment.to(device=weight.device, dtype=weight.dtype)
    base.whorl.train(model.training)
    part = "" if host.attending.config is model.config else next(n for n, m in model.named_modules() if m is base)
    for attention, seam in zip(host.attentions, plan.layers, strict=True):
        seam.notation, seam.part = str(encoding), part
        attention.__dict__["whorl_seam"] = seam
        _set_forward(attention, _unturned_forward if seam.forward is None else _attention_forward)
    if host.rotary is not None:
        host.rotary.__dict__["whorl_spectra"] = {t: tuple(spectra) for t, spectra in plan.spectra.items()}
        _set_forward(host.rotary, _rotary_forward)
    if host.position_table is not None:
        host.position_table.__dict__["whorl_add"] = plan.add
        _set_forward(host.position_table, _position_table_forward)
    elif plan.add is not None:
        host.first_layer.__dict__["whorl_add"] = plan.add
        host.first_layer.register_forward_pre_hook(_add_to_embedding, with_kwargs=True)
    model.register_state_dict_pre_hook(before_state_dict_of_model)
    for saved in _saved(host):
        saved.__dict__["save_pretrained"] = types.MethodType(_save_pretrained, saved)
    if getattr(model, "name_or_path", ""):
        model.name_or_path = f"{model.name_or_path}{NAMED}{encoding}"


def _saved(host: OpenHost) -> list[Any]:
    """The model and its base, either of which may be saved by itself."""
    return [m for m in (host.model, host.base) if hasattr(m, "save_pretrained")]


def _save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """In place of the class's own: keeps the encoding. See `whorl.attaching.saving`."""
    from whorl.attaching.saving import save_pretrained

    return save_pretrained(self, save_directory, *args, **kwargs)


# A module's forward is replaced on the instance; accelerate's hooks stand there too, and keep what they replaced in
# `_old_forward`. Ours goes under theirs, so that they go on working, whichever came first.


def _seams(host: OpenHost) -> list[nn.Module]:
    return [m for m in (*host.attentions, host.rotary, host.position_table) if m is not None]


def _slot(module: nn.Module) -> str:
    return "_old_forward" if hasattr(module, "_hf_hook") and "_old_forward" in module.__dict__ else "forward"


def _set_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.__dict__[_slot(module)] = types.MethodType(forward, module)


def _restore_forward(module: nn.Module) -> None:
    if _slot(module) == "forward":
        module.__dict__.pop("forward", None)
    else:
        module.__dict__["_old_forward"] = types.MethodType(type(module).forward, module)


def _refuse_foreign_forwards(host: OpenHost) -> None:
    for module in _seams(host):
        forward = module.__dict__.get(_slot(module))
        ours = (
            _attention_forward, _unturned_forward, _rotary_forward, _position_table_forward, type(module).forward
        )  # fmt: skip
        if forward is not None and getattr(forward, "__func__", None) not in ours:
            raise ValueError(
                f"the forward of a {type(module).__name__} has been replaced already, by {forward!r}; take that off "
                "first, attach or detach the encoding, and put it on again"
            )


def _forget_compiled() -> None:
    """A compiled graph keeps the functions that it was traced with; drop it, so that the next call traces anew."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@torch.no_grad()
def prove(host: OpenHost, late: bool = False) -> None:
    """For a family that no test covers: attaching what it has must leave the logits of a few tokens as they were.

    late: turned in the attention interface, as a spectrum that depends on the length must be.

    Raises ValueError, with the model unchanged, when the seams that were found do not carry the host's own encoding.
    """
    from whorl.attaching.reading import stock_encoding

    model = host.model
    if next(model.parameters()).device.type == "meta":
        return
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = (torch.arange(11, device=model.device) * 7 % vocabulary)[None]
    training = model.training
    model.eval()
    turned: set[int] = set()
    try:
        stock = model(tokens, use_cache=False)[0].float()
        if not torch.isfinite(stock).all():
            raise ValueError("its own logits are not finite; whorl.doctor(model) says which values are not")
        own = stock_encoding(host, at_any_length=False)  # these tokens are few
        plan = layer_plan(host, own)
        for index, seam in enumerate(plan.layers):
            seam.forward = _watched(host, index, turned.add)
        if late:
            _turn_late(plan)
        _carry_out(host, own, plan)
        moved = float((model(tokens, use_cache=False)[0].float() - stock).abs().max())
        scale = float(stock.abs().max())
        allowed = max(1e-3, 16 * torch.finfo(model.dtype).eps) * scale  # stock tables are rounded to the model's dtype
        finding = None if moved <= allowed else f"its logits moved by {moved:.2g}, of {scale:.2g}"  # nan is no proof
        still = sorted(set(range(len(plan.layers))) - turned)
        if still:
            finding = f"its layers {still} turned out to have no rotation, which whorl has to be told"
    except Exception as error:
        finding = f"it failed with {type(error).__name__}: {error}"
    finally:
        if attached(model) is not None:
            detach(model)
        model.train(training)
    if finding is not None:
        name, latent = type(model).__name__, turns_latent_keys(model)
        looked = (
            f"{name} looks like a family that whorl knows, but with its own encoding "
            f"attached{' to its attention interface' * late} {finding}"
        )
        raise ValueError(
            f"no known seam in model type {model.config.model_type!r} ({name}): {latent or looked}; {KNOWN}, and "
            "CONTRIBUTING.md, 'add a host', how to add one"
        )


def _turn_late(plan: Plan) -> None:
    """Changes a plan so that what the host's own rotation would turn is turned in the attention interface."""
    for spectra in plan.spectra.values():
        spectra[:] = [Spectrum((), spectrum.head_dim) for spectrum in spectra]
    for seam in plan.layers:
        seam.late, seam.in_interface = bool(seam.spectrum.turning), True
    plan.needs_interface = True


# The functions below run in a forward. Each is bound to one module and reads its state from there.


def _rotary_forward(
    self: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None, **_: Any
) -> tuple[Turns, Turns]:
    """In place of (cos, sin), for code that unpacks or slices them: the same `Turns` twice."""
    spectra = self.whorl_spectra.get(layer_type, ())
    turns = Turns(position_ids, tuple(rotation_tables(s, position_ids, x.dtype) for s in spectra))
    return turns, turns


def _attention_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The class's own forward, given this layer's tables, and positions where its logits are biased."""
    seam: LayerSeam = self.whorl_seam
    turns, _ = kwargs.pop("position_embeddings")
    tables = LayerTables(turns.tables[seam.table], seam.impl)
    kwargs["position_embeddings"] = tables if seam.call == "complex" else (tables, None)
    if seam.in_mask:
        kwargs["attention_mask"] = _biased_mask(self, turns, kwargs, tables.tables.cos.dtype)
    elif _carried(self):
        kwargs["whorl_positions"] = turns.positions
        kwargs["whorl_keys"] = _asked(self, kwargs, turns.forward)
        if seam.scaled is not None:
            kwargs["whorl_contexts"] = turns.contexts
    assert seam.forward is not None
    return seam.forward(self, *args, **kwargs)


def _unturned_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """The class's own forward, for a host without a rotary module, which hands its layers the positions themselves."""
    positions = kwargs.get("position_ids")
    if _carried(self) and positions is not None:
        kwargs["whorl_keys"] = _asked(self, kwargs, positions)
    return type(self).forward(self, *args, **kwargs)


def _asked(attention: Any, kwargs: dict[str, Any], positions: torch.Tensor) -> Call:
    cache = kwargs.get("past_key_values", kwargs.get("layer_past"))
    return asked(cache, getattr(attention, "layer_idx", -1), positions)


def _carried(attention: Any) -> bool:
    """Whether this layer attends through whorl. Raises ValueError where it must and does not."""
    seam: LayerSeam = attention.whorl_seam
    found = attention.config._attn_implementation
    if found in CARRIERS:
        return True
    if seam.in_interface:
        where = f"model.get_submodule({seam.part!r})" if seam.part else "model"
        raise ValueError(
            f"{seam.notation} is attached to this {type(attention).__name__} through the attention implementation "
            f"{INTERFACE!r}, and somebody has set {found!r}, which would drop it{_why_not(str(found))}. "
            f"{where}.set_attn_implementation({INTERFACE!r}) puts it back; whorl.detach(model) takes the encoding off"
        )
    return False


def _why_not(implementation: str) -> str:
    for name, kind in (("paged", "paged attention"), ("flash", "flash attention")):
        if name in implementation:
            return (
                f": {kind} (as generate_batch and continuous batching set it) has no place for biases, windows of "
                "whorl's own and turns that go by the length; use model.generate, or an encoding that turns q and k "
                "and does nothing else (rope, hope, p-rope)"
            )
    return ""


def _biased_mask(attention: Any, turns: Turns, kwargs: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """The host's mask with the biases added, [batch, heads, queries, keys], for a host that adds it to its logits.

    dtype: float32, or float64 where q and k are, since SDPA on a CPU reads a mask of another width as noise.
    """
    seam: LayerSeam = attention.whorl_seam
    mask: torch.Tensor | None = kwargs["attention_mask"]
    if mask is None or mask.ndim != 4:
        raise ValueError(
            f"{seam.notation} goes in through the attention mask of this {type(attention).__name__}, [batch, heads, "
            f"queries, keys], and under {attention.config._attn_implementation!r} it gets "
            f"{'none' if mask is None else f'one of {mask.ndim} dimensions'}; build or load the model with "
            'attn_implementation="sdpa" or "eager"'
        )
    visible = mask if mask.dtype == torch.bool else mask >= 0
    keys_at = key_positions(_asked(attention, kwargs, turns.forward), visible, mask.shape[-1])
    bias = torch.zeros((), dtype=dtype, device=visible.device)
    for module in seam.biases:
        bias = bias + module(turns.positions, keys_at).to(dtype)
    lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=bias.device)
    return torch.where(visible, bias, lowest).clamp(min=lowest)


def _position_table_forward(self: Any, *args: Any, position_ids: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
    """The added encoding's vectors, or a zero: the host's own table is silent."""
    if self.whorl_add is None:
        return self.weight.new_zeros(())
    positions = args[0] if position_ids is None else position_ids
    # OPT gives padding the position -1, which no query that matters sees.
    return self.whorl_add(positions.clamp(min=0)).to(self.weight.dtype)


def _add_to_embedding(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A pre-hook of the first layer: hidden states + the vectors of their positions."""
    hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
    turns, _ = kwargs["position_embeddings"]
    return (hidden + layer.whorl_add(turns.positions).to(hidden.dtype), *rest), kwargs


@cache
def _rebound(attention: Any, name: str, rotation: Rotation) -> Callable[..., Any]:
    """The class's `forward` with its rotation function replaced by whorl's; one function for all models of a class."""
    return _with_global(attention, name, ROTATIONS[rotation.call, rotation.layout])


def _with_global(attention: Any, name: str, value: Any) -> Callable[..., Any]:
    """The class's `forward` with the global `name` pointing elsewhere; the class itself is not touched.

    `__name__` is left out of the copied globals: with it, torch.compile looks values up in the real module.
    """
    forward = inspect.unwrap(attention.forward)
    replaced = {key: value for key, value in forward.__globals__.items() if key != "__name__"}
    replaced[name] = value
    rebound = types.FunctionType(
        forward.__code__, replaced, forward.__name__, forward.__defaults__, forward.__closure__
    )
    rebound.__kwdefaults__ = forward.__kwdefaults__
    return rebound


def _watched(host: OpenHost, index: int, report: Callable[[int], None]) -> Callable[..., Any] | None:
    """One layer's rebound forward that also reports that it turned; for a probe, never for use."""
    if host.rotation is None:
        return None
    rotation = ROTATIONS[host.rotation.call, host.rotation.layout]

    def watched(*args: Any, **kwargs: Any) -> Any:
        report(index)
        return rotation(*args, **kwargs)

    return _with_global(type(host.attentions[index]), host.family.rotate, watched)


# These stand in for the hosts' rotation functions; the tables arrive in the place of cos, or of complex frequencies.


def _pair_half(q: Any, k: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    return rotate(q, k, cos.tables, layout="half", heads_dim=unsqueeze_dim, impl=cos.impl)


def _pair_interleaved(q: Any, k: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    return rotate(q, k, cos.tables, layout="interleaved", heads_dim=unsqueeze_dim, impl=cos.impl)


def _single_half(x: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> Any:
    return rotate(x, None, cos.tables, layout="half", heads_dim=unsqueeze_dim, impl=cos.impl)[0]


def _single_interleaved(x: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> Any:
    return rotate(x, None, cos.tables, layout="interleaved", heads_dim=unsqueeze_dim, impl=cos.impl)[0]


def _complex_interleaved(q: Any, k: Any, frequencies: LayerTables) -> tuple[Any, Any]:
    return rotate(q, k, frequencies.tables, layout="interleaved", heads_dim=2, impl=frequencies.impl)


ROTATIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("pair", "half"): _pair_half,
    ("pair", "interleaved"): _pair_interleaved,
    ("single", "half"): _single_half,
    ("single", "interleaved"): _single_interleaved,
    ("complex", "interleaved"): _complex_interleaved,
}


@cache
def _register_interface() -> None:
    """Registers the attention *and* its mask function: without the latter causality is lost without a word."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(**kwargs: Any) -> Any:
        kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
        if torch.compiler.is_compiling() or kwargs["q_length"] == 1:
            return sdpa_mask(**kwargs)
        return HostMask(sdpa_mask, kwargs)

    AttentionInterface.register(INTERFACE, _attention_interface)
    AttentionMaskInterface.register(INTERFACE, mask)


def _attention_interface(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | HostMask | None,
    dropout: float = 0.0,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """transformers' attention function: q and k [batch, heads, tokens, head_dim], k and v with the cache's keys."""
    seam: LayerSeam | None = module.__dict__.get("whorl_seam")
    if seam is None and getattr(module, "is_cross_attention", "cross" in type(module).__name__.lower()):
        raise ValueError(
            f"this {type(module).__name__} is a cross-attention, which whorl does not know, and attn_implementation is "
            "'whorl', which the encoding attached to the model's own attention needs. Attach one that only adds to the "
            "embedding (sinusoidal, learned), or nope, or run the model without encoder_hidden_states"
        )
    if seam is None:
        raise ValueError(
            f"attn_implementation is 'whorl' on a {type(module).__name__} with no encoding attached; "
            "use whorl.attach(model, encoding), which sets it"
        )
    if attention_mask is None and getattr(module, "is_causal", True):
        raise ValueError(
            f"{type(module).__name__} got no mask, which would let every token see those after it: its masks are made "
            f"for another attention implementation. Set {INTERFACE!r} for the part that makes them too, or give a mask"
        )
    arguments = _unturned(module, query, key, value, attention_mask, **kwargs)
    dense = (
        seam.attention == "reference" or output_attentions or any(isinstance(b, _Given) for b in arguments["biases"])
    )
    how: dict[str, Any] = {"dropout": dropout, "impl": "reference" if dense else seam.attention}
    if seam.scaled is not None:
        output, weights = _by_context(seam, arguments, kwargs.get("whorl_contexts"), how)
    else:
        output, weights = biased_attention(**_turned(seam, arguments), **how)
    return output.transpose(1, 2).contiguous(), weights


def attention_arguments(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | HostMask | None,
    **kwargs: Any,
) -> dict[str, Any]:
    """What a host hands to its attention function, as arguments of `biased_attention`, with what is attached to it.

    Raises ValueError where queries have spectra of their own, which no one q and k can show.
    """
    seam: LayerSeam | None = module.__dict__.get("whorl_seam")
    arguments = _unturned(module, query, key, value, attention_mask, **kwargs)
    if seam is None:
        return arguments
    if seam.scaled is None:
        return _turned(seam, arguments)
    contexts = kwargs.get("whorl_contexts") or Contexts(arguments["query_positions"])
    first, *others = contexts.of(seam.scaled, seam.spectrum.head_dim)
    if others:
        raise ValueError(
            f"{seam.scaled} turns these keys by {1 + len(others)} spectra, for contexts of different lengths, and here "
            f"one q and k are read; give windows of at most {first.last} tokens, or attach an encoding that is the "
            "same at every length"
        )
    return _turned(seam, arguments, first.spectrum, contexts)


def _unturned(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | HostMask | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    whorl_positions: torch.Tensor | None = None,
    whorl_keys: Call | None = None,
    **__: Any,
) -> dict[str, Any]:
    """The arguments of `biased_attention`, before q and k are turned in a layer that is turned late."""
    seam: LayerSeam | None = module.__dict__.get("whorl_seam")
    if whorl_positions is not None:
        position_ids = whorl_positions
    elif position_ids is None:
        if key.shape[2] != query.shape[2]:
            raise ValueError(f"{type(module).__name__} passes no position_ids to its attention, which whorl needs")
        position_ids = torch.arange(query.shape[2], device=query.device)[None]  # what a host without any counts
    biases: list[nn.Module] = [] if seam is None else list(seam.biases)
    mask = visible = attention_mask
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dtype != torch.bool:
        biases.append(_Given(attention_mask))
        mask, visible = None, attention_mask >= 0
    return {
        "q": query,
        "k": key,
        "v": value,
        "biases": biases,
        "query_positions": position_ids,
        "key_positions": key_positions(whorl_keys or Call(position_ids, -1), visible, key.shape[2]),
        "mask": mask,
        "scale": query.shape[-1] ** -0.5 if scaling is None else scaling,
        "softcap": softcap,
        "sinks": s_aux,
    }


def _turned(
    seam: LayerSeam, arguments: dict[str, Any], spectrum: Spectrum | None = None, contexts: Contexts | None = None
) -> dict[str, Any]:
    """The same with q and k turned, where this layer is turned late; by its own spectrum, or another."""
    if not seam.late:
        return arguments
    make = rotation_tables if contexts is None else contexts.tables_of
    turned = {}
    for x, positions in (("q", "query_positions"), ("k", "key_positions")):
        tables = make(spectrum or seam.spectrum, arguments[positions], arguments[x].dtype)
        turned[x], _ = rotate(arguments[x], None, tables, layout=seam.layout, impl=seam.impl)
    return {**arguments, **turned}


BY_VALUE = "a spectrum that depends on the length: how many there are depends on the values of the positions"


@torch.compiler.disable(reason=f"whorl: {BY_VALUE}")
def _by_context(
    seam: LayerSeam, arguments: dict[str, Any], contexts: Contexts | None, how: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention in which every query, and all the keys that it sees, are turned by the spectrum of its own context.

    For each distinct spectrum: the smallest slice of queries that has all of its own, and keys up to the last of them.
    """
    assert seam.scaled is not None
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        raise ValueError(
            f"{seam.scaled} cannot be exported or traced into one graph: it has {BY_VALUE}. Attach the spectrum of one "
            f"length, as {seam.scaled.inner}~ntk:factor=4, or whorl.detach(model), and export that"
        )
    queries, keys = arguments["q"].shape[2], arguments["k"].shape[2]
    contexts = contexts or Contexts(arguments["query_positions"])
    outputs, weights = [], []
    for same in contexts.of(seam.scaled, seam.spectrum.head_dim):
        part = arguments if same.last - same.first == queries else _part(arguments, same.first, same.last)
        output, weight = biased_attention(**_turned(seam, part, same.spectrum, contexts), **how)
        outputs.append((same, output))
        if weight is not None:
            weights.append((same, nn.functional.pad(weight, (0, keys - weight.shape[-1]))))
    return _joined(outputs), _joined(weights) if weights else None


def _part(arguments: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """The arguments for the queries first .. last - 1 alone, and for the keys that a causal host lets them see."""
    mask, keys = arguments["mask"], arguments["k"].shape[2]
    if isinstance(mask, HostMask):  # one of the caller's own may do as it likes
        keys -= arguments["q"].shape[2] - last  # a static cache has empty slots, and then this is more than enough
        mask = mask.part(first, last, keys)
    elif mask is not None:
        mask = _of_queries(mask, first, last)
    biases = [_Given(_of_queries(b.mask, first, last)) if isinstance(b, _Given) else b for b in arguments["biases"]]
    return {
        **arguments,
        "q": arguments["q"][:, :, first:last],
        "k": arguments["k"][:, :, :keys],
        "v": arguments["v"][:, :, :keys],
        "query_positions": arguments["query_positions"][:, first:last],
        "key_positions": arguments["key_positions"][:, :keys],
        "mask": mask,
        "biases": biases,
    }


def _of_queries(mask: torch.Tensor, first: int, last: int) -> torch.Tensor:
    return mask[:, :, first:last] if mask.shape[2] > 1 else mask


def _joined(parts: list[tuple[SameSpectrum, torch.Tensor]]) -> torch.Tensor:
    """[batch, heads, queries, ...] from parts that each hold a slice of the queries, of which some are theirs."""
    if len(parts) == 1:
        return parts[0][1]
    borders = sorted({border for same, _ in parts for border in (same.first, same.last)})
    pieces = []
    for start, end in pairwise(borders):
        piece: torch.Tensor | None = None
        for same, x in parts:
            if same.first <= start and end <= same.last:
                at = slice(start - same.first, end - same.first)
                here, mine = x[:, :, at], same.mine[:, None, at, None]
                piece = here if piece is None else torch.where(mine, here, piece)
        assert piece is not None
        pieces.append(piece)
    return torch.cat(pieces, 2)


class _Given(nn.Module):
    """An additive mask that the caller made, as one more bias. Its dtype's lowest number hides a key, as -inf does."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        return self.mask.masked_fill(self.mask <= torch.finfo(self.mask.dtype).min, -torch.inf)
