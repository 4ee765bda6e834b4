"""What encodings draw at random to start from: other numbers in every layer and of every seed, alike in every run."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.contract import ENCODINGS

import whorl
from whorl.encodings import Shape, parse
from whorl.testing import tiny_model

Numbers = list[dict[str, torch.Tensor]]
BY_LAYER = (
    "fire",
    "kerple",
    "dape",
    "fox",
    "grape-a",
    "darope",
    "selective-rope",
    "repo",
    "path",
    "path-fox",
    "pape",
    "pape-ri",
    "liere",
)
FOR_ALL = ("fope", "learned")  # one module for all layers


def initial(notation: str, seed: int = 0) -> Numbers:
    """The parameters of each of its modules, which are one for a layer, or one for all."""
    model = whorl.attach(tiny_model("llama"), notation, seed=seed)
    modules = whorl.attached(model).effects
    return [{name: p.detach().clone() for name, p in module.named_parameters()} for module in modules]


def drawn(some: Numbers, other: Numbers) -> list[str]:
    """The names of what is drawn at random: what another seed makes another."""
    return [n for n, p in some[0].items() if not torch.equal(p, other[0][n])]


@pytest.mark.parametrize("name", [*BY_LAYER, *FOR_ALL])
def test_each_layer_and_each_seed_draws_by_itself(name: str) -> None:
    first, again, other = (initial(ENCODINGS[name], seed) for seed in (0, 0, 1))
    assert len(first) == 1 if name in FOR_ALL else len(first) > 1
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    for parameter in drawn(first, other):
        several = [numbers[parameter] for numbers in (*first, *other)]
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(several, 2)), parameter


def test_what_is_drawn_is_known_and_is_the_same_everywhere() -> None:
    """Which encodings draw; and one number of it, which no process may change."""
    names = {name for name, e in ENCODINGS.items() if (found := initial(e)) and drawn(found, initial(e, seed=1))}
    assert names == {*BY_LAYER, *FOR_ALL}
    (effect,) = parse("fox").effects(Shape(8, 2, 16, layer=1, seed=3))
    assert float(effect.module.weight[0, 0].detach()) == pytest.approx(-0.012862243, rel=1e-6)
