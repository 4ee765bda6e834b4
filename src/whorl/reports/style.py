"""Colours and shapes of marks, once for the page and for PNG. The colours of series are those of Okabe and Ito, which
the colour-blind tell apart; lighter in the page's dark theme."""

import math

Point = tuple[float, float]

LIGHT = {
    "paper": "#ffffff", "raised": "#f6f7f9", "ink": "#1b1e23", "muted": "#5c636e", "faint": "#e4e6ea",
    "line": "#c9cdd4", "still": "#e4e7ec", "notice": "#fff4e0", "notice-edge": "#e69f00", "link": "#0072b2",
    "s0": "#0072b2", "s1": "#d55e00", "s2": "#009e73", "s3": "#cc79a7", "s4": "#e69f00", "s5": "#56b4e9",
    "s6": "#5b5b5b",
    "cold": "#eef2f6", "mid": "#5aa5d2", "hot": "#0b2f5b", "zero": "#f1f2f4", "below-1": "#f3a35f",
    "below-2": "#a04a00", "above-2": "#0b4a82",
    "many-0": "#5b2a86", "many-1": "#00867d", "many-2": "#e0a100",
}  # fmt: skip
DARK = {
    "paper": "#14171b", "raised": "#1c2026", "ink": "#e8eaee", "muted": "#a0a7b3", "faint": "#2a2f37",
    "line": "#454c58", "still": "#2e343d", "notice": "#33290f", "notice-edge": "#e69f00", "link": "#5cb3e8",
    "s0": "#3d9fdc", "s1": "#f0803c", "s2": "#2bbf94", "s3": "#dd9abf", "s4": "#f0b83a", "s5": "#8fd0f5",
    "s6": "#b4b8bf",
    "cold": "#22282f", "mid": "#3f8fc4", "hot": "#e9f6ff", "zero": "#262b32", "below-1": "#c26a1e",
    "below-2": "#ffd9a8", "above-2": "#cfeaff",
    "many-0": "#b58cf0", "many-1": "#2bbf94", "many-2": "#f6d860",
}  # fmt: skip
PRINT = {**LIGHT, "raised": "#ffffff", "notice": "#ffffff"}

SERIES = tuple(name for name in LIGHT if name[0] == "s" and name[1:].isdigit())
"""The colours of series, by name; a series past the last begins again."""
RAMPS = {
    "sequential": ("cold", "mid", "hot"),
    "diverging": ("below-2", "below-1", "zero", "mid", "above-2"),
    "many": ("many-0", "many-1", "many-2"),
}
"""The stops of colours that lie between, by name, at equal steps; between them sRGB is mixed."""
DASHES = {"mark": (5.0, 4.0), "level": (1.5, 3.0), "second": (3.0, 2.0)}
"""Drawn and left out in turn, in pixels: of vertical marks and overlaid views, of levels, of the second cut."""
OPACITY = {"within": 1.0, "turning": 0.65, "beyond": 0.36, "band": 0.16, "thin": 0.45}


def _polygon(sides: int, radius: float, turned: float = 0.0) -> tuple[Point, ...]:
    corners = (math.tau * i / sides + turned for i in range(sides))
    return tuple((round(radius * math.sin(a), 2), round(-radius * math.cos(a), 2)) for a in corners)


MARKS = (
    _polygon(24, 4.0),
    _polygon(4, 5.1, math.tau / 8),
    _polygon(3, 5.0),
    _polygon(4, 4.9),
    _polygon(3, 5.0, math.tau / 2),
)
"""The shapes that mark the points of a series, with colour: corners, in pixels, y downwards. Circle, square, triangle,
diamond, triangle on its tip."""


def colour(name: str) -> str:
    """A colour of the light theme, the one of figures on paper."""
    return LIGHT[name]


def series(index: int) -> str:
    return LIGHT[SERIES[index % len(SERIES)]]


def mark(index: int) -> tuple[Point, ...]:
    return MARKS[index % len(MARKS)]
