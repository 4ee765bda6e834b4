"""What scores and scales do to queries and keys each by itself, before the attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whorl.encodings.scores import At, ScoreModule, of_heads
from whorl.numerics import math_dtype
from whorl.ops.plane_waves import raster_for_loop, turn_on_grid
from whorl.ops.rotation import rotate
from whorl.ops.scores import BoundScore, Channels, multiplied
from whorl.ops.tables import Tables


def token_by_token(
    scores: Sequence[BoundScore],
    query_positions: torch.Tensor,
    key_positions: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    scale: float,
    factor: torch.Tensor | None = None,
    plain: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, Channels | None]:
    """What scores and scales do to queries and keys each by itself: q and k after every `inputs`, q times the factor,
    both rounded to their dtype once; and the `channels` of all, in float32 (float64).

    plain: with turns as scores do them themselves, without kernels.
    """
    dtype, math = q.dtype, math_dtype(q.dtype)
    added: list[Channels] = []
    q = q.to(math)
    k = k.to(math) if scores else k
    for score in scores:
        at = score.at(query_positions, key_positions, scale=scale)
        if score.module.does("turning") and not plain:
            q, k = _turned(score.module, q, k, at)
        elif score.module.does("inputs"):
            q, k = score.module.inputs(q, k, at)
        if score.module.does("channels"):
            added.append(score.module.channels(q, k, at))
    channels = _joined(added, q, k) if added else None
    if factor is not None:
        q = multiplied(q, factor)
    return q.to(dtype), k.to(dtype), channels


def _turned(module: ScoreModule, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
    """What its `inputs` gives, by the kernels."""
    if at.same_tokens:
        of_q, of_k = _turned_alike(module, [q, k], at.query_positions, at.query_state)
        return of_q, of_k
    (of_q,) = _turned_alike(module, [q], at.query_positions, at.query_state)
    (of_k,) = _turned_alike(module, [k], at.key_positions, at.key_state)
    return of_q, of_k


def _turned_alike(
    module: ScoreModule, tensors: list[torch.Tensor], positions: torch.Tensor, state: torch.Tensor | None
) -> list[torch.Tensor]:
    """Tensors of the same tokens; of as many heads as have angles of their own."""
    raster = raster_for_loop(positions) if module.does("along") else None
    if raster is not None:
        frequencies = module.along()
        return turn_on_grid([of_heads(x, frequencies.shape[1]) for x in tensors], frequencies, raster, module.layout)
    cos, sin = module.turning(positions, state, math_dtype(tensors[0].dtype))
    q, *k = (of_heads(x, cos.shape[1]) for x in tensors)
    tables = Tables(cos, sin, 0, 2 * cos.shape[-1])
    both = rotate(q, k[0] if k else None, tables, layout=module.layout)
    return [x for x in both if x is not None]


def _joined(added: list[Channels], q: torch.Tensor, k: torch.Tensor) -> Channels:
    batch, heads, queries, _ = q.shape
    of_q = [x.to(q.dtype).expand(batch, heads, queries, -1) for x, _ in added]
    of_k = [x.to(q.dtype).expand(batch, -1, k.shape[2], -1) for _, x in added]
    if any(x.shape[1] != 1 for x in of_k):
        of_k = [of_heads(x, heads) for x in of_k]
    if len(added) == 1:
        return of_q[0], of_k[0]
    return torch.cat(of_q, -1), torch.cat(of_k, -1)
