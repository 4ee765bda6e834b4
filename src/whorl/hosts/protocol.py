"""What every host answers, of whichever library its models are: `whorl.attaching` joins an encoding to this.

layers          the modules that attend, and what each lets an encoding do
positions       how many axes they have
rotation seam   the module that makes tables of positions, and the function by which layers rotate q and k
logit seam      where biases go in, and by which implementation the layers attend
table           positions added to the embedding: a table of the host's own, or the input of the first layer
patches         of a host of images: how pixels become tokens, and so where these stand
own encoding    what the host does by itself, and what is known of how it was trained

A forward under whorl reads `Calls`, which is stateless and stays with the model; the host itself is there while an
encoding is attached, read or taken off, and no longer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from whorl.encodings import Effect, Encoding, Known, Scaled, Shape, Spectrum
from whorl.encodings.grid import Grid


@dataclass(frozen=True)
class Rotation:
    """How a host's rotation function is called and what it does.

    name     the global of the attention's code that it is called by
    call     "pair": f(q, k, cos, sin, unsqueeze_dim); "single": f(x, cos, sin, unsqueeze_dim) for q and k in turn;
             "complex": f(q, k, frequencies) with heads in dimension 2
    layout   "half": channels i and i + width/2 turn together; "interleaved": 2i and 2i + 1
    free     channels past the tables pass through, so any width up to the whole head may turn
    """

    name: str
    call: str
    layout: str
    free: bool


def _nothing(_: Any) -> None:
    return None


@dataclass(frozen=True)
class Calls:
    """How a host's layers are called: names of arguments, which it gives by name, and functions without a state.

    rotation    in which layers and their attention get what the rotary module gave
    positions   in which they and a table of positions get positions, [batch or 1, tokens] or with axes, where there is
                no rotary module
    mask        in which the attention gets a mask, [batch or 1, heads or 1, queries, keys]: bool, True where a key is
                seen, or numbers that are added to the logits
    cache       the cache among these arguments, or None: of layers that hold `keys`, as transformers' are
    layer       the number of an attention module among the cache's layers, -1 where it has none
    attends_by  the name of the implementation by which an attention module attends, or None

    The rotary module is called with hidden states and positions (and a layer type, where the host is `typed`). What an
    attention module does not know among its arguments it hands on to its attention function, where that is the logit
    seam: f(module, q, k, v, mask, **those) -> (output [batch, tokens, heads, head_dim], weights or None).
    """

    rotation: str
    positions: str
    mask: str
    cache: Callable[[Mapping[str, Any]], Any] = _nothing
    layer: Callable[[nn.Module], int] = lambda _: -1
    attends_by: Callable[[nn.Module], str | None] = _nothing


@dataclass(frozen=True)
class Patches:
    """How a host of images makes its tokens. Sizes are heights and widths.

    size, step  of a patch, and from one to the next, in pixels
    prefix      the tokens before the patches, in its layers
    embedded    those of them that are there where vectors of positions are added
    trained     the grid of an image of the size that its config says, with `embedded` tokens before it
    rest        what becomes of pixels at an edge that fill no patch: "cut", "padded" to one, or "refused"
    """

    size: tuple[int, int]
    step: tuple[int, int]
    prefix: int
    embedded: int
    trained: Grid
    rest: str = "cut"

    def grid(self, height: int, width: int) -> Grid:
        """Of an image of so many pixels. Raises ValueError for one that holds no patch, or no whole number of them
        where the model takes no other."""
        sides = (height, width)
        over = [(pixels - size) % step for pixels, size, step in zip(sides, self.size, self.step, strict=True)]
        if self.rest == "refused" and any(over):
            raise ValueError(
                f"an image of {height} x {width} pixels is no whole number of patches of {self.size[0]} x "
                f"{self.size[1]}, and this model cuts and pads none; resize it, or build the model with "
                "dynamic_img_pad=True"
            )
        if self.rest == "padded":
            height, width = (n + step - o if o else n for n, step, o in zip(sides, self.step, over, strict=True))
        rows, columns = (
            (pixels - size) // step + 1
            for pixels, size, step in zip((height, width), self.size, self.step, strict=True)
        )
        if rows < 1 or columns < 1:
            raise ValueError(
                f"an image of {height} x {width} pixels holds no patch of {self.size[0]} x {self.size[1]}; give one of "
                "that size at least"
            )
        return Grid(rows, columns, self.prefix)


class Method(NamedTuple):
    """What stands in for a method of one module while an encoding is attached; `function` takes the module first."""

    module: nn.Module
    name: str
    function: Callable[..., Any]


@dataclass(frozen=True)
class StockForm:
    """How a host's library says an encoding, without whorl: transformers, in a config.

    config  changes to the config (to its text part, where it has several)
    table   rows for the host's table of positions
    older   what the file says besides, for readers that do not know rope_parameters
    """

    config: dict[str, Any]
    table: torch.Tensor | None = None
    older: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Host(ABC):
    """A model with its seams found: the modules themselves, and what they let an encoding do."""

    model: Any
    base: Any  # the part of it that holds the layers
    known: bool  # a family of the list, under the contract tests; any other is proved by `probe`

    attentions: tuple[nn.Module, ...]  # per layer
    shapes: tuple[Shape, ...]  # per layer; head_dim is the width that the host lets turn
    layer_types: tuple[str, ...]  # per layer
    windows: tuple[int | None, ...]  # per layer: the keys at distances below this are seen (the host's own window)
    turns: tuple[bool, ...]  # per layer: whether the host rotates q and k in it

    calls: Calls
    axes: int = 1  # of a position, as the host gives it to its layers: the tokens of a text stand in a row
    pair_axes: tuple[int, ...] = ()  # of M-RoPE: which of the three positions of a token (time, row, column) each pair
    # of channels goes by, whatever its frequency; all three are the same in a text, and so this has one axis

    rotary: Any  # None in a host that hands positions themselves to its layers
    rotation: Rotation | None
    typed: bool  # the rotary module computes tables by layer type

    biases: str  # where biases go in: "interface", the attention function; or "mask", the mask argument

    position_table: Any  # with rows as `weight`; made to give nothing, or what is added instead
    first_layer: nn.Module

    packed: bool = False  # images of any sizes in one row: q and k are [tokens, heads, head_dim], positions [tokens, 2]
    patches: Patches | None = None
    embed: Any = None  # in a host of images: makes tokens of pixels, and adds vectors that `own_vectors` says, if any

    def refuses(self, effect: Effect) -> str | None:
        """Why this host has no place for an effect, in words that go on after the encoding's name; None where it has,
        or the plan will say."""
        return None

    @property
    def takes_no_vectors(self) -> str | None:
        """Why no vectors can be added to its tokens, whichever they are, in words as those of `refuses`; None where
        some can."""
        return None

    # --- layers

    @property
    def named(self) -> str:
        """What the model is, for errors."""
        return type(self.model).__name__

    @property
    def reads_images(self) -> bool:
        """Whether its tokens are patches, of one image or of several in a row."""
        return self.patches is not None or self.packed

    @property
    def part(self) -> str:
        """The name of the part of the model that attends by itself; empty where it is all of it."""
        return ""

    @property
    def methods(self) -> tuple[Method, ...]:
        """Of a host whose own code must be called otherwise, so that its layers are handed what an encoding needs.

        They find two methods on the base: `whorl_turns` of the pixels, which is for the layers and has the image's
        `grid`, and `whorl_vectors` of a grid and embeddings, which are added to these.
        """
        return ()

    @property
    def unmasked_window(self) -> int | None:
        """The keys that caches keep, where they drop others by a window of the config that no layer masks by."""
        return None

    @property
    def drawn_in_training(self) -> str:
        """What moves the places that its own rotation goes by, anew in each forward of a training; "" where nothing
        does."""
        return ""

    def reuses_keys(self, index: int) -> bool:
        """Whether a layer takes the keys of an earlier one of its type."""
        return False

    @property
    def own_grid(self) -> Grid | None:
        """Of the images that its config speaks of; None where it is of none, or they may have any size."""
        return None if self.patches is None else self.patches.trained

    def grid_of(self, height: int, width: int) -> Grid:
        """The grid of an image of so many pixels, in a host of images. Raises ValueError for a size that it does not
        take."""
        assert self.patches is not None
        return self.patches.grid(height, width)

    def places(self, grid: Grid) -> torch.Tensor:
        """Row and column of an image's patches, in the order in which layers attend to them: [patches, 2]."""
        return grid.positions()[0, grid.prefix :, :2]

    def hidden_of(self, pixels: torch.Tensor, resampled: bool = True) -> torch.Tensor:
        """The last hidden states [batch, tokens, width] of images [batch, 3, height, width], in a host of images.

        resampled: a stock model whose vectors are resampled only where it is told to is told to. Raises what the
        library's code raises for images that the model does not take.
        """
        raise NotImplementedError

    # --- rotation seam

    @abstractmethod
    def rebound(self, index: int, rotate: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of a layer's attention class, unbound, with `rotate` in the place of the host's rotation; the
        class itself is not touched. For hosts with a `rotation`."""

    def normalised_after(self, index: int) -> tuple[nn.Module, ...]:
        """The modules by which a layer normalises q and k after its own rotation."""
        return ()

    # --- logit seam

    def soft_cap(self, index: int) -> float | None:
        """The tanh cap that a layer puts on its logits (Gemma 2), or None."""
        return None

    def has_sinks(self, index: int) -> bool:
        """Whether a layer has an extra logit per head that takes weight and gives no value (gpt-oss)."""
        return False

    @property
    @abstractmethod
    def attention(self) -> str | None:
        """The name of the implementation by which its layers attend: "sdpa", "eager", "whorl", ..."""

    @abstractmethod
    def set_attention(self, implementation: str | None) -> None:
        """Sets how this host attends. What else the model holds keeps its own."""

    @abstractmethod
    def carry(self, implementation: str, attend: Callable[..., Any]) -> None:
        """Makes an attention function known to the host's library under a name, for `set_attention`."""

    def stock_forward(self, index: int) -> Callable[..., Any] | None:
        """The forward of a layer of the stock model, unbound, which attends by the implementation that was set; None
        where the layer's own does."""
        return None

    # --- table

    @property
    def table_vectors(self) -> torch.Tensor | None:
        """[positions, width]: the host's own table; None without one."""
        return None if self.position_table is None else self.position_table.weight

    @property
    def table_rows(self) -> int | None:
        """The positions that the host's own table has; None without one."""
        vectors = self.table_vectors
        return None if vectors is None else len(vectors)

    @property
    def own_vectors(self) -> torch.Tensor | None:
        """[tokens, width]: what a host of images adds by itself, at `table_grid`; None for nothing."""
        return None

    @property
    def table_grid(self) -> Grid | None:
        """The grid of `own_vectors`."""
        return self.own_grid

    @property
    def taken_out(self) -> tuple[nn.Parameter, ...]:
        """What the host has learned of positions by itself, and which takes no part while an encoding is attached."""
        return () if self.position_table is None else (self.position_table.weight,)

    def own_frequencies(self, index: int) -> torch.Tensor | None:
        """[2, heads, pairs]: what a layer of a host of images has learned to turn by along x and y, in radians per
        patch; None for nothing."""
        return None

    # --- own encoding

    def own_encoding(self) -> Encoding | None:
        """What the host does by itself, where it can say so; None where that is read layer by layer."""
        return None

    @abstractmethod
    def own_spectrum(self, index: int) -> Spectrum | None:
        """What a layer turns by in the stock model; None where it does not. Raises ValueError for no spectrum."""

    def own_scaled(self, index: int, spectrum: Spectrum) -> Scaled | None:
        """The same as an encoding where it depends on the length of the context; None where it does not.

        spectrum: its own as it is now. Raises ValueError where it is not what the host was built with.
        """
        return None

    @property
    def precision(self) -> float:
        """How far off, relative to each, the host's own frequencies may be from what was meant."""
        return 2e-6

    def says(self, index: int) -> Known:
        """What the host says of a layer: base, training length, and the share of a head that turns."""
        return Known()

    def scaling(self, layer_type: str) -> str | None:
        """What the host calls its own scaling of the frequencies of a layer type, or None."""
        return None

    def kept(self, index: int) -> int | None:
        """How many pairs of a layer the host's settings let turn, where that is not all of its pairs; or None."""
        return None

    def recorded(self, key: str) -> Any:
        """What a save wrote beside the model under a key, or None."""
        return None

    @property
    def stock(self) -> str:
        """What the stock model is called, for reasons."""
        return f"stock {type(self.model).__name__}"

    def stock_form(self, encoding: Encoding, wanted: Mapping[str, Spectrum]) -> StockForm | str:
        """How the host's library says an encoding that turns and does nothing else, or the reason why it cannot.

        wanted: the spectra that the encoding has, by layer type where the host is `typed`, else by the empty word.
        """
        return f"{self.stock} has no config to say it in"

    def stock_table(self, encoding: Encoding, table: torch.Tensor | None) -> StockForm | str:
        """The same for a host with a table of its own; table: the encoding's, where it has one."""
        return f"{self.stock} has no config to say it in"

    # --- proof, for hosts that are not `known`

    def probe(self) -> torch.Tensor | None:
        """The model's output for a few tokens, the same every time; None where it has no numbers."""
        raise NotImplementedError

    def doubt(self) -> str | None:
        """What is known to keep models of this kind closed, in words, where a proof has failed."""
        return None


def in_stock_terms(host: Host, spectrum: Spectrum) -> Spectrum:
    """The same rotation with a frequency for every pair that the host may turn, 0 for those that were left out.

    Only where that changes no pair: where none rotates, or where pairs are neighbours (in halves, a pair's channels
    depend on the width). And only without an amplitude, which also multiplies pairs that do not rotate.
    """
    neighbours = host.rotation is not None and host.rotation.layout == "interleaved"
    missing = spectrum.head_dim // 2 - len(spectrum.frequencies)
    if spectrum.amplitude != 1 or spectrum.number_of_axes > 1 or (spectrum.turning and not neighbours):
        return spectrum
    return Spectrum(spectrum.frequencies + (0.0,) * missing, spectrum.head_dim)


def name_of(model: nn.Module, part: nn.Module) -> str:
    """The path of a module in a model that holds it."""
    return next(name for name, module in model.named_modules() if module is part)
