"""The charts: which axes and which frequencies each head uses, and maps of its attention."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whorl.reports.axes import cell_ticks
from whorl.reports.bins import mean
from whorl.reports.chart import Chart, Columns, HeatFrame, HeatView, Marks
from whorl.reports.formatting import number
from whorl.reports.inspection.drawing import Cells, Scale, cells, heat, heat_view
from whorl.results.image_inspection import Axes, ImageHead, ImageInspection

Models = Sequence[ImageInspection]
MOST_CELLS = 60_000  # of the map of all heads; farther offsets are left out past it
MOST_MAPS = 240_000  # cells of the maps of single layers, which are left out past it


def all_charts(models: Models) -> dict[str, Chart]:
    """Every chart that the results are enough for, by name."""
    return {chart.name: chart for chart in (_axes(models), _pairs(models), _maps(models)) if chart is not None}


_IMAGES_GRID = " (the images', of a model that takes any size)"


def _axes(models: Models) -> Chart | None:
    """Layer x head: the shares of each axis, in queries and in keys."""
    views = []
    quantities = {"rows": "by rows", "columns": "by columns", "still": "not rotating", "unfit": "no full turn"}
    for side in ("queries", "keys"):  # a picture shows the first three views
        for key, words in quantities.items():
            tables = [_by_head(m, lambda h, key=key, side=side: part_of(getattr(h, side), key)) for m in models]  # type: ignore[misc]
            if key == "still" and not any(np.nansum(table) for table in tables):
                continue
            parts = [_of_heads(table) for table in tables]
            views.append(heat_view(models, f"{words}, {side}", "share of the norm", "sequential", parts, high=1.0))
    caption = (
        "The part of the norm of a head's queries, and of its keys, in pairs that turn by rows, by columns, in those "
        "that do not rotate, and in those that make no full turn along any side of the model's own grid"
        + _IMAGES_GRID * any(not m.summary.model.sized for m in models)
        + "."
    )
    return heat("axes", "Which axes each head uses", caption, "head", views)


def _by_head(m: ImageInspection, read: Callable[[ImageHead], float | None]) -> np.ndarray:
    table = np.full((m.summary.model.layers, m.summary.model.heads), np.nan)
    for h in m.summary.heads:
        value = read(h)
        table[h.layer, h.head] = math.nan if value is None else value
    return table


def part_of(axes: Axes | None, key: str) -> float | None:
    return None if axes is None else float(getattr(axes, key))


def _of_heads(table: np.ndarray) -> Cells:
    heads = table.shape[1]
    columns = Columns(tuple(f"head {i}" for i in range(heads)))
    return Cells(cell_ticks(heads), (columns,), [cells("layer", table, lambda i: f"layer {i}")])


def _pairs(models: Models) -> Chart | None:
    """Layer x pair, mean over heads, and head x pair of each layer: norms, turns within the grid, directions."""
    views: list[HeatView | None] = []
    for words, name in (("queries", "norm_q"), ("keys", "norm_k")):
        views.append(_of_pairs(models, words, "mean 2-norm", [m.measured(name) for m in models]))
    views.append(_of_pairs(models, "turns in the grid", "full turns", [_turns(m) for m in models]))
    if any(is_mixed(m) for m in models):
        found = [_directions(m) if is_mixed(m) else None for m in models]
        views.append(_of_pairs(models, "direction", "degrees", found))
    views.append(_of_pairs(models, "values", "mean 2-norm", [m.measured("norm_v") for m in models]))
    deepest = max(m.summary.model.layers for m in models)
    options = ("all layers, mean over heads", *(f"layer {layer}, its heads" for layer in range(deepest)))
    caption = (
        "The norm of each pair in queries, keys and values (which are not turned: the control), and how many times it "
        "turns from one side of the model's own grid"
        + _IMAGES_GRID * any(not m.summary.model.sized for m in models)
        + " to the other, along the side where that is more; below 1 it makes no full turn."
        + " The direction of a pair of mixed frequencies is that in which it turns fastest: 0 degrees from column to "
        "column, 90 from row to row downwards." * any(is_mixed(m) for m in models)
    )
    return heat("pairs", "Which frequencies each head uses", caption, "pair", views, "layer", options)


def is_mixed(m: ImageInspection) -> bool:
    """Whether pairs turn by rows and columns together."""
    along = m.measured("frequency")
    return along is not None and bool(((along != 0) & np.isfinite(along)).all(-1).any())


def _turns(m: ImageInspection) -> np.ndarray | None:
    """[layer, head, pair]: full turns across the model's own grid, along the side where they are more."""
    along = m.measured("frequency")
    sides = np.array([m.summary.model.rows, m.summary.model.columns])
    return None if along is None else (np.abs(along) * sides).max(-1) / (2 * math.pi)


def _directions(m: ImageInspection) -> np.ndarray | None:
    """[layer, head, pair]: degrees from 0 to 180; NaN where a pair does not rotate."""
    along = m.measured("frequency")
    if along is None:
        return None
    found = np.degrees(np.arctan2(along[..., 0], along[..., 1])) % 180
    return np.where((along == 0).all(-1), np.nan, found)


def _of_pairs(models: Models, label: str, unit: str, found: Sequence[np.ndarray | None]) -> HeatView | None:
    parts: list[Cells | None] = []
    for m, values in zip(models, found, strict=True):
        if values is None:
            parts.append(None)
            continue
        pairs, shared = values.shape[-1], not is_mixed(m)
        kinds: dict[Columns, int] = {}

        def kind(layer: int, head: int | None, m: Any = m, pairs: int = pairs, kinds: Any = kinds) -> int:
            notes = tuple(_pair_note(m, layer, head, pair) for pair in range(pairs))
            found: int = kinds.setdefault(Columns(notes), len(kinds))
            return found

        layers = range(values.shape[0])
        of_layers = [kind(layer, 0 if shared else None) for layer in layers]
        options = [cells("layer", mean(values, 1), lambda i: f"layer {i}", of_layers)]
        for layer in layers:
            of_heads = [kind(layer, h) for h in range(values.shape[1])]
            options.append(
                cells("head", values[layer], lambda h, layer=layer: f"layer {layer}, head {h}", of_heads)  # type: ignore[misc]
            )
        parts.append(Cells(cell_ticks(pairs), tuple(kinds), options))
    scale: Scale = "sequential"
    return heat_view(models, label, unit, scale, parts)


def _pair_note(m: ImageInspection, layer: int, head: int | None, pair: int) -> str:
    """`pair 3, one turn in 12.6 rows`, `pair 3, one turn in 9.1 patches at 37 degrees`."""
    along = m.measured("frequency")
    if along is None or head is None or not np.isfinite(along[layer, head, pair]).all():
        return f"pair {pair}"
    rows, columns = map(float, along[layer, head, pair])
    if not rows and not columns:
        return f"pair {pair}, does not rotate"
    turn = 2 * math.pi / math.hypot(rows, columns)
    if rows and columns:
        at = math.degrees(math.atan2(rows, columns)) % 180
        return f"pair {pair}, one turn in {number(turn)} patches at {at:.0f} degrees"
    return f"pair {pair}, one turn in {number(turn)} {'rows' if rows else 'columns'}"


def _maps(models: Models) -> Chart | None:
    """All heads' maps in one, and those of each layer."""
    deepest = max(m.summary.model.layers for m in models)
    size = sum(x.size for m in models if (x := m.measured("attention")) is not None)
    singly = range(deepest) if size <= MOST_MAPS else range(0)
    views, cut = [], []
    for label, unit, of, high in (
        ("each over its largest nearby", "weight over the largest of the nearer half of offsets", _over_largest, 1.0),
        ("mean weight", "mean weight", lambda x: x, None),
    ):
        parts: list[Cells | None] = []
        for m in models:
            attention = m.measured("attention")
            if attention is None:
                parts.append(None)
                continue
            values = of(attention.astype(float))
            near = _near(values)
            cut += [near.shape != values.shape]
            layers = [layer for layer in range(len(values)) if np.isfinite(values[layer]).any()]
            columns: dict[Columns, int] = {}
            frames = [_mosaic(near, layers, columns)]
            frames += [
                _mosaic(values[layer : layer + 1], [layer], columns) if layer in layers else None for layer in singly
            ]
            kinds = tuple(columns)
            parts.append(Cells(_middles(near.shape[1], near.shape[3]), kinds, frames))
        views.append(heat_view(models, label, unit, "sequential", parts, high))
    options = ("all layers and heads", *(f"layer {layer}, its heads" for layer in singly))
    caption = "A map for each layer (from above) and head (from the left): rows down, columns to the right."
    if any(cut):
        caption += " Offsets farther than those shown are in inspection.npz."
    return heat("maps", "Where heads look", caption, "head", views, "maps", options)


def _over_largest(values: np.ndarray) -> np.ndarray:
    """Over the largest of the offsets that half of the rows and columns reach: few patches have the others."""
    height, width = values.shape[-2:]
    half = values[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    top = np.where(np.isfinite(half), half, 0.0).max((-2, -1), keepdims=True)
    return np.where(top > 0, values / np.where(top > 0, top, 1.0), np.nan)


def _near(values: np.ndarray) -> np.ndarray:
    """The offsets around the middle of maps [layer, head, down, right], as many as all maps together may have."""
    layers, heads, *sizes = values.shape
    side = max(5, int(math.sqrt(MOST_CELLS / (layers * heads))))
    firsts = [max(0, (size - side + 1) // 2) for size in sizes]
    down, right = (slice(first, size - first) for first, size in zip(firsts, sizes, strict=True))
    return values[:, :, down, right]


def _mosaic(values: np.ndarray, layers: Sequence[int], kinds: dict[Columns, int]) -> HeatFrame | None:
    """Maps [layer, head, down, right] side by side, an empty cell between them; those of `layers`."""
    if not layers:
        return None
    _, heads, height, width = values.shape
    of_layers = values[layers] if len(values) > 1 else values
    padded = np.pad(of_layers, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    table = padded.transpose(0, 2, 1, 3).reshape(len(layers) * (height + 1), heads * (width + 1))[:-1, :-1]
    columns = Columns(tuple(_place_note(f"head {i // (width + 1)}", i % (width + 1), width, "right", "left")
                            for i in range(table.shape[1])))  # fmt: skip
    kind = kinds.setdefault(columns, len(kinds))

    def note(row: int) -> str:
        return _place_note(f"layer {layers[row // (height + 1)]}", row % (height + 1), height, "down", "up")

    frame = cells("layer", table, note, [kind] * len(table))
    if frame is None:
        return None
    ticks: Marks = tuple((n * (height + 1) + height / 2, str(layer)) for n, layer in enumerate(layers))
    return HeatFrame(frame.label, ticks, frame.rows)


def _middles(heads: int, width: int) -> Marks:
    return tuple((head * (width + 1) + width / 2, str(head)) for head in range(heads))


def _place_note(name: str, at: int, size: int, ahead: str, back: str) -> str:
    by = at - size // 2
    return f"{name}, {f'{abs(by)} {ahead if by > 0 else back}' if by else 'the same'}" if at < size else ""
