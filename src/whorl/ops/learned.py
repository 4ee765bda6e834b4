"""What modules have learned, as a forward pass was given it, for a backward pass that asks the modules again.

`torch.func.functional_call` puts a module's own parameters back before the backward pass comes, and what that pass made
with them would be the gradients of another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn


class Learned(NamedTuple):
    """Parameters, each once, and the places that hold them: a module, a name there, and which parameter it is."""

    tensors: list[torch.Tensor]
    places: list[tuple[nn.Module, str, int]]


def learned_by(modules: Iterable[nn.Module]) -> Learned:
    numbers: dict[int, int] = {}
    found = Learned([], [])
    for module in (part for whole in modules for part in whole.modules()):
        for name, tensor in module._parameters.items():
            if tensor is None:
                continue
            if id(tensor) not in numbers:
                numbers[id(tensor)] = len(found.tensors)
                found.tensors.append(tensor)
            found.places.append((module, name, numbers[id(tensor)]))
    return found


@contextmanager
def holding(places: Sequence[tuple[nn.Module, str, int]], tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """In it the places hold these tensors, and afterwards what they held."""
    own = [module._parameters[name] for module, name, _ in places]
    try:
        for module, name, at in places:
            module._parameters[name] = tensors[at]  # type: ignore[assignment]
        yield
    finally:
        for (module, name, _), tensor in zip(places, own, strict=True):
            module._parameters[name] = tensor
