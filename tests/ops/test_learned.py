"""What modules have learned, and where they hold it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from whorl.ops.learned import holding, learned_by


def two_that_share() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    return module


def test_a_parameter_in_two_places_is_learned_once() -> None:
    module = two_that_share()
    learned = learned_by([module, module[1]])
    assert [x is y for x, y in zip(learned.tensors, (module[0].weight, module[0].bias), strict=True)] == [True, True]
    others = [torch.zeros(2, 2), torch.ones(2)]
    with holding(learned.places, others):
        assert module[0].weight is module[1].weight is others[0]
        assert module(torch.ones(1, 2)).tolist() == [[0, 0]]
    assert module[0].weight is module[1].weight is learned.tensors[0]


def test_what_was_held_comes_back_after_an_error() -> None:
    module = nn.Linear(2, 2)
    learned = learned_by([module])
    with pytest.raises(KeyError), holding(learned.places, [torch.zeros(2, 2), torch.zeros(2)]):
        raise KeyError
    assert module.weight is learned.tensors[0]


def test_a_replica_of_data_parallel_holds_copies() -> None:
    """They are attributes of it, as nn.parallel.replicate leaves them, and no parameters."""
    module = nn.Linear(2, 2)
    copies = {name: p * 1 for name, p in module.named_parameters()}
    replica = module._replicate_for_data_parallel()
    replica._former_parameters = copies
    for name, copy in copies.items():
        setattr(replica, name, copy)
    assert list(replica.parameters()) == []
    learned = learned_by([replica])
    assert [x is y for x, y in zip(learned.tensors, copies.values(), strict=True)] == [True, True]
    others = [torch.zeros(2, 2), torch.ones(2)]
    with holding(learned.places, others):
        assert replica.weight is others[0]
    assert replica.weight is copies["weight"]
