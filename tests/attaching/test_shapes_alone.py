"""Models on the meta device, where memory and operations are counted before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whorl
from tests.contract import EVERY, LENGTH, refused
from whorl.testing import tiny_model

from .by_length import DYNAMIC, LONGROPE


@torch.no_grad()
def shapes(model: Any, device: str) -> list[tuple[torch.Size, torch.dtype]]:
    """Of the logits of a text, and of a step after it."""
    ids = torch.ones(2, LENGTH, dtype=torch.long, device=device)
    out = model(ids)
    step = model(ids[:, :1], past_key_values=out.past_key_values)
    return [(x.logits.shape, x.logits.dtype) for x in (out, step)]


@pytest.mark.matrix
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("encoding", [*EVERY, DYNAMIC, LONGROPE])
def test_every_encoding_says_its_shapes(encoding: str, family: str) -> None:
    """And leaves nothing behind that numbers would meet."""
    if refused(family, encoding) is not None:
        pytest.skip(f"{family} has no place for {encoding}")
    model = whorl.attach(tiny_model(family), encoding)
    said = shapes(whorl.attach(tiny_model(family), encoding).to("meta"), "meta")
    assert said == shapes(model, "cpu")
