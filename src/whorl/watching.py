"""Reads q, k and v where they reach the attention interface, without changing the model.

While `watching` is open, the model's attention is computed by an interface of ours, which hands every layer's q, k and
v (turned already, as attention sees them) to a watcher, and then gives back what the model's own attention gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from whorl import finite
from whorl.attaching import attached, seams_of
from whorl.attaching.interface import CARRIERS, attention_arguments
from whorl.data.losses import evaluating
from whorl.encodings.hope import HoPE
from whorl.hosts import OpenHost, open_host, stock_spectrum
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.interface import HostMask, register
from whorl.ops import Visible, biased_attention
from whorl.ops.axes import seen_by
from whorl.ops.scores import multiplied

INTERFACE = "whorl_inspect"


@dataclass(frozen=True)
class Layer:
    """What inspection has to know of one attention layer.

    frequencies  radians per token of each pair, fastest first, 0 where a pair stands still; empty without pairs
    layout       how pairs lie in the first 2 x pairs channels: "half" or "interleaved"
    window       keys at this distance or beyond are hidden by the host; None without a window
    cut          the longest wavelength that HoPE lets turn, in training lengths: its own where the layer has HoPE
    """

    index: int
    frequencies: tuple[float, ...]
    layout: str
    amplitude: float
    window: int | None
    cut: float = 1.0

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
        layers.append(
            Layer(
                index=i,
                frequencies=() if spectrum is None else tuple(spectrum.frequencies),
                layout="half" if host.rotation is None else host.rotation.layout,
                amplitude=1.0 if spectrum is None else spectrum.amplitude,
                window=_reach(host.windows[i], () if seam is None else seam.biases),
                cut=_cut(host, i),
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


@dataclass
class Attended:
    """One layer's attention over whole windows: k, v [batch, key heads, tokens, head_dim], q with its own heads."""

    layer: Layer
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    softcap: float | None
    sinks: torch.Tensor | None
    biases: list[nn.Module]
    mask: Visible | None  # None: causal, and nothing else hidden
    positions: torch.Tensor  # [1, tokens]

    def logits(self, batch: int, group: int, q0: int, q1: int) -> tuple[torch.Tensor, int]:
        """Logits [repeats, q1 - q0, keys] of one window's queries of one key head, as the softmax gets them; and the
        first of the keys, whose last is the last query. Hidden keys are at minus infinity."""
        repeats = self.q.shape[1] // self.k.shape[1]
        k0 = 0 if self.layer.window is None else max(0, q0 - self.layer.window + 1)
        heads = slice(group * repeats, (group + 1) * repeats)
        q = self.q[batch, heads, q0:q1].float() * self.scale
        s = (q.flatten(0, 1) @ self.k[batch, group, k0:q1].float().T).view(repeats, q1 - q0, q1 - k0)
        if self.softcap is not None:
            s = s.div_(self.softcap).tanh_().mul_(self.softcap)
        for module in self.biases:
            at = seen_by(module, self.positions)
            bias = module(at[:, q0:q1], at[:, k0:q1])[0].float()
            s += bias[heads] if bias.shape[0] > 1 else bias
        if self.mask is None:
            hidden = torch.ones(q1 - q0, q1 - q0, dtype=torch.bool, device=s.device).triu(1)
            s[..., q0 - k0 :].masked_fill_(hidden, -torch.inf)
        else:
            seen = self.mask.block(q0, q1, k0, q1)
            seen = seen[batch if seen.shape[0] > 1 else 0]
            s.masked_fill_(~(seen[heads] if seen.shape[0] > 1 else seen), -torch.inf)
        return s, k0

    def entropy(self, batch: int, q0: int, q1: int) -> torch.Tensor:
        """Of one window's attention weights, a sink's among them, in nats: [heads, q1 - q0]."""
        repeats, found = self.q.shape[1] // self.k.shape[1], []
        for group in range(self.k.shape[1]):
            s, _ = self.logits(batch, group, q0, q1)
            if self.sinks is not None:
                sinks = self.sinks[group * repeats : (group + 1) * repeats].float()
                s = torch.cat([s, sinks[:, None, None].expand(-1, q1 - q0, 1)], -1)
            found.append(torch.special.entr(s.softmax(-1)).sum(-1))
        return torch.cat(found)


Watcher = Callable[[Attended], None]
Edit = Callable[[Layer, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@contextmanager
def watching(model: Any, watcher: Watcher | None = None, edit: Edit | None = None) -> Iterator[None]:
    """While open, every forward of the model (or `OpenHost`) hands each layer's q, k and v to `watcher`.

    The model gives what it gave before (unless `edit` gives other q and k for a layer's q, k and positions), and is as
    it was afterwards. Windows must be whole: no padding, no cache.
    """
    host = open_host(model)
    _refuse(host)
    _register()
    facts = layers_of(host)
    before = host.attention
    host.set_attention(INTERFACE)
    try:
        for attention, layer in zip(host.attentions, facts, strict=True):
            attention.__dict__["whorl_watch"] = (watcher, edit, layer)
        yield
    finally:
        for attention in host.attentions:
            attention.__dict__.pop("whorl_watch", None)
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


@cache
def _register() -> None:
    def mask(**kwargs: Any) -> Any:
        skip = kwargs.get("allow_is_causal_skip", True)
        window, keys = kwargs.get("local_size"), kwargs["kv_length"]
        if skip and kwargs.get("attention_mask") is None and (window is None or keys <= window):
            return None  # plainly causal
        return HostMask(compat.whole_mask, kwargs)

    CARRIERS.add(INTERFACE)
    register(INTERFACE, _interface, mask)


def _interface(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    watcher, edit, layer = module.__dict__["whorl_watch"]
    how = attention_arguments(module, query, key, value, attention_mask, **kwargs)
    factor, scores = how.pop("factor", None), how.get("scores", ())
    if factor is not None:
        how["q"] = multiplied(how["q"], factor).to(how["q"].dtype)
    if scores and (watcher is not None or edit is not None):
        raise ValueError(
            f"{module.whorl_seam.notation} changes logits by content, and what is read here are q, k and the logits "
            "that their product makes; attach an encoding that turns q and k, biases or multiplies logits"
        )
    if edit is not None:
        how["q"], how["k"] = edit(layer, how["q"], how["k"], how["query_positions"])
    q, k, v, mask = how["q"], how["k"], how["v"], how["mask"]
    plain = mask is None and not how["biases"] and how["softcap"] is None and how["sinks"] is None and not scores
    if plain:
        out = scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=how["scale"], enable_gqa=q.shape[1] != k.shape[1]
        )
    else:
        out, _ = biased_attention(**how, causal=mask is None)
    if watcher is not None:
        positions = how["query_positions"][:1]
        watcher(Attended(layer, q, k, v, how["scale"], how["softcap"], how["sinks"], how["biases"], mask, positions))
    return out.transpose(1, 2).contiguous(), None
