"""Twelve solids as triangles, and points drawn evenly on them. Two are mirror images of each other: coils that wind to
the left and to the right, of which all distances are the same.

Each is centred at the mean of its surface and scaled into the unit sphere, so that size tells none from another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

ROUND = 48  # sides of what is round
TURNS = 1.5  # of a coil

Triangles = np.ndarray  # [triangles, 3 corners, 3]


def _grid(points: np.ndarray) -> Triangles:
    """Two triangles for each cell of a grid of points [rows, columns, 3]; those without an area are left out."""
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    found = np.concatenate([np.stack(three, 2).reshape(-1, 3, 3) for three in ((a, b, c), (a, c, d))])
    return found[_areas(found) > 1e-12]


def _revolved(radius: Sequence[float] | np.ndarray, height: Sequence[float] | np.ndarray) -> Triangles:
    """A profile turned once about the z axis."""
    angle = np.linspace(0, 2 * np.pi, ROUND + 1)
    r, z = (np.asarray(x, float)[:, None] for x in (radius, height))
    return _grid(np.stack([r * np.cos(angle), r * np.sin(angle), np.broadcast_to(z, (len(z), len(angle)))], -1))


def _hull(corners: Sequence[Sequence[float]], faces: Sequence[Sequence[int]]) -> Triangles:
    """Flat faces, each the corners around it."""
    at = np.asarray(corners, float)
    return np.stack([at[[face[0], face[i], face[i + 1]]] for face in faces for i in range(1, len(face) - 1)])


def _box(x: float, y: float, z: float) -> Triangles:
    corners = [(i * x, j * y, k * z) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    return _hull(corners, [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)])


def _sphere() -> Triangles:
    angle = np.linspace(0, np.pi, ROUND // 2 + 1)
    return _revolved(np.sin(angle), np.cos(angle))


def _torus() -> Triangles:
    angle = np.linspace(0, 2 * np.pi, ROUND // 2 + 1)
    return _revolved(1 + 0.35 * np.cos(angle), 0.35 * np.sin(angle))


def _tetrahedron() -> Triangles:
    corners = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
    return _hull(corners, [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)])


def _octahedron() -> Triangles:
    corners = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    return _hull(corners, [(x, y, z) for x in (0, 1) for y in (2, 3) for z in (4, 5)])


def _pyramid() -> Triangles:
    corners = [(1, 1, 0), (-1, 1, 0), (-1, -1, 0), (1, -1, 0), (0, 0, 1.6)]
    return _hull(corners, [(0, 1, 2, 3), *((i, (i + 1) % 4, 4) for i in range(4))])


def _coil(hand: int) -> Triangles:
    """A tube around a line that winds about the z axis, to the right for a hand of 1 and to the left for -1."""
    along = np.linspace(0, 2 * np.pi * TURNS, 3 * ROUND)[:, None]
    around = np.linspace(0, 2 * np.pi, ROUND // 2 + 1)
    radius = 0.7 + 0.2 * np.cos(around)
    height = 0.2 * np.sin(around) + along / np.pi - TURNS
    return _grid(np.stack([radius * np.cos(along), hand * radius * np.sin(along), height], -1))


SOLIDS: dict[str, Callable[[], Triangles]] = {
    "sphere": _sphere,
    "ellipsoid": lambda: _sphere() * (1.0, 0.7, 0.5),
    "cube": lambda: _box(1, 1, 1),
    "box": lambda: _box(1, 1, 2),
    "cylinder": lambda: _revolved((0, 0.6, 0.6, 0), (-1, -1, 1, 1)),
    "cone": lambda: _revolved((0, 0.8, 0), (0, 0, 2)),
    "torus": _torus,
    "tetrahedron": _tetrahedron,
    "octahedron": _octahedron,
    "pyramid": _pyramid,
    "left coil": lambda: _coil(-1),
    "right coil": lambda: _coil(1),
}
HANDS = tuple(list(SOLIDS).index(name) for name in ("left coil", "right coil"))


@cache
def solid(number: int) -> tuple[Triangles, np.ndarray]:
    """The triangles of a solid, and the share of the surface that each has."""
    found = list(SOLIDS.values())[number]()
    share = _areas(found) / _areas(found).sum()
    found = found - (found.mean(1) * share[:, None]).sum(0)
    return found / np.linalg.norm(found, axis=-1).max(), share


def surface(rng: np.random.Generator, number: int, points: int) -> np.ndarray:
    """So many points drawn evenly from the surface of a solid, [points, 3]."""
    triangles, share = solid(number)
    a, b, c = triangles[rng.choice(len(triangles), size=points, p=share)].transpose(1, 0, 2)
    u, v = np.sqrt(rng.random((points, 1))), rng.random((points, 1))
    found: np.ndarray = (1 - u) * a + u * (1 - v) * b + u * v * c
    return found


def turn(rng: np.random.Generator, how: str) -> np.ndarray:
    """A matrix [3, 3]: "none", "z", evenly about the z axis, or "all", evenly of all turns (a random quaternion)."""
    if how == "none":
        return np.eye(3)
    if how == "z":
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _areas(triangles: Triangles) -> np.ndarray:
    a, b, c = triangles.transpose(1, 0, 2)
    areas: np.ndarray = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
    return areas
