"""Joins an encoding to a host. `attach` replaces whatever encoding a model has; `detach` restores it bit for bit.

Nothing process-wide is patched. What is put in place, and taken away again:

rotary module       an instance `forward` that gives `Turns`, which travel to the layers as arguments
attention modules   an instance `forward`: the class's own code, with its rotation function rebound where it has one;
                    raises where another attention implementation has been set since
position table      an instance `forward` that gives the new encoding's vectors, or zeros
first layer         a forward pre-hook that adds an encoding to the embedding, where the host has no table
base model          a submodule `whorl` that holds the encoding and its learned parameters
attention interface "whorl", where logits are biased, scaled and scored, or where q and k are rotated after the cache:
                    in a layer that has no rotation itself, and where a spectrum depends on the length of the context
cache               the encoding that fills it (see `origins`), the positions of its keys, the states of scores for
                    each, and methods that keep both up to date (see `key_positions`, `states`, `following`)
model               an instance `save_pretrained` that keeps the encoding (see `saving`), and a `name_or_path` that
                    names it: PEFT writes that into adapters, and a stock load of their base then fails on the name

A forward reads all that it needs from its arguments and from `self`, never from a closure. That makes `copy.deepcopy`,
gradient checkpointing and several models in one process safe.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from whorl.attaching.filling import filled, what_was_filled
from whorl.attaching.parallel import refuse_sharded, refuse_wrapped
from whorl.attaching.placing import forget_compiled, put_on, refuse_foreign_forwards, take_off
from whorl.attaching.plan import Plan, layer_plan
from whorl.attaching.proving import prove
from whorl.attaching.seams import Term, attached, seams_of
from whorl.checking import check_numbers, few
from whorl.encodings import Encoding, Layers, parse
from whorl.encodings.grid import by_patch
from whorl.encodings.window import Window
from whorl.hosts import Host, host_of
from whorl.ops import choose

log = logging.getLogger(__name__)


def attach(model: Any, encoding: Encoding | str, *, impl: str = "auto", seed: int = 0) -> Any:
    """Gives `model` this positional encoding in place of the one that it has, and returns the model.

    encoding: an `Encoding`, or its notation ("p-rope:p=0.5"). Arguments that it leaves unset are the model's own: base,
    training length and turning share of its config (see `whorl.attaching.filling`), or the registry's defaults
    where that says nothing; `encoding_of` then says them. The model's weights are left as they are; learned
    parameters of the encoding (T5's table, say) join `model.parameters()`, and a learned table of positions starts
    from the host's own where it has one. Attaching again replaces, and parts that both encodings have go on with what
    they have learned (the gates of `rope+fox` in `hope+fox`); one `detach` gives the stock model back, and forgets it.

    A pretrained model reads worse with an encoding that it was not trained with, until it is trained on: a small
    Llama's loss of 0.75 nats per token became 1.73 under HoPE, 4.17 under NoPE. `whorl convert` swaps and heals.

    What the host declares itself stays: its windows, soft caps, sinks and scales, and the layers that it does not turn
    (unless `Layers` gives such a layer a rotary encoding by name). A model inside torch.compile or PEFT is found.

    An encoding that biases logits, hides keys or depends on the length runs in whorl's attention implementation,
    "whorl". A forward raises ValueError where another has been set since (transformers' `generate_batch` sets flash or
    paged attention), where the positions of cached keys are unknown, and for packed documents in a call that fills a
    cache: see `whorl.attaching.key_positions`. Under every encoding it raises for a cache that was filled without it,
    and a model that has been detached raises for one that was filled with it: see `whorl.attaching.origins`.

    impl: which implementation of whorl's operations runs, as in `whorl.ops.rotate`; "reference" gives the readable one,
    and "flex" takes the biases (only) through PyTorch's FlexAttention.

    seed: of the numbers that a learned encoding starts from, where they are drawn at random: each layer has its own,
    the same in every run and process. To begin anew with what is attached already, detach first.

    Of a model that also sees or hears, the text's layers get the encoding; its towers attend as before. Where a token
    has a time, a row and a column (M-RoPE: Qwen2-VL to Qwen3-VL), each pair goes by the one that it does in the model,
    and encodings that do more than rotate q and k by fixed frequencies are refused.

    Of the process this changes two things: the first encoding that needs it makes the attention "whorl" known to
    transformers by its name, and where torch.compile has been used, all compiled graphs are dropped, so that the next
    calls compile anew (`detach` does that too).

    Raises ValueError, with the model unchanged, for a model without a known seam (`whorl list` names the families;
    encoder-decoders, models without attention and most latent attention have none), sizes that cannot carry the
    encoding, a layer type without a rule, a window wider than the host's own, a data-parallel wrapper, learned
    parameters on a model that is sharded already (see `whorl.attaching.parallel`), or a module whose `forward` other
    code has replaced; and for a spectrum that depends on the length, on an encoder and where q and k cannot be rotated
    last of all (falcon; hunyuan, which normalises them after its rotation). Such a spectrum is not exported either:
    torch.export and torch.jit.trace of the model raise ValueError.

    >>> model = whorl.attach(model, whorl.HoPE(train_length=4096))
    """
    host, plan = _join(model, encoding, impl, seed)
    attachment = attached(model)
    if attachment is not None and (order := _other_order(host, plan)):
        log.warning(
            "%s turns by columns the pairs of channels that this %s itself turns by rows, and the other way around: "
            "weights that were trained with its own, %s, take rows for columns; order=%s gives each pair its own axis",
            attachment.encoding,
            type(model).__name__,
            host.own_encoding(),
            order,
        )
    return model


def attach_saved(model: Any, encoding: Encoding) -> Any:
    """`attach` of the encoding that the weights of a model were saved with."""
    _join(model, encoding, "auto", 0)
    return model


def _join(model: Any, encoding: Encoding | str, impl: str, seed: int) -> tuple[Host, Plan]:
    asked = parse(encoding)
    check_numbers(seed=seed)
    refuse_wrapped(model)
    host = host_of(model)
    if host.takes_no_vectors is not None and "add" in asked.kinds:  # before it is asked which they would be
        raise ValueError(f"{asked} {host.takes_no_vectors}")
    encoding = filled(host, asked)
    rotation = "auto" if impl == "flex" else impl
    choose(rotation, next(host.model.parameters()).device)
    plan = layer_plan(host, encoding, seed)
    for seam in plan.layers:
        seam.impl, seam.attention = rotation, impl if impl in ("reference", "flex") else "auto"
    if any(True for module in plan.modules for _ in module.parameters()):
        refuse_sharded(host.model, encoding)
    before, learned = attached(model), [() if seam is None else seam.terms for seam in seams_of(host)]
    refuse_foreign_forwards(host)
    if before is not None:
        take_off(host, before)
    elif not host.known:
        prove(host)
        if any(seam.scaled is not None for seam in plan.layers):
            prove(host, late=True)
    put_on(host, encoding, plan)
    _go_on(plan, learned)
    forget_compiled()
    on_grids = "axial-rope:order=ij or p-rope-2d:order=ij" if host.packed else "axial-rope or p-rope-2d"
    if host.reads_images and not plan.places:
        log.warning(
            "%s tells this %s nothing of where patches stand: no pair of channels turns, nothing is added to patches, "
            "and no logit is changed by their places. It takes an image for a bag of patches; try %s",
            encoding,
            type(model).__name__,
            on_grids,
        )
    elif host.axes == 1 and not plan.places and all(shape.bidirectional for shape in host.shapes):
        log.warning(
            "%s tells this %s nothing of the order of its tokens, and no mask does: it takes a text for a bag of "
            "words; try rope, hope or alibi",
            encoding,
            type(model).__name__,
        )
    elif host.patches is None and host.axes > 1 and (unseen := plan.unseen(host.axes)):
        log.warning(
            "%s goes by no axis %s of the %d that positions have in this %s: what differs along it alone is the same "
            "to the model; try %s, or frequencies with an axis for each pair",
            encoding,
            " and ".join(map(str, unseen)),
            host.axes,
            type(model).__name__,
            on_grids if host.packed else "spe, pape-ri or euclidean-alibi",
        )
    if drawn := host.drawn_in_training:
        log.warning(
            "in training this %s moves or scales the places of patches that its own rotation goes by, anew in every "
            "forward (%s); what is attached goes by the image's own. Move and scale the images instead",
            type(model).__name__,
            drawn,
        )
    kept = host.unmasked_window
    if kept is not None and not all(_masks_by(seam.terms, kept) for seam in plan.layers):
        log.warning(
            "this %s masks nothing by config.sliding_window, %d, and transformers' caches drop the keys before it: "
            "cached decoding is not what a full forward gives. Set it to None, or add +window:size=%d in every layer",
            type(model).__name__,
            kept,
            kept,
        )
    if isinstance(encoding, Layers) and (unused := encoding.unused(host.layer_types)):
        types = sorted({str(t) for t in host.layer_types})
        log.warning(
            "no layer of this %s goes by %s: it has %d, of type %s",
            type(model).__name__,
            few(unused),
            len(host.layer_types),
            " and ".join(types),
        )
    if words := what_was_filled(host, asked, encoding):
        log.info("%s", words)
    return host, plan


def _other_order(host: Host, plan: Plan) -> str | None:
    """The `order` of a host's own pairs, where those of all its layers that turn before and after go by rows where they
    went by columns, and the other way around; else None."""
    by_rows = []  # of each such pair, before and after
    for index, seam in enumerate(plan.layers if host.reads_images else ()):
        try:
            own, now = host.own_spectrum(index), seam.spectrum
        except ValueError:  # a rotation that no encoding says
            return None
        if own is None or now is None:
            continue
        for before, after in zip(by_patch(own.by_axis, 1, 1), by_patch(now.by_axis, 1, 1), strict=False):
            if any(before) and any(after):
                by_rows.append((before[0] > before[1], after[0] > after[1]))
    if not by_rows or any(before == after for before, after in by_rows):
        return None
    return "ij" if by_rows[0][0] else "xy"


def _masks_by(terms: Sequence[Term], kept: int) -> bool:
    return any(isinstance(part, Window) and part.size <= kept for part, _ in terms)


@torch.no_grad()
def _go_on(plan: Plan, learned: Sequence[Sequence[Term]]) -> None:
    """Gives each part of an encoding what the same part has learned in the same layer of the encoding before it."""
    for seam, before in zip(plan.layers, learned, strict=True):
        for part, modules in seam.terms:
            for module, was in zip(modules, dict(before).get(part, ()), strict=False):
                own, held = module.state_dict(), was.state_dict()
                if [x.shape for x in own.values()] == [x.shape for x in held.values()]:
                    module.load_state_dict(held)


def detach(model: Any) -> Any:
    """Takes the attached encoding off again: the model's outputs are bit for bit what they were. Returns the model.

    Raises ValueError when nothing is attached, or when other code has replaced a `forward` since.
    """
    attachment = attached(model)
    if attachment is None:
        raise ValueError(
            f"nothing is attached to this {type(model).__name__}; whorl.attach(model, encoding) comes first"
        )
    host = host_of(model)
    refuse_foreign_forwards(host)
    take_off(host, attachment)
    return model
