"""A forward leaves no tensors behind that only Python's collector of cycles would free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import whorl
from whorl.testing import tiny_image_model, tiny_model

NOTATIONS = ("rope+window:size=8", "alibi", "t5", "fire", "fox", "path", "shaw", "ssmax+rope", "cope", "rope+linear")


@contextmanager
def garbage() -> Iterator[list[Any]]:
    """The tensors that are in cycles which nothing else holds, of what is made meanwhile."""
    found: list[Any] = []
    gc.collect()
    before = {id(x) for x in gc.get_objects() if isinstance(x, torch.Tensor)}  # an earlier test's model may go now
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found += [x for x in gc.garbage if isinstance(x, torch.Tensor) and id(x) not in before]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_text(notation: str, training: bool) -> None:
    model = whorl.attach(tiny_model("llama"), notation)
    ids = torch.randint(3, 97, (2, 24), generator=torch.Generator().manual_seed(0))
    with garbage() as found, torch.set_grad_enabled(training):
        loss = model(input_ids=ids, use_cache=False).logits.sum()
        if training:
            loss.backward()
        del loss
    assert [tuple(x.shape) for x in found] == []


@pytest.mark.parametrize("notation", ["alibi", "rope+window:size=8", "fox"])
def test_steps_of_decoding(notation: str) -> None:
    model = whorl.attach(tiny_model("llama"), notation)
    ids = torch.randint(3, 97, (2, 24), generator=torch.Generator().manual_seed(0))
    with garbage() as found, torch.no_grad():
        cache = model(input_ids=ids, use_cache=True).past_key_values
        for _ in range(2):
            cache = model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).past_key_values
        del cache
    assert [tuple(x.shape) for x in found] == []


@pytest.mark.parametrize("notation", ["irpe", "alibi-2d"])
def test_an_image(notation: str) -> None:
    model = whorl.attach(tiny_image_model("vit"), notation)
    pixels = torch.randn(2, 3, *([model.config.image_size] * 2))
    with garbage() as found, torch.no_grad():
        model(pixel_values=pixels)
    assert [tuple(x.shape) for x in found] == []
