"""The 19 numbers of SPE-Net against the pinned cloud and their definition written out; what leaves them as they are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tests.encodings.test_pape import turned

from whorl.encodings.point_codes import CODES, codes, medoids, nearest, signed_angle

RADIUS = 0.4
LENGTHS = [7, 8, 9, 12, 13, 14]  # which the official stem leaves in the units of the coordinates
TWICE = [3, 4]  # which it divides by the radius twice
ANGLE = 18


@pytest.fixture
def cloud() -> torch.Tensor:
    return torch.randn(1, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def of_all(points: torch.Tensor, neighbours: int = 0) -> torch.Tensor:
    """The codes of every pair, [1, queries, keys, 19]."""
    m = medoids(points, None, neighbours, RADIUS)
    return codes(points[:, :, None], m[:, :, None], points[:, None], RADIUS)


def written_out(points: torch.Tensor, radius: float, eps: float) -> torch.Tensor:
    """The official function, for the first point and all others as its neighbourhood, with lengths as codes have them.

    eps: what is added to every length before it divides (1e-8 there).
    """
    p, others = points[0], points[1:]
    m = min(others, key=lambda a: sum(float((a - b) @ (a - b)) for b in points))
    s = p + radius * p / p.norm()

    def unit(x: torch.Tensor) -> torch.Tensor:
        return x / (x.norm() + eps) if x.norm() > 0 else x

    def normal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return unit(torch.linalg.cross(a, b))

    rows = []
    for n in others:
        h, outward = unit((p - n)[:2]), unit(p[:2])
        planes = normal(s - p, m - p), normal(s - p, n - p)
        sign = torch.sign(torch.linalg.cross(*planes) @ (p - s))
        a = sign * torch.arccos((planes[0] @ planes[1]).clamp(-1, 1))
        rows.append([
            *(p - n) / radius, (p - n)[2] / radius, (p - n)[:2].norm() / radius,
            h @ outward, h[0] * outward[1] - h[1] * outward[0],
            p.norm() / radius, (p - m).norm() / radius, (s - m).norm() / radius,
            unit(p - m) @ unit(s - m), unit(p - s) @ unit(m - s),
            (n - m).norm() / radius, (n - p).norm() / radius, (n - s).norm() / radius,
            unit(m - n) @ unit(p - n), unit(p - n) @ unit(s - n), unit(s - n) @ unit(m - n),
            torch.cos(a / 4) - torch.sin(a / 4) - 0.75,
        ])  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


def test_codes_equal_the_pinned_cloud(method_pins: dict) -> None:
    """But for how often lengths are divided by the radius, and for the angle, which the official code cannot have to
    more digits than these: it divides normals, some 1e-3 long, by their length plus 1e-8; the medoid's own is exactly
    a quarter."""
    pin = method_pins["spe_net"]
    points, radius = torch.tensor(pin["points"], dtype=torch.float64), pin["radius"]
    expected = torch.tensor(pin["features_row_per_neighbour"], dtype=torch.float64)
    expected[:, LENGTHS] /= radius
    expected[:, TWICE] *= radius
    found = codes(points[:1], medoids(points[None], None, 5, radius)[0, :1], points[1:], radius)
    torch.testing.assert_close(found[:, :ANGLE], expected[:, :ANGLE], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[:3, ANGLE], expected[:3, ANGLE], atol=1e-5, rtol=0)
    assert found[3, ANGLE] == 0.25, "both planes are one"
    assert abs(expected[3, ANGLE] - 0.25) < 2e-3
    official = written_out(points, radius, eps=1e-8)
    torch.testing.assert_close(official[:3], expected[:3], atol=1e-6, rtol=0)


def test_what_a_move_changes_equals_the_pinned_cloud(method_pins: dict) -> None:
    """By code, in the official units. Turned anyhow, the official angle changes by 8e-4, and ours does not."""
    pin = method_pins["spe_net"]
    points, radius = torch.tensor(pin["points"], dtype=torch.float64), pin["radius"]

    def official(points: torch.Tensor) -> torch.Tensor:
        found = codes(points[:1], medoids(points[None], None, 5, radius)[0, :1], points[1:], radius)
        found[:, LENGTHS] *= radius
        found[:, TWICE] /= radius
        return found

    c, s, d, e = math.cos(0.9), math.sin(0.9), math.cos(0.7), math.sin(0.7)
    about_z = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    about_x = torch.tensor([[1, 0, 0], [0, d, -e], [0, e, d]], dtype=torch.float64)
    moves = (
        points @ about_z.T,
        points @ (about_x @ about_z).T,
        points + torch.tensor([0.5, 0, 0]),
        points * torch.tensor([-1.0, 1, 1]),
    )
    here, blocks = official(points), (CODES["xyz"], CODES["z"], CODES["so3"])
    for (name, expected), there in zip(pin["max_change"].items(), moves, strict=True):
        found = [float((official(there) - here)[:, block].abs().max()) for block in blocks]
        if name == "Rx(.7)Rz(.9)":
            assert found.pop() < 1e-12
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-5, err_msg=name)


def test_codes_are_their_definition_written_out(cloud: torch.Tensor) -> None:
    expected = written_out(cloud[0], RADIUS, eps=0.0)
    found = codes(cloud[0, :1], medoids(cloud, None, 0, RADIUS)[0, :1], cloud[0, 1:], RADIUS)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)  # acos is good to half of the digits
    assert len({round(float(x), 3) for x in found[:, ANGLE]}) == 8, "angles of all kinds"


def test_what_leaves_each_code_as_it_is(cloud: torch.Tensor) -> None:
    c, s = math.cos(0.9), math.sin(0.9)
    about_z = torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    here = of_all(cloud)
    moves = {
        "turned about z": (cloud @ about_z, ["z", "so3"]),
        "turned": (turned(cloud), ["so3"]),
        "moved": (cloud + torch.tensor([0.5, 0.0, 0.0]), ["xyz"]),
        "mirrored": (cloud * torch.tensor([-1.0, 1.0, 1.0]), []),
    }
    for name, (there, unchanged) in moves.items():
        apart = (of_all(there) - here).abs()
        for code, columns in CODES.items():
            most = float(apart[..., columns].max())
            assert (most < 1e-10) if code in unchanged else (most > 0.1), (name, code, most)
    mirrored = (of_all(cloud * torch.tensor([-1.0, 1.0, 1.0])) - here).abs()[..., CODES["so3"]]
    assert mirrored[..., :-1].max() < 1e-10, "the angle alone tells left from right"


def test_a_scaled_cloud_has_the_same_codes_in_a_scaled_radius(cloud: torch.Tensor) -> None:
    m = medoids(cloud, None, 0, RADIUS)
    larger = codes(7 * cloud[:, :, None], 7 * m[:, :, None], 7 * cloud[:, None], 7 * RADIUS)
    torch.testing.assert_close(larger, of_all(cloud))


@pytest.mark.parametrize(("neighbours", "radius"), [(0, 1.0), (4, 9.0), (6, 1.0), (9, 0.05), (9, 2.0)])
def test_the_medoid_has_the_smallest_sum_of_squared_distances(
    neighbours: int, radius: float, cloud: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.encodings.point_codes.BLOCK_BYTES", 2 * 8 * 9 * 3)  # two queries at a time
    real = torch.ones(1, 9, dtype=torch.bool)
    real[0, 7], cloud[0, 7] = False, torch.nan
    found, points = medoids(cloud, real, neighbours, radius)[0], cloud[0]
    for i, p in enumerate(points):
        if i == 7:
            continue
        others = sorted((j for j in range(9) if j != 7), key=lambda j: float((points[j] - p).norm()))
        near = [j for j in others if (points[j] - p).norm() <= radius][:neighbours] if neighbours else others
        candidates = [j for j in near if j != i] or [i]
        best = min(candidates, key=lambda j: sum(float((points[j] - points[k]).square().sum()) for k in near))
        assert torch.equal(found[i], points[best])


def test_neighbours_are_the_nearest_within_the_radius(cloud: torch.Tensor) -> None:
    index, within = nearest(cloud, cloud, None, 5, radius=1.2)
    distance = torch.cdist(cloud, cloud)[0]
    for i in range(9):
        order = distance[i].argsort()[:5]
        assert index[0, i].tolist() == order.tolist()
        assert within[0, i].tolist() == (distance[i, order] <= 1.2).tolist()
    assert index[0, :, 0].tolist() == list(range(9)), "itself first"
    assert not within.all()


def test_the_angle_goes_once_around() -> None:
    axis, a = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 3.0])
    for angle in (-3.0, -1.0, 0.0, 0.5, 3.0):
        b = torch.tensor([math.cos(angle), math.sin(angle), -1.0])
        torch.testing.assert_close(signed_angle(axis, a, b), torch.tensor(angle))


def test_gradients_are_finite_where_directions_and_planes_are_undefined() -> None:
    """The origin itself, two points at one place, and points on one ray."""
    points = torch.tensor([[0.0, 0, 0], [1, 2, 3], [1, 2, 3], [2, 4, 6], [0, 0, 1]], dtype=torch.float64)
    leaf = points[None].requires_grad_()
    found = of_all(leaf)
    assert found.isfinite().all()
    found.square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    apart = torch.randn(1, 5, 3, dtype=torch.float64)
    pairs = [(i, j) for i, j in itertools.product(range(5), repeat=2) if i != j]
    i, j = (torch.tensor(x) for x in zip(*pairs, strict=True))
    m = torch.randn(1, 20, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: codes(x[:, i], m, x[:, j], RADIUS), [apart.requires_grad_()])
