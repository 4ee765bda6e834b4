"""What is read of scores, biases and scales, against dense weights of the reference in float64."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import whorl
from tests.contract import drawn
from whorl.inspection import adding, analysis, streaming
from whorl.inspection.adding import Added, AddedAt, Shares
from whorl.inspection.passes import Pass, Sums
from whorl.inspection.stages import inspect
from whorl.results.inspection import Inspection
from whorl.testing import peaked, tiny_model
from whorl.watching import Attended, forward, layers_of

TOKENS = torch.randint(3, 97, (2, 48), generator=torch.Generator().manual_seed(0))
LENGTH, WINDOW = 48, 1  # the second of the windows
ADDS = (
    "fox", "rope+fox", "fire", "cope", "rope+cope", "irpe", "irpe:on=qkv,heads=own", "shaw", "grape-a", "dape", "path",
    "path-fox", "self-extend:window=8,train_length=16", "sandwich", "ssmax+rope+fox", "rope+window:size=8/nope+fox",
    "fox+window:size=8", "rope+cope+ssmax", "t5+fox",
)  # fmt: skip
OTHERS = (
    "linear", "stick-breaking", "stick-breaking:own=seen,rest=own", "rope+stick-breaking", "selective-rope",
    "darope:train_length=16", "pope", "head-scale", "rope+log-n:train_length=16", "rope",
)  # fmt: skip


@cache
def read(encoding: str, family: str = "llama", factor: float = 8.0) -> tuple[dict[int, Attended], list[torch.Tensor]]:
    """What is read of each layer of a float64 model; and its weights, dense, by the reference: [heads, 48, 48]."""
    model = drawn(whorl.attach(peaked(tiny_model(family), factor).double().eval(), encoding))
    found: dict[int, Attended] = {}
    with torch.no_grad():
        forward(model, TOKENS, lambda attended: found.__setitem__(attended.layer.index, attended))
        if whorl.attached(model).attention_was is None:
            model.set_attn_implementation("eager")
        weights = model(TOKENS, output_attentions=True, use_cache=False).attentions
    return found, [w[WINDOW] for w in weights]


def diagonals(x: torch.Tensor) -> torch.Tensor:
    """Sums at each distance, [heads, distances]."""
    return torch.stack([x.diagonal(-d, 1, 2).sum(-1) for d in range(x.shape[-1])], -1)


def dense_content(a: Attended) -> torch.Tensor:
    """scale q.k, capped, in float64: [heads, 48, 48]."""
    k = a.k[WINDOW].double().repeat_interleave(a.q.shape[1] // a.k.shape[1], 0)
    s = a.q[WINDOW].double() @ k.mT * a.scale
    return s if a.softcap is None else a.softcap * torch.tanh(s / a.softcap)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"), [*(("llama", e) for e in ADDS + OTHERS), ("gemma2", "rope+cope"), ("gemma2", "fox")]
)
def test_streamed_weights_are_those_that_the_model_uses(
    family: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "BLOCK_NUMBERS", 2000)  # so that there are several blocks
    monkeypatch.setattr(streaming, "FEWEST_TURNED", streaming.FEWEST)
    found, weights = read(encoding, family)
    for index, w in enumerate(weights):
        got = streaming.softmax(found[index], WINDOW)
        np.testing.assert_allclose(got.by_distance, diagonals(w), atol=1e-3 if family == "gemma2" else 2e-4)
        np.testing.assert_allclose(got.first, w[..., 0], atol=1e-4)
        left = (1 - w.sum(-1)).clamp(min=0)
        entropy = torch.special.entr(w).sum(-1) + torch.special.entr(left)
        np.testing.assert_allclose(got.entropy, entropy, atol=1e-3)
        np.testing.assert_allclose(found[index].entropy(WINDOW, 40, 47), entropy[:, 40:47], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("encoding", ADDS)
def test_what_is_added_is_the_rest_of_the_logit(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the weights of the reference: log weight - content is what is added, but for a number of each query."""
    monkeypatch.setattr(streaming, "BLOCK_NUMBERS", 2000)
    monkeypatch.setattr(streaming, "FEWEST_TURNED", streaming.FEWEST)
    found, weights = read(encoding, factor=2.0)  # no weight is so small that it is 0
    at = torch.arange(LENGTH)
    query, key = torch.tensor([[47, 13, 30, 9], [46, 8, 25, 5]])
    for index, w in enumerate(weights):
        a = found[index]
        if not a.adds:
            assert encoding == "rope+window:size=8/nope+fox", "a window hides keys, and adds nothing"
            continue
        seen = (w > 0) & (at > 0)
        added = (w.log() - dense_content(a)).masked_fill(~seen, 0)
        shares, of_some = Shares(a, WINDOW), AddedAt(a, WINDOW, query, key)
        beside = AddedAt(a, WINDOW, query, key - 1)
        streaming.stream(a, WINDOW, shares, of_some, beside)
        keys = seen.sum(-1, keepdim=True).clamp(min=1)
        centred = [(x - (x * seen).sum(-1, keepdim=True) / keys) * seen for x in (added, dense_content(a))]
        size = max(1.0, float(centred[0].abs().max()))
        for kept, x in enumerate(centred):
            np.testing.assert_allclose(shares.sums[kept], diagonals(x.abs()), atol=2e-4 * size)
        products = centred[0] ** 2, centred[1] ** 2, centred[0] * centred[1]
        for got, x in zip(shares.spread, products, strict=True):
            np.testing.assert_allclose(got, x.sum(-1) / keys[..., 0], atol=1e-3 * size**2)
        visible = w > 0
        alone = dense_content(a).masked_fill(~visible, -torch.inf).softmax(-1)
        np.testing.assert_allclose(shares.moved, (w - alone).abs().sum(-1) / 2, atol=1e-4)
        if seen[:, query, key - 1].all():
            apart = added[:, query, key] - added[:, query, key - 1]
            np.testing.assert_allclose(of_some.found - beside.found, apart, atol=2e-4 * size)


@torch.no_grad()
def test_gates_that_are_known() -> None:
    """Fixed gates are ALiBi's slopes: what is added is -distance / time, and a key's weight has halved after ln 2 of
    that time."""
    model = whorl.attach(tiny_model("llama"), "rope+fox:gate=fixed,decay_time_min=4,decay_time_max=32")
    found = inspect(model, TOKENS, random_windows=2)
    heads = found.summary.model.heads
    times = np.geomspace(4, 32, heads)
    start = found.distance_from
    for layer in range(found.summary.model.layers):
        np.testing.assert_allclose(found.added[layer, :, :47], -start[:47] / times[:, None], rtol=1e-4, atol=1e-5)
    gates = {(g.layer, g.head): g for g in found.summary.gates}
    assert len(gates) == heads * found.summary.model.layers
    for (_, head), gate in gates.items():
        assert gate.half_life == pytest.approx(math.log(2) * times[head], rel=1e-4)
        assert gate.mean == pytest.approx(math.exp(-1 / times[head]), rel=1e-5)
        assert gate.below_half == 0
    plain = inspect(whorl.attach(tiny_model("llama"), "rope"), TOKENS, random_windows=2)
    np.testing.assert_allclose(
        found.logit[0, :, :47], (plain.logit[0] + found.added[0])[:, :47], atol=1e-4, err_msg="q.k is as it was"
    )
    assert plain.summary.gates is plain.summary.added is plain.summary.factors is None
    assert "added" not in plain.arrays


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["rope+fox", "path-fox", "rope+fox:gate=bias"])
def test_gates_are_those_of_the_tokens(encoding: str) -> None:
    found, _ = read(encoding)
    a = found[0]
    (score,) = a.scores
    at = torch.tensor([20]), torch.tensor([19])
    sums = score.key_state[WINDOW, ..., a.q.shape[-1] + 1 if encoding == "path-fox" else 0]
    logs = sums.diff(dim=0) * (a.scale if encoding == "path-fox" else 1)
    got = adding.gates(a, WINDOW)
    np.testing.assert_allclose(got[:, 0], logs.mean(0).expand(got.shape[0]), rtol=1e-9)
    np.testing.assert_allclose(got[:, 1], logs.exp().mean(0).expand(got.shape[0]), rtol=1e-9)
    if encoding != "path-fox":  # all that is added there, from a token to the one before it, is the gate
        one = AddedAt(a, WINDOW, *at)
        streaming.stream(a, WINDOW, one)
        np.testing.assert_allclose(one.found[:, 0], logs[19].expand(got.shape[0]), atol=1e-4)


def planted_gates(share: float) -> Pass:
    """A pass whose layer 0 has added with variance `share` beside content with 1 - share, uncorrelated."""
    model = whorl.attach(tiny_model("llama"), "rope+fox")
    found = Pass(model, TOKENS, "raw", regions_over=LENGTH).run()
    for sums in found.layers.values():
        sums.spread = np.tile([4 * share, 4 * (1 - share), 0.0], (len(sums.spread), 1)) * sums.windows
        sums.gates = np.tile([0.0, 1.0, 0.0], (len(sums.gates), 1)) * sums.windows
    return found


@torch.no_grad()
def test_shares_and_half_lives_by_their_definitions() -> None:
    found = planted_gates(0.25)
    rows = analysis.added(found)
    assert {(r.share, r.spread, r.content_spread) for r in rows} == {(0.25, 1.0, math.sqrt(3))}
    assert all(0 < row.moved < 1 for row in rows)
    assert {(g.mean, g.half_life) for g in analysis.gates(found)} == {(1.0, None)}, "what keeps all never halves"


@torch.no_grad()
def test_factors_and_what_heads_have_learned() -> None:
    model = whorl.attach(tiny_model("llama"), "rope+ssmax:train_length=16/rope+log-n:train_length=16/rope")
    modules = [effect for effect in whorl.attached(model).effects if hasattr(effect, "s")]
    with torch.no_grad():
        for module in modules:
            module.s.copy_(torch.linspace(0.3, 0.9, len(module.s)))
    found = inspect(model, TOKENS, train_length=16, random_windows=0).summary
    kinds = {index % 3 for index in range(found.model.layers)}
    for row in found.factors:
        if row.layer % 3 == 0:
            s = float(torch.linspace(0.3, 0.9, found.model.heads)[row.head])
            assert row.learned == {"s": pytest.approx(s, rel=1e-6)}
            assert row.in_range == pytest.approx(s * math.log(16), rel=1e-5)
            assert row.past == pytest.approx(s * math.log(48), rel=1e-5)
        else:
            assert (row.head, row.learned, row.in_range) == (None, {}, 1.0)
            assert row.past == pytest.approx(math.log(48) / math.log(16), rel=1e-5)
    assert {row.layer % 3 for row in found.factors} == kinds - {2}


@torch.no_grad()
def test_a_mixture_is_read_layer_by_layer(tmp_path: Any) -> None:
    model = whorl.attach(tiny_model("llama"), "rope+window:size=8/nope+fox")
    found = inspect(model, TOKENS, train_length=24, random_windows=2)
    assert np.isnan(found.added[0]).all()
    assert np.isfinite(found.added[1, :, :47]).all()
    assert {row.layer % 2 for row in found.summary.added} == {1}
    assert (found.added_share[1][np.isfinite(found.added_share[1])] >= 0).all()
    found.save(tmp_path)
    again = Inspection.load(tmp_path)
    assert again.summary == found.summary
    assert again.records()[1]["added_share"] == found.records()[1]["added_share"]


@torch.no_grad()
def test_what_linear_attention_cannot_show_is_said() -> None:
    found = inspect(whorl.attach(tiny_model("llama"), "rope+linear"), TOKENS, train_length=24, random_windows=2)
    assert "all layers have weights that are a quotient of features" in found.summary.absent["logit"]
    assert "may be negative" in found.summary.absent["weights"]
    assert found.summary.u_shape.text is None
    assert found.summary.heads is None
    assert found.summary.absent["attention"] == found.summary.absent["weights"]
    assert found.summary.out_of_range is None
    assert "logit" not in found.arrays
    assert "attention" not in found.arrays
    unturned = inspect(whorl.attach(tiny_model("llama"), "linear"), TOKENS, train_length=24, random_windows=2)
    assert "weights" not in unturned.summary.absent
    assert np.isfinite(unturned.attention[..., :48]).all(), "features that are not turned give a distribution"
    assert layers_of(whorl.attach(tiny_model("llama"), "rope"))[0].has_logits


@torch.no_grad()
def test_z_scores_of_random_tokens_have_what_is_added() -> None:
    """Each query's logits, q.k and what is added, in the standard deviation of its q.k over all keys."""
    found, _ = read("rope+fox")
    a = found[0]
    seen = Pass(None, TOKENS, "standardised", regions_over=LENGTH)
    seen._window(seen.layers.setdefault(0, Sums(a.layer)), a, WINDOW)
    content = dense_content(a)
    keys = content[..., 1:]
    logs = a.scores[0].key_state[WINDOW, ..., 0].T
    added = logs[:, :, None] - logs[:, None, :]
    z = (content - keys.mean(-1, keepdim=True) + added) / keys.std(-1, correction=0, keepdim=True)
    got = seen.mean_logit(seen.layers[0])
    for d in (0, 1, 7, 30):
        mean = z.diagonal(-d, 1, 2)[:, 1:].mean(-1)  # without the first key
        np.testing.assert_allclose(got[:, d], mean, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_means_leave_out_the_first_token_and_know_what_is_hidden() -> None:
    found, _ = read("fox+window:size=8")
    a = found[0]
    added = Added(a, WINDOW)
    streaming.stream(a, WINDOW, added)
    assert added.sums[1, 0, :8].tolist() == [LENGTH - 1 - d for d in range(8)]
    assert (added.sums[1, :, 8:] == 0).all()
    means = added.means()
    assert means[:, 8:47].isnan().all()
    assert means[:, :8].isfinite().all()
