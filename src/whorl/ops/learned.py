"""What modules have learned, as a forward pass was given it, for a backward pass that asks the modules again.

By then the modules may hold something else: `torch.func.functional_call` has put their own parameters back, FSDP has
taken views of its flat parameter away. So shallow copies of the modules are kept, which nobody else holds; and the
backward pass has copies of its own, whatever other threads do with the same modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn


class Learned(NamedTuple):
    """Modules as they are now, copied, and the tensors that gradients may be asked of, each once: parameters, and what
    stands in the place of some as an attribute (as FSDP and a replica of nn.DataParallel have them)."""

    modules: tuple[nn.Module, ...]
    tensors: list[torch.Tensor]

    def holding(self, tensors: Sequence[torch.Tensor]) -> tuple[nn.Module, ...]:
        """Other copies, which hold these instead."""
        instead = {id(own): tensor for own, tensor in zip(self.tensors, tensors, strict=True)}
        return _copies(self.modules, lambda own: instead[id(own)])


def learned_by(modules: Iterable[nn.Module]) -> Learned:
    found: dict[int, torch.Tensor] = {}

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        return found.setdefault(id(tensor), tensor)

    copies = _copies(modules, kept)
    return Learned(copies, [*found.values()])


def _copies(modules: Iterable[nn.Module], put: Callable[[torch.Tensor], torch.Tensor]) -> tuple[nn.Module, ...]:
    """Shallow copies: modules of their own, which hold `put` of each tensor that may have a gradient."""
    made: dict[int, nn.Module] = {}
    return tuple(_copy(module, put, made) for module in modules)


def _copy(module: nn.Module, put: Callable[[torch.Tensor], torch.Tensor], made: dict[int, nn.Module]) -> nn.Module:
    """The copy of a module, or the one that was made of it. (No function within another that calls itself: that is a
    cycle, and would hold the tensors until Python looks for those.)"""
    if id(module) in made:
        return made[id(module)]
    found = made[id(module)] = module.__new__(type(module))
    held = vars(module)
    own = {name: put(x) for name, x in held.items() if isinstance(x, torch.Tensor) and x.requires_grad}
    vars(found).update(held, **own)
    parts = {n: None if part is None else _copy(part, put, made) for n, part in held["_modules"].items()}
    learned = {name: None if x is None else put(x) for name, x in held["_parameters"].items()}
    vars(found).update(_parameters=learned, _buffers=dict(held["_buffers"]), _modules=parts)
    return found
