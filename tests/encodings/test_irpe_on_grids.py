"""iRPE in two dimensions (arXiv 2107.14222) against the pins, and against the official code written down plainly."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from tests.encodings.attended import QKV, gradients_agree, random_qkv

from whorl.encodings import Shape, parse
from whorl.encodings.effects import Bias, Score
from whorl.encodings.grid import Grid
from whorl.encodings.grid_buckets import GridBias, GridBuckets, GridVectors
from whorl.encodings.irpe import IRPE, borders
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore

METHODS = ("product", "cross", "euclidean", "quantization")
GRID = Grid(3, 5, prefix=2)
SHAPE = Shape(head_dim=4, heads=2, width=8, bidirectional=True, axes=2, prefix=2)


def buckets(method: str) -> GridBuckets:
    return GridBuckets(method, borders(1.9, 3.8, 15.2, squared=False))


def module_of(encoding: IRPE) -> GridVectors | GridBias:
    (effect,) = encoding.effects(SHAPE)
    assert isinstance(effect, Score | Bias)
    module = effect.module
    assert isinstance(module, GridVectors | GridBias)
    generator = torch.Generator().manual_seed(0)
    for table in module.parameters():
        torch.nn.init.normal_(table, generator=generator)
    return module.double()


# --- the official code, a query and a key at a time -------------------------------------------------------------------


def g(x: float, alpha: float = 1.9, beta: float = 3.8, gamma: float = 15.2) -> int:
    """Its piecewise index of a distance with a sign: rounded up to alpha, a logarithm beyond, cut off to a whole."""
    if abs(x) <= alpha:
        return round(x)
    far = min(round(alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha)), beta)
    return int(math.copysign(far, x))


def official(method: str, down: int, along: int) -> tuple[int, ...]:
    """Its ids: of product one in a square of 7 x 7, of cross one by rows and one by columns."""
    if method == "product":
        return (7 * (g(down) + 3) + g(along) + 3,)
    if method == "cross":
        return g(down) + 3, g(along) + 3
    squared = down * down + along * along
    return (g(squared if method == "quantization" else round(math.sqrt(squared))) + 3,)


def said(table: torch.Tensor, method: str, i: int, j: int, grid: Grid = GRID) -> torch.Tensor:
    """What a table of ours [heads, ...] has for query i and key j, found by the official ids."""
    patch = [divmod(n - grid.prefix, grid.width) for n in (i, j)]
    if min(i, j) < grid.prefix:
        return table[:, :, -1].sum(1) if method == "cross" else table[:, -1]
    ids = official(method, patch[0][0] - patch[1][0], patch[0][1] - patch[1][1])
    if method == "cross":
        return table[:, 0, ids[0]] + table[:, 1, ids[1]]
    return table[:, ids[0] - (0 if method == "product" else 3)]  # ours has no half that is never used


def by_definition(module: GridVectors, method: str, qkv: QKV, scale: float, grid: Grid = GRID) -> torch.Tensor:
    q, k, v = qkv
    heads, tokens = q.shape[1:3]
    output = torch.zeros_like(v)
    tables = {letter: table.detach() for letter, table in module.tables.items()}
    for i, (batch, head) in product(range(tokens), product(range(len(q)), range(heads))):
        of = {x: [said(t, method, i, j, grid)[head % len(t)] for j in range(tokens)] for x, t in tables.items()}
        logits = [scale * q[batch, head, i] @ k[batch, head, j] for j in range(tokens)]
        for j in range(tokens):
            if "k" in of:
                logits[j] = logits[j] + scale * q[batch, head, i] @ of["k"][j]
            if "q" in of:
                logits[j] = logits[j] + scale * k[batch, head, j] @ of["q"][j]
        weights = torch.stack(logits).softmax(0)
        for j in range(tokens):
            output[batch, head, i] += weights[j] * (v[batch, head, j] + (of["v"][j] if "v" in of else 0))
    return output


# ----------------------------------------------------------------------------------------------------------------------


def attended(module: GridVectors, qkv: QKV, grid: Grid = GRID, impl: str = "reference") -> torch.Tensor:
    at = grid.positions()
    where = {"query_positions": at, "key_positions": at}
    return biased_attention(*qkv, [], **where, scale=0.5, scores=[BoundScore(module)], impl=impl)[0]


def test_product_equals_the_pins(method_pins: dict) -> None:
    found = buckets("product")
    pin = method_pins["irpe_piecewise"]
    assert (found.count, found.count - 1) == (pin["plus_skip"], pin["buckets_product"])
    at = Grid(2, 3).positions()
    assert found.of(at, at)[0, 0].tolist() == method_pins["irpe_product_ids_2x3"]


def test_a_wide_image_is_not_taken_for_a_square_with_tokens_before_it(method_pins: dict) -> None:
    """The official code reads a grid off the number of tokens: of 14 x 28 patches and one token, 19 x 19 and 32."""
    pin, found = method_pins["irpe_nonsquare_trap"], buckets("product")
    wide, wrong = Grid(14, 28, prefix=1), Grid(19, 19, prefix=32)
    assert [grid.positions().shape[1] for grid in (wide, wrong)] == 2 * [pin["L=14*28+1 tokens"]]
    assert pin["inferred grid"] == "19x19 + skip 32"
    of_wide, of_wrong = (found.of(grid.positions(), grid.positions()) for grid in (wide, wrong))
    assert (of_wide != of_wrong).float().mean() > 0.5
    square = Grid(14, 14, prefix=1).positions()
    assert of_wide[0, 0, 1, [1 + 28, 2]].tolist() == found.of(square, square)[0, 0, 1, [1 + 14, 2]].tolist()


def test_euclidean_equals_the_pin(method_pins: dict) -> None:
    rounded = method_pins["irpe_euclid_rounded_0..2 x 0..2"]
    at = Grid(3, 3).positions()
    found = buckets("euclidean").of(at[:, :1], at).view(3, 3).tolist()
    assert found == [[g(distance) for distance in row] for row in rounded]


@pytest.mark.parametrize("method", ["product", "euclidean", "quantization"])
@pytest.mark.parametrize("settings", [(1.9, 3.8, 15.2), (20.0, 40.0, 160.0), (2.5, 5.0, 20.0)])
def test_buckets_of_a_wide_grid_are_the_official_ones(method: str, settings: tuple[float, float, float]) -> None:
    """In one order, with none twice: ours leaves out those that no pair of patches can have."""
    at, first = Grid(19, 40).positions(), 0
    found = GridBuckets(method, borders(*settings, squared=False)).of(at[:, [first]], at)[0, 0, 0]
    side = 2 * int(settings[1]) + 1
    for n, bucket in enumerate(found.tolist()):
        down, along = (-x for x in divmod(n, 40))
        if method == "product":
            assert bucket == side * (g(down, *settings) + side // 2) + g(along, *settings) + side // 2
        else:
            squared = down * down + along * along
            assert bucket == g(squared if method == "quantization" else round(math.sqrt(squared)), *settings)


@pytest.mark.parametrize("on", ["k", "q", "v", "qkv"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("impl", ["reference", "rows"])
def test_contextual_irpe_equals_its_definition(on: str, method: str, impl: str) -> None:
    module = module_of(IRPE(method, on=on, heads="own" if on == "qkv" else "shared"))
    assert isinstance(module, GridVectors)
    qkv = random_qkv(batch=1, tokens=17)
    expected = by_definition(module, method, qkv, 0.5)
    torch.testing.assert_close(attended(module, qkv, impl=impl), expected)


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("method", METHODS)
def test_a_bias_is_one_number_per_bucket(method: str, heads: str) -> None:
    module = module_of(IRPE(method, "bias", heads=heads))
    at = GRID.positions()
    found = module(at, at)[0].detach()
    assert len(found) == (2 if heads == "own" else 1)
    for i, j in product(range(17), range(17)):
        assert torch.equal(found[:, i, j], said(module.weight.detach(), method, i, j)[:, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_not_columns_and_a_wide_grid_is_no_square(method: str) -> None:
    """7 x 28 and 28 x 7 patches, as of 112 x 448 pixels, are as many as 14 x 14."""
    module = module_of(IRPE(method))
    assert isinstance(module, GridVectors)
    qkv = random_qkv(batch=1, tokens=196)
    square, wide, tall = (attended(module, qkv, Grid(*sides)) for sides in ((14, 14), (7, 28), (28, 7)))
    assert (wide - square).abs().max() > 0.1
    assert (wide - tall).abs().max() > 0.1
    at = Grid(14, 14).positions()
    swapped = biased_attention(
        *qkv, [], query_positions=at.flip(-1), key_positions=at.flip(-1), scale=0.5, scores=[BoundScore(module)]
    )[0]
    apart = (swapped - square).abs().max()
    assert apart < 1e-12 if method in ("euclidean", "quantization") else apart > 0.1  # which know no direction


def test_moving_all_patches_changes_nothing() -> None:
    module = module_of(IRPE(on="qkv"))
    assert isinstance(module, GridVectors)
    at = GRID.positions()
    moved = at + torch.tensor([2**31, -7, 0]) * (at[..., -1:] == 0)
    assert torch.equal(module.buckets.of(moved, moved), module.buckets.of(at, at))


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method: str) -> None:
    module = module_of(IRPE(method, on="qkv", heads="own"))
    at = Grid(2, 2, prefix=1).positions()
    assert gradients_agree(module, random_qkv(batch=1, tokens=5), positions=at, causal=False)


def test_block_by_block_gradients_are_those_of_all_at_once() -> None:
    """13 x 14 patches and a class token, in more than one block."""
    module, grid = module_of(IRPE("cross", on="qkv")), Grid(13, 14, prefix=1)
    assert isinstance(module, GridVectors)
    qkv = tuple(x.requires_grad_() for x in random_qkv(batch=3, heads=2, tokens=183))
    inputs = [*qkv, *module.parameters()]
    weight = torch.randn(3, 2, 183, 4, dtype=torch.float64)
    by = {
        impl: torch.autograd.grad((attended(module, qkv, grid, impl) * weight).sum(), inputs)
        for impl in ("reference", "rows")
    }
    for ours, theirs in zip(by["rows"], by["reference"], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_number_of_what_is_learned_is_that_of_the_paper() -> None:
    counts = {m: sum(p.numel() for p in module_of(IRPE(m, on="k")).parameters()) // 4 for m in METHODS}
    assert counts == {"product": 50, "cross": 16, "euclidean": 5, "quantization": 5}


def test_far_distances_and_points_are_told() -> None:
    at = torch.tensor([[[0, 0], [2**40, -(2**40)]]])
    assert buckets("product").of(at, at)[0, 0].tolist() == [[24, 6], [42, 24]]
    with pytest.raises(ValueError, match="whole rows and columns, and these positions are real numbers"):
        buckets("product").of(at.double(), at.double())
    with pytest.raises(ValueError, match="a position has 3 axes"):
        parse("irpe").effects(Shape(4, 2, 8, axes=3))
    with pytest.raises(ValueError, match="rows and columns, and these tokens stand in one row; try product"):
        parse("irpe:method=cross").effects(Shape(4, 2, 8))


def test_a_table_of_zeros_is_where_training_starts() -> None:
    (effect,) = parse("irpe:on=qkv").effects(SHAPE)
    assert not any(np.count_nonzero(p.detach()) for p in effect.module.parameters())  # type: ignore[attr-defined]
