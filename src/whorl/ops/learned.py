"""What modules have learned, as a forward pass was given it, for a backward pass that asks the modules again.

`torch.func.functional_call` puts a module's own parameters back before the backward pass comes, and what that pass made
with them would be the gradients of another model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

Place = tuple[dict[str, Any], str, int]  # what holds a parameter, by which name, and which parameter it is


class Learned(NamedTuple):
    """Parameters, each once, and the places that hold them."""

    tensors: list[torch.Tensor]
    places: list[Place]


def learned_by(modules: Iterable[nn.Module]) -> Learned:
    """Of a replica that nn.DataParallel has made, the copies that it holds as attributes, which are no parameters."""
    numbers: dict[int, int] = {}
    found = Learned([], [])
    for module in (part for whole in modules for part in whole.modules()):
        copies = vars(module).get("_former_parameters", {})
        held = [(module._parameters, module._parameters), (vars(module), copies)]
        for holder, name, tensor in ((holder, *item) for holder, names in held for item in names.items()):
            if tensor is None:
                continue
            if id(tensor) not in numbers:
                numbers[id(tensor)] = len(found.tensors)
                found.tensors.append(tensor)
            found.places.append((holder, name, numbers[id(tensor)]))
    return found


@contextmanager
def holding(places: Sequence[Place], tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """In it the places hold these tensors, and afterwards what they held."""
    others = [
        (holder, name, holder[name], tensors[at]) for holder, name, at in places if holder[name] is not tensors[at]
    ]
    try:
        for holder, name, _, tensor in others:
            holder[name] = tensor
        yield
    finally:
        for holder, name, own, _ in others:
            holder[name] = own
