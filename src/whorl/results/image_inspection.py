"""What `whorl inspect` finds of an image model: a summary of plain numbers and arrays with named axes.

Distances are in patches, an offset is key - query: one of (down 1, right -2) is of a key one row below its query and
two columns to the left. docs/inspect.md defines every measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from whorl.results.measured import IMAGES, Array, Measured, short
from whorl.results.schema import Keyed


@dataclass(frozen=True)
class ImageModel:
    """The model that was read. rows, columns: of patches in an image of its own size, or in those that were read where
    it takes any size (`sized` false); prefix: the tokens before them, which stand nowhere (a class token,
    registers)."""

    name: str
    type: str
    layers: int
    heads: int
    head_dim: int
    parameters: int
    encoding: str
    rows: int
    columns: int
    prefix: int
    sized: bool = True


@dataclass(frozen=True)
class ImageSettings:
    """images of so many `rows` and `columns` of patches were read, of `asked` that were asked for.

    data           where they are from; None where pixels were given
    pixels         how pixels were scaled; None where pixels were given
    even_distance  how far, on average, attention would look that is the same to all patches
    """

    images: int
    asked: int
    rows: int
    columns: int
    even_distance: float
    seed: int | None = None
    data: str | None = None
    pixels: str | None = None


@dataclass(frozen=True)
class Axes:
    """Shares of the norm of a head's queries (or keys): of pairs that turn by rows, by columns, and of those that stand
    still, which sum to 1; and of those that turn and make no full turn in the model's own grid. A pair that turns by
    both counts for each axis by the square of its frequency along it."""

    rows: float
    columns: float
    still: float
    unfit: float


@dataclass(frozen=True)
class ImageHead:
    """What one head does, mean over images and over the queries that are patches.

    queries, keys  None in a layer that turns nothing
    unfit     the pairs that turn and make no full turn along rows nor along columns in the model's own grid
    distance  of the patches that it attends to, weighed by its attention to patches
    prefix    its attention on the tokens before the patches; None without any
    down, right, there  the offset, of those that half of the rows and columns reach at the least, with the largest mean
              weight over the queries that have a key there, and this weight
    """

    layer: int
    head: int
    queries: Axes | None
    keys: Axes | None
    unfit: tuple[int, ...]
    distance: float | None
    prefix: float | None
    down: int | None
    right: int | None
    there: float | None


@dataclass(frozen=True)
class ImageSummary(Keyed):
    """All numbers and settings of an inspection of images. `absent` says why something was not measured."""

    schema: ClassVar[int] = 1

    kind: str
    whorl: str
    created: str
    model: ImageModel
    settings: ImageSettings
    heads: tuple[ImageHead, ...]
    absent: dict[str, str]
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True, repr=False, eq=False)
class ImageInspection(Measured):
    """How an image model uses positions. Arrays are float32, NaN where nothing was measured.

    norm_q, norm_k, norm_v  mean 2-norm of each pair of channels, over images and patches
    frequency  radians from one row to the next, and from one column to the next, in an image of the model's own size
    attention  mean weight by offset, over images and the queries that have a key there: `attention[l, h, d, r]` is of
               keys d - (rows - 1) rows below their query and r - (columns - 1) columns to its right
    prefix     mean weight on each token before the patches, over images and the queries that are patches

    >>> inspection = whorl.inspect_images(model, pixels)
    >>> inspection.axes("attention"), inspection.attention.shape
    (('layer', 'head', 'down', 'right'), (2, 2, 7, 15))
    >>> inspection.summary.heads[0].distance
    2.6
    """

    KIND: ClassVar[str] = IMAGES
    KEPT: ClassVar[type[Keyed]] = ImageSummary
    AXES: ClassVar[dict[str, tuple[str, ...]]] = {
        "norm_q": ("layer", "head", "pair"),
        "norm_k": ("layer", "head", "pair"),
        "norm_v": ("layer", "head", "pair"),
        "frequency": ("layer", "head", "pair", "axis"),
        "attention": ("layer", "head", "down", "right"),
        "prefix": ("layer", "head", "token"),
    }

    summary: ImageSummary
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model, settings = self.summary.model, self.summary.settings
        self.check_arrays(
            {
                "layer": model.layers, "head": model.heads, "axis": 2, "token": model.prefix,
                "down": 2 * settings.rows - 1, "right": 2 * settings.columns - 1,
            }
        )  # fmt: skip

    def offsets(self) -> tuple[Array, Array]:
        """The rows down and the columns to the right of the places of `attention`."""
        settings = self.summary.settings
        down, right = (np.arange(1 - side, side) for side in (settings.rows, settings.columns))
        return down, right

    def of(self, layer: int) -> tuple[ImageHead, ...]:
        """A layer's heads."""
        return tuple(head for head in self.summary.heads if head.layer == layer)

    def records(self) -> list[dict[str, Any]]:
        """A row per layer and head."""
        rows = []
        for head in self.summary.heads:
            row = {
                "model": self.name,
                **{key: value for key, value in vars(head).items() if not isinstance(value, Axes)},
            }
            row["unfit"] = len(head.unfit)
            for name, axes in (("queries", head.queries), ("keys", head.keys)):
                row.pop(name, None)
                row |= {f"{name}_{key}": value for key, value in vars(axes).items()} if axes is not None else {}
            rows.append(row)
        return rows

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """A row per layer: shares of the norm of queries and keys, mean over heads, and how far its heads look."""
        header = ["layer", "q rows", "q columns", "k rows", "k columns", "distance", "nearest", "farthest", "prefix"]
        rows = []
        for layer in range(self.summary.model.layers):
            heads = self.of(layer)
            found = [[getattr(axes, at) for h in heads if (axes := getattr(h, side)) is not None]
                     for side in ("queries", "keys") for at in ("rows", "columns")]  # fmt: skip
            far = [h.distance for h in heads if h.distance is not None]
            ends = [min(far), max(far)] if far else [None, None]
            prefix = [h.prefix for h in heads if h.prefix is not None]
            shares, of_prefix = [_percent(_mean(x)) for x in found], _percent(_mean(prefix))
            rows.append([str(layer), *shares, *map(short, [_mean(far), *ends]), of_prefix])
        kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
        return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
