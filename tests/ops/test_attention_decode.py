"""Attention of one query, as decoding with a cache has it."""

from __future__ import annotations

import pytest
import torch
from attention_cases import HEADS, NOTATIONS, agree, at, data, modules, problem
from scores_cases import BY_TOKEN, bound

from whorl.ops import biased_attention
from whorl.ops.attention import _choose
from whorl.testing import max_error

ONE = at(torch.arange(202, 203)[None], torch.arange(203)[None])


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_gradient(notation: str, dtype: torch.dtype) -> None:
    how = {"causal": True, "softcap": 2.0, "sinks": torch.randn(HEADS), **ONE}
    agree("decode", modules(notation), data(1, 203, 8, dtype), dtype, **how)


@pytest.mark.parametrize("name", BY_TOKEN)
def test_scores_token_by_token(name: str) -> None:
    how = {"factor": torch.tensor([[[0.5]]]), "sinks": torch.randn(HEADS), **ONE}
    agree("decode", [], data(1, 203, 8, torch.float64), torch.float64, scores=[bound(name, 1, 203)], **how)


@torch.no_grad()
@pytest.mark.parametrize("mask_heads", [1, HEADS])
def test_masks_and_rows_that_see_nothing(mask_heads: int) -> None:
    q, k, v = data(1, 203, 8, torch.float64)
    mask = torch.rand(2, mask_heads, 1, 203) > 0.5
    mask[1] = False
    positions = torch.stack([torch.arange(203), torch.arange(203) * 2])
    for biases in (modules("alibi"), modules("t5"), [Absolute()], []):
        how = {"scale": 0.4, "mask": mask, **at(positions[:, -1:], positions)}
        got, expected = (biased_attention(q, k, v, biases, impl=impl, **how)[0] for impl in ("decode", "reference"))
        assert max_error(got, expected) < 1e-14
        assert not got[1].any()


class Absolute(torch.nn.Module):
    """A bias that is not one of distance."""

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        return (query_positions[:, None, :, None] * key_positions[:, None, None]).sin()


def test_auto_takes_it_for_one_query_that_the_loops_do_not_take() -> None:
    assert _choose("auto", problem([Absolute()], *data(1, 9, 8, torch.float32))) == "decode"
    assert _choose("auto", problem([Absolute()], *data(2, 9, 8, torch.float32))) == "blocked"
    assert _choose("auto", problem(modules("alibi"), *data(1, 9, 8, torch.float32))) == "cpu"
    gated = problem([], *data(1, 9, 8, torch.float32))._replace(
        channels=(torch.ones(2, 4, 1, 2), torch.ones(2, 1, 9, 2))
    )
    assert _choose("auto", gated) == "cpu"
    assert _choose("auto", gated._replace(q=gated.q.double())) == "decode"
    with pytest.raises(ValueError, match="impl='decode' cannot run here: it is for one query, and there are 2"):
        _choose("decode", problem([], *data(2, 9, 8, torch.float32)))
