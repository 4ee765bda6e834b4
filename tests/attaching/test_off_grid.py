"""Tokens before an image's patches are at no distance from anything."""

from __future__ import annotations

import torch

from whorl.attaching.off_grid import BiasOnGrid, ScoreOnGrid
from whorl.encodings import Shape
from whorl.encodings.euclidean_alibi import EuclideanBias
from whorl.encodings.grid import Grid
from whorl.encodings.pape import Parabolas
from whorl.encodings.scores import At, Features, ScoreModule

AT = Grid(2, 3, prefix=2).positions()
PATCHES = slice(2, None)


def moved(at: torch.Tensor) -> torch.Tensor:
    """All patches by two rows and five columns."""
    return at + torch.tensor([2, 5, 0]) * (at[..., -1:] == 0)


def test_a_bias_is_that_of_two_patches_and_none_of_others() -> None:
    inner = EuclideanBias(2, 1.0)
    bias = BiasOnGrid(inner)(AT, AT)
    assert torch.equal(bias[..., PATCHES, PATCHES], inner(AT[:, PATCHES, :2], AT[:, PATCHES, :2]))
    assert not bias[..., :2, :].any()
    assert not bias[..., :2].any()
    assert torch.equal(BiasOnGrid(inner)(moved(AT), moved(AT)), bias)


@torch.no_grad()
def test_a_score_changes_the_logits_of_two_patches_and_no_others() -> None:
    inner = Parabolas(Shape(4, 2, 6, axes=2), 3)
    score, hidden = ScoreOnGrid(inner), torch.randn(1, 8, 6)
    assert (score.does("logits"), score.does("values"), score.keeps_state) == (True, False, True)
    state = score.tokens(hidden, AT, None, None).transpose(1, 2)
    s, q = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 8, 4)
    found = score.logits(s, q, q, At(AT, AT, state, state))
    here, states = AT[:, PATCHES, :2], state[:, :, PATCHES]
    of_patches = inner.logits(s[..., PATCHES, PATCHES], q, q, At(here, here, states, states))
    assert torch.equal(found[..., PATCHES, PATCHES], of_patches)
    assert torch.equal(found[..., :2, :], s[..., :2, :])
    assert torch.equal(found[..., :2], s[..., :2])
    assert torch.equal(score.logits(s, q, q, At(moved(AT), moved(AT), state, state)), found)


class Declared(ScoreModule):
    """Otherwise than the base in all that it declares."""

    sees_hidden = keeps_state = scores_anew = as_trained = sees_prefix = True
    causal = distribution = False
    layout = "interleaved"
    axis, axes, held, runs, looks_back = "all", 2, 5, 7, 11

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        return s

    def features(self, q: torch.Tensor, k: torch.Tensor, at: At) -> Features:
        return Features(q, k, q, k)


def test_what_a_score_declares_holds_of_it_on_a_grid_but_for_positions_and_what_is_not_handed_on() -> None:
    declared = ScoreModule.__annotations__.keys()
    assert all(getattr(Declared, name) != getattr(ScoreModule, name) for name in declared)
    score = ScoreOnGrid(Declared())
    same = {name for name in declared if getattr(score, name) == getattr(Declared, name)}
    assert declared - same == {"axes", "runs"}
    assert (score.does("logits"), score.does("features"), score.does("weights")) == (True, False, False)
