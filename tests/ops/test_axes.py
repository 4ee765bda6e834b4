"""biased_attention() where positions have axes: what a bias is handed, and which implementations can take it."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import HEADS, agree, at, data, modules
from torch import nn

from whorl.encodings import Shape, parse
from whorl.encodings.grid import Grid
from whorl.ops import biased_attention
from whorl.ops.axes import seen_by
from whorl.ops.impl import cpu_attention
from whorl.ops.scores import BoundScore
from whorl.testing import max_error

ROWS, COLUMNS = 5, 7
GRID = torch.cartesian_prod(torch.arange(ROWS), torch.arange(COLUMNS))[None]  # [1, 35, 2]
POINTS = torch.randn(2, 35, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4


def along(notation: str, axis: int | None) -> list[nn.Module]:
    found = modules(notation)
    for module in found:
        module.axis = axis
    return found


class Far(nn.Module):
    """-slope_h x the Euclidean distance of two points, slopes learned."""

    axis = "all"

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.linspace(0.1, 1.0, HEADS))

    def forward(self, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
        offset = query_positions[:, :, None].double() - key_positions[:, None].double()
        return -self.slopes[:, None, None] * offset.norm(dim=-1)[:, None].to(self.slopes.dtype)


BIASES = {
    "rows": lambda: along("alibi", 0),
    "columns": lambda: along("t5", 1),
    "rows and columns": lambda: along("alibi", 0) + along("t5", 1),
    "a window of rows": lambda: along("window:size=2", 0) + along("kerple", 1),
    "all": lambda: [Far()],
    "all and rows": lambda: [Far(), *along("alibi", 0)],
    "none": list,
}


@pytest.mark.parametrize("kind", BIASES)
def test_logits_are_what_each_pair_of_places_says(kind: str) -> None:
    """In float64, one number after another: each bias of what it goes by, as if there were nothing else."""
    q, k, v = (x.double() for x in data(35, 35, 8, torch.float64))
    biases = [module.double() for module in BIASES[kind]()]
    out, _ = biased_attention(q, k, v, biases, scale=0.4, impl="reference", **at(GRID))
    logits = 0.4 * q @ k.repeat_interleave(2, 1).transpose(-1, -2)
    for i, of_query in enumerate(GRID[0].tolist()):
        for j, of_key in enumerate(GRID[0].tolist()):
            for module in biases:
                if isinstance(module, Far):
                    logits[:, :, i, j] -= module.slopes.detach() * math.dist(of_query, of_key)
                else:
                    offset = of_query[module.axis] - of_key[module.axis]
                    logits[:, :, i, j] += module.of_distance(torch.tensor(offset)).detach()
    wanted = logits.softmax(-1) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-6 if kind == "rows" else 1e-7)  # slopes are float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", BIASES)
def test_blocks_give_what_the_reference_gives_and_every_gradient(kind: str, dtype: torch.dtype) -> None:
    agree("blocked", BIASES[kind](), data(35, 35, 8, dtype), dtype, **at(GRID))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_window_hides_blocks_by_its_own_axis(axis: int) -> None:
    grid = torch.cartesian_prod(torch.arange(30), torch.arange(40))[None]  # several blocks, of which it hides some
    tensors, biases = data(1200, 1200, 8, torch.float32, batch=1), [*along("window:size=2", axis), Far()]
    wanted, _ = biased_attention(*tensors, biases, scale=0.4, impl="reference", **at(grid))
    out, _ = biased_attention(*tensors, biases, scale=0.4, impl="blocked", **at(grid))
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_points_are_real_numbers(dtype: torch.dtype) -> None:
    agree("blocked", [Far()], data(35, 35, 8, torch.float32), torch.float32, **at(POINTS.to(dtype)))


def test_the_order_of_tokens_is_nothing_to_a_grid() -> None:
    q, k, v = data(35, 35, 8, torch.float32)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    for kind, make in BIASES.items():
        biases = make()
        out, _ = biased_attention(q, k, v, biases, scale=0.4, **at(GRID))
        mixed, _ = biased_attention(*(x[:, :, order] for x in (q, k, v)), biases, scale=0.4, **at(GRID[:, order]))
        torch.testing.assert_close(mixed, out[:, :, order], rtol=1e-5, atol=1e-5, msg=kind)


@pytest.mark.parametrize("impl", ["cpu", "flex"])
def test_one_distance_is_all_that_the_loops_and_flex_need(impl: str) -> None:
    """Tokens in a column: along it, all implementations take what is a bias of one distance."""
    column = torch.stack([torch.arange(35), torch.full((35,), 3)], -1)[None]
    tensors, biases = data(35, 35, 8, torch.float32), along("t5", 0)
    with torch.no_grad():
        wanted, _ = biased_attention(*tensors, biases, scale=0.4, impl=impl, **at(column[..., 0]))
        out, _ = biased_attention(*tensors, biases, scale=0.4, impl=impl, **at(column))
        assert torch.equal(out, wanted)
        nothing, _ = biased_attention(*tensors, [], scale=0.4, impl=impl, **at(POINTS))  # no bias, any positions
        assert torch.equal(nothing, biased_attention(*tensors, [], scale=0.4, impl=impl, **at(column[..., 0]))[0])


@pytest.mark.parametrize("impl", ["cpu", "flex", "auto"])
@pytest.mark.parametrize("name", ["mixed-rope", "liere:block=8,unit=7"])
def test_what_turns_by_rows_and_columns_leaves_nothing_that_goes_by_them(
    name: str, impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are of turned queries and keys alone, whatever attends: of an image the loops, on a CPU."""
    torch.manual_seed(0)
    (effect,) = parse(name).effects(Shape(8, HEADS, 8 * HEADS, bidirectional=True, axes=2))
    places, tensors = Grid(5, 7).positions(), data(35, 35, 8, torch.float32)
    how = {"scale": 0.4, "scores": [BoundScore(effect.module)], **at(places)}
    chosen = []
    monkeypatch.setattr(cpu_attention, "run", lambda *given, run=cpu_attention.run: chosen.append(1) or run(*given))
    with torch.no_grad():
        wanted, _ = biased_attention(*tensors, [], impl="reference", **how)
        out, _ = biased_attention(*tensors, [], impl=impl, **how)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    assert bool(chosen) is (impl != "flex")
    with torch.no_grad():
        other, _ = biased_attention(*tensors, [], impl=impl, **how | at(Grid(7, 5).positions()))
    assert max_error(other, out) > 1e-3


@pytest.mark.parametrize(
    ("impl", "kind", "message"),
    [
        ("cpu", "rows and columns", "the biases go by 2 axes of a position, and not by one distance"),
        ("flex", "rows and columns", "the biases go by 2 axes of a position, and not by one distance"),
        ("cpu", "all", "Far is not a bias of distance alone"),
        ("flex", "all and rows", "Far is not a bias of distance alone"),
        ("cpu", "columns", "the positions of a run of keys have gaps"),
    ],
)
def test_what_is_not_one_distance_is_refused_with_its_reason(impl: str, kind: str, message: str) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match=f"impl='{impl}' cannot run here: .*{message}"):
        biased_attention(*data(35, 35, 8, torch.float32), BIASES[kind](), scale=0.4, impl=impl, **at(GRID))


@pytest.mark.parametrize(
    ("biases", "positions", "message"),
    [
        (lambda: along("alibi", None), (GRID,), "LinearBias goes by positions of one axis, and these have 2"),
        (lambda: along("alibi", 2), (GRID,), r"LinearBias goes by axis 2 of a position, and these have 2 \(from 0\)"),
        (lambda: along("alibi", 1), (GRID[..., 0],), "LinearBias goes by axis 1 of a position, and these have 1"),
        (lambda: along("alibi", 0), (POINTS,), "goes by distances in whole numbers, and these .*torch.float64"),
        (lambda: [Far()], (POINTS.half(),), "query_positions with axes must be int64, int32, float64 or float32, got"),
        (lambda: [Far()], (POINTS[..., 0],), "query_positions must be int64 or int32, got float64"),
        (lambda: [Far()], (GRID, GRID[..., 0]), r"must have the same axes, got \(1, 35, 2\) and \(1, 35\)"),
        (lambda: [Far()], (GRID, POINTS), r"must have the same axes, got \(1, 35, 2\) and \(2, 35, 3\)"),
        (lambda: [Far()], (GRID[..., None],), r"got \(1, 35, 2, 1\) \(a third dimension is of axes\)"),
    ],
)
def test_what_is_not_said_of_axes_is_refused(biases, positions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        biased_attention(*data(35, 35, 8, torch.float32), biases(), scale=0.4, **at(*positions))


def test_positions_of_one_axis_are_handed_as_a_module_asks() -> None:
    line = torch.arange(35)[None]
    assert seen_by(Far(), line).shape == (1, 35, 1)
    assert seen_by(along("alibi", 0)[0], line) is line
    assert torch.equal(seen_by(along("alibi", 0)[0], line[..., None]), line)
    tensors = data(35, 35, 8, torch.float32)
    out, _ = biased_attention(*tensors, [Far()], scale=0.4, **at(line))
    wanted, _ = biased_attention(*tensors, [Far()], scale=0.4, **at(line[..., None]))
    assert torch.equal(out, wanted)
