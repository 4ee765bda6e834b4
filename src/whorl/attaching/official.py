"""Weights that the authors' own code of RoPE-ViT and iRPE learned, for a model that has the encoding attached.

Both name their layers as timm does, `blocks.0.attn.qkv.weight`, ...; what the encoding learned stands beside them:

    freqs                                               of RoPE-ViT's mixed rotation, [2 (x, y), layers, heads pairs]
    blocks.N.attn.rpe_k.lookup_table_weight             of iRPE, [heads or 1, channels, buckets]; so rpe_q
    blocks.N.attn.rpe_v.lookup_table_weight             [heads or 1, buckets, channels]
    blocks.N.attn.rpe_k.lookup_table_bias               [heads or 1, buckets]
    blocks.N.attn.rpe_k.rp_rows.lookup_table_weight     and rp_cols, where the method is cross

Three things are said otherwise there. RoPE-ViT pairs neighbouring channels: rows of qkv are put in the order of this
model's pairs. iRPE's table of queries goes by key - query. Its undirected methods have buckets that no pair falls into.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from whorl.attaching.off_grid import BiasOnGrid, ScoreOnGrid
from whorl.attaching.seams import LayerSeam, seams_of
from whorl.encodings.grid_buckets import GridBias, GridBuckets, GridVectors
from whorl.encodings.mixed_rope import MixedAngles
from whorl.hosts import host_of

BUFFERS = ("freqs_t_x", "freqs_t_y")  # RoPE-ViT's columns and rows of one image size


@torch.no_grad()
def take_official(model: Any, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts into the encoding that `model` has attached what such a checkpoint has for it, and gives the rest of the
    checkpoint, under its own names, with q and k in the order of this model's pairs.

    The encoding is `irpe` (with the mode, method, heads and on of the checkpoint), `axial-rope` or `mixed-rope`. Raises
    ValueError, before anything is written, for a tensor that lacks, is left over or has another shape.
    """
    seams, rest = seams_of(model), dict(state)
    heads = [shape.heads for shape in host_of(model).shapes]
    taken: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    for index, seam in enumerate(seams):
        for module in _modules(seam):
            prefix = f"blocks.{index}.attn."
            if isinstance(module, GridVectors):
                taken += [(module.tables[x], _vectors(module.buckets, x, rest, prefix)) for x in module.on]
            elif isinstance(module, GridBias):
                taken.append((module.weight, _numbers(module.buckets, rest, prefix)))
            elif isinstance(module, MixedAngles):
                freqs = _named(dict(state), "freqs")
                if freqs.dim() != 3 or freqs.shape[1] != len(seams):
                    raise ValueError(f"freqs must be [2, {len(seams)} layers, heads x pairs], got {list(freqs.shape)}")
                taken.append((module.frequency_bias, freqs[:, index].unflatten(-1, (heads[index], -1))))
                rest.pop("freqs", None)
        if seam is not None and seam.layout == "half" and (seam.spectrum.turning or _turns(seam)):
            for name in (f"blocks.{index}.attn.qkv.weight", f"blocks.{index}.attn.qkv.bias"):
                if name in rest:
                    rest[name] = _by_halves(rest[name], heads[index])
    if not taken and not any(seam is not None and seam.spectrum.turning for seam in seams):
        raise ValueError("this model has no irpe, axial-rope or mixed-rope attached; try whorl.attach(model, 'irpe')")
    left = [name for name in rest if ".rpe_" in name or name == "freqs"]
    if left:
        raise ValueError(f"the checkpoint has {', '.join(left)}, which the encoding that is attached has no place for")
    for to, found in taken:
        if to.shape != found.shape:
            raise ValueError(f"the encoding that is attached has {list(to.shape)}, the checkpoint {list(found.shape)}")
    for to, found in taken:
        to.copy_(found)
    return {name: x for name, x in rest.items() if name not in BUFFERS}


def _modules(seam: LayerSeam | None) -> list[Any]:
    found: list[Any] = [] if seam is None else [*seam.biases, *seam.scores]
    inside = [m.score if isinstance(m, ScoreOnGrid) else m for m in found]
    return [m.bias if isinstance(m, BiasOnGrid) else m for m in inside]


def _turns(seam: LayerSeam) -> bool:
    return any(isinstance(module, MixedAngles) for module in _modules(seam))


def _named(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in state:
        raise ValueError(f"looked for {name} in the checkpoint and did not find it")
    return state.pop(name)


def _vectors(buckets: GridBuckets, letter: str, state: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    """[heads or 1, *`GridBuckets.learned`, channels]"""

    def table(part: str) -> torch.Tensor:
        found = _named(state, f"{prefix}rpe_{letter}.{part}lookup_table_weight")
        found = found if letter == "v" else found.mT
        back = found[:, :-1].flip(1) if letter == "q" and buckets.directed else found[:, :-1]
        return torch.cat([back, found[:, -1:]], 1)

    return _learned(buckets, table)


def _numbers(buckets: GridBuckets, state: dict[str, torch.Tensor], prefix: str) -> torch.Tensor:
    return _learned(buckets, lambda part: _named(state, f"{prefix}rpe_k.{part}lookup_table_bias")[..., None])


def _learned(buckets: GridBuckets, table: Any) -> torch.Tensor:
    if buckets.method == "cross":
        return torch.stack([table("rp_rows."), table("rp_cols.")], 1)
    found: torch.Tensor = table("")
    return found if buckets.directed else found[:, len(buckets.borders) :]


def _by_halves(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q and k, whose pairs are neighbours (2 i, 2 i + 1) in each head, as pairs (i, i + half)."""
    q, k, v = qkv.unflatten(0, (3, heads, -1)).unbind(0)
    q, k = (x.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2) for x in (q, k))
    return torch.stack([q, k, v]).flatten(0, 2)
