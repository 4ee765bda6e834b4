"""What an inspection found, in plain sentences made from its numbers: for the report, and for the console."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whorl.reports.charts import finite
from whorl.reports.formatting import capital, listing, number, plural, with_spread
from whorl.reports.inspected import PROTOCOLS, Inspected, mean, rows, tokens, u_shape, whole, wholes

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


def findings(summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> list[Finding]:
    """What one model's inspection shows and what it does not, the most telling first.

    arrays: with them, also how the norms of queries, keys and values are spread over the pairs.
    """
    m = Inspected(summary, arrays)
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


def account(m: Inspected) -> Finding | None:
    """Whether HoPE's account of RoPE holds for this model: a U-shape, made by a few pairs that its cut removes, which
    leave their range first. None where its U-shape was not measured."""
    protocol = next((p for p in ("random", "text") if m.u_shape(p).get("appears") is not None), None)
    if protocol is None:
        return None
    u, where = m.u_shape(protocol), PROTOCOLS[protocol]
    activated = u.get("activated") or {}
    pairs = wholes(activated.get("pairs"))
    if _open(u):
        said = f"Whether HoPE's account holds for this model is not resolved, as a U-shape {where} is not."
        return Finding(said, "logits")
    if not u["appears"]:
        said = f"HoPE's account does not hold for this model: its logits have no U-shape {where}"
        if protocol == "random" and m.u_shape("text").get("appears"):
            said += ", though they have one on the text"
        return Finding(f"{said}.", "logits")
    if not pairs:
        said = (
            f"HoPE's account holds only in part: the logits have a U-shape {where}, but no group of pairs is known "
            "that makes it."
        )
        return Finding(said, "logits")
    against = []
    if protocol == "random" and m.u_shape("text").get("appears") is False:
        against.append("there is none on the text")
    removed = whole(activated.get("removed_by_hope"))
    if removed is not None and removed <= len(pairs) / 2:
        count = "none" if removed == 0 else f"only {removed}"
        against.append(f"its cut would remove {count} of the {plural(len(pairs), 'pair')} that make it")
    section = m.summary.get("out_of_range")
    first = whole((_mapping(section).get("first_pair") or {}).get("pair"))
    if section and first is None:
        against.append("no pair leaves its range beyond it")
    elif first is not None and first not in pairs:
        against.append(f"pair {first}, which is not one of the pairs that make it, leaves its range first")
    makers = f"made by {_pairs(pairs)}{_wavelengths(activated)}"
    if against:
        said = f"HoPE's account holds only in part: there is a U-shape {where}, {makers}, but {listing(against)}."
    else:
        cut = "" if removed is None else f"; its cut would remove {_removed(removed, len(pairs))}"
        first_out = "" if first is None else " and these leave their range first"
        said = f"HoPE's account holds for this model: a U-shape {where} is {makers},{first_out}{cut}."
        said = said.replace(",;", ";").replace(",.", ".")
    return Finding(said, "logits")


def _u_shape(m: Inspected, protocol: str) -> Finding | None:
    u, where = m.u_shape(protocol), PROTOCOLS[protocol]
    rise, near = finite(u.get("rise")), finite(u.get("near"))
    if rise is None:
        return None
    unit = " standard deviations" if protocol == "random" else ""
    size = with_spread(abs(rise), finite(u.get("stderr"))) + unit
    if u.get("appears"):
        by = f"the near end lies {number(near)}{unit} above the middle and " if near is not None else ""
        said = (
            f"{capital(where)} the logits have a U-shape: {by}the far end {size} above {'it' if by else 'the middle'}"
        )
        layers = [
            (r, whole(row.get("layer"))) for row in rows(u, "layers") if (r := finite(row.get("rise"))) is not None
        ]
        if len(layers) > 1:
            most, layer = max(layers, key=lambda item: item[0])
            said += f", most in layer {layer} ({number(most)})"
        return Finding(f"{said}.", "logits")
    way = "rises" if rise >= 0 else "falls"
    side = "above" if rise >= 0 else "below"
    no = f"Whether there is a U-shape {where} is not resolved" if _open(u) else f"No U-shape {where}"
    said = f"{no}: the far end {way} by {size} {side} the middle"
    if near is not None and near <= 0:
        said += f", and the near end lies {number(abs(near))} below it"
    return Finding(f"{said}.", "logits")


def _open(u: Mapping[str, Any]) -> bool:
    """Whether two standard errors leave it open that there is a U-shape (one window has no error to tell by)."""
    rise, error, near = (finite(u.get(key)) for key in ("rise", "stderr", "near"))
    if u.get("appears") or rise is None or (near is not None and near <= 0):
        return False
    return error is None or abs(rise) <= 2 * error


def _activated(m: Inspected, protocol: str) -> Finding | None:
    u, where = m.u_shape(protocol), PROTOCOLS[protocol]
    activated = _mapping(u.get("activated"))
    pairs = wholes(activated.get("pairs"))
    share = finite(activated.get("share"))
    if not u.get("appears") or not pairs or share is None:
        return None
    first = _mapping(_mapping(m.summary.get("out_of_range")).get("first_pair"))
    make = "makes" if len(pairs) == 1 else "make"
    said = f"{capital(_pairs(pairs))}{_wavelengths(activated)}, {make} {_share(share)} of the U-shape {where}"
    if share > 1.005:
        said += " (others lower it)"
    if whole(first.get("pair")) in pairs:
        leave = "leaves its" if len(pairs) == 1 else "leave their"
        said += f" and {leave} range first, in layer {first.get('layer')}"
    removed = whole(activated.get("removed_by_hope"))
    if removed is not None:
        said += f"; HoPE would remove {_removed(removed, len(pairs))}"
    return Finding(f"{said}.", "u-shape-pairs")


# Heads


def _heads(m: Inspected) -> list[Finding]:
    if not isinstance(m.summary.get("heads"), list | tuple):
        return []
    if not m.heads:
        return [Finding("No head is positional: none keeps to a distance, nor to the first token.", "heads")]
    found = []
    for kind in dict.fromkeys(["previous-token", "diagonal", "offset", "first-token", *map(_kind, m.heads)]):
        heads = [head for head in m.heads if _kind(head) == kind]
        if heads:
            found.append(_heads_of(kind, heads))
    return found


def _heads_of(kind: str, heads: Sequence[Mapping[str, Any]]) -> Finding:
    layers = sorted({int(head["layer"]) for head in heads})
    hold = "Layer {} holds" if len(layers) == 1 else "Layers {} hold"
    said = f"{hold.format(_runs(layers))} {len(heads)} {kind} head{'' if len(heads) == 1 else 's'}"
    if offsets := sorted({o for head in heads if (o := whole(head.get("offset"))) is not None and kind == "offset"}):
        said += f" ({listing([str(o) for o in offsets])} tokens back)"
    pairs = sorted({p for head in heads for p in wholes(head.get("pairs"))})
    if pairs:
        said += f", carried by {_pairs(pairs)}"
    best = max(heads, key=lambda head: finite(head.get("text")) or 0.0)
    text, random = finite(best.get("text")), finite(best.get("random"))
    if text is None:
        return Finding(f"{said}.", "heads")
    who = f"The strongest, head {best.get('head')} of layer {best['layer']}," if len(heads) > 1 else "It"
    said += f". {who} puts {_share(text)} of its attention {KIND_PLACE.get(kind, 'there')} on the text"
    if random is not None and random < text / 2:
        said += f" but only {_share(random)} on random tokens: the text draws it more than the position does"
    elif random is not None:
        said += f" and {_share(random)} on random tokens"
    return Finding(f"{said}.", "heads")


def _first_token(m: Inspected) -> Finding | None:
    known = [
        (v, whole(row.get("layer")))
        for row in rows(m.summary, "first_token")
        if (v := finite(row.get("text"))) is not None
    ]
    if not known:
        return None
    most, layer = max(known, key=lambda item: item[0])
    row = next(row for row in rows(m.summary, "first_token") if whole(row.get("layer")) == layer)
    random = finite(row.get("random"))
    aside = f", {_share(random)} on random tokens" if random is not None else ""
    if max(most, random or 0.0) < LITTLE:
        return Finding(
            f"The first token draws little: at most {_share(most)} of a layer's attention on the text.", "positions"
        )
    return Finding(
        f"The first token draws most in layer {layer}: {_share(most)} of the attention on the text{aside}.", "positions"
    )


# Ranges, ablation


def _out_of_range(m: Inspected) -> Finding | None:
    section = _mapping(m.summary.get("out_of_range"))
    if not section:
        return None
    noise, multiples = finite(section.get("noise")), m.multiples
    pair, layer = _mapping(section.get("first_pair")), _mapping(section.get("first_layer"))
    if not pair and not layer:
        reach = f" up to {multiples[-1]:g}x the training length" if multiples else ""
        than = f"three times the noise ({number(noise)})" if noise is not None else "three times the noise"
        said = f"Nothing is seen to leave its range: no pair's logits depart by {than} more than in range{reach}"
        return Finding(f"{said}.", "departure")
    parts = []
    if pair:
        wave = finite(pair.get("wavelength"))
        turn = f" (wavelength {tokens(wave)})" if wave is not None and math.isfinite(wave) else ""
        listed = rows(section, "pairs")
        row = next((r for r in listed if (r.get("layer"), r.get("pair")) == (pair.get("layer"), pair.get("pair"))), {})
        parts.append(
            f"pair {pair.get('pair')}{turn} of layer {pair.get('layer')} first, {_departs(pair, _in_range(m, row))}"
        )
    if layer:
        row = next((r for r in rows(section, "layers") if r.get("layer") == layer.get("layer")), {})
        parts.append(f"of the layers, layer {layer.get('layer')} first, {_departs(layer, _in_range(m, row))}")
    said = f"Logits leave the range of training in {'; '.join(parts)}"
    if noise is not None:
        said += f"; noise is {number(noise)}"
    return Finding(f"{said}.", "departure-pairs" if pair else "departure")


def _in_range(m: Inspected, row: Mapping[str, Any]) -> float | None:
    """The departure at 1x: how much the far half of the range differs from the whole of it."""
    series = row.get("departure") or []
    at = m.multiples.index(1.0) if 1.0 in m.multiples else len(series)
    return finite(series[at]) if at < len(series) else None


def _departs(row: Mapping[str, Any], inside: float | None) -> str:
    at, by = finite(row.get("multiple")), finite(row.get("departure"))
    size = f"by {number(by)} standard deviations" if by is not None else ""
    where = f"{size} at {at:g}x the training length" if at is not None else size
    return where if inside is None or at == 1 else f"{where} (at 1x, in range: {number(inside)})"


def _ablation(m: Inspected) -> Finding | None:
    section = _mapping(m.summary.get("ablation"))
    table = [row for row in rows(section, "cuts") if whole(row.get("cut")) is not None]
    if not table:
        return None
    hope, length = whole(section.get("hope_cut")), whole(section.get("past_length"))
    past = f"at {length:,} tokens" if length else "past the range"
    said = []
    row = next((row for row in table if whole(row["cut"]) == hope), None)
    if row is not None and (changes := _changes(row, past)):
        said.append(f"Without training, HoPE's cut (pairs {hope} and slower stand still) {changes}.")
    known = [(v, r) for r in table if (v := finite(r.get("past_change"))) is not None]
    if known:
        lowest, best = min(known, key=lambda item: item[0])
        cut, error = whole(best["cut"]), finite(best.get("past_stderr"))
        if lowest >= 0:
            said.append(f"No cut is seen to lower the loss {past}.")
        elif error is None or -lowest <= 2 * error:
            said.append(f"That a cut lowers the loss {past} is not resolved: at best, {_moves(lowest, error)}.")
        elif cut != hope:
            said.append(
                f"The loss {past} is lowest with {plural(cut or 0, 'pair')} left turning: {_moves(lowest, error)}."
            )
    return Finding(" ".join(said), "ablation") if said else None


def _changes(row: Mapping[str, Any], past: str) -> str:
    inside, outside = finite(row.get("in_range_change")), finite(row.get("past_change"))
    parts = []
    if inside is not None:
        parts.append(f"{_moves(inside, finite(row.get('in_range_stderr')))} in range")
    if outside is not None:
        parts.append(f"{_moves(outside, finite(row.get('past_stderr')))} {past}")
    if not parts:
        return ""
    return f"moves the loss {' and '.join(parts)}, in nats per token"


def _moves(change: float, stderr: float | None) -> str:
    return f"{'up' if change >= 0 else 'down'} by {with_spread(abs(change), stderr)}"


# Norms, spectrum, lengths


def _usage(m: Inspected) -> Finding | None:
    """How much of the norm lies in the slowest quarter of the pairs."""
    shares = {}
    for words, name in (("queries", "norm_q"), ("keys", "norm_k"), ("values", "norm_v")):
        values = m.array(name, 3)
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


def _spectrum(m: Inspected) -> Finding | None:
    layers = rows(m.summary.get("spectrum"), "layers")
    told = list(
        dict.fromkeys(
            (whole(row.get("pairs")), whole(row.get("turning")), whole(row.get("never_full"))) for row in layers
        )
    )
    if not told or None in told[0][:2]:
        return None
    if len(told) > 1:
        return Finding(f"The layers turn in {plural(len(told), 'different way')}: see the spectrum.", "spectrum")
    pairs, turning, never = told[0]
    said = f"{turning} of {pairs} pairs turn"
    if never is not None:
        within = f"{m.train_length:,} tokens" if m.train_length else "the training length"
        said += f"; {never or 'none'} of them never {'turns' if never <= 1 else 'turn'} fully within {within}"
    return Finding(f"{said}.", "spectrum")


def _lengths(m: Inspected) -> Finding | None:
    found = _mapping(_mapping(m.summary.get("divergence")).get("lengths"))
    known = [(v, layer) for layer, value in enumerate(found.get("layers") or []) if (v := finite(value)) is not None]
    if not known:
        return None
    most, layer = max(known)
    a, b = whole(found.get("train_length")), whole(found.get("length"))
    between = f"Between {a:,} and {b:,} tokens" if a and b else "From the training length to the full length"
    said = f"{between}, attention by relative position changes most in layer {layer}, by {number(most)} nats"
    return Finding(f"{said} of at most 0.69.", "divergence")


# Training


def _training(m: Inspected) -> list[Finding]:
    steps = sorted(
        (row for row in rows(m.summary, "training") if whole(row.get("step")) is not None), key=lambda r: r["step"]
    )
    if len(steps) < 2:
        return []
    last, found = int(steps[-1]["step"]), []
    for protocol, where in PROTOCOLS.items():
        told = [(int(row["step"]), u_shape(row, protocol)) for row in steps]
        rises = [(step, u, rise) for step, u in told if (rise := finite(u.get("rise"))) is not None]
        if not rises:
            continue
        seen = next((step for step, u, _ in rises if u.get("appears")), None)
        if seen is None:
            found.append(
                Finding(f"In training no U-shape appears {where}, at any of {len(rises)} checkpoints.", "training")
            )
            continue
        peak, _, most = max(rises, key=lambda item: item[2])
        end = f"; at the end, step {last:,}, it is {number(rises[-1][2])}" if peak != last else ""
        said = f"In training the U-shape {where} is first seen at step {seen:,} of {last:,}"
        found.append(Finding(f"{said} and is largest at step {peak:,} ({number(most)}){end}.", "training"))
    counts = [(int(row["step"]), len(row["heads"])) for row in steps if isinstance(row.get("heads"), list | tuple)]
    first = next((step for step, count in counts if count), None)
    if first is not None:
        said = (
            f"The first positional heads are seen at step {first:,} of {last:,}; at the end there are {counts[-1][1]}."
        )
        found.append(Finding(said, "training"))
    return found


# Two models


def differences(models: Sequence[Inspected]) -> list[Finding]:
    """What sets two models apart, and where they are not told apart."""
    if len(models) != 2:
        return []
    a, b = models
    found = [_rises_apart(a, b, protocol) for protocol in PROTOCOLS]
    if all(isinstance(m.summary.get("heads"), list | tuple) for m in models):
        counts = [f"{len(m.heads)} in {m.name}" for m in models]
        found.append(Finding(f"Positional heads: {counts[0]}, {counts[1]}.", "heads"))
    found += [_departures_apart(a, b), _ablations_apart(a, b)]
    between = [
        (v, layer)
        for layer, value in enumerate(_mapping(a.summary.get("divergence")).get("models") or [])
        if (v := finite(value)) is not None
    ]
    if between:
        most, layer = max(between)
        said = f"Their attention by relative position differs most in layer {layer}, by {number(most)} nats"
        found.append(Finding(f"{said} of at most 0.69.", "divergence"))
    return [finding for finding in found if finding is not None]


def _rises_apart(a: Inspected, b: Inspected, protocol: str) -> Finding | None:
    us = [m.u_shape(protocol) for m in (a, b)]
    rises = [finite(u.get("rise")) for u in us]
    if rises[0] is None or rises[1] is None:
        return None
    errors = [finite(u.get("stderr")) for u in us]
    values = [with_spread(rise, error) for rise, error in zip(rises, errors, strict=True)]
    said = f"The rise of the U-shape {PROTOCOLS[protocol]}: {values[0]} in {a.name}, {values[1]} in {b.name}"
    if errors[0] is not None and errors[1] is not None:
        apart = abs(rises[0] - rises[1]) > 2 * math.hypot(errors[0], errors[1])
        said += "" if apart else "; their difference is not resolved"
    return Finding(f"{said}.", "logits")


def _departures_apart(a: Inspected, b: Inspected) -> Finding | None:
    """The largest departure of a layer at the first multiple past the range that both have."""
    sections = [_mapping(m.summary.get("out_of_range")) for m in (a, b)]
    multiples = [m.multiples for m in (a, b)]
    at = next((x for x in multiples[0] if x > 1 and x in multiples[1]), None)
    if at is None:
        return None
    most = []
    for section, own in zip(sections, multiples, strict=True):
        i = own.index(at)
        series = [row.get("departure") or [] for row in rows(section, "layers")]
        values = [v for departures in series if i < len(departures) and (v := finite(departures[i])) is not None]
        if not values:
            return None
        most.append(max(values))
    said = f"At {at:g}x the training length a layer's logits depart by at most"
    return Finding(
        f"{said} {number(most[0])} standard deviations in {a.name} and {number(most[1])} in {b.name}.", "departure"
    )


def _ablations_apart(a: Inspected, b: Inspected) -> Finding | None:
    losses = []
    for m in (a, b):
        section = _mapping(m.summary.get("ablation"))
        inside, past, length = (
            finite(section.get("in_range")),
            finite(section.get("past")),
            whole(section.get("past_length")),
        )
        if inside is None or past is None:
            return None
        at = f"at {length:,} tokens" if length else "past it"
        losses.append(f"{m.name} has a loss of {number(inside)} in range and {number(past)} {at}")
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


def _wavelengths(activated: Mapping[str, Any]) -> str:
    """`, wavelengths 130 to 730`."""
    known = [w for value in activated.get("wavelengths") or [] if (w := finite(value)) is not None]
    if not known:
        return ""
    ends = list(dict.fromkeys(tokens(w) for w in (min(known), max(known))))
    return f", wavelength{'s' if len(ends) > 1 else ''} {' to '.join(ends)}"


def _removed(removed: int, count: int) -> str:
    if count == 1:
        return "it" if removed else "none of it"
    if removed == count:
        return f"all {count}"
    return f"{removed or 'none'} of the {count}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _kind(head: Mapping[str, Any]) -> str:
    return str(head.get("kind") or "positional")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
