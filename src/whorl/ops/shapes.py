"""Which sizes a dimension may have."""

from __future__ import annotations


def stretches(size: int, to: int) -> bool:
    """Whether a dimension of this size is `to`, or 1 and taken for all.

    Not as `size in (1, to)`, to which dynamo of torch 2.13 says no where one is a number and the other a symbol for it.
    """
    return size == 1 or size == to
