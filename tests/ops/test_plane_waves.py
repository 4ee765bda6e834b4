"""Turns at the patches of a grid by the loop, and their gradients, against those by angles of each patch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.encodings.angles import turned
from whorl.encodings.grid import Grid
from whorl.ops.plane_waves import raster_for_loop, turn_on_grid
from whorl.ops.raster import Raster
from whorl.testing import max_error

GRIDS = [Grid(5, 9), Grid(9, 5, prefix=1), Grid(4, 4, prefix=3), Grid(1, 300), Grid(70, 2)]
LAYOUTS = ["half", "interleaved"]


def places(grid: Grid, moved: int = 0) -> torch.Tensor:
    at = grid.positions()
    at[:, grid.prefix :, :2] += torch.tensor([moved, 2 * moved])
    return at


def raster_at(at: torch.Tensor) -> Raster:
    raster = raster_for_loop(at)
    assert raster is not None
    return raster


def by_patch(
    tensors: list[torch.Tensor], frequencies: torch.Tensor, at: torch.Tensor, layout: str
) -> list[torch.Tensor]:
    """The same by PyTorch's operations, with an angle of each patch."""
    y, x = (at[0, :, axis, None].double() for axis in (0, 1))
    angles = y * frequencies[0, :, None] + x * frequencies[1, :, None]
    cos, sin = (of[None].to(tensors[0].dtype) for of in (angles.cos(), angles.sin()))
    return [turned(one, cos, sin, layout) for one in tensors]


def data(
    at: torch.Tensor,
    heads: int,
    pairs: int,
    dtype: torch.dtype,
    rest: int = 0,
    batch: int = 2,
    heads_first: bool = False,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Frequencies from -2 to 2 radians a patch, and q and k as a host has them, tokens before heads; or as a copy."""
    torch.manual_seed(0)
    frequencies = torch.linspace(-2, 2, 2 * heads * pairs, dtype=torch.float64).view(2, heads, pairs)
    tensors = [torch.randn(batch, at.shape[1], heads, 2 * pairs + rest, dtype=dtype).transpose(1, 2) for _ in range(2)]
    tensors = [x.contiguous() if heads_first else x for x in tensors]
    return frequencies.requires_grad_(), [x.requires_grad_() for x in tensors]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("pairs", "rest"), [(4, 0), (33, 3), (70, 0)])
@pytest.mark.parametrize(("moved", "heads_first"), [(0, True), (1000, False)])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_and_gradients_are_those_by_each_patch(
    dtype: torch.dtype, grid: Grid, moved: int, heads_first: bool, pairs: int, rest: int, layout: str, loops: str
) -> None:
    """No further from float64 than twice what the way by each patch is in the same dtype, and a rounding of the
    largest."""
    at = places(grid, moved)
    frequencies, tensors = data(at, 3, pairs, dtype, rest, heads_first=heads_first)
    grads = [torch.randn_like(x) for x in tensors]

    def found(kind: torch.dtype, by_loop: bool) -> list[torch.Tensor]:
        given = [x.detach().to(kind).requires_grad_() for x in tensors]
        if by_loop:
            out = turn_on_grid(given, frequencies, raster_at(at), layout)
        else:
            out = by_patch(given, frequencies, at, layout)
        assert {x.dtype for x in out} == {kind}
        return [*out, *torch.autograd.grad(out, [*given, frequencies], [x.to(kind) for x in grads])]

    truth = found(torch.float64, False)
    angle = 2 * float(at[..., :2].sum(-1).max())
    for ours, theirs, true in zip(found(dtype, True), found(dtype, False), truth, strict=True):
        assert true.abs().max() > 1
        rounding = torch.finfo(dtype).eps * float(true.abs().max())
        # float64 is the truth itself: of two ways neither is nearer, and each rounds the angles
        allowed = rounding * angle if dtype == torch.float64 else 2 * max_error(theirs, true) + rounding
        assert max_error(ours, true) <= allowed


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 2])
def test_derivatives_of_any_order(count: int, layout: str) -> None:
    raster = raster_at(places(Grid(3, 4, 1), 5))
    at = torch.empty(1, 13)
    frequencies, tensors = data(at, 2, 2, torch.float64, rest=1)
    given = (frequencies, *tensors[:count])

    def turn(frequencies: torch.Tensor, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(turn_on_grid(tensors, frequencies, raster, layout))

    assert torch.autograd.gradcheck(turn, given, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(turn, given)


def test_derivatives_where_frequencies_are_not_learned() -> None:
    raster = raster_at(places(Grid(3, 4)))
    frequencies, tensors = data(torch.empty(1, 12), 2, 2, torch.float64)
    frequencies = frequencies.detach()
    assert torch.autograd.gradcheck(lambda *x: tuple(turn_on_grid(x, frequencies, raster, "half")), tensors)
    assert torch.autograd.gradgradcheck(lambda *x: tuple(turn_on_grid(x, frequencies, raster, "half")), tensors)


def test_a_gradient_with_a_tangent() -> None:
    """Forward-mode over the backward pass: what the loop cannot follow goes by PyTorch's operations."""
    at = places(Grid(3, 4))
    frequencies, tensors = data(at, 2, 2, torch.float64)
    grads, tangents = ([torch.randn_like(x) for x in tensors] for _ in range(2))
    found = []
    for by_loop in (True, False):
        out = turn_on_grid(tensors, frequencies, raster_at(at), "half") if by_loop else None
        out = out or by_patch(tensors, frequencies, at, "half")
        with torch.autograd.forward_ad.dual_level():
            duals = [torch.autograd.forward_ad.make_dual(g, t) for g, t in zip(grads, tangents, strict=True)]
            of = torch.autograd.grad(out, [frequencies, *tensors], duals)
            found.append([torch.autograd.forward_ad.unpack_dual(x).tangent for x in of])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("heads_first", [False, True])
def test_sums_do_not_depend_on_threads(heads_first: bool) -> None:
    """Units are summed in order, whichever thread had them."""
    at, before = places(Grid(60, 24)), torch.get_num_threads()  # units of one row and, of heads apart, of several
    frequencies, tensors = data(at, 3, 16, torch.float32, heads_first=heads_first)
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = turn_on_grid(tensors, frequencies, raster_at(at), "half")
            found.append([*out, *torch.autograd.grad(out, [frequencies, *tensors], [x.detach() + 1 for x in out])])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_tensors_as_they_come() -> None:
    """Views, gradients that are one number, no gradient of k, and nothing of what is asked for."""
    at = places(Grid(4, 5, 2))
    frequencies, (q, k) = data(at, 3, 4, torch.float64)
    for one, other in itertools.permutations((q, k)):
        views = [one[..., ::2].detach(), torch.view_as_complex(other.detach().unflatten(-1, (4, 2))).conj().imag]
        for x in views:
            assert x.stride(-1) != 1 or x.is_neg()
            few = frequencies[..., : x.shape[-1] // 2].detach()
            for layout in LAYOUTS:
                (ours,), (theirs,) = turn_on_grid([x], few, raster_at(at), layout), by_patch([x], few, at, layout)
                torch.testing.assert_close(ours, theirs)
    found = []
    for make in (
        lambda: turn_on_grid([q, k], frequencies, raster_at(at), "half"),
        lambda: by_patch([q, k], frequencies, at, "half"),
    ):
        of_q, _ = make()
        found.append(torch.autograd.grad(of_q.sum(), [frequencies, q, k], allow_unused=True, materialize_grads=True))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        assert not turn_on_grid([q], frequencies, raster_at(at), "half")[0].requires_grad


def test_nothing_as_large_as_heads_and_tokens_and_pairs_is_kept() -> None:
    at = places(Grid(16, 16))
    frequencies, tensors = data(at, 4, 8, torch.float32)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        turn_on_grid(tensors, frequencies, raster_at(at), "half")
    own = {x.data_ptr() for x in tensors}
    assert sum(x.numel() for x in kept if x.data_ptr() not in own) <= 4 * (16 + 16) * 2 * 8 + frequencies.numel()


@pytest.mark.parametrize("shape", [(2, 3, 36, 8), (2, 4, 35, 8), (2, 4, 36, 6)])
def test_tensors_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    """Or the loop would read past them."""
    at = places(Grid(6, 6))
    frequencies, _ = data(at, 4, 4, torch.float32)
    with pytest.raises(ValueError, match="4 pairs of channels in 4 heads, and the grid has 36 tokens"):
        turn_on_grid([torch.zeros(shape)], frequencies, raster_at(at), "half")


def test_only_a_grid_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of others each patch has its own cosine."""
    at = Grid(6, 6).positions()
    assert raster_for_loop(at) is not None
    assert raster_for_loop(at.expand(3, -1, -1)) is not None
    assert raster_for_loop(at.double()) is None
    assert raster_for_loop(at.flip(1)) is None
    assert raster_for_loop(at[:, :-1]) is None
    assert raster_for_loop(torch.cat([at, Grid(4, 9).positions()])) is None
    assert raster_for_loop(torch.arange(36)[None]) is None
    assert raster_for_loop(at.to("meta")) is None
    assert torch.func.vmap(lambda x: torch.tensor(raster_for_loop(x) is None))(at[None]).all()
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert raster_for_loop(at) is None


def test_mixed_rope_goes_by_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives what its module gives by angles of each patch."""
    from whorl.ops import by_token
    from whorl.ops.scores import BoundScore

    (effect,) = parse("mixed-rope").effects(Shape(8, 4, 32, bidirectional=True, axes=2))
    at, asked = places(Grid(5, 9)), []
    q, k = (torch.randn(2, heads, at.shape[1], 8, dtype=torch.float64) for heads in (4, 2))
    direct = by_token.token_by_token([BoundScore(effect.module)], at, at, q, k, 1.0, plain=True)[:2]
    monkeypatch.setattr(by_token, "turn_on_grid", lambda *given: (asked.append(1), turn_on_grid(*given))[1])
    ours = by_token.token_by_token([BoundScore(effect.module)], at, at, q, k, 1.0)[:2]
    assert asked
    for one, other in zip(ours, direct, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("heads", "pairs", "batch"), [(0, 2, 2), (2, 0, 2), (2, 2, 0)])
@pytest.mark.parametrize("heads_first", [False, True])
def test_nothing_to_turn(heads: int, pairs: int, batch: int, heads_first: bool) -> None:
    at = places(Grid(3, 4, 1))
    frequencies, tensors = data(at, heads, pairs, torch.float32, rest=5, batch=batch, heads_first=heads_first)
    out = turn_on_grid(tensors, frequencies, raster_at(at), "half")
    assert all(map(torch.equal, out, tensors))
    found = torch.autograd.grad(out, [frequencies, *tensors], [torch.ones_like(x) for x in out])
    assert [x.shape for x in found] == [frequencies.shape, *(x.shape for x in tensors)]
    assert not found[0].any()


def test_tokens_that_share_memory() -> None:
    """A view by `unfold`, whose like is laid out otherwise; and such a gradient."""
    at = places(Grid(2, 2))
    frequencies, _ = data(at, 1, 4, torch.float32)
    row = torch.randn(1, 1, 11)
    found = []
    for of in (lambda x: x, torch.Tensor.contiguous):
        x = of(row.unfold(2, 8, 1)).requires_grad_()
        (out,) = turn_on_grid([x], frequencies, raster_at(at), "half")
        found.append([out, *torch.autograd.grad(out, [x, frequencies], of(row.unfold(2, 8, 1)))])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("other", [torch.zeros(1, 1, 4, 8), torch.zeros(2, 1, 4, 8).double(), None])
def test_tensors_that_are_not_alike_are_refused(other: torch.Tensor | None) -> None:
    at = places(Grid(2, 2))
    frequencies, _ = data(at, 1, 4, torch.float32)
    one = torch.zeros(2, 1, 4, 8)
    with pytest.raises(ValueError, match="one tensor or two of one shape and dtype"):
        turn_on_grid([one, one, one] if other is None else [one, other], frequencies, raster_at(at), "half")
    with pytest.raises(ValueError, match="one tensor or two of one shape and dtype"):
        turn_on_grid([], frequencies, raster_at(at), "half")


def test_cosines_are_those_of_the_library_however_large_an_angle_is(loops: str) -> None:
    """A patch and the next: the angle is the frequency itself."""
    at = places(Grid(1, 2))
    radians = torch.cat([torch.linspace(-9, 9, 181), 10.0 ** torch.arange(1, 300, 7).double()])
    radians[:2] = torch.tensor([2.0**20 - 0.5, 654321.0])  # beside small ones: none goes to the library
    frequencies = torch.stack([torch.zeros_like(radians), radians])[:, None]
    x = torch.zeros(1, 1, 2, 2 * len(radians), dtype=torch.float64)
    x[..., : len(radians)] = 1
    (out,) = turn_on_grid([x], frequencies, raster_at(at), "half")
    cos, sin = out[0, 0, 1].chunk(2)
    assert max_error(cos, torch.tensor([math.cos(r) for r in radians], dtype=torch.float64)) < 3e-16
    assert max_error(sin, torch.tensor([math.sin(r) for r in radians], dtype=torch.float64)) < 3e-16
    (none,) = turn_on_grid([x], torch.full_like(frequencies, torch.inf), raster_at(at), "half")
    assert none.isnan().all(), "a row of 0 times infinity"
