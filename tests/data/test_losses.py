"""Losses by token, where a window's logits do not fit at once."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForSequenceClassification

import whorl
from whorl.conversion.converting import from_and_to
from whorl.conversion.extending import extend
from whorl.data import losses
from whorl.data.losses import logits_at
from whorl.hosts import ENCODERS, FAMILIES
from whorl.testing import logits_and_budget, max_error, peaked, tiny_model

IDS = torch.randint(3, 97, (2, 50), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("family", "parts"), [("llama", True), ("gemma3_text", True), ("gemma2", False)])
def test_logits_that_do_not_fit_are_made_by_parts(family: str, parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """gemma2 caps its logits, which its head does not: they are made at once, as before."""
    model = peaked(tiny_model(family)).eval()
    vocab = model.config.vocab_size
    widest = []
    model.get_output_embeddings().register_forward_hook(lambda head, given, out: widest.append(out.shape[1]))
    whole = losses.window_losses(model, IDS, vocab)
    assert set(widest) == {50}
    widest.clear()
    monkeypatch.setattr(losses, "LOGITS", 30 * vocab)
    monkeypatch.setattr(losses, "CHUNK", 16)
    found = losses.window_losses(model, IDS, vocab)
    assert max(widest) == (17 if parts else 50)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(ENCODERS)))
def test_logits_at_places_are_those_of_the_whole(family: str) -> None:
    model = peaked(tiny_model(family)).eval()
    ids, places = torch.arange(24) * 7 % 97, torch.tensor([3, 22, 4])
    whole, budget = logits_and_budget(model, ids[None])
    assert max_error(logits_at(model, ids, places), whole[0, places]) <= budget
    assert max_error(whole[0, 3], whole[0, 4]) > 100 * budget


@pytest.mark.parametrize(
    ("kind", "why"),
    [("base", "LlamaModel has no head"), ("classes", "Classification has no head"), ("encoder", "both directions")],
)
@pytest.mark.parametrize("asked", ["extend", "convert", "ablate"])
def test_what_needs_the_next_token_refuses_what_does_not_predict_it(kind: str, why: str, asked: str) -> None:
    whole = tiny_model("modernbert" if kind == "encoder" else "llama", pad_token_id=0)
    model = {
        "base": lambda: whole.model,
        "classes": lambda: LlamaForSequenceClassification(whole.config),
        "encoder": lambda: whole,
    }[kind]()
    calls = {
        "extend": lambda: extend(model, 64, IDS, train_length=32),
        "convert": lambda: from_and_to(model, "nope", 32),
        "ablate": lambda: whorl.inspect(model, IDS, train_length=32, random_windows=2, ablate=True),
    }
    with pytest.raises(ValueError, match=why):
        calls[asked]()
