"""Sentences of the account, of positional heads and of the U-shape, read back (see `sentences`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tests.inspection.told import (
    ASIDE,
    NUMBER,
    PAIRS,
    SIZE,
    UNIT,
    WHERE,
    Found,
    Wrong,
    are,
    aside,
    check_activated,
    check_shape,
    in_range,
    numbers,
    over,
    percent,
    same,
    says,
    sentence,
    shape,
    value,
    waves,
    words_of_removed,
)
from whorl.results.inspection import Head, Inspection, UShape

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
