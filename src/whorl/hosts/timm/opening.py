"""Finds the seams of a model of timm, or says by name why it has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from whorl.encodings import Shape
from whorl.encodings.grid import Grid
from whorl.hosts.protocol import Calls, Patches
from whorl.hosts.timm.calls import attends_by
from whorl.hosts.timm.families import FAMILIES, TimmFamily
from whorl.hosts.timm.host import TimmHost
from whorl.hosts.transformers.opening import unwrapped

CALLS = Calls(rotation="", positions="x", mask="attn_mask", attends_by=attends_by)


def has(model: Any) -> bool:
    """Whether a model, wrapped or not, is one of timm's, or of a class that derives from one."""
    return any(cls.__module__.partition(".")[0] == "timm" for cls in type(unwrapped(model)).__mro__)


def bases_of(model: Any) -> list[Any]:
    return [unwrapped(model)]


def open_model(model: Any) -> TimmHost:
    """Raises ValueError naming what was looked for and what was found."""
    model = unwrapped(model)
    family = _family(model)
    if family is None:
        raise ValueError(f"no known seam in timm's {type(model).__name__}: {_why_closed(model)}")
    _check_parts(model, family)
    attentions = tuple(block.attn for block in model.blocks)
    patches = _patches(model)
    shapes = [
        Shape(
            head_dim=attention.head_dim,
            heads=attention.num_heads,
            width=model.embed_dim,
            bidirectional=True,
            layout="half" if getattr(attention, "rotate_half", True) else "interleaved",
            prefix=patches.embedded,
        )
        for attention in attentions
    ]
    return TimmHost(
        model=model,
        base=model,
        known=True,
        attentions=attentions,
        shapes=tuple(shapes),
        layer_types=("full_attention",) * len(attentions),
        windows=(None,) * len(attentions),
        turns=(False,) * len(attentions),
        calls=CALLS,
        axes=2,
        rotary=None,
        rotation=None,
        typed=False,
        biases="interface",
        position_table=None,
        first_layer=model.blocks[0],
        patches=patches,
        embed=model.patch_embed,
        relative=family.relative,
    )


def _family(model: Any) -> TimmFamily | None:
    return next((FAMILIES[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in FAMILIES), None)


def _patches(model: Any) -> Patches:
    embed, prefix = model.patch_embed, int(model.num_prefix_tokens)
    embedded = 0 if getattr(model, "no_embed_class", True) else prefix
    size = tuple(embed.patch_size)
    patches = Patches(size, size, prefix, embedded, Grid(1, 1), "padded" if embed.dynamic_img_pad else "refused")
    rows, columns = embed.grid_size
    return replace(patches, trained=Grid(rows, columns, embedded))


def _check_parts(model: Any, family: TimmFamily) -> None:
    """Raises ValueError where a model of a known family is built of parts that are not."""
    name = type(model).__name__
    for block in model.blocks:
        attention = getattr(block, "attn", None)
        if type(attention).__name__ not in family.attentions:
            found = "" if attention is None else f" with an attention of the class {type(attention).__name__}"
            raise ValueError(
                f"no known seam in this {name}: looked for blocks with an attention `attn` of the class "
                f"{' or '.join(family.attentions)}, and found a {type(block).__name__}{found}"
            )
    if type(model.patch_embed).__name__ != "PatchEmbed" or model.patch_embed.grid_size is None:
        raise ValueError(
            f"no known seam in this {name}: its tokens are made by a {type(model.patch_embed).__name__}, and where "
            "these stand is known of a PatchEmbed that is built for an image size alone"
        )
    if getattr(getattr(model, "patch_drop", None), "prob", 0.0) > 0:
        raise ValueError(
            f"this {name} leaves out patches in training (patch_drop_rate), and says not which, so that nobody knows "
            "where the others stand; build it with patch_drop_rate=0"
        )


def _why_closed(model: Any) -> str:
    known = f"known are {', '.join(FAMILIES)}"
    part = next((name for name, module in model.named_modules() if name and _family(module) is not None), None)
    if part is not None:
        return f"it holds one that is known: try whorl.attach(model.get_submodule({part!r}), encoding)"
    kinds = dict.fromkeys(type(m).__name__ for m in model.modules() if _attends(m))
    if not kinds:
        return f"it has no attention, so there are no queries and keys to turn and no logits to bias; {known}"
    if any("Window" in kind for kind in kinds):
        return (
            f"its layers attend by {', '.join(kinds)}, within windows that half of them move past the edges of the "
            "image, and add a table of biases by the places in a window: there is no attention over the places of a "
            "whole image, by which encodings of a grid go; take a model that attends to all patches, as a "
            f"VisionTransformer ({known})"
        )
    return f"its layers attend by {', '.join(kinds)}, with positions of their own; {known}"


def _attends(module: nn.Module) -> bool:
    return any(word in type(module).__name__.lower() for word in ("attention", "attn"))
