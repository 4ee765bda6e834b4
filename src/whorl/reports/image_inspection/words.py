"""What is said of one model, as findings; each is of numbers in inspection.json."""

import math
from collections.abc import Iterable

import numpy as np

from whorl.reports.formatting import capital, listing, number, plural
from whorl.reports.image_inspection.charts import part_of
from whorl.reports.inspection.telling import Finding, share
from whorl.results.image_inspection import ImageHead, ImageInspection

POSITIONAL = 0.5  # mean weight at one offset from which on a head is a positional head


def findings(m: ImageInspection) -> list[Finding]:
    """What one model's inspection shows."""
    found = [_of_axes(m), _of_unfit(m), _of_distance(m), _of_prefix(m), _of_offsets(m)]
    return [finding for finding in found if finding is not None]


def _means(m: ImageInspection, key: str) -> tuple[float, float] | None:
    """The mean over heads of a share, in queries and in keys; None where no layer turns."""
    sides = [
        [
            value
            for h in m.summary.heads
            if (value := part_of(getattr(h, side), key)) is not None and math.isfinite(value)
        ]
        for side in ("queries", "keys")
    ]
    return None if not all(sides) else (float(np.mean(sides[0])), float(np.mean(sides[1])))


def _of_axes(m: ImageInspection) -> Finding | None:
    rows, columns, still = (_means(m, key) for key in ("rows", "columns", "still"))
    if rows is None or columns is None or still is None:
        return None
    some = _some(m)
    said = (
        f"In the mean over heads{some}, turns by rows hold {share(rows[0])} of the norm of queries and "
        f"{share(rows[1])} of that of keys, turns by columns {share(columns[0])} and {share(columns[1])}"
    )
    if max(still) > 0:
        said += f", and pairs that do not rotate {share(still[0])} and {share(still[1])}"
    turning = [h for h in m.summary.heads if h.queries is not None and math.isfinite(h.queries.rows)]
    most = max(turning, key=lambda h: abs(h.queries.rows - h.queries.columns))  # type: ignore[union-attr]
    assert most.queries is not None
    said += (
        f". The queries of {_head(most)} are the most one-sided: {share(most.queries.rows)} by rows and "
        f"{share(most.queries.columns)} by columns."
    )
    return Finding(said, "axes")


def _some(m: ImageInspection) -> str:
    """` of 2 of 4 layers`, where the others turn nothing."""
    turning = {h.layer for h in m.summary.heads if h.queries is not None}
    every = m.summary.model.layers
    return "" if len(turning) == every else f" of {len(turning)} of {every} layers"


def _of_unfit(m: ImageInspection) -> Finding | None:
    along, shares = m.measured("frequency"), _means(m, "unfit")
    if along is None or shares is None:
        return None
    turning = [h for h in m.summary.heads if h.queries is not None]
    pairs = [int(np.isfinite(along[h.layer, h.head]).all(-1).sum()) for h in turning]
    moving = [int((np.nan_to_num(along[h.layer, h.head]) != 0).any(-1).sum()) for h in turning]
    whose = "the model's own grid" if m.summary.model.sized else "the images' grid"
    grid = f"{whose} of {m.summary.model.rows} x {m.summary.model.columns} patches"
    few = [len(h.unfit) for h in turning]
    if not any(few):
        return Finding(f"Every pair that turns makes a full turn in {grid}, along one of its sides.", "pairs")
    of = _range(moving)
    still = f" ({_range(p - n for p, n in zip(pairs, moving, strict=True))} more do not rotate)" * (pairs != moving)
    all_of_them = "none makes a full turn" if few == moving else f"{_range(few)} make no full turn"
    return Finding(
        f"Of the {of} pairs of a head that turn{still}, {all_of_them} along any side of {grid}: they hold "
        f"{share(shares[0])} of the norm of queries and {share(shares[1])} of that of keys.",
        "pairs",
    )


def _range(values: Iterable[int]) -> str:
    """`3`, `3 to 5`."""
    known = sorted(values)
    return str(known[0]) if known[0] == known[-1] else f"{known[0]} to {known[-1]}"


def _of_distance(m: ImageInspection) -> Finding | None:
    far = [h for h in m.summary.heads if h.distance is not None and math.isfinite(h.distance)]
    if not far or not m.summary.settings.even_distance:  # of a single patch
        return None
    distances = {(h.layer, h.head): h.distance for h in far if h.distance is not None}
    average = float(np.mean(list(distances.values())))
    nearest, farthest = (of(distances, key=distances.__getitem__) for of in (min, max))
    said = (
        f"Patches attend to others {number(average)} patches away in the mean over heads, where even attention would "
        f"look {number(m.summary.settings.even_distance)} away."
    )
    if "windows" in m.summary.absent:
        said += f" ({capital(m.summary.absent['windows'])}.)"
    if nearest != farthest:
        said += (
            f" {capital(_named(nearest))} looks nearest ({number(distances[nearest])}), {_named(farthest)} farthest "
            f"({number(distances[farthest])})."
        )
    return Finding(said, "maps")


def _of_prefix(m: ImageInspection) -> Finding | None:
    on = {(h.layer, h.head): h.prefix for h in m.summary.heads if h.prefix is not None}
    if not on:
        return None
    count, settings = m.summary.model.prefix, m.summary.settings
    even = count / (count + settings.rows * settings.columns)
    most = max(on, key=on.__getitem__)
    tokens = "the token that stands" if count == 1 else f"the {plural(count, 'token')} that stand"
    return Finding(
        f"A patch gives {share(float(np.mean(list(on.values()))))} of its attention to {tokens} before the patches, in "
        f"the mean over heads; an even share is {share(even)}. {capital(_named(most))} gives most, "
        f"{share(on[most])}.",
        "maps",
    )


def _of_offsets(m: ImageInspection) -> Finding | None:
    told = {(h.layer, h.head): (h.there, h.down, h.right) for h in m.summary.heads
            if h.there is not None and h.down is not None and h.right is not None}  # fmt: skip
    if not told:
        return None
    ordered = sorted(told.items(), key=lambda item: -item[1][0])
    strong = [item for item in ordered if item[1][0] >= POSITIONAL]

    def words(item: tuple[tuple[int, int], tuple[float, int, int]]) -> str:
        at, (weight, down, right) = item
        return f"{_named(at)} gives {share(weight)} to {offset_in_words(down, right)}"

    if not strong:
        most = f"at most, {words(ordered[0])}"
        return Finding(f"No head gives half of its attention to one offset within half of the grid; {most}.", "maps")
    named = listing([words(item) for item in strong[:3]])
    count = f"{len(strong)} of {len(told)} heads {'give' if len(strong) > 1 else 'gives'}"
    more = f" The strongest: {named}" if len(strong) > 3 else f" {capital(named)}"
    return Finding(f"{count} half of a patch's attention or more to one offset within half of the grid.{more}.", "maps")


def offset_in_words(down: int, right: int) -> str:
    """`the patch itself`, `the patch 1 row up`, `the patch 2 rows down and 1 column to the left`."""
    parts = []
    if down:
        parts.append(f"{abs(down)} row{'s' * (abs(down) > 1)} {'down' if down > 0 else 'up'}")
    if right:
        parts.append(f"{abs(right)} column{'s' * (abs(right) > 1)} to the {'right' if right > 0 else 'left'}")
    return f"the patch {listing(parts)}" if parts else "the patch itself"


def _head(h: ImageHead) -> str:
    return _named((h.layer, h.head))


def _named(at: tuple[int, int]) -> str:
    return f"head {at[1]} of layer {at[0]}"
