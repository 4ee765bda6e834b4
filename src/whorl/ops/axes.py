"""Positions with axes, [batch, tokens, axes]: which of them a bias, a score, or what is added to the embedding goes by.

Whole numbers are places on a grid, real numbers (float32 or float64) coordinates of points. A module says by its
attribute `axis` what it is handed:

none, None   positions that have one axis, [batch, tokens]; where they have several, it is refused
a number     the positions along this axis, [batch, tokens]
"all"        all of them, [batch, tokens, axes]
"any"        whatever there is: it does not look at them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from whorl.ops.problem import AttentionProblem

Axis = int | str


def told(positions: torch.Tensor, modules: Sequence[nn.Module]) -> bool:
    """Whether axes are spoken of: positions have a dimension for them, or a module names one."""
    if len(positions.shape) == 3:
        return True
    for module in modules:  # noqa: SIM110 (any() and a generator take twice as long)
        if getattr(module, "axis", None) not in (None, "any"):
            return True
    return False


def axis_of(module: nn.Module, axes: int) -> Axis:
    """Which of so many axes a module goes by, from 0; "all" or "any". Raises ValueError where it does not say, and for
    one that there is not."""
    axis: Axis | None = getattr(module, "axis", None)
    if axis is None and axes == 1:
        return 0
    if axis is None:
        raise ValueError(
            f"{type(module).__name__} goes by positions of one axis, and these have {axes}; one that goes by an axis "
            "says which, by its attribute axis (a number from 0), and one that goes by all of them says 'all'"
        )
    if isinstance(axis, int) and not 0 <= axis < axes:
        raise ValueError(f"{type(module).__name__} goes by axis {axis} of a position, and these have {axes} (from 0)")
    return axis


def seen_by(module: nn.Module, positions: torch.Tensor) -> torch.Tensor:
    """Positions [batch, tokens] or [batch, tokens, axes] as a module is handed them.

    Raises ValueError as `axis_of` does, and for a bias of whole distances where positions are real numbers.
    """
    has_axes = len(positions.shape) == 3
    axis = axis_of(module, positions.shape[-1] if has_axes else 1)
    if isinstance(axis, int):
        _check_whole(module, positions)
        return positions[..., axis] if has_axes else positions
    return positions if has_axes or axis == "any" else positions[..., None]


def _check_whole(module: nn.Module, positions: torch.Tensor) -> None:
    if positions.is_floating_point() and hasattr(module, "of_distance"):
        raise ValueError(
            f"{type(module).__name__} goes by distances in whole numbers, and these positions are real numbers "
            f"({positions.dtype}); give places on a grid as integers, or a bias that takes real ones"
        )


def simplest(problem: AttentionProblem, scores: Sequence[nn.Module] = ()) -> AttentionProblem:
    """The same problem with positions [batch, tokens] where its biases, and these modules of scores, go by one axis
    alone, which all implementations take; else with positions [batch, tokens, axes], integers as int64.

    Raises ValueError as `seen_by` does.
    """
    q_at, k_at = problem.query_positions, problem.key_positions
    if len(q_at.shape) == 2:
        q_at, k_at = q_at[..., None], k_at[..., None]
    modules = (*problem.biases, *scores)
    for module in modules:
        seen_by(module, q_at)
    named = {axis_of(module, q_at.shape[-1]) for module in modules} - {"any"}
    axis = named.pop() if len(named) == 1 else None
    if isinstance(axis, int):
        return problem._replace(query_positions=q_at[..., axis], key_positions=k_at[..., axis])
    if axis is None and not named:  # nothing goes by them
        if len(problem.query_positions.shape) == 2:
            return problem
        q_at, k_at = (torch.arange(at.shape[1], device=at.device)[None] for at in (q_at, k_at))
        return problem._replace(query_positions=q_at, key_positions=k_at)
    q_at, k_at = (at if at.is_floating_point() else at.long() for at in (q_at, k_at))
    return problem._replace(query_positions=q_at, key_positions=k_at)


def bias_at(module: nn.Module, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
    """What a bias of a `simplest` problem gives at its positions, or at some of them."""
    if len(query_positions.shape) == 3:
        query_positions, key_positions = seen_by(module, query_positions), seen_by(module, key_positions)
    bias: torch.Tensor = module(query_positions, key_positions)
    return bias
