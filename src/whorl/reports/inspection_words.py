"""What an inspection found, in plain sentences made from its numbers: for the report, and for the console."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whorl.reports.bins import mean
from whorl.reports.formatting import capital, listing, number, plural, tokens, with_spread
from whorl.results.inspection import Activated, Cut, FirstLayer, FirstPair, Head, Inspection, Protocol, UShape

PROTOCOLS: dict[Protocol, str] = {"text": "on the text", "random": "on random tokens"}
"""The two things that are read: the inspected text, and HoPE's protocol (a first token, then random ones)."""

KIND_PLACE = {
    "previous-token": "on the previous token",
    "diagonal": "on its own token",
    "offset": "at its distance",
    "first-token": "on the first token",
}
FEW_RUNS = 3
LITTLE = 0.05
"""Attention on the first token that is not worth a layer's name."""


@dataclass(frozen=True)
class Finding:
    """A sentence or two, and the name of the chart that shows it (empty: none)."""

    text: str
    figure: str = ""

    def __str__(self) -> str:
        return self.text


def findings(m: Inspection) -> list[Finding]:
    """What one model's inspection shows and what it does not, the most telling first."""
    found = [
        account(m),
        *_heads(m),
        *(_u_shape(m, protocol) for protocol in PROTOCOLS),
        *(_activated(m, protocol) for protocol in PROTOCOLS),
        _out_of_range(m),
        _ablation(m),
        _usage(m),
        _first_token(m),
        _spectrum(m),
        _lengths(m),
        *_training(m),
    ]
    return [finding for finding in found if finding is not None]


# HoPE's account


def account(m: Inspection) -> Finding | None:
    """Whether HoPE's account of RoPE holds for this model: a U-shape, made by a few pairs that its cut removes, which
    leave their range first. None where its U-shape was not measured."""
    text, random = m.summary.u_shape.text, m.summary.u_shape.random
    u, where = (text, PROTOCOLS["text"]) if random is None else (random, PROTOCOLS["random"])
    if u is None:
        return None
    if _open(u):
        said = f"Whether HoPE's account holds for this model is not resolved, as a U-shape {where} is not."
        return Finding(said, "logits")
    if not u.appears:
        said = f"HoPE's account does not hold for this model: its logits have no U-shape {where}"
        if u is random and text is not None and text.appears:
            said += ", though they have one on the text"
        return Finding(f"{said}.", "logits")
    if u.activated is None:
        said = (
            f"HoPE's account holds only in part: the logits have a U-shape {where}, but no group of pairs is known "
            "that makes it."
        )
        return Finding(said, "logits")
    pairs, removed = u.activated.pairs, u.activated.removed_by_hope
    against = []
    if u is random and text is not None and not text.appears:
        against.append("there is none on the text")
    if removed <= len(pairs) / 2:
        count = "none" if removed == 0 else f"only {removed}"
        against.append(f"its cut would remove {count} of the {plural(len(pairs), 'pair')} that make it")
    left = m.summary.out_of_range
    first = left.first_pair if left is not None else None
    if left is not None and first is None:
        against.append("no pair leaves its range beyond it")
    elif first is not None and first.pair not in pairs:
        against.append(f"pair {first.pair}, which is not one of the pairs that make it, leaves its range first")
    makers = f"made by {_pairs(pairs)}{_wavelengths(u.activated)}"
    if against:
        said = f"HoPE's account holds only in part: there is a U-shape {where}, {makers}, but {listing(against)}."
    else:
        first_out = "" if first is None else ", and these leave their range first"
        cut = f"; its cut would remove {_removed(removed, len(pairs))}"
        said = f"HoPE's account holds for this model: a U-shape {where} is {makers}{first_out}{cut}."
    return Finding(said, "logits")


def _u_shape(m: Inspection, protocol: Protocol) -> Finding | None:
    u, where = m.summary.u_shape.on(protocol), PROTOCOLS[protocol]
    if u is None:
        return None
    unit = " standard deviations" if protocol == "random" else ""
    size = with_spread(abs(u.rise), u.stderr) + unit
    if u.appears:
        said = (
            f"{capital(where)} the logits have a U-shape: the near end lies {number(u.near)}{unit} above the middle "
            f"and the far end {size} above it"
        )
        if len(u.layers) > 1:
            most = max(u.layers, key=lambda layer: layer.rise)
            said += f", most in layer {most.layer} ({number(most.rise)})"
        return Finding(f"{said}.", "logits")
    way, side = ("rises", "above") if u.rise >= 0 else ("falls", "below")
    no = f"Whether there is a U-shape {where} is not resolved" if _open(u) else f"No U-shape {where}"
    said = f"{no}: the far end {way} by {size} {side} the middle"
    if u.near <= 0:
        said += f", and the near end lies {number(abs(u.near))} below it"
    return Finding(f"{said}.", "logits")


def _open(u: UShape) -> bool:
    """Whether two standard errors leave it open that there is a U-shape (one window has no error to tell by)."""
    if u.appears or u.near <= 0:
        return False
    return u.stderr is None or abs(u.rise) <= 2 * u.stderr


def _activated(m: Inspection, protocol: Protocol) -> Finding | None:
    u, where = m.summary.u_shape.on(protocol), PROTOCOLS[protocol]
    if u is None or not u.appears or u.activated is None:
        return None
    pairs, share, removed = u.activated.pairs, u.activated.share, u.activated.removed_by_hope
    make = "makes" if len(pairs) == 1 else "make"
    said = f"{capital(_pairs(pairs))}{_wavelengths(u.activated)}, {make} {_share(share)} of the U-shape {where}"
    if share > 1.005:
        said += " (others lower it)"
    left = m.summary.out_of_range
    first = left.first_pair if left is not None else None
    if first is not None and first.pair in pairs:
        leave = "leaves its" if len(pairs) == 1 else "leave their"
        said += f" and {leave} range first, in layer {first.layer}"
    return Finding(f"{said}; HoPE would remove {_removed(removed, len(pairs))}.", "u-shape-pairs")


# Heads


def _heads(m: Inspection) -> list[Finding]:
    if m.summary.heads is None:
        return []
    if not m.summary.heads:
        return [Finding("No head is positional: none keeps to a distance, nor to the first token.", "heads")]
    by_kind = {kind: [head for head in m.summary.heads if head.kind == kind] for kind in KIND_PLACE}
    return [_heads_of(kind, heads) for kind, heads in by_kind.items() if heads]


def _heads_of(kind: str, heads: Sequence[Head]) -> Finding:
    layers = sorted({head.layer for head in heads})
    hold = "Layer {} holds" if len(layers) == 1 else "Layers {} hold"
    said = f"{hold.format(_runs(layers))} {len(heads)} {kind} head{'' if len(heads) == 1 else 's'}"
    if kind == "offset":
        offsets = sorted({head.offset for head in heads if head.offset is not None})
        said += f" ({listing([str(o) for o in offsets])} tokens back)"
    if pairs := sorted({pair for head in heads for pair in head.pairs}):
        said += f", carried by {_pairs(pairs)}"
    best = max(heads, key=lambda head: head.text)
    who = f"The strongest, head {best.head} of layer {best.layer}," if len(heads) > 1 else "It"
    said += f". {who} puts {_share(best.text)} of its attention {KIND_PLACE[kind]} on the text"
    if best.random is not None and best.random < best.text / 2:
        said += f" but only {_share(best.random)} on random tokens: the text draws it more than the position does"
    elif best.random is not None:
        said += f" and {_share(best.random)} on random tokens"
    return Finding(f"{said}.", "heads")


def _first_token(m: Inspection) -> Finding | None:
    known = [(row.text, row) for row in m.summary.first_token or () if row.text is not None]
    if not known:
        return None
    most, row = max(known, key=lambda item: item[0])
    aside = f", {_share(row.random)} on random tokens" if row.random is not None else ""
    if max(most, row.random or 0.0) < LITTLE:
        said = f"The first token draws little: at most {_share(most)} of a layer's attention on the text."
    else:
        said = f"The first token draws most in layer {row.layer}: {_share(most)} of the attention on the text{aside}."
    return Finding(said, "positions")


# Ranges, ablation


def _out_of_range(m: Inspection) -> Finding | None:
    section = m.summary.out_of_range
    if section is None:
        return None
    pair, layer = section.first_pair, section.first_layer
    if pair is None and layer is None:
        than = f"three times the noise ({number(section.noise)})"
        reach = f"up to {section.multiples[-1]:g}x the training length"
        said = f"Nothing is seen to leave its range: no pair's logits depart by {than} more than in range {reach}"
        return Finding(f"{said}.", "departure")
    parts = []
    if pair is not None:
        turn = f" (wavelength {tokens(pair.wavelength)})" if pair.wavelength is not None else ""
        inside = [row.departure[0] for row in section.pairs if (row.layer, row.pair) == (pair.layer, pair.pair)]
        parts.append(f"pair {pair.pair}{turn} of layer {pair.layer} first, {_departs(pair, *inside)}")
    if layer is not None:
        inside = [row.departure[0] for row in section.layers if row.layer == layer.layer]
        parts.append(f"of the layers, layer {layer.layer} first, {_departs(layer, *inside)}")
    said = f"Logits leave the range of training in {'; '.join(parts)}; noise is {number(section.noise)}"
    return Finding(f"{said}.", "departure-pairs" if pair is not None else "departure")


def _departs(first: FirstPair | FirstLayer, inside: float | None = None) -> str:
    """inside: the departure at 1x, which is how much the far half of the range differs from the whole of it."""
    where = f"by {number(first.departure)} standard deviations at {first.multiple:g}x the training length"
    return where if inside is None else f"{where} (at 1x, in range: {number(inside)})"


def _ablation(m: Inspection) -> Finding | None:
    section = m.summary.ablation
    if section is None or not section.cuts:
        return None
    past = f"at {section.past_length:,} tokens" if section.past_length else "past the range"
    said = []
    own = next((row for row in section.cuts if row.cut == section.hope_cut), None)
    if own is not None:
        still = f"HoPE's cut (pairs {own.cut} and slower stand still)"
        said.append(f"Without training, {still} {_changes(own, past)}, in nats per token.")
    known = [(row.past_change, row) for row in section.cuts if row.past_change is not None]
    if known:
        lowest, best = min(known, key=lambda item: item[0])
        error = best.past_stderr
        if lowest >= 0:
            said.append(f"No cut is seen to lower the loss {past}.")
        elif error is None or -lowest <= 2 * error:
            said.append(f"That a cut lowers the loss {past} is not resolved: at best, {_moves(lowest, error)}.")
        elif best is not own:
            said.append(
                f"The loss {past} is lowest with {plural(best.cut, 'pair')} left turning: {_moves(lowest, error)}."
            )
    return Finding(" ".join(said), "ablation") if said else None


def _changes(row: Cut, past: str) -> str:
    parts = [f"{_moves(row.in_range_change, row.in_range_stderr)} in range"]
    if row.past_change is not None:
        parts.append(f"{_moves(row.past_change, row.past_stderr)} {past}")
    return f"moves the loss {' and '.join(parts)}"


def _moves(change: float, stderr: float | None) -> str:
    return f"{'up' if change >= 0 else 'down'} by {with_spread(abs(change), stderr)}"


# Norms, spectrum, lengths


def _usage(m: Inspection) -> Finding | None:
    """How much of the norm lies in the slowest quarter of the pairs."""
    shares = {}
    for words, name in (("queries", "norm_q"), ("keys", "norm_k"), ("values", "norm_v")):
        values = m.measured(name)
        if values is None or values.shape[-1] < 4:
            continue
        by_pair = mean(values, (0, 1))
        total = float(np.nansum(by_pair))
        if total > 0:
            shares[words] = float(np.nansum(by_pair[-(len(by_pair) // 4) :])) / total
    if "queries" not in shares and "keys" not in shares:
        return None
    told = [f"{_share(v)} of the norm of {words}" for words, v in shares.items() if words != "values"]
    said = f"The slowest quarter of the pairs holds {listing(told)}"
    if "values" in shares:
        said += f", against {_share(shares['values'])} of that of values, which no rotation touches"
    used = max(v for words, v in shares.items() if words != "values")
    if used > 0.3:
        said += ": more than an even share"
    elif used < 0.2:
        said += ": less than an even share"
    return Finding(f"{said}.", "usage")


def _spectrum(m: Inspection) -> Finding | None:
    told = list(dict.fromkeys((row.pairs, row.turning, row.never_full) for row in m.summary.spectrum.layers))
    if not told:
        return None
    if len(told) > 1:
        return Finding(f"The layers turn in {plural(len(told), 'different way')}: see the spectrum.", "spectrum")
    pairs, turning, never = told[0]
    said = f"{turning} of {pairs} pairs turn; {never or 'none'} of them never {'turns' if never <= 1 else 'turn'} fully"
    return Finding(f"{said} within {m.train_length:,} tokens.", "spectrum")


def _lengths(m: Inspection) -> Finding | None:
    found = m.summary.divergence.lengths if m.summary.divergence is not None else None
    known = [] if found is None else [(v, layer) for layer, v in enumerate(found.layers) if v is not None]
    if found is None or not known:
        return None
    most, layer = max(known)
    between = f"Between {found.train_length:,} and {found.length:,} tokens"
    said = f"{between}, attention by relative position changes most in layer {layer}, by {number(most)} nats"
    return Finding(f"{said} of at most 0.69.", "divergence")


# Training


def _training(m: Inspection) -> list[Finding]:
    steps = sorted(m.summary.training, key=lambda snapshot: snapshot.step)
    if len(steps) < 2:
        return []
    last, found = steps[-1], []
    for protocol, where in PROTOCOLS.items():
        told = [(at.step, u) for at in steps if (u := at.u_shape.on(protocol)) is not None]
        if not told:
            continue
        seen = next((step for step, u in told if u.appears), None)
        if seen is None:
            found.append(
                Finding(f"In training no U-shape appears {where}, at any of {len(told)} checkpoints.", "training")
            )
            continue
        peak, most = max(told, key=lambda item: item[1].rise)
        end = f"; at the end, step {last.step:,}, it is {number(told[-1][1].rise)}" if peak != last.step else ""
        said = f"In training the U-shape {where} is first seen at step {seen:,} of {last.step:,}"
        found.append(Finding(f"{said} and is largest at step {peak:,} ({number(most.rise)}){end}.", "training"))
    first = next((at.step for at in steps if at.heads), None)
    if first is not None:
        said = f"The first positional heads are seen at step {first:,} of {last.step:,}"
        found.append(Finding(f"{said}; at the end there are {len(last.heads)}.", "training"))
    return found


# Two models


def differences(models: Sequence[Inspection]) -> list[Finding]:
    """What sets two models apart, and where they are not told apart."""
    if len(models) != 2:
        return []
    a, b = models
    found = [_rises_apart(a, b, protocol) for protocol in PROTOCOLS]
    if a.summary.heads is not None and b.summary.heads is not None:
        counts = f"{len(a.summary.heads)} in {a.name}, {len(b.summary.heads)} in {b.name}"
        found.append(Finding(f"Positional heads: {counts}.", "heads"))
    found += [_departures_apart(a, b), _ablations_apart(a, b)]
    apart = a.summary.divergence.models if a.summary.divergence is not None else None
    between = [(v, layer) for layer, v in enumerate(apart or ()) if v is not None]
    if between:
        most, layer = max(between)
        said = f"Their attention by relative position differs most in layer {layer}, by {number(most)} nats"
        found.append(Finding(f"{said} of at most 0.69.", "divergence"))
    return [finding for finding in found if finding is not None]


def _rises_apart(a: Inspection, b: Inspection, protocol: Protocol) -> Finding | None:
    u, v = (m.summary.u_shape.on(protocol) for m in (a, b))
    if u is None or v is None:
        return None
    values = [with_spread(x.rise, x.stderr) for x in (u, v)]
    said = f"The rise of the U-shape {PROTOCOLS[protocol]}: {values[0]} in {a.name}, {values[1]} in {b.name}"
    if u.stderr is not None and v.stderr is not None and abs(u.rise - v.rise) <= 2 * math.hypot(u.stderr, v.stderr):
        said += "; their difference is not resolved"
    return Finding(f"{said}.", "logits")


def _departures_apart(a: Inspection, b: Inspection) -> Finding | None:
    """The largest departure of a layer at the first multiple past the range that both have."""
    first, second = (m.summary.out_of_range for m in (a, b))
    if first is None or second is None:
        return None
    at = next((x for x in first.multiples if x > 1 and x in second.multiples), None)
    if at is None:
        return None
    most = []
    for section in (first, second):
        i = section.multiples.index(at)
        values = [v for row in section.layers if (v := row.departure[i]) is not None]
        if not values:
            return None
        most.append(max(values))
    said = f"At {at:g}x the training length a layer's logits depart by at most"
    return Finding(
        f"{said} {number(most[0])} standard deviations in {a.name} and {number(most[1])} in {b.name}.", "departure"
    )


def _ablations_apart(a: Inspection, b: Inspection) -> Finding | None:
    losses = []
    for m in (a, b):
        section = m.summary.ablation
        if section is None or section.past is None:
            return None
        at = f"at {section.past_length:,} tokens" if section.past_length else "past it"
        losses.append(f"{m.name} has a loss of {number(section.in_range)} in range and {number(section.past)} {at}")
    return Finding(f"Untouched, {losses[0]}; {losses[1]}.", "ablation")


# Parts of sentences


def _pairs(pairs: Sequence[int]) -> str:
    """`pair 3`, `pairs 0 to 5`, `pairs 0 to 2 and 7`, `23 pairs between 0 and 60`."""
    if len(pairs) == 1:
        return f"pair {pairs[0]}"
    runs = _grouped(sorted(set(pairs)))
    return (
        f"pairs {_runs(pairs)}"
        if len(runs) <= FEW_RUNS
        else f"{len(pairs)} pairs between {min(pairs)} and {max(pairs)}"
    )


def _runs(values: Sequence[int]) -> str:
    """`0`, `0 and 1`, `0 to 5`, `0 to 2 and 7`."""
    parts = []
    for run in _grouped(sorted(set(values))):
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(v) for v in run]
    return listing(parts)


def _grouped(values: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def _wavelengths(activated: Activated) -> str:
    """`, wavelengths 130 to 730`."""
    if not activated.wavelengths:
        return ""
    ends = list(dict.fromkeys(tokens(w) for w in activated.wavelengths))
    return f", wavelength{'s' if len(ends) > 1 else ''} {' to '.join(ends)}"


def _removed(removed: int, count: int) -> str:
    if count == 1:
        return "it" if removed else "none of it"
    if removed == count:
        return f"all {count}"
    return f"{removed or 'none'} of the {count}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
