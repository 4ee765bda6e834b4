"""Turns that scores choose are the same by the kernels as by the scores themselves, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from whorl.encodings import Known, Shape, parse
from whorl.ops.by_token import token_by_token
from whorl.ops.scores import BoundScore

TOKENS = 7


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("name", ["learned-rope", "grape-m:per=head", "fope:train_length=16", "mixed-rope"])
def test_kernels_turn_as_scores_do_themselves(name: str, layout: str) -> None:
    axes = 2 if name == "mixed-rope" else 1
    encoding = parse(name).filled(Known(base=100.0)).with_defaults()
    (effect,) = encoding.effects(Shape(8, 4, 32, bidirectional=axes == 2, layout=layout, axes=axes))
    at = torch.arange(TOKENS)[None] if axes == 1 else torch.cartesian_prod(torch.arange(1), torch.arange(TOKENS))[None]
    q = torch.randn(2, 4, TOKENS, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 2, TOKENS, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, TOKENS, 8)
    found = []
    for plain in (True, False):
        of_q, of_k, _ = token_by_token([BoundScore(effect.module)], at, at, q, k, 1.0, plain=plain)
        loss = (of_q * weight).sum() + (of_k * weight[:, : of_k.shape[1]]).square().sum()
        learned = [p for p in effect.module.parameters() if p.requires_grad]
        found.append((of_q, of_k, *torch.autograd.grad(loss, (q, k, *learned))))
    for by_itself, by_kernel in zip(*found, strict=True):
        assert by_itself.abs().max() > 1e-3
        torch.testing.assert_close(by_kernel, by_itself, rtol=1e-6, atol=1e-9)
