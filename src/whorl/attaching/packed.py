"""The forwards of a tower that reads images packed in one row. Its layers attend to one after the other, and so the
attention function is called once for each: `InTurn` says where the tokens of the next one stand.
"""

from __future__ import annotations

from typing import Any

import torch

from whorl.attaching.forwards import carried
from whorl.attaching.key_positions import Call
from whorl.attaching.seams import LayerSeam
from whorl.attaching.states import Told
from whorl.attaching.turns import LayerTables
from whorl.ops import rotation_tables


class InTurn:
    """What one forward of a layer hands to its attention function beside q, k and v, image by image.

    positions [tokens, axes] and hidden [tokens, width] are of all images, in the order in which the layer attends.
    """

    def __init__(self, positions: torch.Tensor, hidden: torch.Tensor) -> None:
        self.positions, self.hidden = positions, hidden
        self.done = 0  # tokens

    def following(self, tokens: int) -> dict[str, Any]:
        """Of the next so many tokens, which are one image."""
        own = slice(self.done, self.done + tokens)
        self.done = self.done + tokens  # anew, as torch.jit.trace makes tensors of sizes
        positions = self.positions[own][None]
        return {
            "whorl_positions": positions,
            "whorl_keys": Call(positions, -1),
            "whorl_told": Told(self.hidden[own][None]),
        }


def rotary_forward(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of (cos, sin), for a tower that may put them into another order on the way to its layers: the positions
    [tokens, 2] themselves, twice. A view of them, with which the tables of a call are kept."""
    positions = position_ids.view_as(position_ids)
    return positions, positions


def attention_forward(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
    """The class's own forward, given tables of the positions that the rotary module gave. The first layer makes them,
    and they go with the positions to the others."""
    seam: LayerSeam = self.whorl_seam
    positions, _ = kwargs.pop(seam.calls.rotation)
    made: dict[Any, Any] = {} if torch.compiler.is_compiling() else vars(positions).setdefault("whorl_tables", {})
    key = seam.spectrum, hidden_states.dtype
    if key not in made:
        made[key] = rotation_tables(seam.spectrum, positions[None], hidden_states.dtype)
    kwargs[seam.calls.rotation] = LayerTables(made[key], seam.impl), None
    if len(positions) != len(hidden_states):
        raise ValueError(
            f"this {type(self).__name__} got {len(hidden_states)} patches and positions of {len(positions)}; leave "
            "position_ids out, or give those of this very call's images"
        )
    if carried(self):
        kwargs["whorl_in_turn"] = InTurn(positions, hidden_states)
    assert seam.forward is not None
    return seam.forward(self, hidden_states, **kwargs)
