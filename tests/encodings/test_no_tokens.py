"""Every encoding with no queries, no keys, and one token: results of the shape that was asked for."""

from __future__ import annotations

import pytest
import torch
from tests.contract import ENCODINGS

import whorl
from whorl.encodings import Bias, Score, Shape, parse
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore
from whorl.testing import tiny_model

SHAPE = Shape(head_dim=8, heads=2, width=16)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("notation", ENCODINGS.values(), ids=ENCODINGS)
def test_attention_of_no_queries_no_keys_and_one_token(notation: str, impl: str) -> None:
    effects = [e for part in parse(notation).with_defaults().terms for e in part.effects(SHAPE)]
    biases = [e.module for e in effects if isinstance(e, Bias)]
    for queries, keys in ((0, 5), (0, 0), (3, 0), (1, 1), (1, 5)):
        q, k = torch.randn(1, 2, queries, 8, requires_grad=True), torch.randn(1, 2, keys, 8)
        at = torch.arange(keys - queries, keys)[None].clamp(min=0), torch.arange(keys)[None]
        scores = []
        for score in (e.module for e in effects if isinstance(e, Score)):
            state = score.tokens(torch.randn(1, keys, 16), at[1], None, None) if score.keeps_state and keys else None
            scores.append(BoundScore(score, None if state is None else state[:, max(0, keys - queries) :], state))
        how = {"query_positions": at[0], "key_positions": at[1], "causal": queries <= keys, "scale": 0.3, "impl": impl}
        out, _ = biased_attention(q, k, k, biases, scores=scores, **how)
        assert out.shape == q.shape
        assert out.isfinite().all()
        assert keys or not out.any(), "a query that sees no key has nothing"


@torch.no_grad()
@pytest.mark.parametrize("notation", ENCODINGS.values(), ids=ENCODINGS)
def test_a_model_reads_one_token_and_then_one_more(notation: str) -> None:
    model = whorl.attach(tiny_model("llama"), notation).eval()
    ids = torch.tensor([[5, 6], [7, 8]])
    cached = model(ids[:, :1], use_cache=True)
    then = model(ids[:, 1:], past_key_values=cached.past_key_values).logits
    torch.testing.assert_close(torch.cat([cached.logits, then], 1), model(ids).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_table_of_positions_is_asked_for_none() -> None:
    (effect,) = parse("learned:max_positions=4").effects(SHAPE)
    assert effect.module(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 16)
