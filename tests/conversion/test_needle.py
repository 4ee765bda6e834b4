"""Needle retrieval: what a model that reads the number, or not, scores."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from whorl.conversion.needle import retrieval
from whorl.data.corpus import train_tokenizer
from whorl.testing import tiny_model


@pytest.fixture(scope="module")
def tokenizer():
    source = Path(sys.modules["json"].__file__).parents[1]  # type: ignore[type-var, arg-type]
    return train_tokenizer([(source / f"{n}.py").read_text() for n in ("argparse", "ast")], 300)


@pytest.fixture(scope="module")
def filler(tokenizer) -> list[int]:
    return tokenizer("so it goes, on and on. " * 200, add_special_tokens=False)["input_ids"]


def test_a_model_that_looks_it_up_finds_it(tokenizer, filler: list[int]) -> None:
    """The model's head is replaced by a look-up of what followed " is" within the last 200 tokens."""
    model = tiny_model("llama", vocab_size=300).eval()
    stock = model.forward

    def looks_up(self, input_ids: torch.Tensor, **kwargs):
        out = stock(input_ids=input_ids, **kwargs)
        ids = input_ids[0].tolist()
        logits = torch.zeros(1, len(ids), 300)
        for at in range(8, len(ids)):
            for earlier in range(at - 1, max(7, at - 200), -1):
                if ids[earlier - 7 : earlier + 1] == ids[at - 7 : at + 1] and earlier + 1 < len(ids):
                    logits[0, at, ids[earlier + 1]] = 20.0
                    break
        out.logits = logits
        return out

    model.forward = types.MethodType(looks_up, model)
    rows = {(r.length, r.depth): r for r in retrieval(model, tokenizer, filler, (150, 400), (0.0, 1.0), trials=2)}
    assert rows[150, 0.0].found == rows[150, 1.0].found == rows[400, 1.0].found == 1
    assert rows[400, 0.0].found == 0, "350 tokens back is further than it looks"
    assert rows[400, 1.0].loss < 0.01 < rows[400, 1.0].without
    assert rows[400, 0.0].loss == pytest.approx(rows[400, 0.0].without, abs=1e-3)
    assert 0 < rows[150, 0.0].entropy < 5.1
