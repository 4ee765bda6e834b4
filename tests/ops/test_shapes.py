from __future__ import annotations

import torch

from whorl.ops.shapes import stretches


def test_a_number_and_a_symbol_for_it_are_compared_by_value() -> None:
    """As a mask of a window's length and the keys of a cache that grows are, in one graph for all lengths."""

    def fits(x: torch.Tensor) -> tuple[bool, bool, bool]:
        keys = x.shape[0] + 1
        return stretches(8, keys), stretches(1, keys), stretches(7, keys)

    for run in (fits, torch.compile(fits, dynamic=True, fullgraph=True, backend="eager")):
        assert run(torch.ones(7)) == (True, True, False)
