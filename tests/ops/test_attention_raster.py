"""Images in the compiled loops: iRPE's buckets as runs along each row of patches."""

from __future__ import annotations

import pytest
import torch
from attention_cases import HEADS, agree, at, data

from whorl.encodings import Shape, parse
from whorl.encodings.grid import Grid
from whorl.encodings.grid_buckets import GridBuckets
from whorl.encodings.irpe import borders
from whorl.encodings.scores import ScoreModule
from whorl.ops import biased_attention
from whorl.ops.impl import cpu_attention
from whorl.ops.problem import AttentionProblem
from whorl.ops.raster import in_a_row
from whorl.ops.scores import BoundScore

METHODS = ("product", "cross", "euclidean", "quantization")
GRIDS = (Grid(5, 9, 2), Grid(14, 14, 1), Grid(7, 28), Grid(1, 40, 1), Grid(9, 1))


def found(notation: str, dim: int = 24) -> dict:
    """Its module, as `agree` takes it."""
    (effect,) = parse(notation).effects(Shape(dim, HEADS, dim * HEADS, bidirectional=True, axes=2))
    module = effect.module
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    if isinstance(module, ScoreModule):
        return {"biases": [], "scores": [BoundScore(module)]}
    return {"biases": [module], "scores": []}


@pytest.mark.matrix(times=4)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["on=k", "on=kv,heads=own", "on=v", "mode=bias,heads=own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_every_gradient(dtype: torch.dtype, how: str, method: str, grid: Grid) -> None:
    """With grouped heads, a cap and sinks."""
    positions = grid.positions()
    tokens = positions.shape[1]
    agree(
        "cpu", tensors=data(tokens, tokens, 24, dtype), dtype=dtype, softcap=2.0, sinks=torch.randn(HEADS),
        times=24, **found(f"irpe:method={method},{how}"), **at(positions),
    )  # fmt: skip


@pytest.mark.parametrize("ratio", [1.9, 2.5, 20.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [*GRIDS, Grid(19, 45, 3)], ids=str)
def test_runs_have_the_buckets_of_all_pairs(grid: Grid, method: str, ratio: float) -> None:
    buckets = GridBuckets(method, borders(ratio, 2 * ratio, 8 * ratio, squared=False))
    positions = grid.positions()
    farthest, rows = (x[0] for x in buckets.runs_of(grid))
    tokens = torch.arange(positions.shape[1])
    begin = tokens - farthest
    assert (begin.diff(dim=0) >= 0).all()
    keys = tokens.repeat(len(tokens), 1)
    run = torch.searchsorted(begin.T.contiguous(), keys, right=True)  # of each query and key
    by_runs = rows.T.gather(1, run)
    assert torch.equal(by_runs, buckets.of(positions, positions)[0, 0])


def problem(positions: torch.Tensor, keys: torch.Tensor | None = None, notation: str = "irpe") -> AttentionProblem:
    keys = positions if keys is None else keys
    q, k, v = (torch.randn(1, 2, at.shape[1], 8) for at in (positions, keys, keys))
    modules = found(notation, 8)
    scores = tuple(modules["scores"])
    return AttentionProblem(
        q, k, v, tuple(modules["biases"]), positions, keys, None, False, 0.3, None, None, 0.0, "cpu", None, scores
    )


def test_an_image_may_stand_anywhere_and_what_is_none_goes_another_way() -> None:
    image = Grid(5, 9, 1).positions()
    patches = Grid(5, 9).positions()
    for taken in (image, patches, patches.int(), patches + torch.tensor([7, -3]), image.expand(3, -1, -1)):
        one = problem(taken)
        assert in_a_row(one).query_positions.tolist() == [list(range(taken.shape[1]))]
        assert cpu_attention.missing(one) is None
    column_by_column = patches.view(1, 5, 9, 2).transpose(1, 2).reshape(1, 45, 2)
    two_images = torch.cat([patches, Grid(9, 5).positions()])
    for left in (patches.flip(1), column_by_column, patches[:, :-1], patches * 2, two_images, image.flip(1)):
        one = problem(left)
        assert in_a_row(one) is one
        assert cpu_attention.missing(one) is not None
    one = problem(patches[:, :7], patches)
    assert in_a_row(one) is one
    assert in_a_row(problem(patches, notation="irpe:on=qk")).query_positions is patches
    assert in_a_row(problem(Grid(28, 7).positions())).query_positions.dim() == 3, "nearly as many runs as keys"


def test_layers_share_the_runs_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    own = GridBuckets.runs_of
    monkeypatch.setattr(GridBuckets, "runs_of", lambda self, grid: (asked.append(grid), own(self, grid))[1])
    positions, modules = Grid(6, 8, 1).positions(), [found("irpe") for _ in range(12)]
    tensors = data(49, 49, 24, torch.float32)
    for _ in range(2):
        for one in modules:
            biased_attention(*tensors, scale=0.4, **one, **at(positions), impl="cpu")
    assert asked == [Grid(6, 8, 1)]
