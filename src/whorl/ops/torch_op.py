"""The rotation as operators of torch, whorl::rotate and whorl::rotate_: for compiled graphs and wrapped tensors."""

from __future__ import annotations

from typing import Any

import torch

from whorl.ops.autograd import table_gradients
from whorl.ops.overlap import overlap
from whorl.ops.problem import side_by_side
from whorl.ops.turning import How, turn_now

SHARED = "q and k share memory, which would turn twice in place; use inplace=False"

_SIGNATURE = "Tensor cos, Tensor sin, int first, int width, str layout, int heads_dim, int sign, str impl"
_LIBRARY = torch.library.Library("whorl", "DEF")
_LIBRARY.define(f"rotate(Tensor q, Tensor? k, {_SIGNATURE}) -> (Tensor, Tensor)")
_LIBRARY.define(f"rotate_(Tensor(a!) q, Tensor(b!)? k, {_SIGNATURE}) -> ()")


@torch.library.impl(_LIBRARY, "rotate", "CompositeExplicitAutograd")
def _rotate(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> Any:
    turned = turn_now([q] if k is None else [q, k], cos, sin, How(*how))
    return turned[0], turned[1] if k is not None else q.new_empty(0)


@torch.library.impl(_LIBRARY, "rotate_", "CompositeExplicitAutograd")
def _rotate_in_place(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> None:
    turn_now([q] if k is None else [q, k], cos, sin, How(*how), inplace=True)


@torch.library.register_fake("whorl::rotate", lib=_LIBRARY)
def _rotate_fake(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> Any:
    def like(x: Any) -> Any:
        return torch.empty_like(side_by_side(x))

    return like(q), like(k) if k is not None else q.new_empty(0)


@torch.library.register_fake("whorl::rotate_", lib=_LIBRARY)
def _rotate_in_place_fake(q: Any, k: Any, cos: Any, sin: Any, *how: Any) -> None:
    if k is not None and q.untyped_storage()._cdata == k.untyped_storage()._cdata:
        lying = [tuple(map(int, of)) for x in (q, k) for of in (x.shape, x.stride())]
        if overlap(*lying, int(k.storage_offset()) - int(q.storage_offset())):
            raise ValueError(SHARED)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, cos, sin, *how = inputs
    ctx.how, ctx.pair = How(*how), k is not None
    ctx.learned = cos.requires_grad or sin.requires_grad
    kept = ([q] if k is None else [q, k]) if ctx.learned else []
    ctx.save_for_backward(cos, sin, *kept)


def _backward(ctx: Any, to_q: Any, to_k: Any) -> Any:
    cos, sin, *tensors = ctx.saved_tensors
    grads = [to_q, to_k] if ctx.pair else [to_q]
    back = ctx.how.back()
    turned = list(torch.ops.whorl.rotate(to_q, to_k if ctx.pair else None, cos, sin, *back))
    to_cos, to_sin = table_gradients(tensors, grads, cos, ctx.how) if ctx.learned else (None, None)
    return turned[0], turned[1] if ctx.pair else None, to_cos, to_sin, *[None] * len(back)


torch.library.register_autograd("whorl::rotate", _backward, setup_context=_setup_context, lib=_LIBRARY)
