"""The forwards and hooks of image models, whose layers are handed no positions: these are made of the pixels' grid.

The module that is given pixels makes `GridTurns` of them, once per forward, and these go to its layers among their
arguments. Each forward has its own: images of any height and width may follow one another.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from whorl.attaching.forwards import carried
from whorl.attaching.key_positions import Call
from whorl.attaching.masks import MaskWith
from whorl.attaching.seams import LayerSeam
from whorl.attaching.states import Told
from whorl.attaching.turns import Turns
from whorl.encodings import Spectrum
from whorl.encodings.grid import Grid
from whorl.ops import rotation_tables


class GridTurns(Turns):
    """Where the tokens of images stand, the tables of each distinct spectrum, and the grid."""

    def __init__(self, grid: Grid, spectra: Sequence[Spectrum], device: torch.device, dtype: torch.dtype) -> None:
        places = grid.places(device)
        super().__init__(grid.positions(device), tuple(rotation_tables(s, places, dtype) for s in spectra))
        self.grid = grid


def before_image(base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A pre-hook of the module that is given pixels, for a host without a rotary module: layers get what one gives."""
    calls = base.whorl_calls
    pixels = args[0] if args else kwargs[calls.positions]
    turns = _turns(base, pixels, next(base.parameters()).dtype)
    return args, {**kwargs, calls.rotation: (turns, turns)}


def image_rotary_forward(self: Any, pixels: torch.Tensor) -> tuple[GridTurns, GridTurns]:
    """In place of (cos, sin) of the patches: `GridTurns` of all tokens, twice."""
    turns = _turns(self, pixels, pixels.dtype)
    return turns, turns


def _turns(module: Any, pixels: torch.Tensor, dtype: torch.dtype) -> GridTurns:
    return GridTurns(module.whorl_patches.grid(*pixels.shape[-2:]), module.whorl_spectra, pixels.device, dtype)


def placed_forward(self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
    """The attention class's own forward: what its attention function needs goes there with the mask."""
    seam: LayerSeam = self.whorl_seam
    turns, _ = kwargs.pop(seam.calls.rotation)
    if carried(self):
        arguments = {
            "whorl_positions": turns.positions,
            "whorl_keys": Call(turns.positions, -1),
            "whorl_tables": turns.tables[seam.table],
        }
        if seam.keeps_state:
            arguments["whorl_told"] = Told(hidden_states)
        attention_mask = MaskWith(attention_mask, arguments)
    return type(self).forward(self, hidden_states, attention_mask, **kwargs)


# --- what is added ----------------------------------------------------------------------------------------------------


def vectors_of_grid(self: Any, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """In place of the method by which a host resamples its own vectors of positions: the added encoding's, or a zero.

    embeddings [batch, tokens, width], of an image of height x width pixels.
    """
    if self.whorl_add is None:
        return embeddings.new_zeros(())
    patches = self.whorl_patches
    grid = patches.grid(height, width)
    vectors: torch.Tensor = self.whorl_add(Grid(grid.height, grid.width, patches.embedded), embeddings.device)
    return vectors.to(embeddings.dtype)


def at_any_size(embed: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A pre-hook of what makes tokens of pixels: images of all sizes go through the method above."""
    return args, {**kwargs, "interpolate_pos_encoding": True}


def asks_for_resampling(embed: Any) -> bool:
    """Whether what makes tokens resamples its own vectors only where it is told to."""
    return "interpolate_pos_encoding" in inspect.signature(type(embed).forward).parameters


def add_to_patches(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A pre-hook of the first layer of a host that adds nothing by itself."""
    hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
    turns, _ = kwargs[layer.whorl_calls.rotation]
    return (hidden + layer.whorl_add(turns.grid, hidden.device).to(hidden.dtype), *rest), kwargs
