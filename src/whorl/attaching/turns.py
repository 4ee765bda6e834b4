"""What travels through a host's code in the place of (cos, sin), and the functions that rotate q and k by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from whorl.attaching.contexts import Contexts
from whorl.hosts import Host
from whorl.ops import Tables, rotate


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


class LayerTables(NamedTuple):
    """What arrives in a host's rotation function in the place of cos."""

    tables: Tables
    impl: str

    def to(self, device: Any) -> LayerTables:
        return self._replace(tables=self.tables.to(device))


def rebound(host: Host, index: int) -> Callable[..., Any] | None:
    """One layer's forward with its rotation function replaced by whorl's; None where it has none."""
    rotation = host.rotation
    return None if rotation is None else host.rebound(index, ROTATIONS[rotation.call, rotation.layout])


def watched(host: Host, index: int, report: Callable[[int], None]) -> Callable[..., Any] | None:
    """One layer's rebound forward that also reports that it turned; for a probe, never for use."""
    if host.rotation is None:
        return None
    rotation = ROTATIONS[host.rotation.call, host.rotation.layout]

    def watched(*args: Any, **kwargs: Any) -> Any:
        report(index)
        return rotation(*args, **kwargs)

    return host.rebound(index, watched)


def _rotated(q: Any, k: Any, tables: LayerTables, layout: str, heads_dim: int) -> tuple[Any, Any]:
    if tables.tables.cos.shape[-1] == 0:  # nothing turns: what is to be asked of q and k before is not asked either
        return q, k
    return rotate(q, k, tables.tables, layout=layout, heads_dim=heads_dim, impl=tables.impl)


# These stand in for the hosts' rotation functions; the tables arrive in the place of cos, or of complex frequencies.


def _pair_half(q: Any, k: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    return _rotated(q, k, cos, "half", unsqueeze_dim)


def _pair_interleaved(q: Any, k: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> tuple[Any, Any]:
    return _rotated(q, k, cos, "interleaved", unsqueeze_dim)


def _single_half(x: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> Any:
    return _rotated(x, None, cos, "half", unsqueeze_dim)[0]


def _single_interleaved(x: Any, cos: LayerTables, sin: None, unsqueeze_dim: int = 1) -> Any:
    return _rotated(x, None, cos, "interleaved", unsqueeze_dim)[0]


def _complex_interleaved(q: Any, k: Any, frequencies: LayerTables) -> tuple[Any, Any]:
    return _rotated(q, k, frequencies, "interleaved", 2)


ROTATIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("pair", "half"): _pair_half,
    ("pair", "interleaved"): _pair_interleaved,
    ("single", "half"): _single_half,
    ("single", "interleaved"): _single_interleaved,
    ("complex", "interleaved"): _complex_interleaved,
}
