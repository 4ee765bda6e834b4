"""Every sentence of an inspection's report, read back and held against its arrays and its JSON.

    python -m tests.inspection.sentences DIR        the report that `whorl inspect --out DIR` wrote

Nothing here calls what wrote the sentences: numbers are computed anew, from the arrays where they have them and from
the JSON's parts elsewhere. A sentence that is not known here is an error, as is one that says another number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from whorl.results.inspection import Head, Inspection, UShape

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


# The account


@sentence(
    r"Whether HoPE's account holds for this model is not resolved: it is about the training length, "
    rf"{NUMBER} tokens, and windows of {NUMBER} were read"
)
def account_of_short(m: Inspection, found: Found) -> None:
    same("lengths", [value(x) for x in found], [m.train_length, m.summary.settings.length])
    same("shorter", m.summary.settings.length < m.train_length, True)


@sentence(rf"Whether HoPE's account holds for this model is not resolved, as a U-shape {WHERE} is not")
def account_open(m: Inspection, found: Found) -> None:
    u = preferred(m, found)
    same("appears", u.appears, False)
    same("open", u.near > 0 and (u.stderr is None or abs(u.rise) <= 2 * u.stderr), True)


@sentence(
    rf"HoPE's account does not hold for this model: its logits have no U-shape {WHERE}"
    r"(, though they have one on the text)?"
)
def account_without(m: Inspection, found: Found) -> None:
    u = preferred(m, found[:2])
    same("appears", u.appears, False)
    same("no U-shape", u.near <= 0 or (u.stderr is not None and u.rise < -2 * u.stderr), True)
    text = m.summary.u_shape.text
    same("on the text", found[2] is not None, found[0] != "the text" and text is not None and text.appears)


@sentence(
    rf"HoPE's account holds for this model: a U-shape {WHERE} is made by {PAIRS}(?:, wavelengths? ([^;]*?))?"
    r"(?:; (it leaves its range first|pair \d+ of them leaves its range first))?; its cut would remove (.*)",
)
def account_holds(m: Inspection, found: Found) -> None:
    u = preferred(m, found[:2])
    makers(m, u, found[2], found[3])
    assert u.activated is not None
    same("removed", u.activated.removed_by_hope, len(u.activated.pairs))
    same("removed", found[5], words_of_removed(u))
    left = m.summary.out_of_range
    same("leaves its range first", found[4] is not None, left is not None)
    if left is not None:
        same(
            "the first pair is one of them",
            left.first_pair is not None and left.first_pair.pair in u.activated.pairs,
            True,
        )
    if found[0] == "random tokens" and m.summary.u_shape.text is not None:
        same("on the text too", m.summary.u_shape.text.appears, True)


@sentence(
    rf"HoPE's account holds only in part: there is a U-shape {WHERE}, made by {PAIRS}(?:, wavelengths? "
    rf"(.*?))?, but (.*)"
)
def account_in_part(m: Inspection, found: Found) -> None:
    u = preferred(m, found[:2])
    makers(m, u, found[2], found[3])
    assert u.activated is not None
    against = found[4] or ""
    text, left = m.summary.u_shape.text, m.summary.out_of_range
    random = found[0] == "random tokens"
    lacks = random and text is not None and not text.appears
    open_ = lacks and text is not None and text.near > 0 and (text.stderr is None or abs(text.rise) <= 2 * text.stderr)
    same("open on the text", "one on the text is not resolved" in against, open_)
    same("none on the text", "there is none on the text" in against, lacks and not open_)
    removed, count = u.activated.removed_by_hope, len(u.activated.pairs)
    if count == 1:
        same("removed", "HoPE's cut would not remove it" in against, removed == 0)
    else:
        words = re.search(r"would remove (?:only (\d+) of|(none) of) the (\d+) pairs", against)
        same("removed", words is not None, removed < count)
        if words:
            same("removed", (int(words[1] or 0), int(words[3])), (removed, count))
    first = None if left is None else left.first_pair
    same("no pair leaves", "no pair leaves its range" in against, left is not None and first is None)
    other = re.search(r"pair (\d+), which is none of them, leaves its range first", against)
    same("another pair", other is not None, first is not None and first.pair not in u.activated.pairs)
    if other and first:
        same("the other pair", int(other[1]), first.pair)


@sentence(rf"HoPE's account holds only in part: the logits have a U-shape {WHERE}, but no group of pairs is known .*")
def account_without_pairs(m: Inspection, found: Found) -> None:
    u = preferred(m, found)
    same("appears, without pairs", (u.appears, u.activated), (True, None))


def preferred(m: Inspection, found: Found) -> UShape:
    """That on random tokens, where they were read."""
    same("read", found[0], "the text" if m.summary.u_shape.random is None else "random tokens")
    u = shape(m, found[0])
    over(m, found[1], [layer.layer for layer in u.layers])
    return u


def makers(m: Inspection, u: UShape, pairs: str | None, wavelengths: str | None) -> None:
    assert u.activated is not None
    are("pairs that make it", pairs or "", u.activated.pairs)
    waves(m, wavelengths, u)
    check_activated(m, u)


# Positional heads

PLACES = {"previous-token": "previous token", "diagonal": "own token", "offset": "its distance", "first-token": "first"}


def head_at(m: Inspection, layer: int, head: int, kind: str, offset: int | None, random: bool) -> float | None:
    """The mean attention that it pays there, from the arrays."""
    if kind == "first-token":
        if random or not in_range(m):
            return None
        start, stop = m.arrays["position_from"], m.arrays["position_to"]
        queries = np.where(start >= 8, stop - start, 0).astype(float)
        return float((m.arrays["first_token"][layer, head] * queries).sum() / queries.sum())
    if not random and not in_range(m):
        return None
    paid = m.arrays["random_attention" if random else "attention"]
    return float(paid[layer, head, int(np.searchsorted(m.arrays["distance_to"], offset, "right"))])


def check_head(m: Inspection, head: Head) -> None:
    for random, told in ((False, head.text), (True, head.random)):
        true = None if told is None else head_at(m, head.layer, head.head, head.kind, head.offset, random)
        if true is not None and told is not None and abs(true - told) > 2e-4:
            raise Wrong(f"head {head.head} of layer {head.layer} pays {true}, the JSON says {told}")
    same("at least half", min(x for x in (head.text, head.random) if x is not None) >= 0.5, True)
    kind = {None: "first-token", 0: "diagonal", 1: "previous-token"}.get(head.offset, "offset")
    same("kind", head.kind, kind)


@sentence(
    rf"Layers? ([\d, andto]+){ASIDE} holds? (\d+) (\S+) heads?(?: \(([\d, and]+) tokens back\))?"
    rf"(?:, carried by {PAIRS}(?:: (.*) by the fastest quarter of all pairs)?)?"
    r"\. (?:The strongest, head (\d+) of layer (\d+),|It) puts (\d+) % of its attention (.*?) on the text"
    r"(?: (and|but only) (\d+) % on random tokens(?:: the text draws it more than the position does)?)?"
)
def heads_of_a_kind(m: Inspection, found: Found) -> None:
    layers, some, every, count, kind, back, pairs, fast, head, layer, text, place, joined, random = found
    those = [h for h in m.summary.heads or () if h.kind == kind]
    for one in those:
        check_head(m, one)
    same("layers", numbers(layers or ""), {h.layer for h in those})
    aside(m, some, every)
    same("heads", int(count or 0), len(those))
    same("offsets", None if back is None else numbers(back), {h.offset for h in those} if kind == "offset" else None)
    carry = sorted({p for h in those for p in h.pairs})
    same("pairs are told", pairs is not None, bool(carry))
    if carry:
        are("pairs", pairs or "", carry)
    shares = [h.fast_share for h in those if h.fast_share is not None]
    same("the fast part is told", fast is not None, bool(shares and carry))
    if fast is not None:
        fast_part(fast, shares)
    strongest = max(those, key=lambda h: h.text)
    if head is not None:
        same("strongest", (int(head), int(layer or 0)), (strongest.head, strongest.layer))
    else:
        same("alone", len(those), 1)
    percent("attention on the text", text, strongest.text)
    percent("attention on random tokens", random, strongest.random)
    same("place", PLACES[kind or ""] in (place or ""), True)
    if strongest.random is not None:
        same("only", joined == "but only", strongest.random < strongest.text / 2)


def fast_part(text: str, shares: Sequence[float]) -> None:
    """`none of it`, `at most 12 %`, `58 to 69 %`."""
    if text == "none of it":
        same("none", max(shares) < 0.005, True)
    elif text == "all of it":
        same("all", min(shares) >= 0.995, True)
    elif text == "from none to all of it":
        same("none to all", min(shares) < 0 and max(shares) > 1, True)
    elif least := re.fullmatch(r"at least (\d+) %", text):
        percent("at least", least[1], min(shares))
        same("others lower it in some", max(shares) > 1, True)
    elif most := re.fullmatch(r"at most (\d+) %", text):
        percent("at most", most[1], max(shares))
        same("some lower it", min(shares) < 0, True)
    else:
        told = re.fullmatch(r"(\d+)(?: to (\d+))? %", text)
        if told is None or value(told[2] or told[1]) > 100:
            raise Wrong(f"no one knows {text!r}")
        percent("least", told[1], min(shares))
        percent("most", told[2] or told[1], max(shares))


@sentence(r"No head(?: of (\d+) of (\d+) layers)? is positional: none keeps to a distance, nor to the first token")
def no_head(m: Inspection, found: Found) -> None:
    aside(m, *found)
    same("heads", m.summary.heads, ())
    if not in_range(m):
        return
    paid = m.arrays["attention"][..., m.arrays["distance_to"] <= 64]
    both = (
        paid
        if "random_attention" not in m.arrays
        else np.minimum(paid, m.arrays["random_attention"][..., : paid.shape[-1]])
    )
    reach = min(64, min(m.summary.settings.length, m.train_length) // 2)
    same("no head keeps to a distance", bool((both[..., :reach] >= 0.5).any()), False)


# The U-shape


@sentence(
    rf"On (the text|random tokens)(?: \(mean over ([^)]*)\))? the logits have a U-shape: the near end lies "
    rf"{NUMBER}{UNIT} "
    rf"above the middle and the far end {SIZE}{UNIT} above it(?:, most in layer (\d+) \({NUMBER}\))?"
)
def a_u_shape(m: Inspection, found: Found) -> None:
    words, some, near, rise, error, layer, most = found
    u = shape(m, words)
    over(m, some, [row.layer for row in u.layers])
    check_shape(m, words, u)
    same("appears", u.appears, True)
    says("near end", near, u.near)
    says("rise", rise, u.rise)
    says("standard error", error, u.stderr)
    if layer is not None:
        best = max(u.layers, key=lambda row: row.rise)
        same("layer of the most", int(layer), best.layer)
        says("its rise", most, best.rise)


@sentence(
    rf"(Whether there is a|No) U-shape {WHERE}( is not resolved)?: the far end (rises|falls) by "
    rf"{SIZE}{UNIT} (above|below) "
    rf"the middle(?:, and the near end lies {NUMBER} below it)?"
)
def no_u_shape(m: Inspection, found: Found) -> None:
    begins, words, some, _, way, rise, error, side, near = found
    u = shape(m, words)
    over(m, some, [row.layer for row in u.layers])
    check_shape(m, words, u)
    same("appears", u.appears, False)
    open_ = u.near > 0 and (u.stderr is None or abs(u.rise) <= 2 * u.stderr)
    same("open", begins == "Whether there is a", open_)
    same("way", (way, side), ("rises", "above") if u.rise >= 0 else ("falls", "below"))
    says("rise", rise, abs(u.rise))
    says("standard error", error, u.stderr)
    says("near end", near, abs(u.near) if u.near <= 0 else None)


@sentence(
    rf"{PAIRS}(?:, wavelengths? (.*?))?, makes? (\d+) % of the U-shape on (the text|random tokens)"
    r"(?:; (?:it|pair (\d+) of them) leaves its range first, in layer (\d+))?; HoPE would remove (.*?)"
)
def makers_in_percent(m: Inspection, found: Found) -> None:
    pairs, wavelengths, part, words, first, layer, removed = found
    u = shape(m, words)
    assert u.activated is not None
    makers(m, u, (pairs or "").lower(), wavelengths)
    percent("share", part, u.activated.share)
    if value(part) > 100:
        raise Wrong("more than all of it")
    same("removed", removed, words_of_removed(u))
    leaves(m, u, first, layer)


@sentence(
    rf"{PAIRS}(?:, wavelengths? (.*?))?, lifts? the far end on (the text|random tokens) by {NUMBER}{UNIT}, "
    rf"and other pairs "
    rf"lower it by {NUMBER}, to the {NUMBER} of the U-shape"
    r"(?:; (?:it|pair (\d+) of them) leaves its range first, in layer (\d+))?; HoPE would remove (.*?)"
)
def makers_in_logits(m: Inspection, found: Found) -> None:
    pairs, wavelengths, words, lift, lower, rise, first, layer, removed = found
    u = shape(m, words)
    assert u.activated is not None
    makers(m, u, (pairs or "").lower(), wavelengths)
    others = [pair.rise for pair in u.pairs if pair.pair not in u.activated.pairs]
    says("they lift", lift, sum(pair.rise for pair in u.pairs if pair.pair in u.activated.pairs))
    says("others lower", lower, -sum(others), slack=0.01)
    says("rise", rise, u.rise)
    same("removed", removed, words_of_removed(u))
    leaves(m, u, first, layer)


def leaves(m: Inspection, u: UShape, pair: str | None, layer: str | None) -> None:
    left = m.summary.out_of_range
    first = None if left is None else left.first_pair
    assert u.activated is not None
    there = first is not None and first.pair in u.activated.pairs
    same("leaves its range", layer is not None, there)
    if there and first is not None:
        same("the first", (int(pair or first.pair), int(layer or -1)), (first.pair, first.layer))


# The rotation


@sentence(r"(.*pairs turn; .*)")
def turning(m: Inspection, found: Found) -> None:
    waves = m.arrays["wavelength"].astype(float)
    seen: dict[int, tuple[int, int, int]] = {}
    for layer, row in enumerate(waves):
        there = row[~np.isnan(row)]
        turn = there[np.isfinite(there)]
        seen[layer] = (len(there), len(turn), int((turn > m.train_length * 1.000001).sum()))
    kinds = (found[0] or "").split(". ")
    told: dict[int, tuple[int, int, int]] = {}
    for kind in kinds:
        one = re.fullmatch(
            r"(?:[Ii]n (\d+) of (\d+) layers \((.*)\) )?(\d+) of (\d+) pairs turn; (?:(\d+) of them never "
            r"turns?|all of them turn) "
            rf"fully within {NUMBER} tokens",
            kind,
        )
        if one is None:
            raise Wrong(f"no one knows {kind!r}")
        layers = numbers(one[3]) if one[3] else set(seen)
        same("of all layers", int(one[2] or len(seen)), len(seen))
        same("layers", int(one[1] or len(seen)), len(layers))
        same("length", value(one[7]), m.train_length)
        told |= dict.fromkeys(layers, (int(one[5]), int(one[4]), int(one[6] or 0)))
    same("what turns", told, seen)


@sentence(r"No pair turns")
def nothing_turns(m: Inspection, found: Found) -> None:
    same("pairs that turn", sum(row.turning for row in m.summary.spectrum.layers), 0)


@sentence(r"The layers turn in (.*) different ways: see the spectrum")
def many_ways(m: Inspection, found: Found) -> None:
    same("ways", len({(row.pairs, row.turning, row.never_full) for row in m.summary.spectrum.layers}) > 3, True)


@sentence(
    r"In the mean over heads(?: of (\d+) of (\d+) layers)?, the slowest quarter of the pairs holds "
    r"(.*?)(?:\. Of values, "
    r"which no rotation touches, it holds (\d+) %)?"
)
def usage(m: Inspection, found: Found) -> None:
    aside(m, *found[:2])

    def slow(name: str) -> float:
        parts = []
        for row in m.arrays[name].reshape(-1, m.arrays[name].shape[-1]).astype(float):
            there = row[~np.isnan(row)]
            if len(there) >= 4 and there.sum() > 0:
                parts.append(there[len(there) - len(there) // 4 :].sum() / there.sum())
        return float(np.mean(parts))

    rest = found[2] or ""
    for kind in rest.split("; "):
        what, _, than = kind.rpartition(", ")
        for part, words in re.findall(r"(\d+) % of the norm of (queries|keys)", what):
            true = slow({"queries": "norm_q", "keys": "norm_k"}[words])
            percent(words, part, true)
            expected = "more than" if true > 0.3 else "less than" if true < 0.2 else "about"
            same(f"even share of {words}", than, f"{expected} an even share")
    percent("values", found[3], slow("norm_v") if "norm_v" in m.arrays and not np.isnan(m.norm_v).all() else None)


# Attention, and what leaves its range


@sentence(
    rf"The first token draws most in layer (\d+){ASIDE}: (\d+) % of the attention on the text(?:, (\d+) % "
    rf"on random tokens)?"
)
def first_token(m: Inspection, found: Found) -> None:
    layer, some, every, text, random = found
    aside(m, some, every)
    rows = [row for row in m.summary.first_token or () if row.text is not None]
    most = max(rows, key=lambda row: row.text or 0)
    same("layer", int(layer or -1), most.layer)
    percent("on the text", text, most.text)
    percent("on random tokens", random, most.random)
    for row in rows:
        heads = [head_at(m, row.layer, h, "first-token", None, False) for h in range(m.summary.model.heads)]
        if None not in heads and abs(np.mean([h for h in heads if h is not None]) - (row.text or 0)) > 2e-4:
            raise Wrong(f"layer {row.layer} pays {heads} to the first token, the JSON says {row.text}")


@sentence(rf"The first token draws little: at most (\d+) % of a layer's attention on the text{ASIDE}")
def first_token_little(m: Inspection, found: Found) -> None:
    rows = m.summary.first_token or ()
    percent("at most", found[0], max(row.text for row in rows if row.text is not None))
    same("little", max(max(row.text or 0, row.random or 0) for row in rows) < 0.05, True)
    aside(m, *found[1:])


@sentence(
    rf"Between {NUMBER} and {NUMBER} tokens, attention by relative position changes most in layer "
    rf"(\d+){ASIDE}, by {NUMBER} "
    r"nats of at most 0\.69"
)
def divergence(m: Inspection, found: Found) -> None:
    told = m.summary.divergence.lengths if m.summary.divergence is not None else None
    assert told is not None
    same("lengths", [value(x) for x in found[:2]], [min(m.train_length, told.length), m.summary.settings.length])
    known = {i: x for i, x in enumerate(told.layers) if x is not None}
    most = max(known, key=lambda i: known[i])
    same("layer", int(found[2] or -1), most)
    aside(m, *found[3:5])
    says("divergence", found[5], known[most])


DEPARTS = rf"by {NUMBER} standard deviations at (\d+)x the training length(?: \(at 1x, in range: {NUMBER}\))?"


@sentence(
    rf"Logits leave the range of training in (?:pair (\d+)(?: \(wavelength ([^)]*)\))? of layer (\d+) "
    rf"first, {DEPARTS})?(?:; )?"
    rf"(?:(?:of the layers(?: that were measured there \(([^)]*)\))?, )?layer (\d+) first(?: of the "
    rf"layers)?, {DEPARTS})?"
    rf"; noise is {NUMBER}"
)
def departs(m: Inspection, found: Found) -> None:
    pair, wave, layer, by, at, inside, some, own, own_by, own_at, own_inside, noise = found
    left = m.summary.out_of_range
    assert left is not None
    says("noise", noise, left.noise)
    by_pair = m.arrays["departure_by_pair"].astype(float)
    whole = m.arrays["departure"].astype(float)
    seen = [i for i, row in enumerate(whole) if np.isfinite(row[1:]).any()]
    if own is not None or some is not None:
        over(m, some, seen)
    same("a pair", pair is not None, earliest(by_pair, left.noise) is not None)
    if pair is not None:
        first, m_at, departure = earliest(by_pair, left.noise) or ((), 0, 0.0)
        same("pair", (int(layer or -1), int(pair)), first)
        same("multiple", int(at or 0), left.multiples[m_at])
        says("departure", by, departure)
        if inside is not None:
            says("in range", inside, by_pair[first][0])
        length(wave or "", float(m.arrays["wavelength"][first]))
    same("a layer", own is not None, earliest(whole, left.noise) is not None)
    if own is not None:
        first, m_at, departure = earliest(whole, left.noise) or ((), 0, 0.0)
        same("layer", (int(own),), first)
        same("multiple", int(own_at or 0), left.multiples[m_at])
        says("departure", own_by, departure)
        if own_inside is not None:
            says("in range", own_inside, whole[first][0])


def earliest(departures: np.ndarray, noise: float) -> tuple[tuple[int, ...], int, float] | None:
    """Which leaves its range at the lowest multiple, furthest above its own departure in range."""
    for at in range(1, departures.shape[-1]):
        above = departures[..., at] - departures[..., 0]
        above = np.where(above > 3 * noise, above, -np.inf)
        if np.isfinite(above).any():
            first = np.unravel_index(int(above.argmax()), above.shape)
            return tuple(map(int, first)), at, float(departures[(*first, at)])
    return None


@sentence(
    r"Nothing is seen to leave its range: no pair's logits(?: of the layers that were measured there "
    r"\(([^)]*)\))? depart by "
    rf"three times the noise \({NUMBER}\) more than in range up to (\d+)x the training length"
)
def nothing_departs(m: Inspection, found: Found) -> None:
    left = m.summary.out_of_range
    assert left is not None
    over(m, found[0], [i for i, row in enumerate(m.arrays["departure"]) if np.isfinite(row[1:]).any()])
    says("noise", found[1], left.noise)
    same("up to", int(found[2] or 0), left.multiples[-1])
    for name in ("departure_by_pair", "departure"):
        same(name, earliest(m.arrays[name].astype(float), left.noise) if name in m.arrays else None, None)


# What scores, biases and scales add


@sentence(
    r"Without what biases and scores add, (\d+) % of the attention would be elsewhere \(median over heads"
    r"(?: of (\d+) of (\d+) layers)?\), most in head (\d+) of layer (\d+): (\d+) %"
)
def added(m: Inspection, found: Found) -> None:
    rows = {(row.layer, row.head): row.moved for row in m.summary.added or ()}
    percent("median", found[0], float(np.median(list(rows.values()))))
    aside(m, *found[1:3])
    most = max(rows, key=lambda key: rows[key])
    same("most", (int(found[4] or -1), int(found[3] or -1)), most)
    percent("moved", found[5], rows[most])


@sentence(
    rf"Of (\d+) heads with gates{ASIDE}, (\d+|none) forgets?: there a key's weight halves within {NUMBER} "
    rf"tokens(?:, soonest in "
    rf"(.*?))?; (\d+|none) keeps? for longer than the training length, {NUMBER}(?:, in layers? (.*))?"
)
def gates(m: Inspection, found: Found) -> None:
    count, some, every, forget, near, soonest, keep, limit, layers = found
    lives = {(gate.layer, gate.head): gate.half_life or np.inf for gate in m.summary.gates or ()}
    aside(m, some, every)
    same("heads", int(count or 0), len(lives))
    same("length", value(limit), m.train_length)
    length(near or "", m.train_length / 8)
    short = sorted((life, key) for key, life in lives.items() if life < m.train_length / 8)
    same("forget", 0 if forget == "none" else int(forget or 0), len(short))
    kept = {key[0] for key, life in lives.items() if life > m.train_length}
    same("keep", 0 if keep == "none" else int(keep or 0), sum(life > m.train_length for life in lives.values()))
    same("layers", numbers(layers or ""), kept)
    named = re.findall(r"head (\d+) of layer (\d+) \(after ([^)]*)\)", soonest or "")
    same("soonest", len(named), min(4, len(short)))
    for (head, layer, life), (true, _) in zip(named, short, strict=False):
        length(life, true)
        same("in order", lives.get((int(layer), int(head))), true)


@sentence(
    rf"Scales multiply logits by {NUMBER}(?: to {NUMBER})? at the end of {NUMBER} tokens"
    rf"(?:, by {NUMBER}(?: to {NUMBER})? at the end of {NUMBER})?"
)
def scales(m: Inspection, found: Found) -> None:
    rows = m.summary.factors or ()
    inside, past = [row.in_range for row in rows], [row.past for row in rows if row.past is not None]
    same("length", value(found[2]), min(m.summary.settings.length, m.train_length))
    for told, known in ((found[:2], inside), (found[3:5], past)):
        if told[0] is not None or known:
            says("least", told[0], min(known, default=None))
            says("most", told[1] or told[0], max(known, default=None))
    if past:
        same("length", value(found[5]), m.summary.settings.length)


# What the slow pairs' rotation is worth


MOVES = r"by less than 0\.005|(?:(?:up|down) )?by [\d.]+(?: ± [\d.]+)?"


@sentence(r"((?:Without training, HoPE's cut|No cut|That a cut|The loss) .*)")
def ablation(m: Inspection, found: Found) -> None:
    told = m.summary.ablation
    assert told is not None
    text = found[0] or ""
    own = next((row for row in told.cuts if row.cut == told.hope_cut), None)
    same("HoPE's cut is told", text.startswith("Without training"), own is not None)
    for row in told.cuts:
        if abs(row.in_range - told.in_range - row.in_range_change) > 1e-4:
            raise Wrong(f"cut {row.cut} changes the loss by {row.in_range - told.in_range}")
    if own is not None:
        same("cut", f"(pairs {own.cut} and slower stand still)" in text, True)
        moved = re.findall(rf"({MOVES}) (?:in range|at)", text)
        moves(moved[0], own.in_range_change, own.in_range_stderr)
        if own.past_change is not None:
            moves(moved[1], own.past_change, own.past_stderr)
    for length in re.findall(rf"at {NUMBER} tokens", text):
        same("length", value(length), told.past_length)
    known = [row for row in told.cuts if row.past_change is not None]
    best = min(known, key=lambda row: row.past_change or 0.0, default=None)
    if lowest := re.search(r"lowest with (\w+) pairs? left turning: (.*?)(?:\.$|$)", text):
        assert best is not None
        words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
        same("best cut", lowest[1], words[best.cut] if best.cut < len(words) else str(best.cut))
        moves(lowest[2], best.past_change or 0.0, best.past_stderr)
    if "No cut is seen" in text:
        same("lower", best is not None and (best.past_change or 0.0) >= 0, True)


def moves(text: str, change: float, error: float | None) -> None:
    if text == "by less than 0.005":
        same("small", abs(change) < 0.005 and (error is None or error < 0.005), True)
        return
    told = re.fullmatch(r"(?:(up|down) )?by ([\d.]+)(?: ± ([\d.]+))?", text)
    if told is None:
        raise Wrong(f"no one knows {text!r}")
    same("way", told[1], None if not value(told[2]) else "up" if change > 0 else "down")
    says("change", told[2], abs(change))
    says("standard error", told[3], error)


def sentences(m: Inspection) -> list[str]:
    from whorl.reports.inspection import findings

    return [str(finding) for finding in findings(m)]


def main() -> int:
    wrong = 0
    m = Inspection.load(Path(sys.argv[1]))
    for told in sentences(m):
        try:
            check(m, told)
            print("holds:", told)
        except Wrong as error:
            wrong += 1
            print("WRONG:", error)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
