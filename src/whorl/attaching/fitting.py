"""Whether a host can have what changes attention by content or by lengths, and what changes positions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from whorl.encodings import REGISTRY, Encoding
from whorl.encodings.scores import ScoreModule
from whorl.hosts import Host
from whorl.ops.axes import axis_of


def check_grid(part: Encoding, host: Host) -> None:
    """Raises ValueError where an encoding goes by rows and columns and this host's positions have one axis."""
    if part.on_grid and host.pair_axes:
        raise ValueError(
            f"{part.name} goes by rows and columns of one image, and the pairs of {host.named} go by a time, a row or "
            "a column each, as mrope_section says; try one that says frequencies alone (rope, hope, p-rope)"
        )
    if part.on_grid and host.axes == 1:
        raise ValueError(
            f"{part.name} goes by rows and columns, and a position in {host.named} has 1 axis; attach it to a model of "
            "images, or choose one that goes by tokens in a row (rope, hope, alibi)"
        )


def form_on_grids(part: Encoding) -> str:
    """The name of this encoding's own form on grids, or else of the plain rotation there."""
    own = f"{part.name}-2d"
    return own if own in REGISTRY else "axial-rope"


def check_axis(module: nn.Module, part: Encoding, host: Host) -> None:
    """Raises ValueError where a module goes by an axis that this host's positions lack, does not say by which, or goes
    by all of another number of them."""
    try:
        axis_of(module, host.axes)
    except ValueError as error:
        *tries, last = dict.fromkeys([form_on_grids(part), "axial-rope", "alibi-2d", "hope-2d", "lookhere", "irpe"])
        first = "" if not host.reads_images else f"it reads images; try {', '.join(tries)} or {last}. "
        raise ValueError(f"{part} cannot be attached to {host.named}: {first}{error}") from None
    wanted = getattr(module, "axes", 0)
    if wanted not in (0, host.axes):
        raise ValueError(
            f"{part} goes by positions of {wanted} axes, and those of {host.named} have {host.axes}; attach it to a "
            f"model that hands its layers positions of {wanted}"
        )


def check_added(module: nn.Module, part: Encoding, host: Host) -> None:
    """Raises ValueError where a module that adds vectors goes by a grid and the host reads no images, or by anything
    else and it does."""
    by_grid = getattr(module, "axis", None) == "grid"
    if by_grid and not host.reads_images:
        raise ValueError(
            f"{part} adds vectors of an image's grid, and {host.named} reads none; try learned, sinusoidal"
        )
    if host.patches is not None and not by_grid:
        raise ValueError(
            f"{part} adds vectors of tokens in a row, and those of {host.named} stand on a grid; try learned-2d, "
            "sincos-2d"
        )
    if not by_grid:
        check_axis(module, part, host)


def check_in_interface(part: Encoding, host: Host) -> None:
    """Raises ValueError for a host whose attention is not in whorl's hands: biases alone can go into a mask."""
    if host.biases == "mask":
        raise ValueError(
            f"{part} changes logits by what queries and keys are, in transformers' attention interface, which "
            f"{host.named} does not use; try one that biases them by positions alone (alibi, t5, kerple), or turns q "
            "and k (rope, hope)"
        )


def check_score(score: ScoreModule, part: Encoding, host: Host, index: int) -> None:
    """Raises ValueError where a layer cannot have a score."""
    check_in_interface(part, host)
    check_axis(score, part, host)
    name = host.named
    if score.causal and host.shapes[index].bidirectional:
        raise ValueError(
            f"{part} goes by the keys before a query, and {name} attends in both directions; try one that goes by "
            "distance, as alibi or t5"
        )
    if score.keeps_state and host.reuses_keys(index):
        raise ValueError(
            f"layer {index} of {name} reuses the keys of an earlier layer (num_kv_shared_layers), and {part} keeps a "
            "state of its own for each of a layer's keys; try one without a state (alibi, t5), or build the model with "
            "num_kv_shared_layers=0"
        )
    # A norm without weights keeps its hands off the angles.
    if score.as_trained and any(True for m in host.normalised_after(index) for _ in m.parameters()):
        raise ValueError(
            f"{part} rotates q and k last, and layer {index} of {name} was trained to normalise them, channel by "
            "channel, after its own rotation; try a scaling of its rotary encoding, as rope~yarn:factor=4,original=2048"
        )
    if score.does("features") and host.soft_cap(index) is not None:
        raise ValueError(
            f"{part} has no logits, and {name} caps those of its own (attn_logit_softcapping), which would be lost; "
            "build the model without the cap, or try an encoding that keeps the logits (alibi, rope)"
        )
    if score.does("weights") and host.has_sinks(index):
        raise ValueError(
            f"{part} takes the place of the softmax, and {name} has attention sinks in it, which would be lost; try an "
            "encoding that changes logits (alibi), or rotates q and k"
        )


def check_repositions(host: Host, encoding: Encoding, repositions: Sequence[nn.Module | None], by_length: bool) -> None:
    """Raises ValueError where a host cannot have what changes positions: it is one for all layers that see any.

    repositions: by layer. by_length: whether a layer's spectrum depends on the length of the context.
    """
    found = {id(one): one for one in repositions if one is not None}
    if not found:
        return
    rules = [encoding.for_layer(i, layer_type) for i, layer_type in enumerate(host.layer_types)]
    changed = [rule for rule, one in zip(rules, repositions, strict=True) if one is not None]
    plain = next((r for r, one in zip(rules, repositions, strict=True) if one is None and not r.by_order), None)
    if all(rule.by_order for rule in rules):
        raise ValueError(
            f"{changed[0]} changes positions, and nothing beside it goes by any; try rope+randomized:length=2048"
        )
    if plain is not None or len(found) > 1:
        other = plain or next(rule for rule in changed if rule != changed[0])
        raise ValueError(
            f"randomized changes the positions of a whole model, and one layer has {changed[0]}, another {other}; give "
            "randomized of one length to all layers that go by positions"
        )
    if by_length:
        raise ValueError(
            f"{encoding} goes by the number of tokens up to a query's own, which random positions do not count; try a "
            "scaling that is the same at every length, as rope~ntk:factor=4+randomized:length=2048"
        )
    if host.axes > 1:
        raise ValueError(f"{encoding} draws positions of one axis, and those of {host.named} have {host.axes}")
    if host.rotary is None and any("add" not in p.kinds for r in rules for p in r.terms if not p.by_order):
        raise ValueError(
            f"{encoding} changes the positions that layers see, and {host.named} has no rotary module to hand them "
            "out, so that each layer would draw its own; try learned+randomized:length=2048, which goes in once, or a "
            "family with a rotary module, as llama"
        )
