"""Every streamed number against the same one from full matrices in float64."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from threading import get_native_id
from time import sleep

import numpy as np
import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.inspection import analysis, measures, streaming
from whorl.inspection.measures import Bins
from whorl.inspection.passes import Pass, regions
from whorl.ops.visible import DenseVisible
from whorl.results.inspection import LayerDeparture
from whorl.watching import Attended, Layer

TOKENS, HEADS, KEY_HEADS, DIM = 256, 4, 2, 24
CASES = {
    "plain": {},
    "interleaved": {"layout": "interleaved"},
    "partial": {"pairs": 8},
    "window": {"window": 37},
    "softcap": {"softcap": 2.0},
    "sinks": {"sinks": 1.0},
    "large sinks": {"sinks": 200.0},
    "bias": {"notation": "alibi"},
    "a window as a bias": {"notation": "alibi+window:size=37"},
    "learned bias": {"notation": "t5"},
    "no pairs": {"pairs": 0},
    "short": {"tokens": 17},
}


def attended(layout="half", pairs=DIM // 2, window=None, softcap=None, sinks=None, notation="nope", tokens=TOKENS):
    layer = Layer(0, tuple(100 ** (-i / max(pairs, 1)) for i in range(pairs)), layout, 1.0, window)
    q, k, v = (torch.randn(2, h, tokens, DIM) for h in (HEADS, KEY_HEADS, KEY_HEADS))
    biases = [e.module for e in parse(notation).effects(Shape(DIM, HEADS, HEADS * DIM))]
    for parameter in (p for module in biases for p in module.parameters()):
        torch.nn.init.normal_(parameter)
    cap = sinks * torch.randn(HEADS) if sinks else None
    mask = None
    if window is not None:
        at = torch.arange(tokens)
        distance = at[:, None] - at
        mask = DenseVisible(((distance >= 0) & (distance < window))[None, None], tokens, tokens)
    return Attended(layer, q, k, v, 0.3, softcap, cap, biases, mask, torch.arange(tokens)[None])


def full(a: Attended, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw logits [heads, tokens, tokens], and weights with the sink's last: all from full matrices, in float64."""
    tokens = a.q.shape[2]
    k = a.k[window].double().repeat_interleave(HEADS // KEY_HEADS, 0)
    raw = a.q[window].double() @ k.transpose(1, 2) * a.scale
    s = raw if a.softcap is None else a.softcap * torch.tanh(raw / a.softcap)
    at = torch.arange(tokens)[None]
    for module in a.biases:
        s = s + module(at, at)[0].double()
    distance = at.T - at
    hidden = (distance < 0) | (distance >= (a.layer.window or tokens))
    s = s.masked_fill(hidden, -torch.inf)
    sink = (
        torch.full((HEADS, tokens, 1), -torch.inf) if a.sinks is None else a.sinks[:, None, None].expand(-1, tokens, 1)
    )
    return raw, torch.cat([s, sink.double()], -1).softmax(-1)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_streamed_softmax(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a = attended(**CASES[case])
    monkeypatch.setattr(streaming, "BLOCK_NUMBERS", 20_000)  # so that there are many blocks
    tokens, window = a.q.shape[2], 1
    got = streaming.softmax(a, window)
    _, weights = full(a, window)
    seen = weights[..., :-1]
    by_distance = torch.stack([seen.diagonal(-d, 1, 2).sum(-1) for d in range(tokens)], -1)
    np.testing.assert_allclose(got.by_distance, by_distance, atol=2e-5)
    np.testing.assert_allclose(got.entropy, torch.special.entr(weights).sum(-1), atol=2e-5)
    for q0, q1 in ((0, 3), (tokens - 9, tokens - 2)):
        np.testing.assert_allclose(a.entropy(window, q0, q1), got.entropy[:, q0:q1], atol=2e-5)
    np.testing.assert_allclose(got.first, seen[:, :, 0], atol=2e-6)
    last = seen[:, tokens - max(1, tokens // 8) :].mean(1)
    edges = np.linspace(0, tokens, measures.KEY_BINS + 1).round().astype(int)
    binned = np.stack([last[:, i:j].sum(1) for i, j in itertools.pairwise(edges)], 1)
    np.testing.assert_allclose(got.last_keys, binned, atol=2e-6)


@pytest.mark.parametrize("case", ["plain", "interleaved", "partial", "no pairs", "short"])
def test_logits_by_distance_and_by_pair(case: str) -> None:
    a = attended(**CASES[case])
    raw, _ = full(a, 0)
    tokens = a.q.shape[2]
    raw[..., 0] = 0  # the first token is no key here
    whole, parts = measures.curves(a.q[0], a.k[0], a.layer.channels(), a.scale)
    direct = torch.stack([raw.diagonal(-d, 1, 2).sum(-1) for d in range(tokens)], -1)
    size = float(direct.abs().max())
    np.testing.assert_allclose(whole, direct, atol=2e-6 * size)
    k = a.k[0].repeat_interleave(HEADS // KEY_HEADS, 0).double()
    k[:, 0] = 0
    for pair, channels in enumerate(a.layer.channels()):
        of_pair = a.q[0][..., channels].double() @ k[..., channels].transpose(1, 2) * a.scale
        for d in (0, 1, 5, tokens - 2):
            np.testing.assert_allclose(parts[:, pair, d], of_pair.diagonal(-d, 1, 2).sum(-1), atol=2e-6 * size)
    bound = measures.norm_products(a.q[0], a.k[0], a.scale)
    norms = a.q[0].norm(dim=-1)[:, :, None].double() * k.norm(dim=-1)[:, None] * a.scale
    np.testing.assert_allclose(bound[:, 3], norms.diagonal(-3, 1, 2).sum(-1), rtol=1e-5)
    assert (whole.abs() <= bound + 1e-3 * size).all()


@pytest.mark.parametrize("case", ["plain", "window", "sinks", "partial"])
@torch.no_grad()
def test_sums_do_not_depend_on_the_threads(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, before = attended(**CASES[case]), torch.get_num_threads()
    monkeypatch.setattr(streaming, "BLOCK_NUMBERS", 20_000)
    monkeypatch.setattr(streaming, "SMALL", 0)  # so that there are threads
    monkeypatch.setattr(measures, "SMALL", 0)
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            softmax = streaming.softmax(a, 0)
            streamed = softmax.sums, softmax.entropy, softmax.first
            found.append([*streamed, *measures.curves(a.q[0], a.k[0], a.layer.channels(), a.scale)])
            assert torch.get_num_threads() == threads, "as it was"
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == threads, "and for threads to come"
            (seen,) = set(measures.at_once(lambda _: torch.get_num_threads(), range(9), a.q.device))
            assert seen == 1, "each has its operations to itself"
            with pytest.raises(ZeroDivisionError):
                measures.at_once(lambda item: 1 / item, range(9), a.q.device)
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        np.testing.assert_allclose(three, one, rtol=1e-5, atol=1e-4)


def test_threads_are_kept_and_a_fork_has_its_own() -> None:
    def idents() -> set[int]:
        return set(measures.at_once(lambda _: (sleep(0.01), get_native_id())[1], range(4), torch.device("cpu")))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first = idents()
        assert idents() == first
        assert len(first) == 2
        child = get_context("fork").Process(target=idents, daemon=True)
        child.start()
        child.join(20)
        assert child.exitcode == 0, "it waits for threads that it does not have"
    finally:
        torch.set_num_threads(before)


def test_standardised_logits_are_z_scores() -> None:
    a = attended()
    q, k = measures.standardised(a.q[0], a.k[0] + 3)
    z = q.double() @ k.double().repeat_interleave(HEADS // KEY_HEADS, 0)[:, 1:].transpose(1, 2)
    torch.testing.assert_close(z.mean(-1), torch.zeros_like(z[..., 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(-1, correction=0), torch.ones_like(z[..., 0]), atol=1e-5, rtol=0)


def test_pair_norms_do_not_change_under_rotation() -> None:
    from whorl.encodings import Spectrum
    from whorl.ops import rotate, rotation_tables

    for layout in ("half", "interleaved"):
        a = attended(layout=layout)
        norms = measures.pair_norms(a.q, a.layer)
        a0, b0 = a.layer.channels()[3].tolist()
        direct = torch.hypot(a.q[..., a0], a.q[..., b0]).mean((0, 2))
        np.testing.assert_allclose(norms[:, 3], direct, rtol=1e-6)
        tables = rotation_tables(Spectrum(a.layer.frequencies, DIM), torch.arange(TOKENS))
        turned, _ = rotate(a.q, None, tables, layout=layout)
        np.testing.assert_allclose(measures.pair_norms(turned, a.layer), norms, rtol=1e-5)


def test_bins_of_a_shorter_length_are_the_first_of_a_longer() -> None:
    short, long = Bins.over(700, 64, 12), Bins.over(5000, 64, 12)
    assert (long.start[: len(short)] == short.start).all()
    assert (long.stop[: len(short) - 1] == short.stop[:-1]).all()
    assert short.stop[-1] == 700
    assert (short.stop[:64] - short.start[:64] == 1).all()
    for bins, length in ((short, 700), (long, 5000), (Bins.over(5, 64, 12), 5)):
        assert (bins.start[1:] == bins.stop[:-1]).all()
        x = np.random.default_rng(0).normal(size=(3, length))
        np.testing.assert_allclose(bins.sum(x).sum(-1), x.sum(-1))
        np.testing.assert_allclose(bins.sum(x)[:, -1], x[:, bins.start[-1] :].sum(-1))


def test_departures_of_known_distributions() -> None:
    x = torch.randn(2, 40_000, 3)
    moved = torch.stack([x[..., 0] + 1.5, x[..., 1] * 2, x[..., 2]], -1)[:, torch.randperm(40_000)]
    found = measures.departure(moved, x * 4)  # in standard deviations of the reference
    np.testing.assert_allclose(measures.departure(x + 2, x), 2.0, atol=0.02)
    assert float(found[:, 2].mean()) == pytest.approx(3 * math.sqrt(2 / math.pi) / 4, rel=0.02)
    np.testing.assert_allclose(measures.departure(x[:, torch.randperm(40_000)], x), 0, atol=1e-6)


def test_sampled_logits_are_those_of_their_distances() -> None:
    a = attended(tokens=64)
    # q_i . k_j = 1000 i + j: every sample says which query and key it is of
    a.q[:], a.k[:] = 0, 0
    at = torch.arange(64.0)
    a.q[..., 0], a.q[..., 1], a.k[..., 0], a.k[..., 1] = 1000 * at, 1, 1, at
    at = measures.drawn(64, 5, 20, 500, torch.Generator().manual_seed(0))
    drawn = measures.parts_at(a, 0, *at)[0, :, -1] / a.scale
    query, key = (drawn / 1000).floor(), drawn.round() % 1000
    assert set((query.round() - key).tolist()) == set(range(5, 20))
    assert key.min() == 1, "the first token is no key"
    assert query.max() == 63


def test_jensen_shannon() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.0, 2.0])
    assert analysis.jensen_shannon(p, q) == pytest.approx(math.log(2))
    assert analysis.jensen_shannon(p, 3 * p) == pytest.approx(0)
    r = np.array([0.25, 0.25, 0.5])
    assert analysis.jensen_shannon(p, r) == pytest.approx(analysis.jensen_shannon(r, p))


@pytest.mark.parametrize("notation", ["kerple", "t5", "alibi"])
def test_a_bias_is_part_of_the_curve(notation: str) -> None:
    a = attended(notation=notation, tokens=100)
    found = Pass(None, torch.zeros(2, 100, dtype=torch.long), "raw", regions_over=100)
    with torch.no_grad():
        found._see(a)
    got = found.mean_logit(found.layers[0])
    at = torch.arange(100)[None]
    bias = sum(m(at, at)[0] for m in a.biases).detach().double()
    raw = sum(full(a, w)[0] for w in range(2)).detach() / 2 + bias
    for d in (0, 1, 7, 60):
        direct = raw.diagonal(-d, 1, 2)[:, 1:].mean(-1)
        np.testing.assert_allclose(got[:, d], direct, atol=1e-5)
    standard = Pass(None, torch.zeros(2, 100, dtype=torch.long), "standardised", regions_over=100)
    with torch.no_grad():
        standard._see(a)
    z = []
    for w in range(2):
        logits = full(a, w)[0].detach()
        keys = logits[..., 1:]
        spread = keys.std(-1, correction=0, keepdim=True)
        z.append((logits - keys.mean(-1, keepdim=True) + bias) / spread)
    direct = (sum(z) / 2).diagonal(-7, 1, 2)[:, 1:].mean(-1)
    np.testing.assert_allclose(standard.mean_logit(standard.layers[0])[:, 7], direct, atol=1e-4)


def test_the_rise_is_far_less_middle_by_its_definition() -> None:
    assert regions(128) == ((1, 16), (48, 80), (112, 128))
    a = attended(tokens=128)
    found = Pass(None, torch.zeros(2, 128, dtype=torch.long), "raw", regions_over=128)
    found._see(a)
    shape = analysis.u_shape(found, 128)
    rises = []
    for window in range(2):
        raw = full(a, window)[0][..., 1:].mean(0)  # over heads; column j - 1 is key j
        i, j = torch.meshgrid(torch.arange(128), torch.arange(1, 128), indexing="ij")

        def mean(low: int, high: int, raw: torch.Tensor = raw, distance: torch.Tensor = i - j) -> float:
            return float(raw[(distance >= low) & (distance < high)].mean())

        rises.append(mean(112, 128) - mean(48, 80))
    assert shape.rise == pytest.approx(np.mean(rises), abs=1e-6)
    assert shape.stderr == pytest.approx(np.std(rises, ddof=1) / math.sqrt(2), abs=1e-6)
    assert sum(p.rise_share for p in shape.pairs) == pytest.approx(1, abs=1e-4)
    assert sum(p.variance_share for p in shape.pairs) == pytest.approx(1, abs=1e-4)


def test_a_window_shows_nothing_past_itself() -> None:
    found = Pass(None, torch.zeros(2, TOKENS, dtype=torch.long), "raw", regions_over=TOKENS)
    found._see(attended(window=37))
    logit = found.mean_logit(found.layers[0])
    assert np.isfinite(logit[:, :37]).all()
    assert np.isnan(logit[:, 37:]).all()
    assert analysis.u_shape(found, TOKENS) is None, "no distance near the training length is ever seen"


@pytest.mark.parametrize(("near", "far", "appears"), [(1.0, 1.0, True), (-1.0, 1.0, False), (1.0, -1.0, False)])
def test_a_u_shape_is_high_at_both_ends(near: float, far: float, appears: bool) -> None:
    found = Pass(None, torch.zeros(2, TOKENS, dtype=torch.long), "raw", regions_over=TOKENS)
    found._see(attended())
    pairs = DIM // 2 + 1
    noise = np.linspace(-0.01, 0.01, 3)
    found.layers[0].regions = [np.outer([near, 0, far + e], np.ones(pairs)) for e in noise]
    assert analysis.u_shape(found, TOKENS).appears == appears


def test_leaving_a_range_is_measured_against_the_value_in_it() -> None:
    """A pair whose far half always differs from its near half has not left its range by that."""
    always, leaves = LayerDeparture(1, (0.9, 0.9, 0.9)), LayerDeparture(2, (0.1, 0.2, 0.8))
    assert analysis._first([always, leaves], noise=0.05) == (leaves, 2, 0.8)
    assert analysis._first([always], noise=0.05) is None
