"""A model with any encoding is saved and loaded the same."""

from __future__ import annotations

import tempfile

import torch
from fuzz_amount import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fuzz_notation import TERMS

import whorl
from whorl.encodings import parse
from whorl.testing import tiny_model

IDS = torch.arange(3, 43)[None]


@settings(max_examples=25 * TIMES, deadline=None)
@given(st.sampled_from(["llama", "gpt_neox", "gemma3_text"]), st.lists(TERMS, min_size=1, max_size=2).map("/".join))
def test_save_and_load(family: str, notation: str) -> None:
    model = tiny_model(family)
    stock = model(IDS).logits
    try:
        encoding = parse(notation)
        whorl.attach(model, encoding)
    except ValueError:
        assert torch.equal(model(IDS).logits, stock), "a refused attach changes nothing"
        return
    attached = whorl.encoding_of(model)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        logits = model(IDS).logits
        model.save_pretrained(folder)
        again = whorl.load(folder)
        assert whorl.encoding_of(again) == attached
        moved = float((again(IDS).logits - logits).abs().max())
        assert moved <= 1e-5 * float(logits.abs().max()), moved
        assert torch.equal(whorl.detach(model)(IDS).logits, stock)
