"""Rows of q and k from one layout to the other."""

from __future__ import annotations

import pytest
import torch

from whorl.gguf_files.layout import back, head_order, reorder_heads


@pytest.mark.parametrize(("heads", "head_dim", "width"), [(1, 6, 6), (3, 16, 16), (2, 10, 4), (2, 6, 0), (5, 2, 2)])
def test_reordering_is_undone_and_is_llama_cpps(heads: int, head_dim: int, width: int) -> None:
    order = head_order(head_dim, width // 2, range(width // 2), "interleaved")
    for shape in ((heads * head_dim, 7), (heads * head_dim,)):
        weight = torch.randn(shape)
        there = reorder_heads(weight, heads, order)
        assert torch.equal(reorder_heads(there, heads, back(order)), weight)
        if width == head_dim:  # LlamaModel.permute of llama.cpp's conversion/llama.py
            theirs = weight.reshape(heads, 2, head_dim // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
            assert torch.equal(there, theirs)
    drawn = reorder_heads(torch.arange(heads * head_dim), heads, order).view(heads, head_dim)
    for head in range(heads):
        own = head * head_dim + torch.arange(head_dim)
        assert torch.equal(drawn[head, width:], own[width:])
        assert torch.equal(drawn[head, 0:width:2], own[: width // 2])
        assert torch.equal(drawn[head, 1:width:2], own[width // 2 : width])


def test_pairs_that_turn_go_first_in_halves_of_their_own() -> None:
    """[x0 x1 x2 x3 y0 y1 y2 y3 a b], pairs 1 and 3 first."""
    order = head_order(10, 4, (1, 3), "half")
    assert order == (1, 3, 5, 7, 0, 2, 4, 6, 8, 9)
    assert [order[i] for i in back(order)] == list(range(10))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((8, 5, (0,), "half"), "has no 5 pairs"),
        ((8, 4, (4,), "half"), r"of which \(4,\)"),
        ((8, 4, (1, 1), "half"), "could go first"),
        ((8, 4, (0,), "neighbours"), "must be one of"),
    ],
)
def test_orders_that_are_none(arguments: tuple, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        head_order(*arguments)


@pytest.mark.parametrize(("rows", "heads"), [(10, 3), (8, 0), (12, 2)])
def test_rows_that_are_not_the_heads(rows: int, heads: int) -> None:
    with pytest.raises(ValueError, match="heads of 4 channels"):
        reorder_heads(torch.zeros(rows, 2), heads, range(4))
