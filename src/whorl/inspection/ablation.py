"""Makes the slow pairs of a model position-independent while it runs, to see what they do for its loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from whorl import finite
from whorl.data.losses import window_losses
from whorl.encodings import Spectrum
from whorl.hosts import open_host
from whorl.inspection.analysis import finite_wavelength, hope_cut
from whorl.ops import rotate, rotation_tables
from whorl.results.inspection import Ablation, Cut
from whorl.watching import Layer, layers_of, watching

SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)


def stilled(cut: int) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """An edit (see `watching`) that turns the pairs from `cut` on back to where they stood before the rotation."""

    def edit(
        layer: Layer, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        slow = tuple(f if i >= cut else 0.0 for i, f in enumerate(layer.frequencies))
        spectrum = Spectrum(slow, q.shape[-1])
        if not spectrum.turning:
            return q, k
        tables = rotation_tables(spectrum, positions, q.dtype)
        turned, keys = rotate(q, k, tables._replace(sin=-tables.sin), layout=layer.layout)
        assert keys is not None
        return turned, keys

    return edit


def cuts(layer: Layer, train_length: int) -> list[int]:
    """The sweep: every eighth of the pairs from a quarter on, and HoPE's own cut."""
    found = {round(share * layer.pairs) for share in SHARES} | {hope_cut(layer, train_length)}
    return sorted(c for c in found if 0 < c < layer.pairs)


def losses(model: Any, windows: torch.Tensor, cut: int | None) -> torch.Tensor:
    """Mean loss (nats per token) over the second half of each window, [windows]; pairs from `cut` on not rotating."""
    host = open_host(model)
    with nullcontext() if cut is None else watching(host, edit=stilled(cut)):
        found = window_losses(host.model, windows, host.model.config.get_text_config().vocab_size)
        what = "losses are not finite" + ("" if cut is None else f" with pairs from {cut} on not rotating")
        finite.check_values(found, what, host.model, windows)
    return found[:, -(windows.shape[1] // 2) :].double().mean(1)


def ablate(
    model: Any, inside: torch.Tensor, past: torch.Tensor | None, train_length: int, advance: Callable[[], None]
) -> Ablation:
    """The sweep over cuts: loss in range (second half of windows of at most the training length) and past it."""
    host = open_host(model)
    layer = max(layers_of(host), key=lambda found: found.pairs)
    sets = {"in_range": inside} | ({"past": past} if past is not None else {})
    untouched = {name: losses(host, windows, None) for name, windows in sets.items()}
    advance()
    rows = []
    for cut in cuts(layer, train_length):
        row: dict[str, Any] = {}
        for name, windows in sets.items():
            found = losses(host, windows, cut)
            change = found - untouched[name]
            row[name] = float(found.mean())
            row[f"{name}_change"] = float(change.mean())
            row[f"{name}_stderr"] = float(change.std() / math.sqrt(len(change))) if len(change) > 1 else None
        rows.append(Cut(cut, finite_wavelength(layer, cut), **row))
        advance()
    return Ablation(
        in_range=float(untouched["in_range"].mean()),
        past=float(untouched["past"].mean()) if past is not None else None,
        past_length=None if past is None else past.shape[1],
        hope_cut=hope_cut(layer, train_length),
        cuts=tuple(rows),
    )
