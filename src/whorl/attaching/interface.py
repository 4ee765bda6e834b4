"""The attention implementation "whorl": where logits are biased, and where q and k are rotated after the cache."""

from __future__ import annotations

import functools
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from whorl.attaching.contexts import Contexts, SameSpectrum
from whorl.attaching.counting import keys_seen, real_tokens
from whorl.attaching.key_positions import Call, key_positions
from whorl.attaching.masks import GivenMask, MaskWith, of_queries
from whorl.attaching.parallel import of_heads
from whorl.attaching.seams import INTERFACE, LayerSeam, seam_of
from whorl.attaching.states import Told, bound
from whorl.encodings import Spectrum
from whorl.hosts.transformers.interface import HostMask
from whorl.ops import Tables, biased_attention, rotate, rotation_tables
from whorl.ops.axes import seen_by
from whorl.ops.derivatives import exporting

if TYPE_CHECKING:
    from whorl.attaching.packed import InTurn

CARRIERS = {INTERFACE}  # the attention implementations that carry an encoding


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | HostMask | MaskWith | None,
    dropout: float = 0.0,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As transformers calls an attention: q and k [batch, heads, tokens, head_dim], k and v with the cache's keys."""
    mask, kwargs = _apart(attention_mask, kwargs, query.shape[2])
    seam = seam_of(module)
    if seam is None and getattr(module, "is_cross_attention", "cross" in type(module).__name__.lower()):
        raise ValueError(
            f"this {type(module).__name__} is a cross-attention, which whorl does not know, and attn_implementation is "
            "'whorl', which the encoding attached to the model's own attention needs. Attach one that only adds to the "
            "embedding (sinusoidal, learned), or nope, or run the model without encoder_hidden_states"
        )
    if seam is None:
        raise ValueError(
            f"attn_implementation is 'whorl' on a {type(module).__name__} with no encoding attached; "
            "use whorl.attach(model, encoding), which sets it. Of models that were built from one config object it "
            "sets it for all: build each from a copy.deepcopy(config)"
        )
    if mask is None and not seam.bidirectional and getattr(module, "is_causal", True):
        raise ValueError(
            f"{type(module).__name__} got no mask, which would let every token see those after it: its masks are made "
            f"for another attention implementation. Set {INTERFACE!r} for the part that makes them too, or give a mask"
        )
    arguments = _unturned(module, query, key, value, mask, **kwargs)
    dense = (
        seam.attention == "reference" or output_attentions or any(isinstance(b, GivenMask) for b in arguments["biases"])
    )
    how: dict[str, Any] = {"dropout": dropout, "impl": "reference" if dense else seam.attention}
    if seam.scaled is not None:
        output, weights = _by_context(seam, arguments, kwargs.get("whorl_contexts"), how)
    else:
        output, weights = biased_attention(**_turned(seam, arguments, tables=kwargs.get("whorl_tables")), **how)
    return output.transpose(1, 2).contiguous(), weights


def _apart(
    given: torch.Tensor | HostMask | MaskWith | None, kwargs: dict[str, Any], queries: int
) -> tuple[torch.Tensor | HostMask | None, dict[str, Any]]:
    """The mask, and the arguments with those that came with it, or that are of so many queries of a longer row."""
    in_turn: InTurn | None = kwargs.get("whorl_in_turn")
    if in_turn is not None:
        kwargs = {**kwargs, **in_turn.following(queries)}
    return (given.mask, {**kwargs, **given.arguments}) if isinstance(given, MaskWith) else (given, kwargs)


def attention_arguments(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | HostMask | MaskWith | None,
    **kwargs: Any,
) -> dict[str, Any]:
    """What a host hands to its attention function, as arguments of `biased_attention`, with what is attached to it.

    Raises ValueError where queries have spectra of their own, which no one q and k can show.
    """
    seam = seam_of(module)
    mask, kwargs = _apart(attention_mask, kwargs, query.shape[2])
    arguments = _unturned(module, query, key, value, mask, **kwargs)
    if seam is None:
        return arguments
    if seam.scaled is None:
        return _turned(seam, arguments, tables=kwargs.get("whorl_tables"))
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
    whorl_told: Told | None = None,
    **__: Any,
) -> dict[str, Any]:
    """The arguments of `biased_attention`, with q and k as the host gives them."""
    seam = seam_of(module)
    if whorl_positions is not None:
        position_ids = whorl_positions
    elif position_ids is None:
        if key.shape[2] != query.shape[2]:
            old, keys = key.shape[2] - query.shape[2], key.shape[2]
            raise ValueError(
                f"{type(module).__name__} passes no position_ids to its attention, and nothing else says where these "
                f"{query.shape[2]} tokens stand, after {old} in a cache; give them to the model, as "
                f"position_ids=torch.arange({old}, {keys})[None]"
            )
        position_ids = torch.arange(query.shape[2], device=query.device)[None]  # what a host without any counts
    biases = [] if seam is None else of_heads(seam.biases, query.shape[1])
    mask = visible = attention_mask
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dtype != torch.bool:
        given = GivenMask(attention_mask)
        biases.append(given)
        mask, visible = given.shown, attention_mask >= 0
    call = whorl_keys or Call(position_ids, -1)
    arguments = {
        "q": query,
        "k": key,
        "v": value,
        "biases": biases,
        "query_positions": position_ids,
        "key_positions": key_positions(call, visible, key.shape[2]),
        "mask": mask,
        "scale": query.shape[-1] ** -0.5 if scaling is None else scaling,
        "softcap": softcap,
        "sinks": s_aux,
    }
    if seam is not None and seam.scales:
        arguments["factor"] = _factor(seam, arguments)
    if seam is not None and seam.scores:
        start = 0 if whorl_told is None else whorl_told.start
        real = real_tokens(visible, call.positions.shape[1], start, key.shape[2]) if seam.keeps_state else None
        named = f"{seam.notation}, attached to this {type(module).__name__},"
        if any(score.causal for score in seam.scores) and _shows_later(visible):
            raise ValueError(
                f"{named} goes by the keys before a query, and here some tokens see those after them (as the tokens of "
                "one image do in Gemma 3, and those of a prefix); try one that goes by distance, as alibi or t5"
            )
        arguments["scores"] = bound(seam.scores, whorl_told, call.positions, real, query.shape[2], key.shape[2], named)
    return arguments


def _shows_later(visible: torch.Tensor | HostMask | None) -> bool:
    """Whether some query sees the key after its own. Not asked in compiled calls, which cannot go by what is found in a
    mask, and of a mask that was given beside a cache."""
    if torch.compiler.is_compiling():
        return False
    if isinstance(visible, HostMask):
        return visible.shows_later
    if visible is None or visible.shape[-1] != visible.shape[-2]:
        return False
    return bool(visible.diagonal(1, -2, -1).any())


def _factor(seam: LayerSeam, arguments: dict[str, Any]) -> torch.Tensor:
    """What the queries' logits are multiplied by, [batch or 1, heads or 1, queries]."""
    mask, biases = arguments["mask"], arguments["biases"]
    causal = not seam.bidirectional and not any(isinstance(bias, GivenMask) for bias in biases)
    counts = keys_seen(mask, biases, arguments["query_positions"], arguments["key_positions"], causal)
    factors = [scale(counts, seen_by(scale, arguments["query_positions"])) for scale in seam.scales]
    return functools.reduce(torch.mul, factors)


def _turned(
    seam: LayerSeam,
    arguments: dict[str, Any],
    spectrum: Spectrum | None = None,
    contexts: Contexts | None = None,
    tables: Tables | None = None,
) -> dict[str, Any]:
    """The same with q and k rotated, in a layer that is rotated here (`late`): by its own spectrum, or a given one.

    tables: those of all tokens, where queries and keys are the same ones and all layers share them.
    """
    if not seam.late:
        return arguments
    if tables is not None:
        q, k = rotate(arguments["q"], arguments["k"], tables, layout=seam.layout, impl=seam.impl)
        return {**arguments, "q": q, "k": k}
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
    """Attention in which each query, and all the keys that it sees, are rotated by the spectrum of the query's context.

    Once for each distinct spectrum: over the smallest slice that holds all of its queries, and the keys up to the last.
    """
    assert seam.scaled is not None
    if exporting() or torch.jit.is_tracing():
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
    """The arguments for the queries first .. last - 1 alone, and for the keys that the host may let them see."""
    mask, keys = arguments["mask"], arguments["k"].shape[2]
    if isinstance(mask, HostMask):  # one of the caller's own may do as it likes
        if not mask.shows_later:
            keys -= arguments["q"].shape[2] - last  # a static cache has empty slots, and then this is more than enough
        mask = mask.part(first, last, keys)
    elif mask is not None:
        mask = of_queries(mask, first, last)
    biases = [b.part(first, last) if isinstance(b, GivenMask) else b for b in arguments["biases"]]
    part = dict(arguments)
    if "factor" in part:
        part["factor"] = part["factor"][..., first:last]
    if "scores" in part:
        part["scores"] = tuple(score.part(first, last, keys) for score in part["scores"])
    return {
        **part,
        "q": arguments["q"][:, :, first:last],
        "k": arguments["k"][:, :, :keys],
        "v": arguments["v"][:, :, :keys],
        "query_positions": arguments["query_positions"][:, first:last],
        "key_positions": arguments["key_positions"][:, :keys],
        "mask": mask,
        "biases": biases,
    }


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
