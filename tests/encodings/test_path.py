"""PaTH and PaTH-FoX (arXiv 2505.16381) against the pins, products written out one by one, and their traps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attended import attend, decoded, gradients_agree, pinned_qkv, random_qkv

from whorl.encodings import householder, path
from whorl.encodings.effects import Score, Shape
from whorl.encodings.path import Householder, PaTH, PaTHFoX, turned_products
from whorl.encodings.scores import At
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore

BOTH = [PaTH(5), PaTHFoX(5)]


def module_of(encoding: PaTH, width: int = 8) -> Householder:
    """With weights that make directions, betas and gates of all sizes."""
    (effect,) = encoding.effects(Shape(head_dim=4, heads=2, width=width))
    assert isinstance(effect, Score)
    assert isinstance(effect.module, Householder)
    module = effect.module.double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def hidden_states(tokens: int, width: int = 8) -> torch.Tensor:
    return torch.randn(2, tokens, width, dtype=torch.float64)


def one_by_one(
    q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, beta: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """The products for as many keys as queries: the definition, a factor at a time, in q's own precision."""
    tokens = q.shape[2]
    made = torch.zeros(*q.shape[:2], tokens, tokens, dtype=q.dtype)
    for i in range(tokens):
        turned = q[:, :, i]
        for j in range(i, -1, -1):
            made[:, :, i, j] = (turned * k[:, :, j]).sum(-1)
            turned = turned - (beta[:, :, j] * (turned * w[:, :, j]).sum(-1))[..., None] * w[:, :, j]
    return made


def pinned_state(*, gate: bool) -> torch.Tensor:
    token, channel = torch.arange(5, dtype=torch.float64)[:, None], torch.arange(4, dtype=torch.float64)
    w = torch.nn.functional.normalize(torch.cos(1.1 * token + 0.6 * channel), dim=-1)
    beta = 2 * torch.sigmoid(0.3 * token - 0.4)
    forgotten = [torch.nn.functional.logsigmoid(0.4 * token - 0.5).cumsum(0)] if gate else []
    return torch.cat([w, beta, *forgotten, torch.zeros(5, 32, dtype=torch.float64)], -1)[None, :, None]


def pinned_weights(*, gate: bool) -> torch.Tensor:
    (effect,) = (PaTHFoX() if gate else PaTH()).effects(Shape(head_dim=4, heads=1, width=4))
    state, at, (q, k, v) = pinned_state(gate=gate), torch.arange(5)[None], pinned_qkv()
    _, weights = biased_attention(
        q, k, v, [], query_positions=at, key_positions=at, causal=True, scale=0.5, impl="reference",
        scores=[BoundScore(effect.module, state, state)],
    )  # fmt: skip
    assert weights is not None
    return weights[0, 0, 4]


def test_path_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["path"]
    np.testing.assert_allclose(pinned_weights(gate=False), pin["weights_last_row"], atol=1e-6)
    w, beta = pinned_state(gate=False)[:, :, 0, :4][None], pinned_state(gate=False)[:, :, 0, 4][None]
    np.testing.assert_allclose(beta[0, 0], pin["beta"], atol=1e-6)
    q, k, _ = pinned_qkv()
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    products = turned_products(q, k, w, beta, seen)[0, 0, 4]
    np.testing.assert_allclose(products, pin["raw_products (before 1/sqrt d) (row 4)"], atol=1e-6)


def test_the_gate_of_path_fox_stands_inside_the_scale(method_pins: dict) -> None:
    """A gate after the scale, as the forgetting transformer has it, is sqrt(d) times as strong."""
    pin = method_pins["path_fox"]
    found = pinned_weights(gate=True).log()
    inside, after = (
        torch.tensor(row, dtype=torch.float64).log_softmax(-1)
        for row in (pin["row4 gate inside scale (FLA reference)"], pin["row4 gate after scale"])
    )
    torch.testing.assert_close(found, inside, atol=1e-6, rtol=0)
    assert (found - after).abs().max() > 0.1


@pytest.mark.parametrize("tokens", [1, 7, 64, 65, 150])
def test_chunks_equal_factors_one_by_one(tokens: int) -> None:
    q, k, w = random_qkv(tokens=tokens)
    w, beta = torch.nn.functional.normalize(w, dim=-1), 2 * torch.rand(2, 2, tokens, dtype=torch.float64)
    below = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    expected = one_by_one(q, k, w, beta)
    made = turned_products(q, k, w, beta, below[None, None])
    torch.testing.assert_close(made * below, expected)
    # a block of queries in the middle, with the keys up to its end
    first, last = tokens // 3, tokens - tokens // 4
    block = turned_products(q[:, :, first:last], *(x[:, :, :last] for x in (k, w, beta)), below[first:last, :last])
    torch.testing.assert_close((block * below[first:last, :last]), expected[:, :, first:last, :last])


@pytest.mark.parametrize("alike", [False, True])
def test_beta_near_two_keeps_its_precision(alike: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """H is a reflection then, and with w of neighbours nearly parallel the triangle is ill-conditioned. In float32,
    chunks are as far from float64 as factors one by one are; w that is not of length 1 makes products that grow."""
    tokens = 200
    q, k, w = random_qkv(tokens=tokens, width=8)
    if alike:
        w = w[:, :, :1] + 0.01 * w
    w, beta = torch.nn.functional.normalize(w, dim=-1), 1.99 + 0.01 * torch.rand(2, 2, tokens, dtype=torch.float64)
    below = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    exact = one_by_one(q, k, w, beta)
    factors = (one_by_one(*(x.float() for x in (q, k, w, beta))) - exact).abs().max()
    chunks = (turned_products(*(x.float() for x in (q, k, w, beta)), below) * below - exact).abs().max()
    rounding = torch.finfo(torch.float32).eps * exact.abs().max()
    assert chunks < 2 * factors + rounding
    longer = turned_products(*(x.float() for x in (q, k, 1.01 * w, beta)), below) * below
    assert (longer - exact).abs().max() > 1000 * (2 * factors + rounding)
    if alike:
        monkeypatch.setattr(householder, "SOLVED_IN", torch.float32)
        monkeypatch.setattr(path, "CHUNK", 64)
        planted = (turned_products(*(x.float() for x in (q, k, w, beta)), below) * below - exact).abs().max()
        assert planted > 4 * (2 * factors + rounding)


def state_by_definition(module: Householder, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """w [B, T, H, D] and beta, with PyTorch's own convolution."""
    down, up, taps = (module.get_parameter(name).detach() for name in ("down", "up", "taps"))
    u = (hidden @ down.T @ up.T).mT
    u = torch.nn.functional.conv1d(torch.nn.functional.pad(u, (2, 0)), taps.flip(-1)[:, None], groups=u.shape[1]).mT
    w = torch.nn.functional.silu(u).unflatten(-1, (2, 4))
    w = w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    beta = 2 * torch.sigmoid(hidden @ module.beta.detach().T + module.beta_offset.detach())
    return w, beta


@pytest.mark.parametrize("encoding", BOTH, ids=str)
def test_states_and_weights_equal_their_definition(encoding: PaTH) -> None:
    module, (q, k, v), hidden = module_of(encoding), random_qkv(), hidden_states(7)
    w, beta = state_by_definition(module, hidden)
    state = module.tokens(hidden, torch.arange(7)[None], None, None)
    torch.testing.assert_close(state[..., :4], w)
    torch.testing.assert_close(state[..., 4], beta)
    logits = one_by_one(q, k, state[..., :4].transpose(1, 2), beta.transpose(1, 2)) * 0.5
    if module.forgets:
        gate = hidden @ module.gate.detach().T + module.gate_offset.detach()
        passed = torch.nn.functional.logsigmoid(gate).cumsum(1).mT
        logits = logits + 0.5 * (passed[..., :, None] - passed[..., None, :])
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    _, weights = attend(module, (q, k, v), hidden=hidden)
    torch.testing.assert_close(weights, logits.masked_fill(~seen, -torch.inf).softmax(-1))


@pytest.mark.parametrize("encoding", BOTH, ids=str)
def test_cached_keys_stay_and_decoding_equals_all_at_once(encoding: PaTH, monkeypatch: pytest.MonkeyPatch) -> None:
    module, qkv, hidden = module_of(encoding), random_qkv(tokens=9), hidden_states(9)
    whole, _ = attend(module, qkv, hidden=hidden)
    keys = qkv[1].clone()
    torch.testing.assert_close(decoded(module, qkv, [4, 1, 1, 3], hidden=hidden), whole)
    assert torch.equal(qkv[1], keys)
    monkeypatch.setattr(path, "CHUNK", 4)
    torch.testing.assert_close(decoded(module, qkv, [1] * 9, hidden=hidden), whole)


class PadsForget(Householder):
    """Planted: padding is a token like others."""

    def tokens(self, hidden, positions, real, before):  # type: ignore[no-untyped-def]
        return super().tokens(hidden, positions, None, before)


@pytest.mark.parametrize("encoding", BOTH, ids=str)
def test_left_padding_turns_nothing(encoding: PaTH) -> None:
    """Positions count the padding too, as those of a host may that gives none."""
    module, (q, k, v), hidden = module_of(encoding), random_qkv(tokens=9), hidden_states(9)
    real = torch.arange(9).expand(2, 9) >= 3
    alone, _ = attend(module, (q[:, :, 3:], k[:, :, 3:], v[:, :, 3:]), hidden=hidden[:, 3:])
    padded, _ = attend(module, (q, k, v), hidden=hidden, real=real)
    torch.testing.assert_close(padded[:, :, 3:], alone)
    module.__class__ = PadsForget
    assert (attend(module, (q, k, v), hidden=hidden, real=real)[0][:, :, 3:] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("encoding", BOTH, ids=str)
def test_packed_documents_do_not_reach_into_one_another(encoding: PaTH) -> None:
    module, (q, k, v), hidden = module_of(encoding), random_qkv(tokens=8), hidden_states(8)
    document = torch.arange(8) // 4
    packed, _ = attend(
        module, (q, k, v), hidden=hidden, positions=(torch.arange(8) % 4)[None],
        seen=(document[:, None] == document)[None, None],
    )  # fmt: skip
    for span in (slice(0, 4), slice(4, 8)):
        alone, _ = attend(module, (q[:, :, span], k[:, :, span], v[:, :, span]), hidden=hidden[:, span])
        torch.testing.assert_close(packed[:, :, span], alone)


class InTheModelsPrecision(Householder):
    """Planted: sums of gates are kept in bfloat16."""

    def tokens(self, hidden, positions, real, before):  # type: ignore[no-untyped-def]
        state = super().tokens(hidden, positions, real, before)
        at = self.size + 1
        return torch.cat(
            [state[..., :at], state[..., at : at + 1].bfloat16().to(state.dtype), state[..., at + 1 :]], -1
        )


def test_gates_near_one_are_summed_in_full_precision() -> None:
    """After 1,000 tokens with f near 0.999, what the last ones forget is thousandths of a sum near 1."""
    module, hidden = module_of(PaTHFoX(5)).float(), hidden_states(1000).float()
    with torch.no_grad():
        module.gate.zero_()
        module.gate_offset.fill_(7)
    at = torch.arange(1000)[None]

    def forgotten(module: Householder) -> torch.Tensor:
        sums = module.tokens(hidden, at, None, None)[0, -6:, 0, 5]
        return sums[-1] - sums

    exact = torch.nn.functional.logsigmoid(torch.tensor(7.0, dtype=torch.float64)) * torch.arange(5, -1, -1)
    budget = 4 * torch.finfo(torch.float32).eps * 1000**0.5  # of a sum of 1,000 numbers that is below 1
    assert (forgotten(module) - exact).abs().max() < budget
    module.__class__ = InTheModelsPrecision
    assert (forgotten(module) - exact).abs().max() > 100 * budget


@pytest.mark.parametrize("encoding", BOTH, ids=str)
def test_gradients(encoding: PaTH) -> None:
    qkv = random_qkv(batch=1, tokens=4)
    assert gradients_agree(module_of(encoding, width=3), qkv, hidden=torch.randn(1, 4, 3, dtype=torch.float64))


@pytest.mark.parametrize("heads", [1, 2, 3, 40])
def test_low_rank_vectors_are_shared_out_among_heads_and_joined_again(heads: int) -> None:
    module = Householder(Shape(head_dim=2, heads=heads, width=4), 32, forgets=False)
    low = torch.randn(2, 5, 32)
    state = torch.cat([torch.zeros(2, 5, heads, 3), module._shared_out(low)], -1)
    assert torch.equal(module._joined(state), low)


def test_rotations_and_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="both rotate q and k"):
        _ = PaTH() + PaTHFoX()
    with pytest.raises(ValueError, match="has no meaning in an encoder"):
        PaTH().effects(Shape(head_dim=8, heads=2, width=16, bidirectional=True))


def test_what_a_query_does_not_see_does_not_turn_it() -> None:
    """At is all that a module knows of who sees whom."""
    module, (q, k, _), hidden = module_of(PaTH(5)), random_qkv(), hidden_states(7)
    at = torch.arange(7)[None]
    state = module.tokens(hidden, at, None, None).transpose(1, 2)
    seen = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    masked = module.logits(None, q, k, At(at, at, state, state, seen))
    open_ = module.logits(None, q, k, At(at, at, state, state, None))
    torch.testing.assert_close(masked[:, :, -1], open_[:, :, -1])
    assert (masked[:, :, 3] - open_[:, :, 3]).abs().max() > 1e-2
