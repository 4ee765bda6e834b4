"""Which derivatives the compiled loops and kernels have: the first, by a backward pass. The rest is right or refused.

A loop reads the numbers of a tensor and nothing else. What PyTorch's forward-mode derivatives and torch.func carry with
a tensor is lost on it, and a derivative of the gradients that it made would miss the part that goes through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

_C: Any = torch._C
_func_at_work = _C._are_functorch_transforms_active
_NO_DISPATCH = torch.Tensor.__torch_dispatch__
INSTEAD = "take impl='reference' (for a model: whorl.attach(model, encoding, impl='reference'))"
PLAIN = (torch.Tensor, torch.nn.Parameter)


def transformed() -> str | None:
    """None, or what PyTorch is doing with tensors that only its own operations can follow."""
    if forward_ad._current_level >= 0:
        return "a forward-mode derivative is taken"
    if _func_at_work():
        return "a transform of torch.func is at work"
    if _C._get_tracing_state() is not None:
        return "torch.jit.trace records what PyTorch's own operations do"
    return None


def exporting() -> bool:
    """Whether torch.export or torch.onnx asks. Leans on `torch.compiler._is_exporting_flag`: dynamo of torch 2.11
    takes `is_exporting()` for true in every compiled call."""
    return bool(torch.compiler._is_exporting_flag)


def saveable(positions: torch.Tensor) -> torch.Tensor:
    """What a backward pass may keep of positions: themselves, or of inference tensors, which it may not, a copy."""
    return positions.clone() if positions.is_inference() else positions


def batch_of_gradients(x: torch.Tensor) -> bool:
    """Whether it is what torch.autograd.grad(..., is_grads_batched=True) sends through a backward pass."""
    return _C._functorch.is_legacy_batchedtensor(x)


def plain(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all of them hold numbers of their own. (A subclass that brings its own dispatch may hold anything.)"""
    for x in tensors:  # noqa: SIM110 (half of the time of all() and a generator)
        if type(x) not in PLAIN and type(x).__torch_dispatch__ is not _NO_DISPATCH:
            return False
    return True


def first_only(
    impl: str, gradients: Sequence[torch.Tensor | None], inputs: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor | None, ...]:
    """`gradients`, made of `inputs` by a loop, as a backward pass returns them: a derivative of them raises ValueError.

    Where no such derivative is asked for (no create_graph), they are what was given.
    """
    sources = [x for x in inputs if x is not None and x.requires_grad]
    if not torch.is_grad_enabled() or not sources:
        return tuple(gradients)
    made = [x for x in gradients if x is not None]
    marked = iter(_FirstOnly.apply(impl, len(made), *made, *sources))
    return tuple(None if x is None else next(marked) for x in gradients)


def refuse_batches(impl: str, *gradients: torch.Tensor) -> None:
    """Raises ValueError for gradients that carry more than the numbers that a loop reads."""
    tangents = [x for x in gradients if forward_ad.unpack_dual(x).tangent is not None]
    if tangents or _func_at_work() or any(map(batch_of_gradients, gradients)):
        raise ValueError(
            f"impl={impl!r} of biased_attention takes gradients one at a time, without tangents, and these came as a "
            f"batch or with a forward-mode derivative; {INSTEAD}"
        )


class _FirstOnly(torch.autograd.Function):
    """A node between gradients and all that they depend on, so that no derivative goes around it."""

    @staticmethod
    def forward(ctx: Any, impl: str, count: int, *tensors: torch.Tensor) -> Any:
        ctx.impl = impl
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise ValueError(
            f"impl={ctx.impl!r} of biased_attention has first derivatives alone, and a second one was asked for; "
            f"{INSTEAD}"
        )
