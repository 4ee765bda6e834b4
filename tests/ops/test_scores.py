"""Scores in the reference: what each step of `whorl.encodings.scores` changes, by its definition."""

from __future__ import annotations

import torch

from whorl.encodings.scores import At, ScoreModule
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore


def attended(module: ScoreModule | None, factor: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and weights of 5 tokens, 4 heads on 2 key heads; the state of a token is its number."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 5, 8, dtype=torch.float64) for heads in (4, 2, 2))
    at = torch.arange(5)[None]
    state = at[..., None, None].double()
    scores = () if module is None else (BoundScore(module, state, state),)
    out, weights = biased_attention(
        q, k, v, [], query_positions=at, key_positions=at, causal=True, scale=0.5, factor=factor, scores=scores
    )
    if weights is None:
        out, weights = biased_attention(
            q, k, v, [], query_positions=at, key_positions=at, causal=True, scale=0.5, factor=factor, impl="reference"
        )
    assert weights is not None
    return out, weights


def test_channels_add_their_product() -> None:
    class Newest(ScoreModule):
        def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
            assert at.query_state is not None
            assert at.key_state is not None
            return torch.ones_like(at.query_state), at.key_state

    _, plain = attended(None)
    _, scored = attended(Newest())
    tilted = plain * torch.arange(5).exp()
    torch.testing.assert_close(scored, tilted / tilted.sum(-1, keepdim=True))


def test_logits_weights_and_values() -> None:
    class Anew(ScoreModule):
        scores_anew = True

        def logits(self, s: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
            assert s is None
            assert at.scale == 0.5
            return 2 * q @ k.transpose(-1, -2)

        def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
            assert at.seen is not None
            assert torch.equal(s == -torch.inf, ~at.seen.expand_as(s))
            return s.softmax(-1)

        def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
            return 10 * weights @ v

    twice, weights = attended(None, factor=torch.full((1, 1, 5), 2.0, dtype=torch.float64))
    out, scored = attended(Anew())
    torch.testing.assert_close(scored, weights)
    torch.testing.assert_close(out, 11 * twice)


def test_inputs_take_the_place_of_q_and_k() -> None:
    class Flipped(ScoreModule):
        def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
            return q.flip(-1), -k.flip(-1)

    _, weights = attended(None, factor=torch.full((1, 4, 5), -1.0, dtype=torch.float64))
    _, scored = attended(Flipped())
    torch.testing.assert_close(scored, weights)
