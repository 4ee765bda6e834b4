"""Rows of q and k from one layout to the other."""

from __future__ import annotations

import pytest
import torch

from whorl.runtimes.layout import permute_layout


@pytest.mark.parametrize(("heads", "head_dim", "width"), [(1, 6, 6), (3, 16, 16), (2, 10, 4), (2, 6, 0), (5, 2, 2)])
def test_permutation_is_undone_and_is_llama_cpps(heads: int, head_dim: int, width: int) -> None:
    for shape in ((heads * head_dim, 7), (heads * head_dim,)):
        weight = torch.randn(shape)
        there = permute_layout(weight, heads, width, to="interleaved")
        assert torch.equal(permute_layout(there, heads, width, to="half"), weight)
        if width == head_dim:  # LlamaModel.permute of llama.cpp's conversion/llama.py
            theirs = weight.reshape(heads, 2, head_dim // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
            assert torch.equal(there, theirs)
    drawn = permute_layout(torch.arange(heads * head_dim), heads, width, to="interleaved").view(heads, head_dim)
    for head in range(heads):
        own = head * head_dim + torch.arange(head_dim)
        assert torch.equal(drawn[head, width:], own[width:])
        assert torch.equal(drawn[head, 0:width:2], own[: width // 2])
        assert torch.equal(drawn[head, 1:width:2], own[width // 2 : width])


@pytest.mark.parametrize(
    ("rows", "heads", "width", "to"),
    [(10, 3, 2, "half"), (8, 2, 3, "half"), (8, 2, 6, "half"), (8, 0, 4, "half"), (8, 2, 4, "neighbours")],
)
def test_permutation_refuses_what_does_not_fit(rows: int, heads: int, width: int, to: str) -> None:
    with pytest.raises(ValueError, match="channels in pairs|must be one of"):
        permute_layout(torch.zeros(rows, 2), heads, width, to)
