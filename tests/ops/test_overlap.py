"""Shared elements of strided tensors, against the list of all their addresses."""

from __future__ import annotations

import itertools
import random

from whorl.ops.overlap import overlap, overlaps_itself, reach


def addresses(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    indices = itertools.product(*map(range, shape))
    return [sum(i * step for i, step in zip(index, strides, strict=True)) for index in indices]


def test_against_all_addresses() -> None:
    draw, found = random.Random(0), []
    for _ in range(3000):
        shapes = [tuple(draw.randint(0, 4) if draw.random() < 0.1 else draw.randint(1, 4) for _ in range(4))] * 2
        shapes[1] = (shapes[1][0], draw.randint(1, 3), *shapes[1][2:])
        strides = [tuple(draw.choice((0, 1, 2, 3, 4, 8, 12, 16, 30)) for _ in range(4)) for _ in shapes]
        if draw.random() < 0.5:
            strides[1] = strides[0]
        mine, theirs = (addresses(*lying) for lying in zip(shapes, strides, strict=True))
        apart = draw.randint(-40, 40)
        together = bool(set(mine) & {apart + a for a in theirs})
        assert overlap(shapes[0], strides[0], shapes[1], strides[1], apart) == together
        assert overlaps_itself(shapes[0], strides[0]) == (len(set(mine)) < len(mine))
        assert reach(shapes[0], strides[0]) == (max(mine) + 1 if mine else 0)
        found.append((together, len(set(mine)) < len(mine)))
    assert set(found) == set(itertools.product((False, True), repeat=2))


def test_parts_of_one_large_projection_are_told_apart_at_once() -> None:
    """Millions of elements between one another: what is reckoned with is strides, and not elements."""
    row = 4096 + 2 * 1024
    q, k = (8, 32, 8192, 128), (8, 8, 8192, 128)
    strides = (8192 * row, 128, row, 1)
    assert not overlap(q, strides, k, strides, 4096)
    assert overlap(q, strides, k, strides, 4095)
    assert not overlaps_itself(q, strides)
    assert overlaps_itself(q, (8192 * row, 128, row - 4096, 1))
