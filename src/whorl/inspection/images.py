"""Inspects image models: the norm of pairs by axis, and attention by offset in two dimensions, in bounded memory.

A layer's weights are made in blocks of queries and summed by offset as they come; no matrix of tokens x tokens is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch

import whorl
from whorl import finite
from whorl.attaching.reading import told
from whorl.checking import shown
from whorl.encodings.grid import Grid
from whorl.encodings.spectrum import turns_fully
from whorl.hosts import Host, host_of
from whorl.inspection import measures
from whorl.inspection.passes import BATCH_TOKENS, add
from whorl.inspection.stages import stacked
from whorl.inspection.streaming import BLOCK_NUMBERS
from whorl.provenance import machine, versions
from whorl.results.image_inspection import (
    Axes,
    ImageHead,
    ImageInspection,
    ImageModel,
    ImageSettings,
    ImageSummary,
)
from whorl.results.measured import IMAGES, Array
from whorl.watching import Attended, image_layers_of, images_forward, turning_of

NO_PAIRS = "no layer of this model turns pairs of channels ({encoding}), so there is nothing to show by axis"
WINDOWED = (
    "patches of the layers {layers} see a window of the image each, where even attention would look {even:.3g} patches "
    "away"
)
NO_WEIGHTS = "the layers {layers} have weights that may be negative, of which no mean is shown"


@dataclass
class Sums:
    """What is added up of one layer, over images. patches: those that attended, of all images."""

    patches: int = 0
    norms: dict[str, Array] = field(default_factory=dict)  # each [heads, pairs]
    offsets: Array | None = None  # [heads, 2 rows - 1, 2 columns - 1]: attention of patches, by key - query
    prefix: Array | None = None  # [heads, prefix]: attention of patches on the tokens before them


def inspect_images(
    model: Any,
    pixels: torch.Tensor,
    *,
    minutes: float | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> ImageInspection:
    """Measures how an image model uses positions. The model is left as it is.

    model    an image model of transformers or timm, stock or with an encoding of whorl's; or the vision tower of a
             Qwen-VL (`model.model.visual`), which has no size of its own, so that the images' stands for it
    pixels   images [images, channels, height, width], scaled as the model takes them; of any size that it takes
    minutes  a budget: images are read until it is up, one at the least; None or 0 sets no limit
    advance  told of images as they are read

    Queries and keys are read where they reach attention, turned, and weights are those that the model uses, with all
    that is added to its logits. Raises ValueError for a model that cannot be read and for pixels that do not fit, and
    for weights or outputs that are not finite.
    """
    host = image_host(model)
    check_pixels(pixels)
    found = Reading(host, tuple(pixels.shape[-2:]), len(pixels))
    found.read(pixels.split(found.batch), seconds=60 * minutes if minutes else None, advance=advance)
    return found.result()


def image_host(model: Any) -> Host:
    """The host of an image model that can be read. Raises ValueError for any other."""
    host = host_of(model)
    image_layers_of(host)  # or why not
    finite.check_weights(host.model)
    return host


def check_pixels(pixels: Any) -> None:
    """Raises ValueError for what are no images."""
    fits = isinstance(pixels, torch.Tensor) and pixels.dim() == 4 and pixels.is_floating_point() and len(pixels)
    if not fits:
        got = f"{tuple(pixels.shape)} {pixels.dtype}" if isinstance(pixels, torch.Tensor) else shown(pixels)
        raise ValueError(
            f"pixels must be a tensor of real numbers [images, channels, height, width], one image or more, got {got}"
        )


class Reading:
    """Images of one size through a model, and what is summed of each layer on the way."""

    def __init__(self, host: Host, size: tuple[int, ...], asked: int) -> None:
        """size: of the images, height and width in pixels. Raises ValueError for one that holds no patch."""
        self.host, self.asked = host, asked
        self.grid = host.grid_of(*size)
        self.own = host.own_grid or self.grid
        self.facts = image_layers_of(host)
        self.sums = [Sums() for _ in self.facts]
        self.count, self.seconds = 0, 0.0
        self.windowed: set[int] = set()  # the layers of a tower in which patches see a window alone
        self.within = np.zeros(2)  # how far even attention would look there, summed over patches; how many these are
        self.batch = max(1, BATCH_TOKENS // (self.grid.prefix + self.grid.height * self.grid.width))

    def read(
        self,
        batches: Iterable[torch.Tensor],
        seconds: float | None = None,
        advance: Callable[[int], None] = lambda images: None,
    ) -> None:
        """Reads batches of images until there are no more, or the time is up; of the last one what is whole counts."""
        begun = time.perf_counter()
        for pixels in batches:
            sums: dict[int, Sums] = {}
            with torch.no_grad():
                images_forward(self.host, pixels, lambda attended, sums=sums: self._layer(sums, attended))  # type: ignore[misc]
            self.sums = [_together(old, sums[i]) for i, old in enumerate(self.sums)]
            self.count += len(pixels)
            self.seconds = time.perf_counter() - begun
            advance(len(pixels))
            if seconds is not None and self.seconds > seconds:
                return

    def _layer(self, sums: dict[int, Sums], attended: Attended) -> None:
        layer, prefix, images = attended.layer, self.grid.prefix, len(attended.q)
        assert attended.places is not None
        seen = _Seen.of(attended.places)
        found = Sums(images * len(seen.places))
        if len(seen.places) < self.grid.height * self.grid.width:
            pairs = _counts(seen.grid)
            self.windowed.add(layer.index)
            self.within += found.patches * np.array([_distance(pairs, pairs, seen.grid), 1])
        if layer.turns:
            repeats = attended.q.shape[1] // attended.k.shape[1]
            for name, x in (("q", attended.q), ("k", attended.k), ("v", attended.v)):
                norms = measures.pair_norms(x[:, :, prefix:], layer).repeat(1 if name == "q" else repeats, 0)
                found.norms[name] = norms.astype(np.float64) * found.patches
        if layer.distribution:
            for image in range(images):
                offsets, on_prefix = by_offset(attended, image, self.grid, seen)
                found.offsets = add(found.offsets, offsets.cpu().numpy())
                found.prefix = add(found.prefix, on_prefix.cpu().numpy())
        sums[layer.index] = _together(sums.get(layer.index, Sums()), found)

    # --- what the sums say --------------------------------------------------------------------------------------------

    def result(self, name: str | None = None, **settings: Any) -> ImageInspection:
        """What has been found so far. settings: those of `ImageSettings` that only a caller knows."""
        host, grid = self.host, self.grid
        pairs = _counts(grid)
        tokens = grid.height * grid.width
        turning = [turning_of(host, i) for i in range(len(self.facts))]
        attention = [None if s.offsets is None else s.offsets * tokens / (s.patches * pairs) for s in self.sums]
        prefix = [None if s.prefix is None else s.prefix / s.patches for s in self.sums]
        arrays: dict[str, list[Array | None]] = {
            f"norm_{x}": [s.norms[x] / s.patches if x in s.norms else None for s in self.sums] for x in "qkv"
        }
        arrays |= {
            "frequency": [None if t is None else t.numpy() for t in turning],
            "attention": attention,
            "prefix": prefix if grid.prefix else [],
        }
        encoding, absent = told(host.model), {}
        if all(t is None for t in turning):
            absent["pairs"] = NO_PAIRS.format(encoding=encoding)
        if without := [layer.index for layer in self.facts if not layer.distribution]:
            absent["weights"] = NO_WEIGHTS.format(layers=", ".join(map(str, without)))
        if self.windowed:
            even, patches = self.within
            absent["windows"] = WINDOWED.format(layers=", ".join(map(str, sorted(self.windowed))), even=even / patches)
        config = getattr(host.model, "config", None)
        label = name or getattr(host.model, "name_or_path", "") or type(host.model).__name__
        summary = ImageSummary(
            kind=IMAGES,
            whorl=whorl.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=ImageModel(
                name=label,
                type=getattr(config, "model_type", None) or type(host.model).__name__,
                layers=len(self.facts),
                heads=max(shape.heads for shape in host.shapes),
                head_dim=max(shape.head_dim for shape in host.shapes),
                parameters=sum(p.numel() for p in host.model.parameters()),
                encoding=encoding,
                rows=self.own.height,
                columns=self.own.width,
                prefix=grid.prefix,
                sized=host.own_grid is not None,
            ),
            settings=ImageSettings(
                self.count, self.asked, grid.height, grid.width, _distance(pairs, pairs, grid), **settings
            ),
            heads=tuple(self._heads(turning, attention, prefix)),
            absent=absent,
            seconds=round(self.seconds, 2),
            machine=machine(next(host.model.parameters()).device),
            versions=versions("torch", "transformers", "numpy"),
        )
        found = {key: x for key, rows in arrays.items() if (x := stacked(rows)) is not None}
        return ImageInspection(summary, found)

    def _heads(
        self, turning: list[torch.Tensor | None], attention: list[Array | None], prefix: list[Array | None]
    ) -> Iterator[ImageHead]:
        pairs = _counts(self.grid)
        for i, sums in enumerate(self.sums):
            along, of_layer, on_prefix = turning[i], attention[i], prefix[i]
            for head in range(self.host.shapes[i].heads):
                queries = keys = None
                unfit: tuple[int, ...] = ()
                if along is not None and sums.norms:
                    of_head = along[head].numpy()
                    unfit = _unfit(of_head, self.own)
                    queries, keys = (_shares(sums.norms[x][head], of_head, unfit) for x in "qk")
                distance = down = right = there = None
                if of_layer is not None:
                    distance = _distance(of_layer[head] * pairs, pairs, self.grid)
                    down, right, there = _peak(of_layer[head], self.grid)
                on = float(on_prefix[head].sum()) if on_prefix is not None and self.grid.prefix else None
                yield ImageHead(i, head, queries, keys, unfit, distance, on, down, right, there)


class _Seen(NamedTuple):
    """The patches that see one another: those of an image, or of a window of it.

    grid      how many rows and columns they have
    places    row and column of each, from the first of them
    in_rows   their order row by row; None where they have it
    """

    grid: Grid
    places: list[list[int]]
    in_rows: torch.Tensor | None

    @classmethod
    def of(cls, places: torch.Tensor) -> _Seen:
        first, last = places.amin(0), places.amax(0)
        grid = Grid(*(last - first + 1).tolist())
        numbers = (places - first) @ torch.tensor([grid.width, 1])
        ordered = torch.equal(numbers, torch.arange(len(numbers)))
        return cls(grid, (places - first).tolist(), None if ordered else numbers.argsort())


def by_offset(attended: Attended, image: int, grid: Grid, seen: _Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of one image's patches, summed over queries, float64: by offset key - query [heads, 2 rows - 1,
    2 columns - 1], with no offset in the middle, and on each token before the patches [heads, prefix]."""
    heads, tokens = attended.q.shape[1:3]
    rows, columns, prefix, device = grid.height, grid.width, grid.prefix, attended.q.device
    high, wide = seen.grid.height, seen.grid.width
    in_rows = None if seen.in_rows is None else seen.in_rows.to(device)
    offsets = torch.zeros(heads, 2 * rows - 1, 2 * columns - 1, device=device)
    on_prefix = torch.zeros(heads, prefix, dtype=torch.float64, device=device)
    step = max(1, BLOCK_NUMBERS // (heads * tokens))
    for q0 in range(prefix, tokens, step):
        block = attended.block(image, slice(0, heads), q0, min(tokens, q0 + step))
        weights = attended.weights(image, block)
        weights = attended.softmax(block) if weights is None else weights
        on_prefix += weights[..., :prefix].sum(1, dtype=torch.float64)
        on_patches = weights[..., prefix:] if in_rows is None else weights[..., prefix:][..., in_rows]
        on_patches = on_patches.unflatten(-1, (high, wide))
        for (y, x), of_query in zip(seen.places[q0 - prefix :], on_patches.unbind(1), strict=False):
            offsets[:, rows - 1 - y : rows - 1 - y + high, columns - 1 - x : columns - 1 - x + wide] += of_query
    return offsets.double(), on_prefix


def _together(a: Sums, b: Sums) -> Sums:
    norms = {name: add(a.norms.get(name), norm) for name, norm in b.norms.items()}
    offsets = a.offsets if b.offsets is None else add(a.offsets, b.offsets)
    prefix = a.prefix if b.prefix is None else add(a.prefix, b.prefix)
    return Sums(a.patches + b.patches, norms, offsets, prefix)


def _counts(grid: Grid) -> Array:
    """How many pairs of patches there are at each offset, [2 rows - 1, 2 columns - 1]."""
    down, right = (side - np.abs(np.arange(1 - side, side)) for side in (grid.height, grid.width))
    return np.outer(down, right)


def _distance(weights: Array, pairs: Array, grid: Grid) -> float:
    """The mean distance, in patches, of offsets by these weights. `pairs`: where there is none, no weight is."""
    down, right = (np.arange(1 - side, side) for side in (grid.height, grid.width))
    far, total = np.hypot(down[:, None], right), float(weights[pairs > 0].sum())
    return float((weights * far).sum() / total) if total > 0 else math.nan


def _peak(means: Array, grid: Grid) -> tuple[int, int, float]:
    """The offset with the largest mean weight, of those that half of the rows and of the columns reach."""
    down, right = ((side - 1) // 2 for side in (grid.height, grid.width))
    near = means[grid.height - 1 - down : grid.height + down, grid.width - 1 - right : grid.width + right]
    y, x = np.unravel_index(near.argmax(), near.shape)
    return int(y) - down, int(x) - right, float(near[y, x])


def _unfit(along: Array, own: Grid) -> tuple[int, ...]:
    """The pairs that turn and make no full turn along any side of a grid; along [pairs, 2], radians per patch."""
    sides = (own.height, own.width)
    return tuple(
        pair for pair, by_axis in enumerate(np.abs(along))
        if by_axis.any() and not any(turns_fully(f, side) for f, side in zip(by_axis, sides, strict=True))
    )  # fmt: skip


def _shares(norms: Array, along: Array, unfit: tuple[int, ...]) -> Axes:
    """Of the norms of a head's pairs, [pairs]."""
    squares = along**2
    whole, total = squares.sum(-1), norms.sum()
    if not total > 0:
        return Axes(math.nan, math.nan, math.nan, math.nan)
    parts = np.divide(squares, whole[:, None], out=np.zeros_like(squares), where=whole[:, None] > 0)
    rows, columns = norms @ parts / total
    return Axes(
        float(rows), float(columns), float(norms[whole == 0].sum() / total), float(norms[list(unfit)].sum() / total)
    )
