"""An encoding on a host whose positions have axes: a grid's rows and columns, the coordinates of points.

A Llama stands in for such a host: it hands on whatever positions it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache, StaticCache

import whorl
from whorl.encodings import Add, Bias, Effect, Encoding, Shape, parse
from whorl.encodings.t5 import BucketBias
from whorl.encodings.turns import cos_sin
from whorl.hosts import open_host
from whorl.testing import logits_and_budget, tiny_model

GRID = torch.cartesian_prod(torch.arange(4), torch.arange(5))[None]  # [1, 20, 2]
POINTS = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0)) * 3
TOKENS = torch.randint(3, 97, (1, 20), generator=torch.Generator().manual_seed(0))
SEEN = torch.ones(1, 20, dtype=torch.long)
AXIAL = "frequencies:values=1@0.5@0.25@0.7,axes=0@1@0@1"


@dataclass(frozen=True)
class Buckets(Encoding):
    """T5's buckets of the rows between two places, and of the columns."""

    name, title, paper, kinds = "buckets", "", "", ("bias",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        modules = [BucketBias(shape.heads, 8, 16, bidirectional=True) for _ in range(2)]
        for axis, module in enumerate(modules):
            module.axis = axis
            nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(axis))
        return tuple(Bias(module, shared=True) for module in modules)


class Nearness(nn.Module):
    axis = "all"

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        return -(query_positions[:, :, None] - key_positions[:, None]).float().norm(dim=-1)[:, None]


@dataclass(frozen=True)
class Near(Encoding):
    """Minus the distance of two points, for all heads alike."""

    name, title, paper, kinds = "near", "", "", ("bias",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Bias(Nearness(), shared=True),)


class Waves(nn.Module):
    """Sines and cosines of both coordinates: positions [batch, tokens, axes] -> [batch, tokens, width]."""

    axis = "all"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = tuple(0.5**i for i in range(width // 4))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return torch.cat([x for a in range(2) for x in cos_sin(positions[..., a], self.frequencies)], -1)


@dataclass(frozen=True)
class Placed(Encoding):
    name, title, paper, kinds = "placed", "", "", ("add",)

    def effects(self, shape: Shape) -> tuple[Effect, ...]:
        return (Add(Waves(shape.width)),)


GRIDS = {"turned": parse(AXIAL), "biased": Buckets(), "both": parse(AXIAL) + Buckets(), "near": Near(), "add": Placed()}
KINDS = {**{name: (encoding, GRID) for name, encoding in GRIDS.items()},
         "points": (parse(AXIAL) + Near(), POINTS), "added points": (Placed(), POINTS),
         "scored grid": (parse("pape"), GRID), "scored points": (parse("pape-ri:unit=0.2"), POINTS),
         "both on points": (parse("pape-ri:unit=0.2+euclidean-alibi"), POINTS)}  # fmt: skip


def on_a_grid(encoding: Encoding) -> Any:
    model = tiny_model("llama")
    whorl.attach(replace(open_host(model), axes=2), encoding)
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_axis_matters_and_the_offset_alone_does(kind: str) -> None:
    encoding, places = KINDS[kind]
    model = on_a_grid(encoding)
    how = {"attention_mask": SEEN, "use_cache": False}
    logits, budget = logits_and_budget(model, TOKENS, position_ids=places, **how)
    for axis in range(2):
        moved = places.clone()
        moved[:, 7, axis] += 2
        assert float((model(TOKENS, position_ids=moved, **how).logits - logits).abs().max()) > 100 * budget
    if "add" not in encoding.kinds:
        there = model(TOKENS, position_ids=places + torch.tensor([3, 11]), **how).logits
        assert float((there - logits).abs().max()) < 4 * budget


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_decoding_on_a_cache_knows_the_places_of_its_keys(kind: str, static: bool) -> None:
    encoding, places = KINDS[kind]
    model = on_a_grid(encoding)
    logits, budget = logits_and_budget(model, TOKENS, position_ids=places, attention_mask=SEEN, use_cache=False)
    cache = StaticCache(model.config, max_cache_len=32) if static else DynamicCache(config=model.config)
    parts, at = [], 0
    for count in (6, 1, 9, 1, 3):
        step = slice(at, at + count)
        at += count
        how = {"attention_mask": SEEN[:, :at], "past_key_values": cache}
        parts.append(model(TOKENS[:, step], position_ids=places[:, step], **how).logits)
    assert float((torch.cat(parts, 1) - logits).abs().max()) < budget


@torch.no_grad()
def test_what_is_done_to_a_cache_is_done_to_its_places() -> None:
    model = on_a_grid(Near())
    rows, places = TOKENS.view(2, 10), torch.cat([GRID[:, :10], 3 + 2 * GRID[:, 10:]])
    seen = torch.ones(2, 10, dtype=torch.long)
    cache = DynamicCache(config=model.config)
    model(rows[:, :8], position_ids=places[:, :8], attention_mask=seen[:, :8], past_key_values=cache)
    cache.crop(-2)
    cache.reorder_cache(torch.tensor([1, 0]))
    rows, places = rows.flip(0), places.flip(0)
    logits, budget = logits_and_budget(model, rows, position_ids=places, attention_mask=seen, use_cache=False)
    on = model(rows[:, 6:], position_ids=places[:, 6:], attention_mask=seen, past_key_values=cache).logits
    assert float((on - logits[:, 6:]).abs().max()) < budget


@torch.no_grad()
def test_places_are_never_counted_from_a_mask() -> None:
    model = on_a_grid(Near())
    cache = DynamicCache(config=model.config)
    model(TOKENS[:, :8], position_ids=GRID[:, :8], attention_mask=SEEN[:, :8], past_key_values=cache)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, 1:], layer.values[:, :, 1:]
    with pytest.raises(ValueError, match="positions of 2 axes are not to be counted from a mask; change a cache"):
        model(TOKENS[:, 8:9], position_ids=GRID[:, 8:9], attention_mask=SEEN[:, :8], past_key_values=cache)


@pytest.mark.parametrize("notation", ["shaw", "t5", "alibi", "pape+shaw"])
def test_what_goes_by_one_axis_is_refused_where_positions_have_two(notation: str) -> None:
    with pytest.raises(ValueError, match="goes by positions of one axis, and these have 2"):
        on_a_grid(parse(notation))


@torch.no_grad()
def test_scores_of_one_axis_and_of_all_stand_beside_one_another_on_a_text() -> None:
    """`shaw` is handed positions, `pape` positions with an axis; block by block as by the reference."""
    model = tiny_model("llama")
    whorl.attach(model, "shaw+pape+euclidean-alibi+alibi")
    logits, budget = logits_and_budget(model, TOKENS)
    whorl.attach(model, "shaw+pape+euclidean-alibi+alibi", impl="reference")
    assert float((model(TOKENS).logits - logits).abs().max()) < budget
