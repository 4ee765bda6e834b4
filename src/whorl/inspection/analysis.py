"""What the sums of a pass say: the U-shape and the pairs that make it, positional heads, what leaves its range."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from whorl.encodings.p_rope import PRoPE, pairs_of_share
from whorl.encodings.spectrum import turns_fully, wavelength
from whorl.inspection import measures
from whorl.inspection.passes import OFFSETS, Pass, Sums
from whorl.results.added import Added, Factor, Gate
from whorl.results.inspection import (
    Activated,
    Array,
    FirstLayer,
    FirstPair,
    FirstToken,
    Head,
    LayerDeparture,
    LayerRise,
    LayerSpectrum,
    OutOfRange,
    PairDeparture,
    PairRise,
    UShape,
)
from whorl.watching import Layer

Row = TypeVar("Row", LayerDeparture, PairDeparture)
POSITIONAL = 0.5  # mean attention at one place from which on a head is a positional head
CARRIED = 0.8  # of a margin or a rise: the pairs that together make so much of it
MULTIPLES = (1, 2, 4, 8)


def finite_wavelength(layer: Layer, pair: int) -> float | None:
    """Tokens per full turn of a pair; None where it does not rotate, for JSON has no infinity."""
    found = wavelength(layer.frequencies[pair])
    return found if math.isfinite(found) else None


def hope_cut(layer: Layer, train_length: int) -> int:
    """How many pairs, fastest first, turn fully within the training length: those that HoPE keeps (2410.21216).

    In a layer that has HoPE with another `cut`, within so many training lengths.
    """
    return sum(turns_fully(f, layer.cut * train_length) for f in layer.frequencies)


def spectrum(layers: list[Layer], train_length: int) -> tuple[LayerSpectrum, ...]:
    """Facts of every layer's spectrum."""
    return tuple(
        LayerSpectrum(
            layer=layer.index,
            pairs=layer.pairs,
            turning=sum(1 for f in layer.frequencies if f > 0),
            never_full=sum(f > 0 and not turns_fully(f, train_length) for f in layer.frequencies),
            hope_cut=hope_cut(layer, train_length),
            p_rope_cut=pairs_of_share(PRoPE.p, 2 * layer.pairs),
            amplitude=layer.amplitude,
        )
        for layer in layers
    )


# --- the U-shape -----------------------------------------------------------------------------------------------------


def u_shape(found: Pass, train_length: int) -> UShape | None:
    """How far the far end of the mean logit by distance rises above its middle, and which pairs make it rise.

    near, middle and far are means over all (query, key) pairs at distances [1, L/8), [3L/8, 5L/8) and [7L/8, L), L
    being what the pass takes regions over: the training length, or the windows' where they are shorter. HoPE's cut
    goes by `train_length`. rise = far - middle and near - middle, in logits (z-scores in a standardised pass); the
    standard error is over windows. A U-shape appears where rise exceeds twice its standard error and near lies above
    the middle.

    A pair's rise_share is its part of the rise (the shares sum to 1), its variance_share the covariance of its part of
    the curve with the curve over the curve's variance (they sum to 1 as well). The activated pairs are those, largest
    first, that make 80 % of all the parts that rise. None where no layer's distances reach so far.
    """
    sums = [s for _, s in sorted(found.layers.items()) if s.regions and not np.isnan(s.regions[0][:, -1]).any()]
    if not sums or found.regions_over is None:
        return None
    rises = [np.stack([r[2] - r[1] for r in s.regions]) for s in sums]  # per layer [windows, pairs + 1]
    nears = [np.stack([r[0] - r[1] for r in s.regions])[:, -1] for s in sums]
    whole = np.stack([r[:, -1] for r in rises])
    rise, error = _mean_and_error(whole.mean(0))
    near = float(np.mean(nears))
    layers = []
    for s, rise_of, near_of in zip(sums, rises, nears, strict=True):
        mean, stderr = _mean_and_error(rise_of[:, -1])
        layers.append(LayerRise(s.layer.index, mean, stderr, float(near_of.mean())))
    pairs = _pairs_of_the_rise(found, sums, rises, rise)
    appears = error is not None and rise > 2 * error and near > 0
    return UShape(
        appears=bool(appears),
        rise=rise,
        stderr=error,
        near=near,
        layers=tuple(layers),
        pairs=pairs,
        activated=_activated(pairs, sums, train_length) if appears else None,
    )


def _mean_and_error(x: Array) -> tuple[float, float | None]:
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else None


def _pairs_of_the_rise(found: Pass, sums: list[Sums], rises: list[Array], rise: float) -> tuple[PairRise, ...]:
    """One row per pair, the mean over layers; none where layers differ in their pairs."""
    pairs = {s.layer.frequencies for s in sums}
    if len(pairs) != 1 or not sums[0].layer.turns:
        return ()
    each = np.mean([r.mean(0) for r in rises], 0)
    low, high = 1, found.regions_over
    assert high is not None
    counts = found.counts[low:high].clip(1)
    curve = np.mean([s.curve[:, low:high] / (counts * s.windows) for s in sums if s.curve is not None], 0)[:, :-1]
    centred = curve - curve.mean(1, keepdims=True)
    variance = float(centred[-1] @ centred[-1])
    return tuple(
        PairRise(
            pair=pair,
            wavelength=finite_wavelength(sums[0].layer, pair),
            rise=float(each[pair]),
            rise_share=float(each[pair] / rise) if rise else None,
            variance_share=float(centred[pair] @ centred[-1]) / variance if variance else None,
        )
        for pair in range(sums[0].layer.pairs)
    )


def _activated(pairs: tuple[PairRise, ...], sums: list[Sums], train_length: int) -> Activated | None:
    rising = sorted((p for p in pairs if p.rise > 0), key=lambda p: -p.rise)
    goal, taken, total = CARRIED * sum(p.rise for p in rising), [], 0.0
    for pair in rising:
        if total >= goal:
            break
        taken.append(pair)
        total += pair.rise
    if not taken:
        return None
    waves = [p.wavelength for p in taken if p.wavelength is not None]
    cut = hope_cut(sums[0].layer, train_length)
    return Activated(
        pairs=tuple(sorted(p.pair for p in taken)),
        wavelengths=(min(waves), max(waves)) if waves else None,
        share=sum(p.rise_share for p in taken if p.rise_share is not None),
        removed_by_hope=sum(1 for p in taken if p.pair >= cut and p.wavelength is not None),
    )


# --- positional heads ------------------------------------------------------------------------------------------------


def positional_heads(text: Pass, random: Pass | None) -> tuple[Head, ...]:
    """Heads that give at least half of their attention to one place, whatever the text: a distance below 64, or the
    first token, both on the text and on random tokens (on the text alone where there is no random pass)."""
    found = []
    for index, sums in sorted(text.layers.items()):
        if sums.attention is None:
            continue
        scores = [_scores(p, p.layers[index]) for p in (text, random) if p is not None]
        least = np.minimum.reduce(scores)
        for head, at in enumerate(least.argmax(1)):
            if least[head, at] < POSITIONAL:
                continue
            first = at == least.shape[1] - 1
            kind = "first-token" if first else {0: "diagonal", 1: "previous-token"}.get(int(at), "offset")
            found.append(
                Head(
                    layer=index,
                    head=head,
                    kind=kind,
                    offset=None if first else int(at),
                    text=float(scores[0][head, at]),
                    random=float(scores[1][head, at]) if random is not None else None,
                    **_carriers(text, sums, head, None if first else int(at)),
                )
            )
    return tuple(found)


def _scores(found: Pass, sums: Sums) -> Array:
    """[heads, offsets + 1]: mean attention at each distance, and last on the first token.

    Distances up to half of the window only: at larger ones the first token is most of what there is to see.
    """
    attention = found.mean_attention(sums)
    assert attention is not None
    assert sums.settled_first is not None
    offsets = min(OFFSETS, found.tokens // 2)
    return np.concatenate([attention[:, :offsets], sums.settled_first[:, None] / sums.windows], 1)


def _carriers(found: Pass, sums: Sums, head: int, offset: int | None) -> dict[str, Any]:
    """Which pairs lift the logit at a head's place above its mean over all distances, and how near to its bound."""
    layer, by_pair = sums.layer, found.mean_by_pair(sums)
    nothing: dict[str, Any] = {"fast_share": None, "pairs": (), "bound": None}
    if by_pair is None or sums.by_pair is None or sums.first_by_pair is None or sums.bound is None:
        return nothing
    everywhere = np.nansum(sums.by_pair[head], -1) / (sums.windows * found.counts.sum())
    if offset is None:
        here = sums.first_by_pair[head, :-1] / sums.windows
        bound = None
    else:
        here = by_pair[head, :, offset]
        count = sums.windows * found.counts[offset]
        logit, added = found.mean_logit(sums), found.mean_added(sums)
        assert logit is not None
        content = logit[head, offset] - (0 if added is None else added[head, offset])
        bound = float(content / (sums.bound[head, offset] / count))
    margin = here - everywhere
    order, goal = np.argsort(-margin), CARRIED * margin.clip(0).sum()
    needed = int(np.searchsorted(margin[order].clip(0).cumsum(), goal) + 1)
    fastest = math.ceil(layer.pairs / 4)
    return {
        "fast_share": float(margin[:fastest].sum() / margin.sum()) if margin.sum() > 0 else None,
        "pairs": tuple(sorted(int(i) for i in order[:needed])),
        "bound": bound,
    }


def first_token(text: Pass, random: Pass | None) -> tuple[FirstToken, ...]:
    """Each layer's mean attention on the first token, over heads and the queries from the eighth on."""

    def mean(found: Pass | None, index: int) -> float | None:
        settled = None if found is None else found.layers[index].settled_first
        return None if settled is None or found is None else float(settled.mean() / found.layers[index].windows)

    return tuple(FirstToken(i, mean(text, i), mean(random, i)) for i in sorted(text.layers))


# --- what is added, and what logits are multiplied by ---


def added(text: Pass) -> tuple[Added, ...] | None:
    """How much of each head's logits biases and scores make; None where nothing is added in any layer.

    By the variances over keys of single queries (from the eighth on), which are what a softmax feels: content + added
    is the logit, so that the shares of both sum to 1. One is negative where they pull apart.
    """
    rows = []
    for index, sums in sorted(text.layers.items()):
        if sums.spread is None or sums.moved is None:
            continue
        for head, (own, content, both) in enumerate(sums.spread / sums.windows):
            whole = own + content + 2 * both
            share = float((own + both) / whole) if whole > 0 else 0.0
            moved = float(sums.moved[head] / sums.windows)
            rows.append(Added(index, head, moved, share, math.sqrt(own), math.sqrt(content)))
    return tuple(rows) or None


def gates(text: Pass) -> tuple[Gate, ...] | None:
    """Of each head whose keys fade by gates; None without any."""
    rows = []
    for index, sums in sorted(text.layers.items()):
        for head, (log, mean, below) in enumerate(() if sums.gates is None else sums.gates / sums.windows):
            half_life = -math.log(2) / log if log < 0 else math.inf
            half = float(half_life) if math.isfinite(half_life) else None
            rows.append(Gate(index, head, float(mean), half, float(below)))
    return tuple(rows) or None


def factors(scales: list[tuple[nn.Module, ...]], inside: Pass, beyond: Pass | None) -> tuple[Factor, ...] | None:
    """What scales multiply logits by, and what heads learned of it; None without any. scales: the modules of each
    layer."""
    rows = []
    for index, sums in sorted(inside.layers.items()):
        if sums.factor is None:
            continue
        at = sums.factor / sums.windows
        past = None
        if beyond is not None and (longer := beyond.layers.get(index)) is not None and longer.factor is not None:
            past = longer.factor / longer.windows
        learned = {name: x.detach() for module in scales[index] for name, x in module.named_parameters()}
        for head, factor in enumerate(at):
            of_head = {name: float(x[head]) for name, x in learned.items() if x.shape == at.shape}
            known = None if past is None else float(past[head])
            rows.append(Factor(index, head if len(at) > 1 else None, float(factor), known, of_head))
    return tuple(rows) or None


# --- out of range ----------------------------------------------------------------------------------------------------


def sampled_ranges(train_length: int, length: int) -> dict[str, tuple[int, int]]:
    """The distances that are sampled of long windows: (m/2 L, m L] for m = 1, 2, 4, 8, where they fit."""
    ranges = ((m, m * train_length // 2 + 1, min(m * train_length + 1, length - 1)) for m in MULTIPLES)
    return {str(m): (low, high) for m, low, high in ranges if m * train_length <= length}


def sample_count(layers: list[Layer], heads: int, budget: int = 1 << 28) -> int:
    """Samples per range, so that all of them stay within `budget` bytes."""
    numbers = sum(heads * (layer.pairs + 1) for layer in layers) * (len(MULTIPLES) + 2)
    return int(min(4096, max(256, budget // (4 * numbers))))


def out_of_range(inside: Pass, beyond: Pass) -> tuple[OutOfRange, list[Array | None], list[Array | None]]:
    """How far logits leave the distribution that they have in range: summary, [M] and [pairs, M] of each layer.

    The measure is the 1-Wasserstein distance between the logits of a head (of one of its pairs) at distances
    (m/2 L, m L] and those at all distances below L, in standard deviations of the latter; the mean over heads. A pair
    or layer has left its range at the first m past 1 at which it exceeds its value at m = 1 by three times what two
    samples of the same distribution differ by. Distances that a layer's window hides are NaN, and new to nobody.
    """
    names = list(beyond.sampled)
    whole: list[Array | None] = [None] * (max(beyond.layers) + 1)
    by_pair = list(whole)
    noises = []
    for index, sums in sorted(beyond.layers.items()):
        if not sums.layer.has_logits:
            continue
        reference, again = (torch.cat(inside.layers[index].samples[n], 1) for n in ("reference", "again"))
        noises.append(_departures(again, reference))
        hidden = np.full(reference.shape[-1], np.nan)
        rows = np.stack(
            [_departures(torch.cat(sums.samples[n], 1), reference) if n in sums.samples else hidden for n in names], -1
        )
        whole[index] = rows[-1]
        by_pair[index] = rows[:-1] if sums.layer.pairs else None
    noise = float(np.mean([n.mean() for n in noises]))
    layers = [LayerDeparture(i, _seen(row)) for i, row in enumerate(whole) if row is not None]
    pairs = [
        PairDeparture(i, p, finite_wavelength(beyond.layers[i].layer, p), _seen(row))
        for i, rows in enumerate(by_pair)
        if rows is not None
        for p, row in enumerate(rows)
    ]
    multiples, at = tuple(int(n) for n in names), min(1, len(names) - 1)
    first_pair, first_layer = None, None
    if (left := _first(pairs, noise)) is not None:
        pair, m, departure = left
        first_pair = FirstPair(pair.layer, pair.pair, pair.wavelength, multiples[m], departure)
    if (gone := _first(layers, noise)) is not None:
        layer, m, departure = gone
        first_layer = FirstLayer(layer.layer, multiples[m], departure)
    most = sorted(pairs, key=lambda p: math.inf if (d := p.departure[at]) is None else -d)[:10]
    summary = OutOfRange(multiples, noise, tuple(layers), tuple(most), first_pair, first_layer)
    return summary, whole, by_pair


def _seen(row: Array) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else value for value in row.tolist())


def _departures(test: torch.Tensor, reference: torch.Tensor) -> Array:
    """Mean over heads, [pairs + 1]."""
    count = min(test.shape[1], reference.shape[1])
    return measures.departure(test[:, :count], reference[:, :count]).mean(0).numpy()


def _first(rows: list[Row], noise: float) -> tuple[Row, int, float] | None:
    """The row that leaves its range at the lowest multiple, which of the multiples that is, and the departure there."""
    for m in range(1, len(rows[0].departure) if rows else 0):
        left = []
        for row in rows:
            here, there = row.departure[0], row.departure[m]
            if here is not None and there is not None and there > here + 3 * noise:
                left.append((there - here, there, row))
        if left:
            _, departure, row = max(left, key=lambda found: found[0])
            return row, m, departure
    return None


# --- divergence ------------------------------------------------------------------------------------------------------


def jensen_shannon(p: Array, q: Array) -> Array:
    """Jensen-Shannon divergence over the last axis, in nats; rows are scaled to sum to 1 (2406.13282, section 4)."""
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    middle = (p + q) / 2

    def kl(a: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(a > 0, a * np.log(a / middle), 0.0).sum(-1)

    return (kl(p) + kl(q)) / 2


def divergences(a: list[Array | None], b: list[Array | None]) -> tuple[float | None, ...]:
    """Of each layer's mean attention distributions [heads, keys], the mean over heads; None where heads differ."""
    return tuple(
        float(jensen_shannon(x, y).mean()) if x is not None and y is not None and x.shape == y.shape else None
        for x, y in zip(a, b, strict=False)
    )
