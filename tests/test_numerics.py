from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from whorl import numerics
from whorl.hosts import FAMILIES
from whorl.numerics import allowance, in_float64, logits_and_budget, max_error, too_large_to_copy
from whorl.testing import tiny_model


def test_the_largest_difference_is_taken_in_float64() -> None:
    one = torch.tensor([1.0, 2.0])
    assert max_error(one, one.double() + torch.tensor([1e-12, 0.0])) == pytest.approx(1e-12, rel=1e-3)
    assert max_error(one.bfloat16(), torch.tensor([1.0, 2.5])) == 0.5


def test_every_part_of_the_largest_difference_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "AT_ONCE", 3)
    value, truth = torch.zeros(4, 5).T, torch.zeros(4)
    for at in [(0, 0), (2, 1), (4, 3)]:
        moved = value.clone()
        moved[at] = -2.0
        assert max_error(moved, truth) == max_error(truth, moved) == 2
        moved[at] = float("nan")
        assert math.isnan(max_error(moved, truth))


def test_what_may_be_off_is_four_times_the_error_and_a_rounding() -> None:
    outputs = torch.tensor([8.0, -4.0])
    assert allowance(outputs, outputs.double() + 1e-3) == pytest.approx(4e-3 + 8 * 2**-23)
    assert allowance(outputs, None) == 64 * 8 * 2**-23
    assert allowance(outputs.bfloat16(), None) == 64 * 8 * 2**-7
    assert allowance(outputs.double(), outputs.double()) == 8 * 2**-23, "tables are float32 in a float64 model too"


def test_logits_come_with_what_they_may_be_off() -> None:
    class Model(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(logits=super().forward(x.to(self.weight.dtype)))

    model, x = Model(64, 8), torch.randn(5, 64)
    logits, budget = logits_and_budget(model, x)
    assert torch.equal(logits, model(x).logits)
    truth = x.double() @ model.weight.double().T + model.bias.double()
    assert max_error(logits, truth) < budget < 1e-5
    assert model.weight.dtype == torch.float32, "the copy is turned to float64, and not the model"


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_in_float64_is_its_copy_in_float64_and_then_itself(family: str) -> None:
    model = tiny_model(family)
    ids = torch.arange(2 * 20).reshape(2, 20) % 97
    kept = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    with in_float64(model):
        logits = model(ids).logits
    assert torch.equal(logits, copy.deepcopy(model).double()(ids).logits)
    assert logits.dtype == torch.float64
    for name, tensor in model.state_dict().items():
        assert tensor.data_ptr() == kept[name][0]
        assert torch.equal(tensor, kept[name][1])


def test_weights_come_back_from_a_forward_that_stops() -> None:
    class Stops(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.weight.dtype == torch.float64
            raise KeyboardInterrupt

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Stops(4, 4))
    own = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(KeyboardInterrupt), in_float64(model):
        model(torch.zeros(1, 4, dtype=torch.float64))
    assert [(p.dtype, p.data_ptr()) for p in model.parameters()] == [(torch.float32, at) for at in own]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_copies_that_do_not_fit_are_said_in_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = torch.nn.Linear(1023, 1024)
    model.device = torch.device("cpu")
    assert too_large_to_copy(model, 8) is None
    monkeypatch.setattr(numerics, "free_memory", lambda device: 8 * 2**20 / 0.9)
    assert too_large_to_copy(model, 8) is None
    assert too_large_to_copy(model, 1024) == "copies in higher precision need 1.0 GiB, of 0.0 free"
