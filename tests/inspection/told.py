"""What sentences are read back with: which are known, how their numbers are held against others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from whorl.results.inspection import Inspection, UShape

NUMBER = r"(-?[\d,]+(?:\.\d+)?(?:e[+-]\d+)?)"
SIZE = rf"{NUMBER}(?: ± {NUMBER})?"
PAIRS = r"((?i:pairs?) [\d, andto]+|\d+ pairs between \d+ and \d+)"
WHERE = r"on (the text|random tokens)(?: \(mean over ([^)]*)\))?"
ASIDE = r"(?: \(of (\d+) of (\d+) layers\))?"
UNIT = r"(?: standard deviations)?"
Found = Sequence[str | None]
KNOWN: list[tuple[re.Pattern[str], Callable[[Inspection, Found], None]]] = []


class Wrong(AssertionError):
    """A sentence says what the numbers do not."""


def sentence(*patterns: str) -> Callable[[Callable[[Inspection, Found], None]], Callable[[Inspection, Found], None]]:
    def known(check: Callable[[Inspection, Found], None]) -> Callable[[Inspection, Found], None]:
        KNOWN.extend((re.compile(pattern), check) for pattern in patterns)
        return check

    return known


def check(m: Inspection, told: str) -> None:
    """Raises Wrong for a sentence that is not known, or not true."""
    for pattern, holds in KNOWN:
        if found := pattern.fullmatch(told.removesuffix(".")):
            try:
                holds(m, found.groups())
            except Wrong as error:
                raise Wrong(f"{error}: {told}") from None
            return
    raise Wrong(f"no one knows this sentence: {told}")


def value(text: str | None) -> float:
    assert text is not None
    return float(text.replace(",", ""))


def says(what: str, text: str | None, true: float | None, slack: float = 0.0) -> None:
    """A number in words is the true one, to its last digit. slack: what a binned array cannot tell."""
    if text is None or true is None:
        if text is not None or true is not None:
            raise Wrong(f"{what} is {true}, told {text}")
        return
    decimals = len(text.partition(".")[2].split("e")[0])
    unit = 10.0**-decimals * (10 ** int(text.partition("e")[2]) if "e" in text else 1)
    if not abs(value(text) - true) <= 0.5 * unit * 1.0001 + slack + 1e-6 * abs(true):
        raise Wrong(f"{what} is {true}, told {text}")


def percent(what: str, text: str | None, true: float | None, slack: float = 0.0) -> None:
    says(what, text, None if true is None else 100 * true, 100 * slack)


def same(what: str, told: object, true: object) -> None:
    if told != true:
        raise Wrong(f"{what}: {true}, told {told}")


def numbers(text: str) -> set[int]:
    """`0 to 2 and 7`."""
    found: set[int] = set()
    for low, high in re.findall(r"(\d+)(?: to (\d+))?", text):
        found |= set(range(int(low), int(high or low) + 1))
    return found


def are(what: str, text: str, true: Sequence[int]) -> None:
    """`pairs 0 to 2 and 7`, `23 pairs between 0 and 60`."""
    if some := re.fullmatch(r"(\d+) (?:pairs|layers) between (\d+) and (\d+)", text):
        same(what, tuple(map(int, some.groups())), (len(true), min(true), max(true)))
    else:
        same(what, numbers(text), set(true))


def over(m: Inspection, text: str | None, layers: Sequence[int]) -> None:
    """`3 of 18 layers: 5, 11 and 17`."""
    every = m.summary.model.layers
    if text is None:
        same("layers of the mean", every, len(layers))
        return
    found = re.fullmatch(r"(\d+) of (\d+) layers(?:: (.*))?", text)
    assert found is not None
    same("layers of the mean", (int(found[1]), int(found[2])), (len(layers), every))
    if found[3] is not None:
        same("layers of the mean", numbers(found[3]), set(layers))


def aside(m: Inspection, some: str | None, every: str | None) -> None:
    plan = m.summary.plan
    chosen = None if plan is None else plan.layers
    told = None if some is None else (int(some), int(every or 0))
    same("layers that were measured", told, None if chosen is None else (len(chosen), m.summary.model.layers))


# What arrays and JSON say


def in_range(m: Inspection) -> bool:
    """Whether arrays by distance on the text are of windows in range."""
    return m.summary.settings.length <= m.train_length or int(m.distance_to[-1]) <= m.train_length


def shape(m: Inspection, words: str | None) -> UShape:
    found = m.summary.u_shape.text if words == "the text" else m.summary.u_shape.random
    assert found is not None
    return found


def regions(m: Inspection, words: str | None) -> dict[int, tuple[float, float]] | None:
    """(rise, near end) of every layer's mean logit by distance, over (query, key) pairs; None where no array has it."""
    name = "logit" if words == "the text" else "random_logit"
    if name not in m.arrays or (words == "the text" and not in_range(m)):
        return None
    length = min(m.summary.settings.length, m.train_length)
    means = m.arrays[name].astype(float).mean(1)
    start, stop = m.arrays["distance_from"], m.arrays["distance_to"]
    at = np.arange(length)
    bins = np.searchsorted(stop, at, "right")
    by_distance, pairs = means[:, bins], np.maximum(length - 1 - at, 0)
    assert (start[bins] <= at).all()

    def over(low: int, high: int) -> np.ndarray:
        those = np.where(pairs[low:high] > 0, by_distance[:, low:high], 0.0)
        return (those * pairs[low:high]).sum(1) / max(pairs[low:high].sum(), 1)

    near, middle = over(1, max(2, length // 8)), over(3 * length // 8, 5 * length // 8)
    far = over(7 * length // 8, length)
    return {i: (far[i] - middle[i], near[i] - middle[i]) for i in range(len(means)) if np.isfinite(far[i])}


def binned(m: Inspection) -> float:
    """What bins of several distances may hide of a region's mean, in parts of a layer's largest."""
    return 0.0 if min(m.summary.settings.length, m.train_length) <= 512 else 0.05


def check_shape(m: Inspection, words: str | None, u: UShape) -> None:
    """The shape's own numbers, from the curves."""
    seen = regions(m, words)
    if seen is None:
        return
    same("layers of the U-shape", [layer.layer for layer in u.layers], sorted(seen))
    rises, nears = (np.array([row[i] for row in seen.values()]) for i in (0, 1))
    slack = 1e-3 + binned(m) * float(np.abs([rises, nears]).max())
    for what, true, told in (("rise", rises.mean(), u.rise), ("near end", nears.mean(), u.near)):
        if abs(true - told) > slack:
            raise Wrong(f"the {what} of the curves is {true}, the JSON says {told}")
    for layer in u.layers:
        if abs(seen[layer.layer][0] - layer.rise) > slack:
            raise Wrong(f"layer {layer.layer} rises by {seen[layer.layer][0]}, the JSON says {layer.rise}")
    same("appears", u.appears, u.stderr is not None and u.rise > 2 * u.stderr and u.near > 0)
    parts = sum(pair.rise for pair in u.pairs)
    if u.pairs and m.summary.added is None and full(m) and abs(parts - u.rise) > 1e-3 * max(1.0, abs(u.rise)):
        raise Wrong(f"the pairs' parts make {parts}, the rise is {u.rise}")


def full(m: Inspection) -> bool:
    """Whether pairs have all channels of a head."""
    return all(2 * row.pairs == m.summary.model.head_dim for row in m.summary.spectrum.layers)


def check_activated(m: Inspection, u: UShape) -> None:
    """Those pairs are the fewest that make 80 % of all that rises, and what HoPE removes turns less than once."""
    assert u.activated is not None
    rising = sorted((pair.rise for pair in u.pairs if pair.rise > 0), reverse=True)
    chosen = [pair for pair in u.pairs if pair.pair in u.activated.pairs]
    count = len(chosen)
    goal = 0.8 * sum(rising)
    if not sum(rising[: count - 1]) < goal <= sum(rising[:count]) * 1.000001:
        raise Wrong(f"{count} pairs are not the fewest that make 80 % of what rises")
    if min(pair.rise for pair in chosen) < rising[count - 1]:
        raise Wrong("other pairs rise further")
    if abs(sum(pair.rise for pair in chosen) / u.rise - u.activated.share) > 1e-3 * max(1.0, u.activated.share):
        raise Wrong(f"their share is {sum(pair.rise for pair in chosen) / u.rise}")
    (kind,) = {
        (row.hope_cut, row.pairs) for row in m.summary.spectrum.layers if row.layer in {x.layer for x in u.layers}
    }
    waves = {pair.pair: pair.wavelength for pair in u.pairs}
    turning = [p for p in u.activated.pairs if waves[p] is not None]
    removed = [p for p in turning if (waves[p] or 0) > m.train_length * 1.000001]
    same("removed by HoPE's cut", u.activated.removed_by_hope, len(removed))
    same("HoPE's cut", kind[0], sum(1 for w in waves.values() if w is not None and w <= m.train_length * 1.000001))


def words_of_removed(u: UShape) -> str:
    assert u.activated is not None
    removed, count = u.activated.removed_by_hope, len(u.activated.pairs)
    if count == 1:
        return "it" if removed else "none of it"
    return f"all {count}" if removed == count else f"{removed or 'none'} of the {count}"


def waves(m: Inspection, text: str | None, u: UShape) -> None:
    """`130 to 730`, `250`."""
    assert u.activated is not None
    known = [p.wavelength for p in u.pairs if p.pair in u.activated.pairs and p.wavelength is not None]
    if not known:
        same("wavelengths", text, None)
        return
    told = (text or "").split(" to ")
    for shown, true in ((told[0], min(known)), (told[-1], max(known))):
        length(shown, true)


def length(text: str, true: float) -> None:
    """`6.28`, `250`, `5.6 M`."""
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}
    number, _, unit = text.partition(" ")
    says("wavelength", number, true / scale.get(unit, 1.0))
