"""Reads q, k and v where they reach the attention interface, without changing the model.

While `watching` is open, the model's attention is computed by an interface of ours, which hands every layer's q, k and
v (turned already, as attention sees them) to a watcher, and then gives back what the model's own attention gives.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from whorl import finite
from whorl.attaching import attached, seams_of
from whorl.attaching.interface import CARRIERS, attention_arguments
from whorl.attaching.masks import GivenMask
from whorl.data.losses import evaluating
from whorl.encodings.grid import Grid, by_patch
from whorl.encodings.hope import HoPE
from whorl.encodings.scores import At
from whorl.hosts import Host, OpenHost, host_of, open_host, stock_spectrum
from whorl.hosts.transformers import compat, packed
from whorl.hosts.transformers.interface import HostMask, register
from whorl.numerics import math_dtype
from whorl.ops import Visible, biased_attention
from whorl.ops.axes import seen_by
from whorl.ops.by_token import token_by_token
from whorl.ops.scores import BoundScore, Channels, product
from whorl.ops.visible import DenseVisible

INTERFACE = "whorl_inspect"


@dataclass(frozen=True)
class Layer:
    """What inspection has to know of one attention layer.

    frequencies  radians per token of each pair, fastest first, 0 where a pair does not rotate; empty without pairs
    layout       how pairs lie in the first 2 x pairs channels: "half" or "interleaved"
    window       keys at this distance or beyond are hidden by the host; None without a window
    cut          the longest wavelength that HoPE lets turn, in training lengths: its own where the layer has HoPE
    has_logits   False where weights are a quotient of features, and there is no logit
    distribution  False where weights may be negative, and have no sum that is known
    causal       False where a query also sees later keys (images)
    """

    index: int
    frequencies: tuple[float, ...]
    layout: str
    amplitude: float
    window: int | None
    cut: float = 1.0
    has_logits: bool = True
    distribution: bool = True
    causal: bool = True

    @property
    def pairs(self) -> int:
        return len(self.frequencies)

    @property
    def turns(self) -> bool:
        return any(f > 0 for f in self.frequencies)

    def channels(self) -> torch.Tensor:
        """[pairs, 2]: the two channels of each pair."""
        first = torch.arange(self.pairs)
        if self.layout == "half":
            return torch.stack([first, first + self.pairs], -1)
        return torch.stack([2 * first, 2 * first + 1], -1)


def layers_of(model: Any) -> list[Layer]:
    """The attention layers of a decoder, a model or an `OpenHost`, as `whorl.attach` or the host itself has made them.

    Raises ValueError for a model without a known seam, for an encoder, and for a family that does not use
    transformers' attention interface.
    """
    host = open_host(model)
    _refuse(host)
    layers = []
    for i, seam in enumerate(seams_of(host)):
        spectrum = None
        if seam is not None:
            spectrum = seam.spectrum
        elif host.turns[i]:
            spectrum = stock_spectrum(host.rotary, host.layer_types[i], host.shapes[i].head_dim)
        scores = () if seam is None else seam.scores
        layers.append(
            Layer(
                index=i,
                frequencies=() if spectrum is None else tuple(spectrum.frequencies),
                layout="half" if host.rotation is None else host.rotation.layout,
                amplitude=1.0 if spectrum is None else spectrum.amplitude,
                window=_reach(host.windows[i], () if seam is None else seam.biases),
                cut=_cut(host, i),
                has_logits=not any(score.does("features") for score in scores),
                distribution=all(score.distribution for score in scores),
            )
        )
    return layers


def _cut(host: OpenHost, layer: int) -> float:
    """HoPE's `cut` in a layer that has HoPE; elsewhere the paper's."""
    attachment = attached(host.model)
    if attachment is None:
        return HoPE.cut
    encoding = attachment.encoding.for_layer(layer, host.layer_types[layer])
    parts = (getattr(part, "inner", part) for part in getattr(encoding, "parts", (encoding,)))
    return next((part.cut for part in parts if isinstance(part, HoPE)), HoPE.cut)


def _reach(window: int | None, biases: tuple[nn.Module, ...]) -> int | None:
    reaches = [window, *(getattr(module, "reach", None) for module in biases)]
    return min((r for r in reaches if r is not None), default=None)


def _refuse(host: OpenHost) -> None:
    name = type(host.model).__name__
    if any(shape.bidirectional for shape in host.shapes):
        raise ValueError(f"{name} attends in both directions, and inspect reads decoders; give a causal language model")
    if host.biases != "interface":
        raise ValueError(
            f"{name} does not use transformers' attention interface, where inspect reads q and k; of the families "
            "that whorl knows this holds for falcon alone (docs/inspect.md)"
        )


class Block(NamedTuple):
    """Logits of some heads, of the queries q0 .. q1 - 1 and the keys k0 .. q1 - 1 of one window (to the last key, where
    queries see later ones)."""

    heads: slice
    q0: int
    q1: int
    k0: int
    logits: torch.Tensor  # as the softmax gets them [heads, queries, keys]; hidden keys are at minus infinity
    content: torch.Tensor | None  # scale q.k, capped, and nothing else; None where that is all that they are


@dataclass
class Attended:
    """One layer's attention over whole windows: k, v [batch, key heads, tokens, head_dim], q with its own heads.

    q and k are those whose product is taken: turned, and multiplied by a scale's factor. Where each head turns by
    angles of its own, k has as many heads as q.
    """

    layer: Layer
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    softcap: float | None
    sinks: torch.Tensor | None
    biases: list[nn.Module]
    mask: Visible | None  # None: causal, and nothing else hidden
    positions: torch.Tensor  # [1, tokens], or with axes
    channels: Channels | None = None  # of q and k, whose product is added to the logits
    scores: tuple[BoundScore, ...] = ()
    factor: torch.Tensor | None = None  # in q already: [batch or 1, heads or 1, tokens]
    places: torch.Tensor | None = None  # of images: row and column of the patches, which are its last tokens

    @property
    def units(self) -> list[slice]:
        """Heads whose logits are made together: those of one key head; all, where a score or a bias gives them so."""
        heads = self.q.shape[1]
        alone = all(hasattr(module, "of_distance") for module in self.biases) and not self._rows()
        together = heads // self.k.shape[1] if alone else heads
        return [slice(first, first + together) for first in range(0, heads, together)]

    @property
    def adds(self) -> bool:
        """Whether logits are more, or something else, than q.k and what a window hides."""
        if not self.layer.has_logits:
            return False
        biased = any(getattr(module, "reach", None) is None for module in self.biases)
        return biased or self.channels is not None or any(score.module.does("logits") for score in self.scores)

    def block(self, batch: int, heads: slice, q0: int, q1: int) -> Block:
        """Logits of one window's queries, of the heads of one of `units`, float32."""
        repeats, at, dtype = self.q.shape[1] // self.k.shape[1], self.positions, math_dtype(self.q.dtype)
        k0 = 0 if self.layer.window is None else max(0, q0 - self.layer.window + 1)
        k1 = q1 if self.layer.causal else self.k.shape[2]
        q = self.q[batch, heads, q0:q1].to(dtype) * self.scale
        k = self.k[batch, heads.start // repeats : heads.stop // repeats, k0:k1].to(dtype)
        s = (q.unflatten(0, (len(k), -1)).flatten(1, 2) @ k.mT).view(len(q), q1 - q0, k1 - k0)
        seen = None if self.mask is None else self._seen(batch, heads, q0, q1, k0, k1)
        rows = []
        if changing := self._rows("logits"):
            if seen is None:
                seen = torch.ones(1, *s.shape[1:], dtype=torch.bool, device=s.device)
                seen = seen.tril(q0 - k0) if self.layer.causal else seen
            rows = [(score.module, self._at(score, batch, q0, q1, k0, k1, seen)) for score in changing]
        content = s.clone() if self.adds else None
        handed = q[None], k.repeat_interleave(repeats, 0)[None] if rows else k[None]
        for module, here in rows:
            if module.scores_anew:
                s = module.logits(s[None], *handed, here)[0]
        if self.softcap is not None:
            for x in (s, *(() if content is None else (content,))):
                x.div_(self.softcap).tanh_().mul_(self.softcap)
        for module, here in rows:
            if not module.scores_anew:
                s = module.logits(s[None], *handed, here)[0]
        if self.channels is not None:
            of_q, of_k = self.channels
            of_k = of_k[batch, heads if of_k.shape[1] > 1 else slice(None), k0:k1]
            s += product(of_q[batch, heads, q0:q1], of_k)
        for bias in self.biases:
            here_at = seen_by(bias, at)
            if isinstance(bias, GivenMask):  # a host's own biases
                added = bias.part(q0, q1)(here_at, here_at)[0, ..., k0:k1].to(dtype)
            else:
                added = bias(here_at[:, q0:q1], here_at[:, k0:k1])[0].to(dtype)
            s += added[heads] if added.shape[0] > 1 else added
        if seen is None and self.layer.causal:
            later = torch.ones(q1 - q0, q1 - q0, dtype=torch.bool, device=s.device).triu(1)
            s[..., q0 - k0 :].masked_fill_(later, -torch.inf)
        elif seen is not None:
            s.masked_fill_(~seen, -torch.inf)
        return Block(heads, q0, q1, k0, s.float(), None if content is None else content.float())

    def weights(self, batch: int, block: Block) -> torch.Tensor | None:
        """What a score gives in the place of the softmax's weights: [heads, queries, keys]; None without such a one."""
        for score in self._rows("weights"):
            k1 = block.k0 + block.logits.shape[-1]
            at = self._at(score, batch, block.q0, block.q1, block.k0, k1, block.logits > -torch.inf)
            return score.module.weights(block.logits[None], at)[0]
        return None

    def softmax(self, block: Block) -> torch.Tensor:
        """Weights by the softmax, of which a sink takes a part: [heads, queries, keys]."""
        s = block.logits
        if self.sinks is None:
            return s.softmax(-1)
        sinks = self.sinks[block.heads].float()[:, None, None].expand(-1, s.shape[1], 1)
        return torch.cat([s, sinks], -1).softmax(-1)[..., :-1]

    def entropy(self, batch: int, q0: int, q1: int) -> torch.Tensor:
        """Of one window's attention weights in nats, a sink's and what is given to no key among them: [heads, q1 - q0].

        NaN where weights are no distribution.
        """
        found = []
        for heads in self.units:
            block = self.block(batch, heads, q0, q1)
            weights = self.weights(batch, block)
            found.append(self.spread(self.softmax(block) if weights is None else weights))
        return torch.cat(found)

    def spread(self, weights: torch.Tensor) -> torch.Tensor:
        """The entropy of weights that took the softmax's place, and of what they leave: [heads, queries]."""
        if not self.layer.distribution:
            return torch.full(weights.shape[:2], torch.nan, device=weights.device)
        left = (1 - weights.sum(-1)).clamp(min=0)
        return torch.special.entr(weights).sum(-1) + torch.special.entr(left)

    def _rows(self, *steps: str) -> list[BoundScore]:
        """The scores that are handed all keys of a query for one of these steps, or for any."""
        return [score for score in self.scores if any(map(score.module.does, steps or ("logits", "weights")))]

    def _at(self, score: BoundScore, batch: int, q0: int, q1: int, k0: int, k1: int, seen: torch.Tensor) -> At:
        of_q, of_k = (
            None if state is None else state[batch if state.shape[0] > 1 else 0][None, first:last]
            for state, first, last in ((score.query_state, q0, q1), (score.key_state, k0, k1))
        )
        at = self.positions[:, q0:q1], self.positions[:, k0:k1]
        return BoundScore(score.module, of_q, of_k).at(*at, seen[None], self.scale)

    def _seen(self, batch: int, heads: slice, q0: int, q1: int, k0: int, k1: int) -> torch.Tensor:
        """What the mask shows, [heads or 1, queries, keys]."""
        assert self.mask is not None
        seen = self.mask.block(q0, q1, k0, k1)
        seen = seen[batch if seen.shape[0] > 1 else 0]
        return seen[heads] if seen.shape[0] > 1 else seen


Watcher = Callable[[Attended], None]
Edit = Callable[[Layer, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def watching(model: Any, watcher: Watcher | None = None, edit: Edit | None = None) -> Iterator[None]:
    """While open, every forward of the model (or `OpenHost`) hands each layer's q, k and v to `watcher`.

    The model gives what it gave before (unless `edit` gives other q and k for a layer's q, k and positions), and is as
    it was afterwards. Windows must be whole: no padding, no cache.
    """
    host = open_host(model)
    with _attending_here(host, layers_of(host), watcher, edit):
        yield


@contextmanager
def _attending_here(
    host: Host, facts: Sequence[Layer], watcher: Watcher | None = None, edit: Edit | None = None
) -> Iterator[None]:
    _register()
    if not isinstance(host, OpenHost):
        host.carry(INTERFACE, _interface)
    before = host.attention
    stock = attached(host.model) is None
    host.set_attention(INTERFACE)
    try:
        for index, (attention, layer) in enumerate(zip(host.attentions, facts, strict=True)):
            attention.__dict__["whorl_watch"] = (watcher, edit, layer)
            if stock and (own := host.stock_forward(index)) is not None:
                attention.__dict__["forward"] = types.MethodType(own, attention)
        yield
    finally:
        for index, attention in enumerate(host.attentions):
            attention.__dict__.pop("whorl_watch", None)
            if stock and host.stock_forward(index) is not None:
                attention.__dict__.pop("forward", None)
        host.set_attention(before)


def forward(model: Any, ids: torch.Tensor, watcher: Watcher) -> None:
    """Runs whole windows of token ids [batch, tokens] through the model's layers, watched.

    Raises ValueError for windows that are longer than the model's table of positions, when a layer did not attend
    through the interface, and so was not seen, and for hidden states that are not finite.
    """
    host = open_host(model)
    rows, tokens = host.table_rows, ids.shape[1]
    if attached(host.model) is None and rows is not None and tokens > rows:
        raise ValueError(
            f"windows of {tokens} tokens are longer than the {rows} positions that {type(host.model).__name__} has "
            f"learned; try --length {rows}"
        )
    seen: set[int] = set()

    def noting(attended: Attended) -> None:
        seen.add(attended.layer.index)
        watcher(attended)

    with evaluating(host.model) as device, watching(host, noting):
        hidden = host.base(input_ids=ids.to(device), use_cache=False).last_hidden_state
    missed = sorted({*range(len(host.attentions))} - seen)
    if missed:
        raise ValueError(
            f"{type(host.model).__name__} takes an attention interface and its layers {missed} never call it, so "
            "that there is nothing to read"
        )
    finite.check_values(hidden, f"the hidden states of {type(host.model).__name__} are not finite", host.model, ids)


def images_forward(host: Host, pixels: torch.Tensor, watcher: Watcher) -> None:
    """Runs images [batch, 3, height, width] through the layers of a host of images, watched.

    Raises ValueError for images that the model does not take, when a layer was not seen, and for hidden states that are
    not finite.
    """
    grid = host.grid_of(*pixels.shape[-2:])
    places, seen = host.places(grid), [0] * len(host.attentions)

    def noting(attended: Attended) -> None:
        done = seen[attended.layer.index] % len(places)  # a tower hands on images, or windows, one after the other
        patches = attended.q.shape[2] - grid.prefix
        attended.places = places[done : done + patches]
        seen[attended.layer.index] += patches
        watcher(attended)

    with evaluating(host.model) as device, _attending_here(host, image_layers_of(host), noting):
        weight = next(p for p in host.base.parameters() if p.is_floating_point())
        hidden = host.hidden_of(pixels.to(device, weight.dtype))
    name = type(host.model).__name__
    if missed := [layer for layer, patches in enumerate(seen) if not patches]:
        raise ValueError(f"the layers {missed} of {name} attend past the function where q and k are read")
    if not hidden.isfinite().all():
        raise ValueError(f"the hidden states of {name} are not finite, so that nothing measured would mean anything")


def image_layers_of(model: Any) -> list[Layer]:
    """The attention layers of an image model, as `whorl.attach` or the host itself has made them. `frequencies` are
    the lengths of those along rows and columns, the mean over heads where heads differ; `turning_of` has both.

    Raises ValueError for a model that is none of images, and for one whose attention cannot be watched.
    """
    host = host_of(model)
    if not host.reads_images:
        towers = [name for name, module in host.model.named_modules() if packed.has(module)]
        inside = f", and whorl.inspect_images its model.{towers[0]}" if towers else ""
        raise ValueError(f"{type(host.model).__name__} is no image model; whorl.inspect reads decoders{inside}")
    if host.biases != "interface":
        raise ValueError(f"{host.named} does not call an attention function by a name, where inspect reads q and k")
    layers = []
    for i, seam in enumerate(seams_of(host)):
        along = turning_of(host, i)
        scores = () if seam is None else seam.scores
        layout = host.shapes[i].layout if host.rotation is None else host.rotation.layout
        layers.append(
            Layer(
                index=i,
                frequencies=() if along is None else tuple(along.norm(dim=-1).mean(0).tolist()),
                layout=layout if seam is None else seam.layout,
                amplitude=1.0,
                window=None,
                has_logits=not any(score.does("features") for score in scores),
                distribution=all(score.distribution for score in scores),
                causal=False,
            )
        )
    return layers


def turning_of(host: Host, index: int) -> torch.Tensor | None:
    """By how many radians each pair of each head turns from one row to the next and from one column to the next, in an
    image of the model's own size: float64 [heads, pairs, 2]. None where a layer turns nothing.

    Raises ValueError for a stock rotation that no encoding says.
    """
    seam, heads = seams_of(host)[index], host.shapes[index].heads
    if seam is None:
        of_host = host.own_frequencies(index)
        learned = None if of_host is None else of_host.double().flip(0)
        spectrum = None if of_host is not None else host.own_spectrum(index)
    else:
        learned = next((score.along().detach() for score in seam.scores if score.does("along")), None)
        spectrum = seam.spectrum
    if learned is not None:
        return learned.permute(1, 2, 0).cpu()
    if spectrum is None or not spectrum.turning:
        return None
    own = host.own_grid or Grid(1, 1)  # where images may have any size, angles go by rows and columns alone
    along = by_patch(spectrum.by_axis, own.height, own.width)
    return torch.tensor(along, dtype=torch.float64).expand(heads, -1, -1)


@cache
def _register() -> None:
    def mask(**kwargs: Any) -> Any:
        skip = kwargs.get("allow_is_causal_skip", True) or kwargs.get("allow_is_bidirectional_skip", False)
        window, keys = kwargs.get("local_size"), kwargs["kv_length"]
        if skip and kwargs.get("attention_mask") is None and (window is None or keys <= window):
            return None  # plainly causal, or all
        return HostMask(compat.whole_mask, kwargs)

    CARRIERS.add(INTERFACE)
    register(INTERFACE, _interface, mask)


def _interface(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    watcher, edit, layer = module.__dict__["whorl_watch"]
    how = attention_arguments(module, query, key, value, attention_mask, **kwargs)
    if edit is not None:
        how["q"], how["k"] = edit(layer, how["q"], how["k"], how["query_positions"])
    factor, scores, mask = how.pop("factor", None), how.pop("scores", ()), how["mask"]
    at, v = (how["query_positions"], how["key_positions"]), how["v"]
    q, k, channels = token_by_token(scores, *at, how["q"], how["k"], how["scale"], factor)
    plain = mask is None and not how["biases"] and how["softcap"] is None and how["sinks"] is None and not scores
    if plain:
        out = scaled_dot_product_attention(
            q, k, v, is_causal=layer.causal, scale=how["scale"], enable_gqa=q.shape[1] != k.shape[1]
        )
    else:
        impl = "reference" if any(isinstance(bias, GivenMask) for bias in how["biases"]) else "auto"
        out, _ = biased_attention(**how, causal=layer.causal and mask is None, factor=factor, scores=scores, impl=impl)
    if watcher is not None:
        if isinstance(mask, torch.Tensor):
            mask = DenseVisible(mask, q.shape[2], k.shape[2])
        read = how["scale"], how["softcap"], how["sinks"], how["biases"], mask, at[0][:1], channels, scores, factor
        watcher(Attended(layer, q, k, v, *read))
    return out.transpose(1, 2).contiguous(), None
