"""Vision towers that read images of any sizes packed in one row: Qwen2-VL's to Qwen3.5's.

A token's row and column come from the call (`grid_thw`), in the order in which patches are merged, and go to the rotary
module: [tokens, 2]. Layers are handed what it gives, which Qwen2.5-VL orders by window on the way; so that is the
positions themselves, and each layer makes tables of them. Attention goes image by image (and frame by frame, and in
some layers of Qwen2.5-VL window by window), and what changes logits gets the positions of each.

Those from Qwen3-VL on add vectors besides: of a square table, read between four of its rows for each patch, so that the
table lies on every image from edge to edge. Where it reads is its own code's matter, whichever table it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt
from typing import Any

import torch

from whorl.encodings import Effect, Encoding, Known, Shape, Spectrum
from whorl.encodings.axial_rope import AxialRoPE
from whorl.encodings.effects import Add
from whorl.encodings.grid import Grid
from whorl.encodings.learned_2d import GridTable, Learned2D
from whorl.hosts.protocol import Host
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.families import PACKED
from whorl.hosts.transformers.host import CALLS, OpenHost
from whorl.hosts.transformers.opening import part_of, rotation_of, unwrapped

BY_WINDOW = "get_vision_window_index"  # the order of a tower that attends by window


def has(model: Any) -> bool:
    """Whether a model, wrapped or not, is a tower of a known family."""
    return getattr(getattr(unwrapped(model), "config", None), "model_type", None) in PACKED


def bases_of(model: Any) -> list[Any]:
    return [unwrapped(model)]


@lru_cache(maxsize=256)
def _of_packed(rotate: Callable[..., Any]) -> Callable[..., Any]:
    """The same for q and k [tokens, heads, head_dim], of which there is no batch."""

    def packed(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        q, k = rotate(q[None], k[None], cos, sin, unsqueeze_dim=2)
        return q[0], k[0]

    return packed


@dataclass(frozen=True, kw_only=True)
class PackedHost(OpenHost):
    """A tower that reads packed images."""

    packed: bool = True

    @property
    def takes_no_vectors(self) -> str | None:
        if self.table_grid is not None:
            return None
        return (
            f"adds vectors to patches, and {self.named} has no table of positions in whose place they could come; "
            "try one that turns q and k (axial-rope:order=ij, mixed-rope) or biases logits (alibi-2d, irpe)"
        )

    def refuses(self, effect: Effect) -> str | None:
        if not isinstance(effect, Add):
            return None
        grid, module = self.table_grid, effect.module
        if grid is None:
            return self.takes_no_vectors
        same = isinstance(module, GridTable) and module.weight.shape[:2] == (grid.height, grid.width)
        if same and not module.antialias:
            return None
        return (
            f"has another table than {self.named}, which reads between the rows of one of {grid.height} x "
            f"{grid.width} by itself; try learned-2d:grid={grid.height}@{grid.width}"
        )

    def rebound(self, index: int, rotate: Callable[..., Any]) -> Callable[..., Any]:
        return super().rebound(index, _of_packed(rotate))

    table_vectors, table_rows = None, None  # it is read between its rows, and not by a position

    @property
    def own_vectors(self) -> torch.Tensor | None:
        table = None if self.position_table is None else self.position_table.weight
        return None if table is None else table[: isqrt(len(table)) ** 2]  # it reads no row past the square

    @property
    def table_grid(self) -> Grid | None:
        vectors = self.own_vectors
        return None if vectors is None else Grid(isqrt(len(vectors)), isqrt(len(vectors)))

    def own_encoding(self) -> Encoding:
        grid, turning = self.table_grid, self._turning
        return turning if grid is None else Learned2D((grid.height, grid.width)) + turning

    def own_spectrum(self, index: int) -> Spectrum | None:
        return self._turning.spectrum(self.shapes[index].head_dim)

    def says(self, index: int) -> Known:
        grid = self.table_grid
        return Known(base=self._base, grid=None if grid is None else (grid.height, grid.width))

    def scaling(self, layer_type: str) -> str | None:
        return None  # their rope_type is "axial"

    @property
    def _turning(self) -> AxialRoPE:
        return AxialRoPE(base=self._base, order="ij")

    @property
    def _base(self) -> float:
        return float(self.model.config.rope_parameters["rope_theta"])

    @property
    def merged(self) -> int:
        """The rows, and the columns, of patches that become one token of the text: images have whole numbers of it."""
        return int(self.model.config.spatial_merge_size)

    @property
    def unit(self) -> int:
        """The sides of its images are multiples of so many pixels."""
        return self.merged * int(self.model.patch_embed.patch_size)

    def grid_of(self, height: int, width: int) -> Grid:
        patch, unit = self.unit // self.merged, self.unit
        if not height or not width or height % unit or width % unit:
            raise ValueError(
                f"{self.named} takes images whose sides are whole multiples of {unit} pixels (patches of {patch}, of "
                f"which {self.merged} x {self.merged} become one token of the text), got {height} x {width}"
            )
        return Grid(height // patch, width // patch)

    def places(self, grid: Grid) -> torch.Tensor:
        """Block by block of those that are merged; and by window, in a tower that attends by window."""
        blocks = grid.positions()[0].unflatten(0, (grid.height, grid.width))
        blocks = blocks.unflatten(1, (-1, self.merged)).unflatten(0, (-1, self.merged)).transpose(1, 2).flatten(0, 1)
        if BY_WINDOW in compat.names_in(type(self.model)):
            by_window = compat.global_of(type(self.model), BY_WINDOW)
            sizes = {n: getattr(self.model.config, n) for n in ("spatial_merge_size", "window_size", "patch_size")}
            blocks = blocks[by_window(torch.tensor([[1, grid.height, grid.width]]), **sizes)[0]]
        return blocks.flatten(0, 2)

    def hidden_of(self, pixels: torch.Tensor, resampled: bool = True) -> torch.Tensor:
        """Row by row, as those of other models are, in whichever order a tower has its patches."""
        embed, side = self.model.patch_embed, self.merged
        grid = self.grid_of(*pixels.shape[-2:])
        if pixels.shape[1] != embed.in_channels:
            raise ValueError(f"{self.named} takes images of {embed.in_channels} channels, got {pixels.shape[1]}")
        cut = pixels.unflatten(3, (grid.width // side, side, -1)).unflatten(2, (grid.height // side, side, -1))
        patches = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(0, 4)[:, :, None]  # [patches, channels, 1, high, wide]
        row = patches.expand(-1, -1, embed.temporal_patch_size, -1, -1).flatten(1)
        sizes = torch.tensor([[1, grid.height, grid.width]] * len(pixels), device=pixels.device)
        hidden: torch.Tensor = self.model(row, sizes).last_hidden_state
        rows, columns = self.places(grid).T.to(hidden.device)
        return hidden.unflatten(0, (len(pixels), -1))[:, (rows * grid.width + columns).argsort()]

    stock_form = Host.stock_form  # no config of theirs says an encoding


def open_model(model: Any) -> PackedHost:
    """Finds a tower's seams. Raises ValueError naming what was looked for and what was found."""
    model = unwrapped(model)
    family = PACKED[model.config.model_type]
    layers = tuple(part_of(model, family.layers, model))
    attentions = tuple(part_of(layer, family.attention, model) for layer in layers)
    attention_class: Any = type(attentions[0])
    rotary = part_of(model, family.rotary or "", model)
    rotation = rotation_of(family.rotate, attention_class)
    first: Any = attentions[0]
    shape = Shape(first.head_dim, first.num_heads, first.dim, bidirectional=True, layout=rotation.layout)
    return PackedHost(
        model=model,
        base=model,
        family=family,
        known=True,
        calls=replace(CALLS, positions="grid_thw"),
        axes=2,
        first_layer=layers[0],
        attentions=attentions,
        rotary=rotary,
        rotation=rotation,
        position_table=part_of(model, family.position_table, model) if family.position_table else None,
        shapes=(shape,) * len(layers),
        layer_types=("full_attention",) * len(layers),
        windows=(None,) * len(layers),
        turns=(True,) * len(layers),
        typed=False,
        biases="interface" if compat.attends_by_name(attention_class) else "mask",
    )
