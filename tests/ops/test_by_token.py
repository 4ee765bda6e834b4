"""Turns that scores choose are the same by the kernels as by the scores themselves, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from whorl.attaching.off_grid import ScoreOnGrid
from whorl.encodings import Known, Shape, parse
from whorl.encodings.grid import Grid
from whorl.ops.by_token import token_by_token
from whorl.ops.scores import BoundScore

TOKENS = 24


def case(name: str, layout: str = "half") -> tuple[torch.nn.Module, torch.Tensor]:
    """A module in float64, so that no gradient is rounded on its way to what is learned; and positions."""
    axes = 2 if name == "mixed-rope" else 1
    encoding = parse(name).filled(Known(base=100.0)).with_defaults()
    (effect,) = encoding.effects(Shape(8, 4, 32, bidirectional=axes == 2, layout=layout, axes=axes))
    return effect.module.double(), torch.arange(TOKENS)[None] if axes == 1 else Grid(6, 4).positions()


def qk(heads: int) -> list[torch.Tensor]:
    return [torch.randn(2, n, TOKENS, 8, dtype=torch.float64, requires_grad=True) for n in (4, heads)]


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("name", ["learned-rope", "grape-m:per=head", "fope:train_length=16", "mixed-rope"])
def test_kernels_turn_as_scores_do_themselves(name: str, layout: str) -> None:
    module, at = case(name, layout)
    q, k = qk(2)
    weight = torch.randn(2, 4, TOKENS, 8)
    found = []
    for plain, keys_at in ((True, at), (False, at), (False, at.clone())):  # the last: as if they were other tokens
        of_q, of_k, _ = token_by_token([BoundScore(module)], at, keys_at, q, k, 1.0, plain=plain)
        loss = (of_q * weight).sum() + (of_k * weight[:, : of_k.shape[1]]).square().sum()
        learned = [p for p in module.parameters() if p.requires_grad]
        found.append((of_q, of_k, *torch.autograd.grad(loss, (q, k, *learned))))
    by_itself, *by_kernels = found
    for by_kernel in by_kernels:
        for ours, theirs in zip(by_kernel, by_itself, strict=True):
            assert theirs.abs().max() > 1e-3
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("plain", [True, False])
def test_angles_of_the_same_tokens_are_made_once(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    module, at = case("grape-m:per=head")
    q, k = qk(4)
    made, turning = [], type(module).turning
    monkeypatch.setattr(type(module), "turning", lambda *given: made.append(1) or turning(*given))
    for keys_at, times in ((at, 1), (at.clone(), 2)):
        made.clear()
        token_by_token([BoundScore(module)], at, keys_at, q, k, 1.0, plain=plain)
        assert len(made) == times


@pytest.mark.parametrize("prefix", [0, 1])
def test_an_image_has_cosines_of_rows_and_columns_alone(monkeypatch: pytest.MonkeyPatch, prefix: int) -> None:
    module, _ = case("mixed-rope")
    at = Grid(6, 4, prefix).positions()
    score = ScoreOnGrid(module) if prefix else module
    q, k = (torch.randn(1, 4, at.shape[1], 8, dtype=torch.float64) for _ in range(2))
    direct = token_by_token([BoundScore(score)], at, at, q, k, 1.0, plain=True)[:2]
    monkeypatch.setattr(type(module), "turning", None)  # which makes one for each patch
    for ours, theirs in zip(token_by_token([BoundScore(score)], at, at, q, k, 1.0)[:2], direct, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
