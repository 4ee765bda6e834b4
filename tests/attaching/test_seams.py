"""What is left on a model, and what is read of it."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from tests.contract import TOKENS
from whorl.attaching import seams_of
from whorl.hosts import open_host
from whorl.testing import tiny_model


def test_seams_of_a_model_say_what_each_layer_has() -> None:
    model = tiny_model("llama")
    assert seams_of(model) == (None, None, None)
    whorl.attach(model, "hope:train_length=16+alibi/nope")
    turning = [len(seam.spectrum.turning) for seam in seams_of(model)]
    assert turning == [1, 0, 1]
    assert [len(seam.biases) for seam in seams_of(model)] == [1, 0, 1]
    compiled = torch.compile(model, backend="eager")
    for given in (model.model, open_host(model), compiled):
        assert all(a is b for a, b in zip(seams_of(given), seams_of(model), strict=True))
    assert seams_of(whorl.detach(model)) == (None, None, None)
    with pytest.raises(ValueError, match="got a Linear without a config.model_type"):
        seams_of(torch.nn.Linear(2, 2))


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["sinusoidal", "alibi"])
def test_a_copy_takes_off_its_own_hooks_and_no_other_models(encoding: str) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    expected, twin, stock = model(TOKENS).logits, copy.deepcopy(model), tiny_model("llama")
    whorl.detach(twin)
    assert torch.equal(twin(TOKENS).logits, stock(TOKENS).logits)
    assert torch.equal(model(TOKENS).logits, expected)
    whorl.detach(model)
    for one in (model, twin):
        assert [sorted(m.__dict__) for m in one.modules()] == [sorted(m.__dict__) for m in stock.modules()]
        for hooks in ("_forward_pre_hooks", "_state_dict_pre_hooks"):
            assert not any(getattr(m, hooks) for m in one.modules())


def test_an_open_host_is_opened_once() -> None:
    host = open_host(tiny_model("llama"))
    assert open_host(host) is host
