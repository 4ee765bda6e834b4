"""The image models of transformers: where their seams are, and the host that they are.

Their layers are handed no positions. The grid is read from the pixels that a model is called with; what their
embedding adds of its own comes from a method, which gives what is added instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import nn

from whorl.encodings import Encoding, Known, Shape, Spectrum
from whorl.encodings.dinov3_rope import DINOv3RoPE
from whorl.encodings.grid import Grid
from whorl.encodings.learned_2d import Learned2D
from whorl.encodings.nope import NoPE
from whorl.hosts.protocol import Host, Patches
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.families import IMAGES, ImageFamily
from whorl.hosts.transformers.host import CALLS, OpenHost
from whorl.hosts.transformers.opening import part_of, rotation_of, unwrapped
from whorl.hosts.transformers.sizes import head_dim_of, heads_of


def has(model: Any) -> bool:
    """Whether a model, wrapped or not, is an image model of a known family."""
    model = unwrapped(model)
    return getattr(getattr(model, "config", None), "model_type", None) in IMAGES and hasattr(model, "base_model")


def bases_of(model: Any) -> list[Any]:
    """The module that is given pixels, where it is found."""
    base = _base(unwrapped(model))
    return [] if base is None else [base]


@dataclass(frozen=True, kw_only=True)
class ImageHost(OpenHost):
    """An image model of transformers."""

    family: ImageFamily

    @property
    def taken_out(self) -> tuple[nn.Parameter, ...]:
        table: Any = getattr(self.embed, self.family.table, None)
        rows: Any = table.weight if isinstance(table, nn.Module) else table
        return () if rows is None else (rows,)

    @property
    def own_vectors(self) -> torch.Tensor | None:
        return next((rows.view(-1, rows.shape[-1]) for rows in self.taken_out), None)

    def own_encoding(self) -> Encoding:
        assert self.patches is not None
        if self.rotary is not None:
            return DINOv3RoPE(base=float(self.rotary.base))
        grid = self.patches.trained
        return NoPE() if self.own_vectors is None else Learned2D((grid.height, grid.width), self.family.antialias)

    def own_spectrum(self, index: int) -> Spectrum | None:
        return self.own_encoding().spectrum(self.shapes[index].head_dim)

    def says(self, index: int) -> Known:
        assert self.patches is not None
        grid = self.patches.trained
        return Known(
            base=None if self.rotary is None else float(self.rotary.base),
            train_length=self.patches.prefix + grid.height * grid.width,
            grid=(grid.height, grid.width),
        )

    @property
    def drawn_in_training(self) -> str:
        of_config = vars(self.model.config) if self.rotary is not None else {}
        drawn = {name: of_config.get(f"pos_embed_{name}") for name in ("shift", "jitter", "rescale")}
        return ", ".join(f"pos_embed_{name}={value:g}" for name, value in drawn.items() if value is not None)

    def hidden_of(self, pixels: torch.Tensor, resampled: bool = True) -> torch.Tensor:
        asks = resampled and "interpolate_pos_encoding" in signature(type(self.base).forward).parameters
        hidden: torch.Tensor = self.base(pixels, **({"interpolate_pos_encoding": True} if asks else {}))[0]
        return hidden

    stock_form = Host.stock_form  # no config of theirs says an encoding


def open_model(model: Any) -> ImageHost:
    """Finds an image model's seams. Raises ValueError naming what was looked for and what was found."""
    model = unwrapped(model)
    config, family = model.config, IMAGES[model.config.model_type]
    base = _base(model)
    if base is None:
        raise ValueError(
            f"looked for {family.embed!r} and {family.layers!r} in one module of this {type(model).__name__} and found "
            "none that has both"
        )
    _refuse_other_positions(model, base)
    embed, layers = part_of(base, family.embed, model), tuple(part_of(base, family.layers, model))
    _check_handing_on(model, layers[0])
    attentions = tuple(part_of(layer, family.attention, model) for layer in layers)
    rotary = part_of(base, family.rotary, model) if family.rotary else None
    attention_class: Any = type(attentions[0])
    rotation = None if rotary is None else rotation_of(family.rotate, attention_class)
    patches = _patches(config, family, embed)
    shape = Shape(
        head_dim=head_dim_of(config, attentions[0]),
        heads=heads_of(config, attentions[0]),
        width=config.hidden_size,
        bidirectional=True,
        layout="half" if rotation is None else rotation.layout,
        prefix=patches.embedded,
    )
    return ImageHost(
        model=model,
        base=base,
        family=family,
        known=True,
        calls=replace(CALLS, positions="pixel_values"),
        axes=2,
        first_layer=layers[0],
        attentions=attentions,
        rotary=rotary,
        rotation=rotation,
        position_table=None,
        shapes=(shape,) * len(layers),
        layer_types=("full_attention",) * len(layers),
        windows=(None,) * len(layers),
        turns=(rotary is not None,) * len(layers),
        typed=False,
        biases="interface" if compat.attends_by_name(attention_class) else "mask",
        patches=patches,
        embed=embed,
    )


def _base(model: Any) -> Any:
    """The module that holds what makes tokens of pixels, and the layers."""
    family = IMAGES[model.config.model_type]
    parts = (model.base_model, model, *model.children())
    return next(
        (m for m in parts if part_of(m, family.embed) is not None and part_of(m, family.layers) is not None), None
    )


def _patches(config: Any, family: ImageFamily, embed: Any) -> Patches:
    convolution: Any = next(module for module in embed.modules() if isinstance(module, nn.Conv2d))
    size, step = convolution.kernel_size, convolution.stride
    tokens = [getattr(embed, name) for name in family.prefix]
    embedded = sum(1 if token.dim() == 1 else token.shape[1] for token in tokens)
    registers = 0 if family.registers is None else getattr(embed, family.registers).shape[1]
    sides = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
    patches = Patches(size, step, embedded + registers, embedded, Grid(1, 1))
    trained = patches.grid(*sides)
    return Patches(size, step, patches.prefix, embedded, Grid(trained.height, trained.width, embedded))


def _check_handing_on(model: Any, layer: nn.Module) -> None:
    """Raises ValueError for layers that hand their attention hidden states alone (DINOv2 of transformers 5.17)."""
    if not any(p.kind is p.VAR_KEYWORD for p in signature(type(layer).forward).parameters.values()):
        import transformers

        raise ValueError(
            f"no known seam in this {type(model).__name__}: its {type(layer).__name__} takes no keyword arguments, by "
            f"which positions go to its attention, in transformers {transformers.__version__}; try a newer release"
        )


def _refuse_other_positions(model: Any, base: Any) -> None:
    """Raises ValueError for relative biases of the model's own, which its layers add to their masks (BEiT)."""
    for name, module in base.named_modules():
        if type(module).__name__.endswith("RelativePositionBias"):
            raise ValueError(
                f"no known seam in {type(model).__name__}: its layers add a relative position bias of their own to the "
                f"mask ({name}), which whorl cannot take out; build the model with use_relative_position_bias=False "
                "and use_shared_relative_position_bias=False"
            )
