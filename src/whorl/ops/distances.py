"""What the implementations ask of biases that depend on distance alone (`whorl.encodings.biases.RelativeBias`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from whorl.ops.problem import AttentionProblem
from whorl.ops.shapes import stretches


def not_relative(problem: AttentionProblem) -> str | None:
    """None when all biases are functions of one distance, a whole number, else why not."""
    other = [type(module).__name__ for module in problem.biases if not hasattr(module, "of_distance")]
    if other:
        return f"{other[0]} is not a bias of distance alone"
    if len(problem.query_positions.shape) == 3:
        return f"the biases go by {problem.query_positions.shape[2]} axes of a position, and not by one distance"
    return None


def by_hand(problem: AttentionProblem) -> str | None:
    """None where PyTorch's operations can make the weights themselves, and take them apart again, else why not."""
    if problem.dropout:
        return f"it has no dropout on its weights, and dropout is {problem.dropout}"
    return "tensors on meta have no numbers" if problem.device == "meta" else None


def needs_rows(problem: AttentionProblem) -> str | None:
    """None where no score must see all keys of a query at once, else why block by block is not enough."""
    if not problem.scores:
        return None
    return f"{type(problem.scores[0].module).__name__} must see all keys of a query at once"


def reach_of(modules: Sequence[nn.Module]) -> int | None:
    """The least distance at which one of them hides all keys (a window's), or None."""
    reaches: list[Any] = [getattr(module, "reach", None) for module in modules]
    return min((reach for reach in reaches if reach is not None), default=None)


def by_distance(modules: Sequence[nn.Module], distances: torch.Tensor, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Their sum at each of some integer distances [n], query position - key position: [heads or 1, n], contiguous."""
    if not modules:
        return torch.zeros(1, len(distances), dtype=dtype, device=distances.device)
    found: list[Any] = list(modules)
    sizes = {"heads": heads, "distances": len(distances)}
    each = [fitting(module, module.of_distance(distances), sizes) for module in found]
    total = each[0] if len(each) == 1 else torch.stack(torch.broadcast_tensors(*each)).sum(0)
    return total.to(dtype).expand(-1, len(distances)).contiguous()


def numbers_of(modules: Sequence[nn.Module]) -> tuple[Any, ...] | None:
    """All that biases go by where that is plain numbers, so that those that are equal in this give the same; else None:
    a tensor may be learned, or written to."""
    found: list[Any] = []
    for module in modules:
        found.append(type(module))
        for name, value in vars(module).items():
            if all(isinstance(x, (int, float, str, type(None))) for x in (value if type(value) is tuple else (value,))):
                found.append((name, value))
            elif not isinstance(value, (dict, set)) or value:  # of every nn.Module, for its tensors, modules and hooks
                return None
    return tuple(found)


def once(
    kept: dict[tuple[Any, ...], torch.Tensor],
    modules: Sequence[nn.Module],
    settings: tuple[Any, ...],
    make: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """`make()`, and what is kept of it for biases of the same `numbers_of` and settings. Whatever asks first, training
    may ask next."""
    numbers = numbers_of(modules)
    if numbers is None:
        return make()
    if (numbers, *settings) not in kept:
        with torch.inference_mode(False):
            kept[numbers, *settings] = make()
    return kept[numbers, *settings]


def fitting(module: nn.Module, bias: torch.Tensor, sizes: dict[str, int]) -> torch.Tensor:
    """`bias`, which a module gave, where each of its dimensions is 1 or of the size named here.

    Raises ValueError for another: a loop would read past what there is, or the numbers of other heads.
    """
    shape = tuple(bias.shape)
    if len(shape) != len(sizes) or any(not stretches(n, size) for n, size in zip(shape, sizes.values(), strict=True)):
        name, at = type(module).__name__, list(sizes).index("heads")
        if len(shape) == len(sizes) and not stretches(shape[at], sizes["heads"]):
            raise ValueError(
                f"{name} is a bias of {shape[at]} heads and q has {sizes['heads']}; give one for each head of q, or a "
                "single one for all"
            )
        raise ValueError(
            f"{name} must give a bias [{', '.join(sizes)}] = {list(sizes.values())}, where each may be 1, got "
            f"{list(shape)}"
        )
    return bias
