"""What modules have learned, kept for a backward pass that asks them again."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from whorl.ops.learned import learned_by


def test_a_parameter_in_two_places_is_learned_once() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    learned = learned_by([module, module[1]])
    assert [x is y for x, y in zip(learned.tensors, (module[0].weight, module[0].bias), strict=True)] == [True, True]
    others = [torch.zeros(2, 2), torch.ones(2)]
    whole, last = learned.holding(others)
    assert whole[0].weight is whole[1].weight is last.weight is others[0]
    assert whole[1] is last
    assert whole(torch.ones(1, 2)).tolist() == [[0, 0]]
    assert module[0].weight is module[1].weight is learned.tensors[0]


def test_copies_are_as_the_modules_were() -> None:
    """Whatever somebody puts into these afterwards, as functional_call takes back what it was given."""
    module = nn.Linear(2, 2)
    learned, weight = learned_by([module]), module.weight
    module.weight = nn.Parameter(torch.zeros(2, 2))
    del module._parameters["bias"]
    (copy,) = learned.holding(learned.tensors)
    assert copy.weight is weight
    assert copy.bias is learned.tensors[1]


def test_what_stands_in_the_place_of_a_parameter_is_learned_too() -> None:
    """A replica of nn.DataParallel and a module under FSDP have tensors as attributes, and no parameters."""
    module = nn.Linear(2, 2)
    views = {name: p * 1 for name, p in module.named_parameters()}
    replica = module._replicate_for_data_parallel()
    for name, view in views.items():
        setattr(replica, name, view)
    assert list(replica.parameters()) == []
    learned = learned_by([replica])
    assert {id(x) for x in learned.tensors} == {id(x) for x in views.values()}
    others = [torch.zeros_like(x) for x in learned.tensors]
    (copy,) = learned.holding(others)
    assert float(copy.weight.abs().sum() + copy.bias.abs().sum()) == 0
    assert replica.weight is views["weight"]


def test_a_parametrized_module_is_copied_with_its_parametrizations() -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    module = nn.Linear(2, 2, bias=False)
    parametrize.register_parametrization(module, "weight", Doubled())
    learned = learned_by([module])
    assert len(learned.tensors) == 1
    (copy,) = learned.holding([torch.ones(2, 2)])
    assert copy(torch.ones(1, 2)).tolist() == [[4, 4]]
