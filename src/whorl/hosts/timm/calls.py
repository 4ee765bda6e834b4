"""How timm's models are called while an encoding is attached: their own code, which sees some attributes otherwise.

Their layers are handed no positions, and neither the size of the image. What an encoding hands to them goes with the
mask, the one argument that reaches every attention. Nothing is left on a module between two calls.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from whorl.hosts.transformers import compat

OWN = "timm"  # how an attention attends by itself
ATTENDS: dict[str, Callable[..., Any]] = {}  # other implementations of attention, by name


class Seen:
    """A module as one call of its code sees it: with these attributes in the place of its own."""

    def __init__(self, module: Any, **others: Any) -> None:
        vars(self).update(others, seen=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.seen, name)


class Handed(NamedTuple):
    """What reaches every attention in the place of a mask."""

    mask: torch.Tensor | None  # the caller's own
    turns: Any  # what the encoding hands to the layers; its `grid` is the image's


class Asked(NamedTuple):
    """What reaches `scaled_dot_product_attention` in the place of a mask."""

    attention: Any  # the module that calls it
    mask: Any


# --- methods of a model, in the place of its class's -----------------------------------------------------------------


def forward_features(self: Any, x: torch.Tensor, attn_mask: Any = None, is_causal: bool = False) -> torch.Tensor:
    handed = Handed(attn_mask, turns_of(self, x))
    features: torch.Tensor = type(self).forward_features(_handing(self, handed), x, handed, is_causal)
    return features


def forward_intermediates(self: Any, x: torch.Tensor, *args: Any, attn_mask: Any = None, **kwargs: Any) -> Any:
    handed = Handed(attn_mask, turns_of(self, x))
    return type(self).forward_intermediates(_handing(self, handed), x, *args, attn_mask=handed, **kwargs)


def turns_of(model: Any, pixels: torch.Tensor) -> Any:
    """What an encoding hands to the layers for these images. Raises ValueError where the model cuts them into
    patches of another size than when it was attached: it is fitted to that one."""
    before, now = model.whorl_patches.size, tuple(model.patch_embed.patch_size)
    if now != before:
        raise ValueError(
            f"this {type(model).__name__} cut images into patches of {before[0]} x {before[1]} pixels when an encoding "
            f"was attached, and cuts them into {now[0]} x {now[1]} now (set_input_size); whorl.attach(model, "
            "whorl.encoding_of(model)) fits it to these, and keeps what it has learned"
        )
    return model.whorl_turns(pixels)


def _handing(model: Any, handed: Handed) -> Seen:
    """A model whose embedding is of this call's grid, and whose blocks are checkpointed also where they get a mask."""
    blocks = checkpointed(model)
    tokens = partial(_tokens, model, handed.turns.grid)
    return Seen(model, blocks=blocks, grad_checkpointing=False, _pos_embed=tokens)


def checkpointed(model: Any) -> list[Any]:
    """A model's blocks, run again for their backward where it is told to."""
    if not model.grad_checkpointing:
        return list(model.blocks)
    return [partial(checkpoint, block, use_reentrant=False) for block in model.blocks]


def _tokens(model: Any, grid: Any, patches: torch.Tensor) -> Any:
    """Its class's `_pos_embed`, with the encoding's vectors in the place of its own, and without its own rotation."""
    if patches.dim() == 4:  # [batch, rows, columns, width]
        patches = patches.flatten(1, 2)
    none = model.pos_embed is None and model.whorl_add is None  # timm drops out embeddings with vectors alone
    vectors = None if none else model.whorl_vectors(grid, patches)
    seen = Seen(model, dynamic_img_size=False, pos_embed=vectors, rope=None)
    return type(model)._pos_embed(seen, patches)


def patches_of_any_size(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of what makes patches of pixels, also of an image of another size than the model is built for."""
    patches: torch.Tensor = type(self).forward(Seen(self, strict_img_size=False), x)
    return patches


# --- attention -------------------------------------------------------------------------------------------------------


def attends_by(attention: Any) -> str:
    return str(vars(attention).get("whorl_attends", OWN))


def attend(attention: Any, hidden: torch.Tensor, mask: Any, is_causal: bool = False) -> Any:
    """The forward of an attention's class, whose q, k and v go to the implementation by which it attends.

    mask: what that implementation takes for one. Of its own positions nothing is left.
    """
    if hasattr(attention, "rel_pos"):  # see `relative`: what it is called with has a mask of no caller
        seen = Seen(attention, rel_pos=None, **({} if attends_by(attention) == OWN else {"fused_attn": True}))
        if attends_by(attention) == OWN:
            return type(attention).forward(seen, hidden)
        return attention.whorl_forward(seen, hidden, Asked(attention, mask))
    if attends_by(attention) == OWN:
        output: torch.Tensor = type(attention).forward(attention, hidden, attn_mask=mask, is_causal=is_causal)
        return output
    seen = Seen(attention, fused_attn=True)  # the branch that calls the function
    output = attention.whorl_forward(seen, hidden, attn_mask=Asked(attention, mask))
    return output


def stock_forward(self: Any, hidden: torch.Tensor, *args: Any, attn_mask: Any = None, **kwargs: Any) -> Any:
    """The forward of an attention's class, whose own q, k and v go to the implementation by which it attends."""
    return self.whorl_forward(Seen(self, fused_attn=True), hidden, *args, attn_mask=Asked(self, attn_mask), **kwargs)


def set_attention(attention: Any, implementation: str | None) -> None:
    """Has an attention attend by this implementation, or (OWN) by itself."""
    if implementation == OWN:
        for name in ("whorl_attends", "whorl_forward"):
            vars(attention).pop(name, None)
    else:
        attention_class: Any = type(attention)
        vars(attention).update(whorl_attends=implementation, whorl_forward=_attending(attention_class))


class Attending:
    """The forward of an attention's class, unbound, whose q, k and v go to the implementation by which it attends.

    A copy and a pickle name the class: a function that is no module's own cannot be found again by its name.
    """

    def __init__(self, attention_class: Any) -> None:
        self.attention_class = attention_class
        by_name = "F" in compat.names_in(attention_class)  # or by torch.nn.functional
        self.forward = compat.with_global(attention_class, *(("F", _FUNCTIONAL) if by_name else ("torch", _TORCH)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attending, (self.attention_class,)


@lru_cache(maxsize=64)
def _attending(attention_class: Any) -> Attending:
    """One for all models of a class."""
    return Attending(attention_class)


def _dot_product(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Asked, dropout_p: float = 0.0, is_causal: bool = False
) -> torch.Tensor:
    """In the place of `F.scaled_dot_product_attention`: the same, by the implementation that the module names."""
    attention, mask = attn_mask
    output, _ = ATTENDS[attends_by(attention)](attention, q, k, v, mask, dropout=dropout_p)
    return output.transpose(1, 2)


_FUNCTIONAL = types.ModuleType("whorl.hosts.timm.functional")
vars(_FUNCTIONAL).update(vars(torch.nn.functional), scaled_dot_product_attention=_dot_product)
_TORCH = Seen(torch, nn=Seen(torch.nn, functional=_FUNCTIONAL))
