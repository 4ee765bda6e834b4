"""Carries out a plan on a host, and undoes it. Nothing process-wide is patched."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from whorl.attaching import images, origins, packed
from whorl.attaching.forwards import (
    add_to_embedding,
    attention_forward,
    before_repositioned,
    position_table_forward,
    rotary_forward,
    three_axes_rotary_forward,
    unturned_forward,
)
from whorl.attaching.interface import attention
from whorl.attaching.keeping import before_load, before_state_dict, before_state_dict_of_model, unmark_adapters
from whorl.attaching.parallel import heads_share
from whorl.attaching.plan import Plan
from whorl.attaching.records import NAMED
from whorl.attaching.saving import save_pretrained
from whorl.attaching.seams import INTERFACE, Attachment, LayerSeam, seam_of
from whorl.encodings import Encoding
from whorl.encodings.learned import PositionTable
from whorl.hosts import Host, name_of
from whorl.hosts.transformers import compat

OWN_VECTORS = "interpolate_pos_encoding"  # the method of an image model that gives its own vectors of positions
STATE = (
    "whorl_seam", "whorl_spectra", "whorl_add", "whorl_calls", "whorl_reposition", "whorl_patches", "whorl_turns",
    "whorl_vectors", "whorl_table", OWN_VECTORS,
)  # fmt: skip


def put_on(host: Host, encoding: Encoding, plan: Plan) -> None:
    """Carries out a plan. Raises ValueError for a model that does not let its attention be set."""
    model, base = host.model, host.base
    attention_was = None
    if plan.needs_interface:
        host.carry(INTERFACE, attention)
        attention_was = host.attention
        host.set_attention(INTERFACE)
        if host.attention != INTERFACE:
            raise ValueError(f"{type(model).__name__} does not let its attention be set, which {encoding} needs")
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    attachment = Attachment(encoding, plan.modules, attention_was)
    attachment.register_state_dict_pre_hook(before_state_dict)
    share = heads_share(model)
    if attachment.reposition is not None and share is not None:
        attachment.reposition.alike = share.size
    if weight is not None:
        away = compat.runs_on(base) if weight.is_meta else None
        attachment = attachment.to(device=weight.device if away is None else away, dtype=weight.dtype)
    base.whorl = attachment
    base.whorl.train(model.training)
    plan.layers[0].first = True
    attachment.layers = len(plan.layers)
    for module, seam in zip(host.attentions, plan.layers, strict=True):
        seam.does, seam.notation, seam.part = plan.does, str(encoding), host.part
        module.__dict__["whorl_seam"] = seam
        _set_forward(module, _forward_of(host, seam))
    if host.methods:
        _place_methods(host, plan)
    elif host.patches is not None:
        _place_on_grid(host, plan, attachment)
    else:
        _place(host, plan, attachment)
    attachment.silenced = tuple(own.requires_grad for own in host.taken_out)
    for own in host.taken_out:  # DDP refuses parameters that are to learn and take no part
        own.requires_grad_(False)
    attachment.hooks.append(model.register_state_dict_pre_hook(before_state_dict_of_model))
    for saved in _saved(host):
        saved.__dict__["save_pretrained"] = types.MethodType(save_pretrained, saved)
    if getattr(model, "name_or_path", ""):
        model.name_or_path = f"{model.name_or_path}{NAMED}{encoding}"


def _forward_of(host: Host, seam: LayerSeam) -> Callable[..., Any]:
    if host.packed:
        return packed.attention_forward
    if seam.forward is not None:
        return attention_forward
    if host.methods:
        return images.handed_forward
    return unturned_forward if host.patches is None else images.placed_forward


def _place(host: Host, plan: Plan, attachment: Attachment) -> None:
    """What a host of texts gives positions to: its rotary module, its table of positions or its first layer."""
    if host.rotary is not None:
        spectra = {t: tuple(spectra) for t, spectra in plan.spectra.items()}
        host.rotary.__dict__.update(whorl_spectra=spectra, whorl_reposition=attachment.reposition)
        of_texts = three_axes_rotary_forward if host.pair_axes else rotary_forward
        _set_forward(host.rotary, packed.rotary_forward if host.packed else of_texts)
    if host.position_table is not None:
        own = attachment.reposition if host.rotary is None else None
        host.position_table.__dict__.update(whorl_add=plan.add, whorl_calls=host.calls, whorl_reposition=own)
        _set_forward(host.position_table, images.between_rows_forward if host.packed else position_table_forward)
        if isinstance(plan.add, PositionTable):
            ours, theirs = name_of(attachment, plan.add), name_of(host.base, host.position_table)
            attachment.kept_as = f"{ours}.weight", f"{theirs}.weight", getattr(host.position_table, "offset", 0)
            attachment.hooks.append(host.base.register_load_state_dict_pre_hook(before_load))
        host.base.__dict__["whorl_table"] = name_of(host.base, host.position_table)
        attachment.hooks.append(host.base.register_forward_pre_hook(refuse_adapted_table))
    elif plan.add is not None:
        host.first_layer.__dict__.update(whorl_add=plan.add, whorl_calls=host.calls)
        attachment.hooks.append(host.first_layer.register_forward_pre_hook(add_to_embedding, with_kwargs=True))
    if attachment.reposition is not None:
        holder = _holder(host)
        holder.__dict__.update(whorl_calls=host.calls, whorl_reposition=attachment.reposition)
        attachment.hooks.append(holder.register_forward_pre_hook(before_repositioned, with_kwargs=True))


def _place_on_grid(host: Host, plan: Plan, attachment: Attachment) -> None:
    """What a host of images makes positions and vectors of: the pixels that it is given."""
    (spectra,) = plan.spectra.values()
    state = {"whorl_patches": host.patches, "whorl_calls": host.calls, "whorl_spectra": tuple(spectra)}
    if host.rotary is None:
        host.base.__dict__.update(state)
        attachment.hooks.append(host.base.register_forward_pre_hook(images.before_image, with_kwargs=True))
    else:
        host.rotary.__dict__.update(state)
        _set_forward(host.rotary, images.image_rotary_forward)
    if host.own_vectors is not None:
        host.embed.__dict__.update(whorl_add=plan.add, whorl_patches=host.patches)
        host.embed.__dict__[OWN_VECTORS] = types.MethodType(images.vectors_of_grid, host.embed)
        if images.asks_for_resampling(host.embed):
            attachment.hooks.append(host.embed.register_forward_pre_hook(images.at_any_size, with_kwargs=True))
    elif plan.add is not None:
        host.first_layer.__dict__.update(whorl_add=plan.add, whorl_calls=host.calls)
        attachment.hooks.append(host.first_layer.register_forward_pre_hook(images.add_to_patches, with_kwargs=True))


def _place_methods(host: Host, plan: Plan) -> None:
    """The same for a host that asks for both in methods of its own."""
    (spectra,) = plan.spectra.values()
    host.base.__dict__.update(
        whorl_patches=host.patches,
        whorl_spectra=tuple(spectra),
        whorl_add=plan.add,
        whorl_turns=types.MethodType(images.turns_of_image, host.base),
        whorl_vectors=types.MethodType(images.added_vectors, host.base),
    )
    for module, name, function in host.methods:
        module.__dict__[_slot(module, name)] = types.MethodType(function, module)


def take_off(host: Host, attachment: Attachment) -> None:
    """Undoes `put_on`: the host's outputs are bit for bit what they were."""
    for module in host.attentions:
        if (seam := seam_of(module)) is not None:
            origins.close(seam)
    for module in _replaced(host):
        _restore(module, "forward")
    for module, name, _ in host.methods:
        _restore(module, name)
    on_grid = () if host.patches is None else (host.embed,)
    for module in (*_replaced(host), host.base, host.first_layer, _holder(host), *on_grid):
        for name in STATE:
            module.__dict__.pop(name, None)
    for hook in attachment.hooks:
        hook.remove()
    besides = {id(p) for p in attachment.parameters()}
    frozen = not any(p.requires_grad for p in host.model.parameters() if id(p) not in besides)  # since, all of it
    for own, learned in zip(host.taken_out, attachment.silenced, strict=False):
        own.requires_grad_(own.requires_grad or (learned and not frozen))
    if attachment.attention_was is not None:
        host.set_attention(attachment.attention_was)
    for saved in _saved(host):
        if getattr(saved.__dict__.get("save_pretrained"), "__func__", None) is save_pretrained:
            del saved.save_pretrained
    unmark_adapters(host.model)
    if getattr(host.model, "name_or_path", ""):
        host.model.name_or_path = host.model.name_or_path.partition(NAMED)[0]
    del host.base.whorl
    forget_compiled()


def _saved(host: Host) -> list[Any]:
    """The model and its base, either of which may be saved by itself."""
    return [m for m in (host.model, host.base) if hasattr(m, "save_pretrained")]


# A module's forward is replaced on the instance, where accelerate's hooks may stand. Ours goes under theirs, so that
# they go on working, whichever came first.


def _replaced(host: Host) -> list[nn.Module]:
    return [m for m in (*host.attentions, host.rotary, host.position_table) if m is not None]


OURS = (
    attention_forward, unturned_forward, rotary_forward, position_table_forward,
    images.placed_forward, images.handed_forward, images.image_rotary_forward, images.between_rows_forward,
    packed.attention_forward, packed.rotary_forward, three_axes_rotary_forward,
)  # fmt: skip


def _set_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.__dict__[compat.forward_slot(module)] = types.MethodType(forward, module)


def _holder(host: Host) -> nn.Module:
    """The module whose forward gives positions to a host's rotary module, or to its table of positions, once."""
    given = host.position_table if host.rotary is None else host.rotary
    return next((m for m in host.base.modules() if any(child is given for child in m.children())), host.base)


def _slot(module: nn.Module, method: str) -> str:
    """The attribute of a module in which an instance's own method stands."""
    return compat.forward_slot(module) if method == "forward" else method


def _restore(module: nn.Module, method: str) -> None:
    slot = _slot(module, method)
    if slot == method:
        module.__dict__.pop(method, None)
    else:
        module.__dict__[slot] = types.MethodType(getattr(type(module), method), module)


def refuse_foreign_forwards(host: Host) -> None:
    """Raises ValueError where other code has replaced a method that `put_on` and `take_off` would lose, or the module
    that it is of."""
    if host.position_table is not None:
        _refuse_adapted(host.base, host.position_table)
    forwards = [(module, "forward", OURS) for module in _replaced(host)]
    for module, name, ours in (*forwards, *((m, name, (function,)) for m, name, function in host.methods)):
        found = module.__dict__.get(_slot(module, name))
        if found is not None and getattr(found, "__func__", None) not in (*ours, getattr(type(module), name)):
            raise ValueError(
                f"the {name} of a {type(module).__name__} has been replaced already, by {found!r}; take that off "
                "first, attach or detach the encoding, and put it on again"
            )


def refuse_adapted_table(base: Any, args: Any) -> None:
    """A pre-hook of the base of a host with a table: an adapter may have come onto it since."""
    _refuse_adapted(base, base.get_submodule(base.whorl_table))


def _refuse_adapted(base: Any, table: nn.Module) -> None:
    """Raises ValueError for a table that PEFT has wrapped: what it adds would stay beside what stands in its place."""
    if hasattr(table, "base_layer"):
        raise ValueError(
            f"the table of positions of this {type(base).__name__} has an adapter of PEFT on it, which knows nothing "
            "of what is attached in the table's place; merge or unload the adapter first, or put it on other modules"
        )


def forget_compiled() -> None:
    """A compiled graph keeps the functions that it was traced with: all graphs of the process are dropped, and the next
    call of a compiled model, this one or another, traces anew."""
    if "torch._dynamo" in sys.modules:  # nothing has been compiled otherwise, and importing it takes seconds
        torch.compiler.reset()
