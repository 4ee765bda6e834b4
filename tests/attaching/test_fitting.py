"""Hosts that cannot have a scale or a score refuse it when it is attached, and say what to try."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import whorl
from tests.contract import TOKENS
from whorl.attaching import parallel, seams_of
from whorl.encodings.linear import Linear
from whorl.testing import tiny_model

from .content import Forgets, Grows, Replaces, Turns


@dataclass(frozen=True)
class Softmax(Replaces):
    name = "softmax"


REFUSED = [
    ("falcon", Grows(), "interface, which model type 'falcon' .* does not use; try one that biases them"),
    ("falcon", Forgets(), "interface, which model type 'falcon' .* does not use; try one that biases them"),
    ("bert", Forgets(), "goes by the keys before a query, and .*BertForMaskedLM.* attends in both directions; try"),
    ("gemma4_text", Forgets(), r"layer 2 of .* reuses the keys of an earlier layer .*; try one without a state"),
    ("gemma2", Linear(), "has no logits, and .* caps those of its own .*; build the model without the cap"),
    ("gpt_oss", Replaces(), "takes the place of the softmax, and .* has attention sinks in it, .*; try"),
]


@torch.no_grad()
@pytest.mark.parametrize(("family", "encoding", "words"), REFUSED, ids=[f"{f}-{e.name}" for f, e, _ in REFUSED])
def test_what_a_host_cannot_have_is_refused_and_changes_nothing(family: str, encoding, words: str) -> None:
    model = tiny_model(family)
    logits = model(TOKENS).logits
    with pytest.raises(ValueError, match=words):
        whorl.attach(model, encoding)
    assert whorl.attached(model) is None
    assert torch.equal(model(TOKENS).logits, logits)


def test_what_does_not_stand_in_the_way_is_attached() -> None:
    whorl.attach(tiny_model("gemma4_text", num_kv_shared_layers=0), Forgets())
    uncapped = tiny_model("gemma2")
    for layer in uncapped.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    whorl.attach(uncapped, Linear())
    whorl.attach(tiny_model("gpt_oss"), Forgets())
    whorl.attach(tiny_model("bert"), Grows())


def test_two_in_the_place_of_the_softmax() -> None:
    with pytest.raises(ValueError, match="both take the place of the softmax; keep one of them"):
        Replaces() + Softmax()


def test_a_layer_that_the_host_does_not_turn_is_not_turned_by_angles_either() -> None:
    model = tiny_model("smollm3")
    scored = [len(seam.scores) for seam in seams_of(whorl.attach(model, Turns()))]
    assert scored == [1, 0, 1]
    assert len(list(whorl.attached(model).parameters())) == 2
    scored = [len(seam.scores) for seam in seams_of(whorl.attach(model, whorl.Layers([Turns()])))]
    assert scored == [1, 1, 1], "named, it is"


def test_export_with_a_cache_says_why_not() -> None:
    from torch.export import export

    model = whorl.attach(tiny_model("llama"), Forgets())
    without = export(model, (TOKENS,), {"use_cache": False})
    torch.testing.assert_close(without.module()(TOKENS, use_cache=False).logits, model(TOKENS).logits)
    with pytest.raises(Exception, match="cannot be exported or traced into one graph with a cache"):
        export(model, (TOKENS,), {"use_cache": True})


def test_tensor_parallel_layers_have_some_heads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_splits", lambda attention: True)
    with pytest.raises(ValueError, match="one of 2, is not known to it; load the model without a tp_plan"):
        parallel.refuse_shares(torch.nn.Linear(2, 2), parallel.Share(0, 2), Forgets())
