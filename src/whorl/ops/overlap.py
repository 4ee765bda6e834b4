"""Whether elements of strided tensors are the same memory. What is changed in place must not be changed twice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache


def reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last of a tensor, both included."""
    return 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if all(shape) else 0


def overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether two of a tensor's elements are one."""
    if not all(shape):
        return False
    # i . strides = 0 for a difference i of two indices; the first number of i that is not 0 may be taken to be positive
    free = [(step, 1 - n, n - 1) for n, step in zip(shape, strides, strict=True) if n > 1]
    return any(_sums_to(0, [(step, 1, most), *free[at + 1 :]]) for at, (step, _, most) in enumerate(free))


@lru_cache(maxsize=256)
def overlap(
    shape: tuple[int, ...], strides: tuple[int, ...], other: tuple[int, ...], steps: tuple[int, ...], apart: int
) -> bool:
    """Whether two tensors have an element in common, the second of which begins `apart` elements after the first."""
    if not all((*shape, *other)):
        return False
    ranges: dict[int, tuple[int, int]] = {}  # a step that both have is one unknown, the difference of two indices
    for n, step in zip(shape, strides, strict=True):
        low, high = ranges.get(step, (0, 0))
        ranges[step] = low, high + n - 1
    for n, step in zip(other, steps, strict=True):
        low, high = ranges.get(step, (0, 0))
        ranges[step] = low - (n - 1), high
    return _sums_to(apart, [(step, *between) for step, between in ranges.items()])


def _sums_to(target: int, terms: Sequence[tuple[int, int, int]]) -> bool:
    """Whether whole numbers low <= i <= high exist for the terms (step, low, high) with sum of step x i = target."""
    terms = sorted(terms, reverse=True)
    if not terms:
        return target == 0
    (step, low, high), *rest = terms
    if step == 0:
        return target == 0
    least, most = (sum(s * ends[at] for s, *ends in rest) for at in (0, 1))
    # what the smaller steps can make up for: little, in tensors that people make
    low, high = max(low, -((most - target) // step)), min(high, (target - least) // step)
    return any(_sums_to(target - step * i, rest) for i in range(low, high + 1))
