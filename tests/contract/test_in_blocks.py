"""The contract again with attention and masks in many small blocks, as long inputs have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import whorl
from whorl.ops.impl import blocked

from . import IN_FULL, TOKENS, difference, refused
from . import test_in_full as in_full
from .test_in_full import model, pairs  # noqa: F401

BIASED = ("alibi", "t5", "rope+window:size=8/nope")
IN_BLOCKS = [(f, e) for f in IN_FULL for e in BIASED if refused(f, e) is None]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(blocked, "KEYS", 16)
    monkeypatch.setattr(blocked, "FEWEST", 8)
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 1)
    return


@pytest.mark.matrix
@pairs(IN_BLOCKS)
def test_everything_about_positions(model) -> None:  # noqa: F811
    in_full.test_positions(model)
    in_full.test_generate_with_dynamic_and_static_caches(model)


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
@pairs(IN_BLOCKS)
def test_the_reference_gives_the_same(model) -> None:  # noqa: F811
    encoding, logits = whorl.encoding_of(model), model(TOKENS).logits
    learned = whorl.attached(model).state_dict()
    whorl.attach(model, encoding, impl="reference")
    whorl.attached(model).load_state_dict(learned)
    assert difference(model(TOKENS).logits, logits) < 1e-4
    whorl.attach(model, encoding, impl="flex")
    whorl.attached(model).load_state_dict(learned)
    assert difference(model(TOKENS).logits, logits) < 1e-4
    attentions = whorl.attach(model, encoding)(TOKENS, output_attentions=True).attentions
    if model.config.model_type not in ("falcon", "gpt2"):  # which do not tell their attention that weights are wanted
        assert attentions[0].shape[-2:] == (40, 40), "asked for, the weights are made"
        assert 0.99 < float(attentions[0].sum(-1).max()) < 1.001  # gpt-oss leaves some of it to its sinks
