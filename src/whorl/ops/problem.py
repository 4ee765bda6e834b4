"""What an implementation is asked: a `Problem` goes down the table (see `implementations`) to the first that can.

Both are tuples, frozen and cheap, since one is made at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from whorl.numerics import math_dtype
from whorl.ops.overlap import reach
from whorl.ops.scores import BoundScore, Channels, multiplied
from whorl.ops.sharing import of_positions
from whorl.ops.visible import Visible

T = TypeVar("T")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Seen = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


def seen(x: torch.Tensor) -> Seen:
    """What there is to know of a tensor before its numbers: shape, strides, dtype, device."""
    return x.shape, x.stride(), x.dtype, x.device


def laid_out(x: Seen) -> torch.Tensor:
    """A tensor without memory that lies as x does."""
    return torch.empty_strided(x[0], x[1], dtype=x[2], device="meta")


def by_channel(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether channels lie side by side, and no two tokens share some of them (as in a view by `unfold`, whose like
    PyTorch lays out in another order)."""
    *steps, last = strides
    for step in steps:
        if 0 < step < shape[-1]:
            return False
    return last == 1


def side_by_side(x: torch.Tensor) -> torch.Tensor:
    """x, or a copy that lies `by_channel`; with its own numbers where the view says minus."""
    return x if by_channel(x.shape, x.stride()) and not x.is_neg() else x.resolve_neg().contiguous()


_ITSELF: Any = object()


class _Remembering:
    """What an implementation has worked out of a problem stays with the problem."""

    def once(self, make: Callable[[Any], T]) -> T:
        """`make(self)`, and the same again when it is asked for again.

        What is made may be the problem itself, and may not hold it: with a reference to itself a problem, and the
        tensors in it, would stay until Python looks for cycles.
        """
        made = vars(self).get("made")
        if made is None:
            made = vars(self)["made"] = {}
        if make not in made:
            found = make(self)
            made[make] = _ITSELF if found is self else found
        found = made[make]
        return self if found is _ITSELF else found  # type: ignore[return-value]


class _Rotation(NamedTuple):
    q: Seen
    k: Seen | None
    cos: Seen
    sin: Seen
    first: int
    width: int
    layout: str
    heads_dim: int
    sign: int
    inplace: bool


class RotationProblem(_Rotation, _Remembering):
    """Which tensors are to be turned, and how; their numbers come to `run` beside it. See `whorl.ops.rotate`.

    q, k, cos, sin   how they lie; k may be None. For `run`, channels are adjacent (stride 1), and tables contiguous and
                     in the dtype of the arithmetic
    sign             1, or -1 to turn back
    inplace          the output is the input
    """

    @cached_property
    def device(self) -> str:
        """The kind of device."""
        return self.q[3].type

    @property
    def tensors(self) -> tuple[Seen, ...]:
        """q, and k where there is one."""
        return (self.q,) if self.k is None else (self.q, self.k)

    @cached_property
    def ready(self) -> bool:
        """Whether everything lies as `run` takes it."""
        math = math_dtype(self.q[2])
        tables = all(laid_out(t).is_contiguous() and t[2] == math for t in (self.cos, self.sin))
        return tables and all(by_channel(x[0], x[1]) for x in self.tensors)

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """Bytes from the first to the last element of each tensor."""
        return tuple(reach(x[0], x[1]) * x[2].itemsize for x in self.tensors)

    @property
    def strides_of_outputs(self) -> tuple[tuple[int, ...], ...]:
        return tuple(x[1] if self.inplace else torch.empty_like(laid_out(x)).stride() for x in self.tensors)


def one_pair(device: torch.device) -> RotationProblem:
    """The least rotation that there can be on a device."""
    x = (torch.Size((1, 1, 1, 2)), (2, 2, 2, 1), torch.float32, device)
    table = (torch.Size((1, 1, 1)), (1, 1, 1), torch.float32, device)
    return RotationProblem(x, None, table, table, 0, 2, "half", 1, 1, False)


class _Attention(NamedTuple):
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    biases: tuple[nn.Module, ...]
    query_positions: torch.Tensor
    key_positions: torch.Tensor
    mask: Visible | None
    causal: bool
    scale: float
    softcap: float | None
    sinks: torch.Tensor | None
    dropout: float
    device: str
    channels: Channels | None = None
    scores: tuple[BoundScore, ...] = ()
    factor: torch.Tensor | None = None


class AttentionProblem(_Attention, _Remembering):
    """The arguments of `whorl.ops.biased_attention`, checked; and the kind of their device.

    channels: what scores add to the logits by a product, in the dtype of the arithmetic
    scores: those that need all keys of a query at once. What scores did token by token is in q, k and the channels
    factor: what q is still to be multiplied by, where there are no scores

    It holds the tensors, since what can run may depend on the positions themselves.
    """

    def shared(self, make: Callable[..., T], *settings: Any) -> T:
        """`make(mask, query positions, key positions, *settings)`; layers that share a mask (without one,
        their positions) share what is made."""
        if self.mask is None:
            return of_positions(make, self.query_positions, self.key_positions, *settings)
        return self.mask.derived(make, self.query_positions, self.key_positions, *settings)

    @property
    def multiplied(self) -> AttentionProblem:
        """The same, with q times the factor, rounded to its dtype once."""
        if self.factor is None:
            return self
        return self._replace(q=multiplied(self.q, self.factor).to(self.q.dtype), factor=None)

    @property
    def empty(self) -> bool:
        return not (self.q.numel() and self.k.numel() and self.v.numel())

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What may be learned beside q, k and v."""
        return (*self.biases, *(score.module for score in self.scores))

    @property
    def differentiable(self) -> bool:
        """Whether gradients of q, k, v, the factor, channels, states or the modules' parameters may be asked for."""
        if not torch.is_grad_enabled():
            return False
        states = [x for _, *of_tokens in self.scores for x in of_tokens if x is not None]
        learned = (p for module in self.modules for p in module.parameters())
        factor = () if self.factor is None else (self.factor,)
        return any(
            x.requires_grad for x in (self.q, self.k, self.v, *factor, *(self.channels or ()), *states, *learned)
        )
