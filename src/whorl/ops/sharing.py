"""What was made of a pair of position tensors, for as long as both are there: the layers of a forward are handed the
same two; and of a mask of one query. (With a mask, which layers share too, it is kept on that: `Visible.derived`.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

T = TypeVar("T")
KEPT = 8  # things made of one tensor of query positions


class _Made(NamedTuple):
    by: Callable[..., Any]
    settings: tuple[Any, ...]
    key_positions: TensorWeakRef
    held: tuple[Any, Any]  # what the two tensors held when it was made
    what: Any


_made: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def of_positions(
    make: Callable[..., T], query_positions: torch.Tensor, key_positions: torch.Tensor, *settings: Any
) -> T:
    """`make(None, query_positions, key_positions, *settings)`, and the same again for the same tensors, unchanged.

    On a CPU their numbers are compared. Elsewhere that would wait for the device, and PyTorch's count of writes is; so
    nothing is kept of inference tensors there, which have none, nor while a CUDA graph is recorded, which will be
    played with other numbers in them.
    """
    device = query_positions.device.type
    if device != "cpu" and (
        query_positions.is_inference()
        or key_positions.is_inference()
        or (device == "cuda" and torch.cuda.is_current_stream_capturing())
    ):
        return make(None, query_positions, key_positions, *settings)
    kept: tuple[_Made, ...] = _made.get(query_positions, ())
    for one in kept:
        same = one.by is make and one.settings == settings and one.key_positions() is key_positions
        alone = key_positions is query_positions
        if same and _holds(query_positions, one.held[0]) and (alone or _holds(key_positions, one.held[1])):
            return one.what
    with torch.inference_mode(False):  # whatever asks first, training may ask next
        what = make(None, query_positions, key_positions, *settings)
    held = _held(query_positions), _held(key_positions)
    _made[query_positions] = (*kept, _Made(make, settings, TensorWeakRef(key_positions), held, what))[-KEPT:]
    return what


def of_mask(make: Callable[..., T], mask: torch.Tensor, *settings: Any) -> T:
    """`make(a copy of the mask, *settings)`, and the same again for the same mask on a CPU, unchanged.

    Its numbers are compared each time: it is for masks of one query, as in decoding, that all layers are handed.
    """
    return of_positions(_of_copy, mask, mask, make, *settings)


def _of_copy(_: None, mask: torch.Tensor, __: torch.Tensor, make: Callable[..., T], *settings: Any) -> T:
    return make(mask.clone(), *settings)  # holding the mask itself, it would never go


def _held(positions: torch.Tensor) -> Any:
    return positions.clone() if positions.device.type == "cpu" else positions._version


def _holds(positions: torch.Tensor, held: Any) -> bool:
    return torch.equal(positions, held) if isinstance(held, torch.Tensor) else positions._version == held
