"""Sentences of the rotation, of norms, attention, departures, of what is added and of ablations, read back (see
`sentences`)."""

from __future__ import annotations

import re

import numpy as np

from tests.inspection.told import (
    ASIDE,
    NUMBER,
    Found,
    Wrong,
    aside,
    length,
    numbers,
    over,
    percent,
    same,
    says,
    sentence,
    value,
)
from tests.inspection.told_of_shapes import head_at
from whorl.results.inspection import Inspection

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
        same("cut", f"(pairs {own.cut} and slower do not rotate)" in text, True)
        moved = re.findall(rf"({MOVES}) (?:in range|at)", text)
        moves(moved[0], own.in_range_change, own.in_range_stderr)
        if own.past_change is not None:
            moves(moved[1], own.past_change, own.past_stderr)
    for tokens in re.findall(rf"at {NUMBER} tokens", text):
        same("length", value(tokens), told.past_length)
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
