"""FoX and GRAPE-A: gates that tokens, queries and keys decide, against the pins and their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.encodings.attended import attend, decoded, pinned_qkv, random_qkv
from torch.nn.functional import logsigmoid, softplus

import whorl
from whorl.encodings import Shape, parse
from whorl.encodings.alibi import slopes
from whorl.encodings.fox import ForgetGates
from whorl.encodings.grape_a import GatedSlopes
from whorl.encodings.scores import At
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore
from whorl.testing import logits_and_budget, tiny_model


def score_of(notation: str, heads: int = 2, width: int = 6):
    (effect,) = parse(notation).effects(Shape(head_dim=4, heads=heads, width=width))
    return effect.module


def fox(heads: int = 2, width: int = 6) -> ForgetGates:
    module = score_of("fox", heads, width).double()
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    return module


def added(module, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
    """What channels add to the logits."""
    of_q, of_k = module.channels(q, k, at)
    return of_q @ of_k.transpose(-1, -2)


def test_fox_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["fox"]
    module = fox(1, 1)
    module.weight.data.fill_(1)
    module.bias.data.fill_(0)
    hidden = (0.4 * torch.arange(5.0, dtype=torch.float64) - 0.5)[None, :, None]
    at = torch.arange(5)[None]
    np.testing.assert_allclose(module.gates(hidden, at)[0, :, 0].detach(), pin["log_f"], atol=1e-6)
    np.testing.assert_allclose(module.tokens(hidden, at, None, None)[0, :, 0, 0].detach(), pin["cumsum"], atol=1e-6)
    out, weights = attend(module, pinned_qkv(), hidden=hidden)
    np.testing.assert_allclose(weights[0, 0, 4].detach(), pin["weights_last_row"], atol=1e-6)
    np.testing.assert_allclose(out[0, 0, 4].detach(), pin["out_last"], atol=1e-6)
    logits = np.array(pin["logits (row 4)"])
    np.testing.assert_allclose(weights[0, 0, 4].log().diff().detach(), np.diff(logits), atol=1e-6)


def test_fox_is_its_formula_written_out() -> None:
    """The gates of the tokens after the key and up to the query, one by one."""
    module, (q, k, v) = fox(), random_qkv()
    hidden = torch.randn(2, 7, 6, dtype=torch.float64)
    _, weights = attend(module, (q, k, v), hidden=hidden)
    gates = logsigmoid(hidden @ module.weight.T + module.bias)
    for b, h, i in ((0, 0, 6), (1, 1, 4), (0, 1, 1)):
        logits = [0.5 * q[b, h, i] @ k[b, h, j] + gates[b, j + 1 : i + 1, h].sum() for j in range(i + 1)]
        torch.testing.assert_close(weights[b, h, i, : i + 1], torch.stack(logits).softmax(0))


def test_fox_and_grape_a_have_gradients() -> None:
    at = torch.arange(5)[None]
    for module, hidden in (
        (fox(2, 3), torch.randn(1, 5, 3, dtype=torch.float64)),
        (GatedSlopes(2, 4, torch.Generator()).double(), None),
    ):
        names = list(dict(module.named_parameters()))
        leaves = [x.detach().requires_grad_() for x in random_qkv(batch=1, tokens=5)]
        leaves += [p.detach().requires_grad_() for p in module.parameters()]
        leaves += [] if hidden is None else [hidden.requires_grad_()]

        def attended(*x: torch.Tensor, module=module, names=names, with_hidden=hidden is not None) -> torch.Tensor:
            module._parameters.update(zip(names, x[3:], strict=False))
            return attend(module, x[:3], hidden=x[-1] if with_hidden else None, positions=at)[0]

        assert torch.autograd.gradcheck(attended, leaves)


def test_fixed_gates_are_alibi() -> None:
    """log f = -1 / time, the same for every token: a slope of 1 / time."""
    module = score_of("fox:gate=fixed,decay_time_min=4,decay_time_max=256", heads=4)
    assert not list(module.parameters())
    state = module.tokens(None, torch.arange(50)[None], None, None)
    at = torch.arange(50)[None]
    bias = added(module, *[torch.zeros(1, 4, 50, 4)] * 2, At(at, at, state.transpose(1, 2), state.transpose(1, 2)))
    distance = (at.T - at).float()
    expected = -torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256])[:, None, None] * distance
    torch.testing.assert_close(bias[0], expected, rtol=1e-4, atol=1e-5)


def test_fox_starts_as_in_the_official_code(method_pins: dict) -> None:
    wanted = method_pins["fox_fixed_bias"]["T=4..1024 (b=-log(expm1(1/T)))"]
    start = parse("fox:gate=fixed,decay_time_min=4,decay_time_max=1024").biases(len(wanted))
    np.testing.assert_allclose(start, list(wanted.values()), rtol=1e-6)
    full = score_of("fox", heads=50, width=200)
    assert full.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert (full.bias == 0).all()
    learned = score_of("fox:gate=bias,decay_time_min=4,decay_time_max=1024", heads=5)
    np.testing.assert_allclose(learned.bias.detach(), list(wanted.values()), rtol=1e-6)
    assert [name for name, _ in learned.named_parameters()] == ["bias"]
    assert not learned.sees_hidden


@pytest.mark.parametrize("rounded", [False, True])
def test_foxs_sums_are_float32_in_a_bfloat16_model(method_pins: dict, rounded: bool) -> None:
    """With f = 0.999 a sum over 4,096 tokens in bfloat16 is the same for the last six keys: the pinned trap, put in."""
    pin = method_pins["fox_bf16_trap"]
    module = score_of("fox", heads=1, width=1).to(torch.bfloat16)
    module.weight.data.fill_(1)
    hidden = torch.full((1, 4096, 1), math.log(0.999 / 0.001))
    state = module.tokens(hidden, torch.arange(4096)[None], None, None)
    assert state.dtype == torch.float32
    if rounded:
        state = state.to(torch.bfloat16).float()
    kept = state.transpose(1, 2)
    at = At(torch.tensor([[4095]]), torch.arange(4090, 4096)[None], kept[:, :, -1:], kept[:, :, -6:])
    bias = added(module, *[torch.zeros(1, 1, 6, 4)] * 2, at)[0, 0, 0].detach()
    np.testing.assert_allclose(bias, pin["bf16"] if rounded else pin["true"], atol=2e-5)


@torch.no_grad()
def test_a_bfloat16_model_keeps_foxs_sums_in_float32_beside_its_cache() -> None:
    model = whorl.attach(tiny_model("llama").to(torch.bfloat16), "fox")
    cache = model(torch.arange(3, 30)[None], use_cache=True).past_key_values
    (state,) = cache.layers[0].whorl_states.of_scores
    assert (state.dtype, cache.layers[0].keys.dtype) == (torch.float32, torch.bfloat16)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "between"])
def test_padding_adds_nothing_to_foxs_sums(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    """In front of a text, and in a cache between a short prompt and what follows it. In front it moves all sums alike,
    and differences stay; between, a fault that forgets the mask is seen."""
    model = whorl.attach(tiny_model("llama"), "rope+fox")
    for effect in whorl.attached(model).effects:
        torch.nn.init.uniform_(effect.weight, 0.2, 1.0, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(3, 97, (1, 12))
    logits, budget = logits_and_budget(model, tokens)
    pads = torch.zeros(1, 5, dtype=torch.long)
    ids = torch.cat([pads, tokens] if side == "left" else [tokens[:, :4], pads, tokens[:, 4:]], 1)
    mask = (ids != 0).long()
    at = (mask.cumsum(-1) - 1).clamp(min=0)

    def padded() -> float:
        """The largest difference that the padding makes to any token, in two steps of a cache."""
        first = model(ids[:, :9], attention_mask=mask[:, :9], position_ids=at[:, :9], use_cache=True)
        rest = model(ids[:, 9:], attention_mask=mask, position_ids=at[:, 9:], past_key_values=first.past_key_values)
        return float((torch.cat([first.logits, rest.logits], 1)[mask.bool()] - logits[0]).abs().max())

    assert padded() < budget
    right = ForgetGates.tokens
    monkeypatch.setattr(ForgetGates, "tokens", lambda self, h, at, real, before: right(self, h, at, None, before))
    assert (padded() > 100 * budget) == (side == "between")


def test_padding_that_is_counted_does_change_foxs_sums() -> None:
    """What the mask of `tokens` is for: between two real tokens, a pad would forget."""
    module, hidden, at = fox(), torch.randn(1, 4, 6, dtype=torch.float64), torch.arange(4)[None]
    real = torch.tensor([[True, False, False, True]])
    masked, counted = (module.tokens(hidden, at, r, None)[..., 0] for r in (real, None))
    gates = module.gates(hidden, at)
    torch.testing.assert_close(masked[:, 3] - masked[:, 0], gates[:, 3])
    torch.testing.assert_close(counted[:, 3] - counted[:, 0], gates[:, 1:].sum(1))


@pytest.mark.parametrize("pieces", [[3, 1, 1, 2], [1] * 7])
def test_fox_and_grape_a_in_pieces_are_what_they_are_at_once(pieces: list[int]) -> None:
    qkv, hidden = random_qkv(), torch.randn(2, 7, 6, dtype=torch.float64)
    for module, given in ((fox(), hidden), (GatedSlopes(2, 4, torch.Generator()).double(), None)):
        torch.testing.assert_close(decoded(module, qkv, pieces, hidden=given), attend(module, qkv, hidden=given)[0])


def test_grape_a_equals_the_pins(method_pins: dict) -> None:
    """The pins' head has ALiBi's slope 2^-8, as the only head of a model."""
    pin, (q, k, _) = method_pins["grape_a_qk"], pinned_qkv()
    module = GatedSlopes(1, 4, torch.Generator()).double()
    assert slopes(1) == (pin["slope"],)
    assert softplus(module.omega).item() == pytest.approx(pin["omega"])
    module.u.data = torch.tensor([[1.0, 2, 3, 4]]).double()
    module.v.data = torch.tensor([[4.0, -3, 2, -1]]).double()
    at = torch.arange(5)[None]
    np.testing.assert_allclose(
        added(module, q, k, At(at, at, None, None))[0, 0, 4].detach(), pin["bias (row 4)"], atol=1e-8
    )


def test_grape_a_is_its_formula_for_grouped_keys_and_far_out() -> None:
    """In float32 a million tokens into a text, where products of positions would have no room for a distance."""
    module = GatedSlopes(4, 3, torch.Generator())
    q, k = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 9, 3)
    queries, keys = (
        torch.tensor([[104, 105, 106, 107, 108], [3, 4, 5, 6, 7]]),
        torch.arange(9) + torch.tensor([[100], [-1]]),
    )
    far = At(queries + 1_000_003, keys + 1_000_003, None, None)
    u, v = (torch.nn.functional.normalize(p.double(), dim=-1)[:, :, None] for p in (module.u, module.v))
    of_q = softplus(q.double() @ v / 3**0.5)
    of_k = softplus(k.double().repeat_interleave(2, 1) @ u / 3**0.5)
    distance = (queries[:, :, None] - keys[:, None, :])[:, None].double()
    slope = torch.tensor(slopes(4)).double().view(-1, 1, 1)
    expected = -distance * slope * (of_q + of_k.transpose(-1, -2))
    torch.testing.assert_close(added(module, q, k, far).double(), expected, rtol=1e-4, atol=1e-5)


def test_grape_a_at_the_start_is_drawn_as_in_the_official_code() -> None:
    module = GatedSlopes(64, 64, torch.Generator())
    for direction in (module.u, module.v):
        assert direction.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert not torch.equal(module.u, module.v)


def test_gates_compose_with_what_turns_and_scales() -> None:
    model = tiny_model("llama")
    for notation in ("rope+fox", "hope:train_length=16+ssmax", "rope+window:size=8/nope+log-n", "rope+grape-a+log-n"):
        whorl.attach(model, notation)
        tokens = torch.randint(3, 97, (1, 20))
        with torch.no_grad():
            logits, budget = logits_and_budget(model, tokens)
            first = model(tokens[:, :13], use_cache=True)
            rest = model(tokens[:, 13:], past_key_values=first.past_key_values)
            assert (rest.logits - logits[:, 13:]).abs().max() < budget, notation


@pytest.mark.parametrize(
    ("notation", "why"),
    [
        ("fox:gate=open", "gate must be one of 'full', 'bias', 'fixed', got 'open'"),
        ("fox:gate=fixed", "needs both decay_time_min and decay_time_max; try fox:gate=fixed,decay_time_min=4"),
        ("fox:decay_time_min=4", "needs both decay_time_min and decay_time_max or neither"),
        ("fox:decay_time_min=0,decay_time_max=4", "decay_time_min must be finite and above 0"),
    ],
)
def test_arguments_that_make_no_sense(notation: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(notation)


@pytest.mark.parametrize("notation", ["fox", "grape-a"])
def test_encoders_are_refused(notation: str) -> None:
    with pytest.raises(ValueError, match=r"has no meaning in an encoder.*try rope, t5 or alibi"):
        whorl.attach(tiny_model("bert"), notation)


def test_biased_attention_takes_foxs_states() -> None:
    module, (q, k, v) = score_of("fox"), random_qkv(dtype=torch.float32)
    at = torch.arange(7)[None]
    state = module.tokens(torch.randn(2, 7, 6), at, None, None)
    how = {"query_positions": at, "key_positions": at, "causal": True, "scale": 0.5}
    scores = [BoundScore(module, state, state)]
    out, _ = biased_attention(q, k, v, [], scores=scores, **how)
    expected, _ = biased_attention(q, k, v, [], scores=scores, impl="reference", **how)
    torch.testing.assert_close(out, expected)
