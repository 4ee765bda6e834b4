"""What SPE-Net says of a point and its neighbour: 19 numbers in three codes. Qiu et al., ECCV 2022, arXiv 2211.08250.

For a point p, its neighbour n, the radius r of a neighbourhood, its medoid m (of the neighbours but p itself, the one
with the smallest sum of squared distances to all of them) and s = p + r p / |p|, which is pushed outward from the
origin; lengths are in radii:

xyz, 0 .. 2    (p - n), unchanged where the cloud is moved
z, 3 .. 6      p_z - n_z; the length of the horizontal part h of p - n; cosine and z of the cross product between the
               directions of h and of p's own horizontal part: unchanged where the cloud is turned about the z axis
so3, 7 .. 18   |p|, |p - m|, |s - m|; the cosines at m between p and s, and at s between p and m; |n - m|, |n - p|,
               |n - s|; the cosines at n between m and p, p and s, s and m; cos(a / 4) - sin(a / 4) - 3/4 for the signed
               angle a from the plane of s, p, m to that of s, p, n: unchanged by every turn about the origin, and
               changed by a mirror, through a alone

Otherwise than the official code (4735dc0) has it:

- every length is divided by r, once. There, the horizontal part and p_z - n_z are divided twice in the stem, and the
  lengths of so3 not at all: what batch normalisation hides
- a is atan2 of a triple product. There it is acos times a sign: for n = m, where both planes are one, the sign is that
  of an exact zero and acos has an infinite slope, and every turn gave another number
- directions of length 0 (p at the origin, n at p) are 0, and a is 0 where a plane is undefined; gradients are finite

What stays: a jumps by a full turn where n lies opposite to m, and all but xyz depends on where the origin is.
"""

from __future__ import annotations

import torch
from torch.linalg import vector_norm

CODES = {"xyz": slice(0, 3), "z": slice(3, 7), "so3": slice(7, 19)}
COUNT = 19
BLOCK_BYTES = 16 << 20  # of distances, for a block of queries

# Shape letters: B batch, Q queries, K keys, N neighbours.


def codes(p: torch.Tensor, m: torch.Tensor, n: torch.Tensor, radius: float) -> torch.Tensor:
    """The numbers of points p with medoids m and neighbours n, [..., 3] each (or what broadcasts): [..., 19]."""
    p, m, n = torch.broadcast_tensors(p / radius, m / radius, n / radius)
    s = p + direction(p)
    offset = p - n
    across, outward = direction(offset[..., :2]), direction(p[..., :2])
    p_m, p_s, s_m = p - m, p - s, s - m
    n_m, n_p, n_s = m - n, offset, s - n
    at_n = [direction(x) for x in (n_m, n_p, n_s)]
    a = signed_angle(p_s, -p_m, -offset)
    of_z = [offset[..., 2], vector_norm(offset[..., :2], dim=-1), _dot(across, outward), _cross_2d(across, outward)]
    of_turns = [
        *(vector_norm(x, dim=-1) for x in (p, p_m, s_m)),
        _dot(direction(p_m), direction(s_m)),
        _dot(direction(p_s), direction(-s_m)),
        *(vector_norm(x, dim=-1) for x in (n_m, n_p, n_s)),
        *(_dot(at_n[i], at_n[(i + 1) % 3]) for i in range(3)),
        (a / 4).cos() - (a / 4).sin() - 0.75,
    ]
    return torch.cat([offset, torch.stack([*of_z, *of_turns], -1)], -1)


def direction(x: torch.Tensor) -> torch.Tensor:
    """x at length 1; 0 where x is 0."""
    length = vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


def signed_angle(axis: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The angle about an axis by which the half plane of a is turned to that of b, in -pi .. pi; 0 where one is
    undefined."""
    axis = direction(axis)
    sine, cosine = _dot(axis, torch.linalg.cross(a, b)), _dot(torch.linalg.cross(axis, a), torch.linalg.cross(axis, b))
    return torch.atan2(sine, cosine)  # of 0 and 0 it is 0, and so is its gradient


def nearest(
    p: torch.Tensor, n: torch.Tensor, seen: torch.Tensor | None, neighbours: int, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the points n [B, K, 3] are the nearest to each p [B, Q, 3], in order, and which of these lie within the
    radius: int64 and bool [B, Q, min(neighbours, K)]. seen: bool [B or 1, Q or 1, K], False for what is no point."""
    with torch.no_grad():
        squared = (p[:, :, None] - n[:, None]).square().sum(-1)
        if seen is not None:
            squared = squared.masked_fill(~seen, torch.inf)
        found = squared.topk(min(neighbours, n.shape[1]), dim=-1, largest=False)
        return found.indices, found.values <= radius**2


def points_at(points: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Of points [B, K, 3], those with these numbers [B, Q, N]: [B, Q, N, 3]."""
    return points.gather(1, index.flatten(1)[..., None].expand(-1, -1, 3)).unflatten(1, index.shape[1:])


def medoids(points: torch.Tensor, real: torch.Tensor | None, neighbours: int, radius: float) -> torch.Tensor:
    """The medoid of each point's neighbourhood, [B, K, 3], for points [B, K, 3]; the point itself where it has no
    neighbour.

    real: bool [B or 1, K], False for padding. neighbours: of each point, within the radius; 0: all points. The sum of
    squared distances to all is smallest for what is nearest to their mean, so that none of them is taken.
    """
    if neighbours:
        rows = max(1, BLOCK_BYTES // (points.element_size() * max(1, points.shape[0]) * points.shape[1] * 3))
        starts = range(0, points.shape[1], rows)
        return torch.cat([_medoids_near(points, real, first, rows, neighbours, radius) for first in starts], 1)
    with torch.no_grad():
        far = (points - mean_of(points, real)).square().sum(-1)
        if real is not None:
            far = far.masked_fill(~real, torch.inf)
        found = far.topk(min(2, far.shape[1]), dim=-1, largest=False)
        own = torch.arange(far.shape[1], device=far.device)
        index = found.indices[:, :1].expand_as(far)
        if found.indices.shape[1] > 1:  # the second, for the one that is the medoid of all others
            second = found.indices[:, 1:].where(found.values[:, 1:].isfinite(), own)
            index = torch.where(index == own, second, index)
    return points_at(points, index[..., None])[:, :, 0]


def mean_of(points: torch.Tensor, there: torch.Tensor | None) -> torch.Tensor:
    """The mean over the points of [..., points, numbers] that are there, [..., 1, numbers]; 0 where none is.

    there: bool [..., points], or None: all are. Those that are not may be anything, NaN too.
    """
    if there is None:
        return points.mean(-2, keepdim=True)
    kept = points.masked_fill(~there[..., None], 0.0)
    return kept.sum(-2, keepdim=True) / there.sum(-1)[..., None, None].clamp(min=1)


def _medoids_near(
    points: torch.Tensor, real: torch.Tensor | None, first: int, rows: int, neighbours: int, radius: float
) -> torch.Tensor:
    """Those of the points first .. first + rows - 1."""
    p = points[:, first : first + rows]
    index, within = nearest(p, points, None if real is None else real[:, None], neighbours, radius)
    own = torch.arange(first, first + p.shape[1], device=points.device)[:, None]
    with torch.no_grad():
        near = points_at(points, index)
        other = within & (index != own)
        far = (near - mean_of(near, within)).square().sum(-1).masked_fill(~other, torch.inf)
        best = index.gather(-1, far.argmin(-1, keepdim=True))
        best = torch.where(other.any(-1, keepdim=True), best, own)
    return points_at(points, best)[:, :, 0]


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1)


def _cross_2d(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
