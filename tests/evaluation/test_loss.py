"""Loss: the same targets at every length, and bins of positions."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.evaluation import VOCABULARY, material
from whorl.evaluation.loss import Loss, by_position
from whorl.testing import peaked, tiny_model


def test_the_last_tokens_are_the_targets_whatever_stands_before(text: Path) -> None:
    found = material(text, longest=64, windows=3, tail=8)
    model = peaked(tiny_model("llama", vocab_size=VOCABULARY)).eval()
    for length in (16, 64):
        measured = Loss(found).measure(model, length, lambda done: None)
        losses = []
        for window in found.windows:
            ids = window[-length:]
            with torch.no_grad():
                logits = model(ids[None]).logits[0]
            losses.append(cross_entropy(logits[:-1], ids[1:], reduction="none").double())
        every = torch.stack(losses)
        assert measured.row.values["tail"] == pytest.approx(float(every[:, -8:].mean()), rel=1e-5)
        assert measured.row.values["mean"] == pytest.approx(float(every.mean()), rel=1e-5)
        assert measured.row.samples == pytest.approx(every[:, -8:].mean(1).tolist(), rel=1e-4)
        assert (measured.row.windows, measured.row.tokens) == (3, 24)
        assert [p.loss for p in measured.positions] == pytest.approx(every.mean(0).tolist(), rel=1e-4)
    with pytest.raises(ValueError, match="8 tokens do not hold the 8 targets"):
        Loss(found).measure(model, 8, lambda done: None)


def test_bins_hold_every_position_once() -> None:
    for tokens in (1, 63, 64, 65, 1000):
        bins = by_position(torch.arange(tokens).double())
        assert (bins[0].first, bins[-1].last) == (1, tokens)
        assert len(bins) == min(64, tokens)
        assert all(a.last + 1 == b.first for a, b in pairwise(bins))
        assert all(b.loss == (b.first + b.last) / 2 - 1 for b in bins), "the mean of their losses"
