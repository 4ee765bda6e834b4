"""What is kept beside the keys of a cache, slot by slot, and follows what is done to them.

A cache hands out keys and nothing else. What belongs to each of them (its position, the states of scores) is kept in an
attribute of a layer of the cache, and what is done to that layer (`crop`, `reorder_cache`, `batch_select_indices`, ...)
is done to it, by methods on the instance.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch

ROUNDING = 2**-7  # of bfloat16, the coarsest dtype that keys are cast to and back
ATTRIBUTES = ("whorl_positions", "whorl_states")  # of a layer of a cache, in which a `Kept` stands


class Kept:
    """Something that is kept for each key of a layer, and whether that holds other keys than it was kept for.

    Keys that were taken out or put in another order by hand (`layer.keys = layer.keys[[1, 0]]`) are another tensor with
    other values. A deep copy of a cache is believed to hold the same keys.
    """

    def __init__(self) -> None:
        self.held: tuple[weakref.ref[Any], weakref.ref[Any], torch.Tensor] | None = None  # a layer, the keys that it
        # then held, and their values
        self.exchanged = False  # whether it holds others now

    def __reduce__(self) -> Any:
        return type(self), ()  # from a file, a layer comes without the methods that keep this true

    def believe(self, layer: Any) -> None:
        """What is kept is that of the keys that the layer holds now."""
        keys = getattr(layer, "keys", None)
        self.held = None if keys is None else (weakref.ref(layer), weakref.ref(keys), keys.detach())
        self.exchanged = False

    def check(self) -> None:
        """Notes whether other keys have been put into the layer, in an order that is not known. To a compiled call,
        which compares no numbers, another tensor holds other keys."""
        if self.held is None:
            self.exchanged = False
            return
        layer, keys, values = self.held
        now = getattr(layer(), "keys", None)
        self.exchanged = keys() is not now and (
            torch.compiler.is_compiling()
            or not (isinstance(now, torch.Tensor) and _alike_but_for_rounding(now, values))
        )

    def keep(self, count: int) -> None:
        """That of the first so many tokens alone."""
        raise NotImplementedError

    def rows(self, of: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Changes the rows, where there are several."""
        raise NotImplementedError


def _alike_but_for_rounding(now: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether these are the same keys: a detached tensor, a clone, one of another device or dtype and back."""
    if now.shape != before.shape:
        return False
    return torch.allclose(now.to(before).float(), before.float(), rtol=ROUNDING, atol=0.0)


def keep_beside(layer: Any, attribute: str, kept: Kept) -> None:
    """Puts it in this attribute (one of `ATTRIBUTES`) of a layer of a cache, whose methods it follows from then on."""
    if getattr(layer, attribute, None) is kept:
        return
    setattr(layer, attribute, kept)
    for name in CHANGES:
        if hasattr(layer, name):
            layer.__dict__[name] = Followed(layer, name)


class Followed:
    """A method of one layer of a cache, which changes what is kept beside its keys as well. (Not a bound function: a
    compiled call leaves the class's own method in its place. Nor does it hold the layer, whose keys would then stay
    until Python looks for cycles.)"""

    def __init__(self, layer: Any, name: str) -> None:
        self.layer, self.name = weakref.ref(layer), name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.layer()
        result = getattr(type(layer), self.name)(layer, *args, **kwargs)
        for attribute in ATTRIBUTES:
            kept = getattr(layer, attribute, None)
            if kept is not None:
                CHANGES[self.name](kept, layer, *args, **kwargs)
                if kept.held is not None and kept.held[0]() is layer:
                    kept.believe(layer)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Followed:
        return Followed(copy.deepcopy(self.layer(), memo), self.name)

    def __reduce__(self) -> Any:
        return getattr, (self.layer(), self.name)  # from a file, it is the class's own


def _cropped(kept: Kept, layer: Any, *_: Any, **__: Any) -> None:
    kept.keep(int(layer.get_seq_length()))


def _emptied(kept: Kept, layer: Any) -> None:
    kept.keep(0)


def _reordered(kept: Kept, layer: Any, beam_idx: torch.Tensor) -> None:
    kept.rows(lambda slots: slots.index_select(0, beam_idx.to(slots.device)))


def _selected(kept: Kept, layer: Any, indices: Any) -> None:
    kept.rows(lambda slots: slots[indices.to(slots.device) if isinstance(indices, torch.Tensor) else indices, ...])


def _repeated(kept: Kept, layer: Any, repeats: int) -> None:
    kept.rows(lambda slots: slots.repeat_interleave(repeats, dim=0))


def _moved(kept: Kept, layer: Any) -> None:
    """To another device and back, as caches that are offloaded do: the same keys, in other tensors."""


CHANGES: dict[str, Callable[..., None]] = {
    "crop": _cropped,
    "reset": _emptied,
    "reorder_cache": _reordered,
    "batch_select_indices": _selected,
    "batch_repeat_interleave": _repeated,
    "offload": _moved,
    "prefetch": _moved,
}
