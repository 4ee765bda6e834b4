"""Attention among points, which a model hands its queries, keys and values, and where each of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from whorl.ops import biased_attention

PLAIN = "plain"
Attend = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


class PointAttention(nn.Module):
    """Softmax attention of all points of a cloud among one another, blind to where they are until an encoding is
    attached to the model that holds it (`whorl.attach`). It projects nothing: q, k and v come projected.

    heads, head_dim, width  of its q and k, and of the hidden states that they are made of
    axes                    of a position
    sinks                   whether each head has a logit that takes weight and gives no value: a head can then tell how
                            many keys it found, which is how dense a cloud is around a point
    """

    def __init__(self, heads: int, head_dim: int, width: int, axes: int = 3, sinks: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim, self.width, self.axes = heads, head_dim, width, axes
        self.attends = PLAIN
        self.sinks = nn.Parameter(torch.zeros(heads)) if sinks else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        coordinates: torch.Tensor,
        real: torch.Tensor | None = None,
        **more: Any,
    ) -> torch.Tensor:
        """The output [clouds, points, heads, head_dim].

        hidden_states  [clouds, points, width], which q, k and v [clouds, heads, points, head_dim] were made of
        coordinates    [clouds or 1, points, axes], float32 or float64, or integers of a grid
        real           bool [clouds, points], False for padding; None: all are points
        more           what an encoding that is attached hands on
        """
        shape = coordinates.shape
        if len(shape) != 3 or shape[1:] != (q.shape[2], self.axes):
            raise ValueError(
                f"coordinates must be [clouds or 1, points, axes] = [.., {q.shape[2]}, {self.axes}], got {list(shape)}"
            )
        seen = None if real is None else real[:, None, None]
        how = {"scaling": self.head_dim**-0.5, "s_aux": self.sinks, "position_ids": coordinates}
        return ATTENDS[self.attends](self, q, k, v, seen, **how, **more)[0]

    def extra_repr(self) -> str:
        return f"heads={self.heads}, head_dim={self.head_dim}, width={self.width}, axes={self.axes}"


def _plain(
    module: nn.Module,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seen: torch.Tensor | None,
    scaling: float,
    s_aux: torch.Tensor | None,
    position_ids: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    at = position_ids
    output, weights = biased_attention(
        q, k, v, [], query_positions=at, key_positions=at, mask=seen, scale=scaling, sinks=s_aux
    )
    return output.transpose(1, 2), weights


ATTENDS: dict[str, Attend] = {PLAIN: _plain}
"""Attention functions by name, called as transformers' are."""
