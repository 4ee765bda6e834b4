"""The propositions of p-RoPE's paper (Barbero et al., 2410.06205) as checks that run."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from whorl.encodings import Spectrum
from whorl.encodings.spectrum import rope_frequencies
from whorl.inspection import measures, streaming
from whorl.ops import rotate, rotation_tables
from whorl.watching import Attended, Layer

TOKENS, DIM = 512, 64
SPECTRUM = Spectrum(rope_frequencies(10_000.0, DIM), DIM)


def turned(x: torch.Tensor, by: torch.Tensor, spectrum: Spectrum = SPECTRUM) -> torch.Tensor:
    """x [heads, tokens, head_dim] turned to the positions `by` [tokens]."""
    tables = rotation_tables(spectrum, by, torch.float64 if x.dtype == torch.float64 else torch.float32)
    return rotate(x[None], None, tables)[0][0]


def attended(q: torch.Tensor, k: torch.Tensor, frequencies: tuple[float, ...] = SPECTRUM.frequencies) -> Attended:
    layer = Layer(0, frequencies, "half", 1.0, None)
    return Attended(layer, q[None], k[None], k[None], 1.0, None, None, [], None, torch.arange(q.shape[1])[None])


@pytest.mark.parametrize("distance", [0, 1, 7, 100, 511])
def test_3_1_a_key_exists_that_peaks_at_any_distance(distance: int) -> None:
    """Whatever the query: the key is the query turned by the distance, and its logit |q|^2 is reached nowhere else."""
    for _ in range(5):
        q = torch.randn(1, 1, DIM, dtype=torch.float64)
        k = turned(q, torch.tensor([distance]))  # the key's content
        at_0 = turned(k, torch.tensor([0]))
        logits = torch.stack([(turned(q, torch.tensor([i])) * at_0).sum() for i in range(TOKENS)])
        assert int(logits.argmax()) == distance
        assert float(logits.max()) == pytest.approx(float(q.square().sum()), rel=1e-9)


def test_3_2_gaussian_queries_and_keys_do_not_decay() -> None:
    """E[q R^d k] = 0 at every distance: means over many windows lie within five standard errors of 0, and their spread
    is what those errors say. Constant q and k do decay, which is what RoFormer's bound is about (their figure 2)."""
    windows = 200
    q, k = torch.randn(2, windows, TOKENS, DIM)
    at = torch.arange(TOKENS)
    whole, _ = measures.curves(turned(q, at), turned(k, at), torch.empty(0, 1, dtype=torch.long))
    mean = whole.double().mean(0).numpy() / measures.samples(TOKENS).clip(1)
    error = whole.double().std(0).numpy() / math.sqrt(windows) / measures.samples(TOKENS).clip(1)
    seen = slice(0, TOKENS - 8)
    assert np.abs(mean[seen] / error[seen]).max() < 5
    assert 0.8 < (mean[seen] / error[seen]).std() < 1.2
    ones = turned(torch.ones(1, TOKENS, DIM), at)
    decay = measures.curves(ones, ones, torch.empty(0, 1, dtype=torch.long))[0][0].numpy() / measures.samples(
        TOKENS
    ).clip(1)
    assert decay[0] > 1.5 * decay[64] > 1.5 * decay[256:400].mean()


@pytest.mark.parametrize("trial", range(5))
def test_5_2_a_position_free_head_cannot_be_diagonal(trial: int) -> None:
    """[bos, x, x]: both x are one key, so that the last query gives its own place less than a half."""
    x = torch.randn(2, DIM) * 3
    q, k = (torch.stack([x[0], x[1], x[1]]) @ torch.randn(DIM, DIM) for _ in range(2))
    found = streaming.softmax(attended(q[None], k[None], ()), 0)
    last = torch.softmax(q[2] @ k.T, 0)
    assert float(last[2]) < 0.5
    assert found.by_distance.sum() == pytest.approx(3, abs=1e-4)
    assert found.by_distance[0, 0] <= 1 + 0.5 + 0.5 + 1e-5


@pytest.mark.parametrize(("offset", "name"), [(0, "diagonal"), (1, "previous-token")])
def test_5_3_rotary_heads_can(offset: int, name: str) -> None:
    """q = psi and k = psi turned by the offset, on the fastest pairs: nearly all of the attention is at the offset."""
    psi = torch.zeros(DIM)
    psi[:4] = 30.0
    q = psi.expand(1, TOKENS, DIM)
    at = torch.arange(TOKENS)
    k = turned(turned(q, torch.full((TOKENS,), offset)), at)
    found = streaming.softmax(attended(turned(q, at), k), 0)
    mean = found.by_distance[0] / (TOKENS - np.arange(TOKENS))
    assert mean[offset] > 0.99, name
    # per unit of norm the fastest pairs are the sharpest
    margins = [1 - math.cos(f) for f in SPECTRUM.frequencies]
    assert margins == sorted(margins, reverse=True)


@pytest.mark.parametrize("frequency", [0.5, 0.03, 1e-3])
def test_6_1_a_turning_channel_loses_its_target_as_the_context_grows(frequency: float) -> None:
    """One frequency (their theorem is for d = 2): a target that is best at distance 0 is worse than another key at some
    distance, at the latest after half a turn; a channel that does not rotate keeps it at every distance."""
    spectrum = Spectrum((frequency,), 2)
    target, other = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.2, 0.0]]).double()
    half_a_turn = math.ceil(math.pi / frequency)
    at = torch.arange(half_a_turn + 1)
    q = turned(target.expand(1, len(at), 2), at, spectrum)[0]
    of_target, of_other = q @ target[0], torch.full((len(at),), float(target[0] @ other[0]))  # the other moves along
    assert of_target[0] > of_other[0]
    lost = (of_target < of_other).nonzero().flatten()
    assert len(lost)
    assert lost[0] <= half_a_turn
    still = turned(target.expand(1, len(at), 2), at, Spectrum((0.0,), 2))[0]
    assert (still @ target[0] == 1).all()
