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
from whorl.hosts.timm.calls import Handed, attend
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


def turns_of_image(self: Any, pixels: torch.Tensor) -> GridTurns:
    """What the layers of a model get for its images, of a host that asks for it in methods of its own."""
    return _turns(self, pixels, next(self.parameters()).dtype)


def _turns(module: Any, pixels: torch.Tensor, dtype: torch.dtype) -> GridTurns:
    return GridTurns(module.whorl_patches.grid(*pixels.shape[-2:]), module.whorl_spectra, pixels.device, dtype)


def placed_forward(self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
    """The attention class's own forward: what its attention function needs goes there with the mask."""
    turns, _ = kwargs.pop(self.whorl_seam.calls.rotation)
    if carried(self):
        attention_mask = MaskWith(attention_mask, _arguments(self.whorl_seam, turns, hidden_states))
    return type(self).forward(self, hidden_states, attention_mask, **kwargs)


def handed_forward(
    self: Any,
    hidden: torch.Tensor,
    rope: None = None,
    *,
    attn_mask: Handed | None = None,
    shared_rel_pos: Handed | None = None,
    is_causal: bool = False,
) -> Any:
    """The same of an attention of timm, to which all comes in the place of a mask, or of relative biases."""
    handed = attn_mask or shared_rel_pos
    assert handed is not None
    mask, turns = handed
    if not carried(self):
        return attend(self, hidden, mask, is_causal)
    whole = _whole_mask(mask, is_causal, hidden)
    return attend(self, hidden, MaskWith(whole, _arguments(self.whorl_seam, turns, hidden)))


def _arguments(seam: LayerSeam, turns: GridTurns, hidden: torch.Tensor) -> dict[str, Any]:
    """What goes to the attention function beside q, k and v."""
    arguments = {
        "whorl_positions": turns.positions,
        "whorl_keys": Call(turns.positions, -1),
        "whorl_tables": turns.tables[seam.table],
    }
    if seam.keeps_state:
        arguments["whorl_told"] = Told(hidden)
    return arguments


def _whole_mask(mask: torch.Tensor | None, is_causal: bool, hidden: torch.Tensor) -> torch.Tensor | None:
    """A caller's mask, of any shape that goes with logits, as [batch or 1, heads or 1, tokens, tokens]."""
    tokens = hidden.shape[1]
    if is_causal:
        if mask is not None:
            raise ValueError("is_causal=True and an attn_mask were given; say both in one mask")
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=hidden.device).tril()
    if mask is None:
        return None
    mask = mask[(None,) * (4 - mask.dim())]
    return mask.expand(*mask.shape[:2], tokens, tokens)


# --- what is added ----------------------------------------------------------------------------------------------------


def vectors_of_grid(self: Any, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """In place of the method by which a host resamples its own vectors of positions: the added encoding's, or a zero.

    embeddings [batch, tokens, width], of an image of height x width pixels.
    """
    return added_vectors(self, self.whorl_patches.grid(height, width), embeddings)


def added_vectors(self: Any, grid: Grid, embeddings: torch.Tensor) -> torch.Tensor:
    """Those of the added encoding for this grid, [1, tokens, width], or a zero; as `embeddings` are in dtype."""
    if self.whorl_add is None:
        return embeddings.new_zeros(())
    on = Grid(grid.height, grid.width, self.whorl_patches.embedded)
    vectors: torch.Tensor = self.whorl_add(on, embeddings.device)
    return vectors.to(embeddings.dtype)


def between_rows_forward(self: Any, rows: torch.Tensor) -> torch.Tensor:
    """In place of a tower's own table, between whose rows it reads: those of the added encoding, or a zero."""
    if self.whorl_add is None:
        return self.weight.new_zeros(())
    vectors: torch.Tensor = self.whorl_add(rows, rows.device)
    return vectors.to(self.weight.dtype)


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
