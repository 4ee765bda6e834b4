"""Rotations by angles that tokens choose (DaRoPE, Selective RoPE, RePo), and xPos's by angles and decay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.encodings.attended import attend, decoded, gradients_agree, pinned_qkv, random_qkv

from whorl.encodings import Known, Layers
from whorl.encodings.angles import AngleModule
from whorl.encodings.darope import DaRoPE
from whorl.encodings.effects import Rotate, Score, Shape
from whorl.encodings.hope import HoPE
from whorl.encodings.repo import RePo
from whorl.encodings.rope import OfPairs, RoPE
from whorl.encodings.scores import At, ScoreModule
from whorl.encodings.selective_rope import AccumulatedAngles, SelectiveRoPE
from whorl.encodings.window import Window
from whorl.encodings.xpos import TOGETHER, XPos
from whorl.ops import rotation_tables

SHAPE = Shape(4, 2, 8)
BY_TOKEN = (DaRoPE(8, 100.0), SelectiveRoPE(), RePo(100.0))
WIDER = 20.0  # times, so that the tokens' choices differ by radians


def module_of(encoding: OfPairs, shape: Shape = SHAPE) -> Any:
    (effect,) = encoding.effects(shape)
    assert isinstance(effect, Score)
    return effect.module


def drawn(encoding: OfPairs) -> ScoreModule:
    """Float64, with parameters that make a difference."""
    module = module_of(encoding).double()
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(WIDER if isinstance(encoding, RePo) else 3.0)
    return module


def hidden_of(batch: int = 2, tokens: int = 7) -> torch.Tensor:
    return torch.randn(batch, tokens, 8, dtype=torch.float64)


def test_darope_equals_the_pin(method_pins: dict) -> None:
    pin = method_pins["darope"]
    module = module_of(DaRoPE(pin["L"], pin["base"]), Shape(pin["head_dim"], 1, 1)).double()
    assert module.fast == pin["fast_pairs"]
    with torch.no_grad():
        module.weight.fill_(pin["w.x"])
    assert module.alpha.tolist() == [pin["alpha"]]
    positions = torch.tensor([[row["m"] for row in pin["rows"]]])
    state = module.tokens(torch.ones(1, len(pin["rows"]), 1, dtype=torch.float64), positions, None, None)
    np.testing.assert_allclose(state[0, :, 0, 0].detach(), [row["c"] for row in pin["rows"]], rtol=1e-7)
    cos, sin = module.turning(positions, state.transpose(1, 2), torch.float64)
    angles = torch.tensor([row["angles"] for row in pin["rows"]], dtype=torch.float64)
    torch.testing.assert_close(cos[0, 0], angles.cos(), atol=1e-6, rtol=0)
    torch.testing.assert_close(sin[0, 0], angles.sin(), atol=1e-6, rtol=0)


def test_darope_with_still_slow_pairs_is_hope() -> None:
    """The slow pairs of a token that chooses position 0 do not turn."""
    module = module_of(DaRoPE(16, 100.0), Shape(8, 2, 8)).double()
    at = torch.arange(7)[None]
    tables = rotation_tables(HoPE(16, 100.0).spectrum(8), at, torch.float64)
    assert 0 < tables.cos.shape[-1] < 4
    cos, sin = module.turning(at, torch.zeros(1, 2, 7, 1, dtype=torch.float64), torch.float64)
    torch.testing.assert_close(cos[0, 1, :, : module.fast], tables.cos[0])
    assert (cos[..., module.fast :] == 1).all()
    assert (sin[..., module.fast :] == 0).all()


def test_selective_rope_equals_the_pin(method_pins: dict) -> None:
    """The angles of given phi, and the logits that they make."""
    pin = method_pins["selective_rope"]

    class Given(AccumulatedAngles):
        def _convolved(self, low: torch.Tensor, positions: torch.Tensor, real: None) -> torch.Tensor:
            t = positions[0].double()
            return torch.stack([0.5 + 0.3 * t.sin(), 1 - 0.2 * t.cos()], -1)[None]

    made = module_of(SelectiveRoPE(), Shape(4, 1, 4))
    np.testing.assert_allclose(made.temperatures, pin["temperature"], rtol=1e-7)
    module = Given(made.temperatures, 16, Shape(4, 1, 4)).double()
    hidden = torch.ones(1, 5, 4, dtype=torch.float64)
    state = module.tokens(hidden, torch.arange(5)[None], None, None)
    np.testing.assert_allclose(state[0, :, 0, :2].detach(), pin["angles"], atol=1e-7)
    _, weights = attend(module, pinned_qkv(), hidden=hidden)
    wanted = torch.tensor(pin["logits (row 4)"], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(weights[0, 0, 4], wanted, atol=1e-7, rtol=0)


def test_selective_ropes_phi_is_the_official_construction() -> None:
    """By torch's own layers: a projection of each head's share made unit, another, a convolution per channel."""
    module = drawn(SelectiveRoPE(rank=3))
    hidden = hidden_of()
    state = module.tokens(hidden, torch.arange(7)[None], None, None)
    unit = hidden.view(2, 7, 2, 4) / hidden.view(2, 7, 2, 4).norm(dim=-1, keepdim=True)
    inputs = unit.reshape(2, 7, 8) @ module.down.T @ module.up.T
    conv = torch.nn.functional.conv1d(
        torch.nn.functional.pad(inputs.transpose(1, 2), (3, 0)), module.taps[:, None], groups=4
    ).transpose(1, 2)
    temperature = torch.tensor([1.0, 500000**-0.5] * 2, dtype=torch.float64)
    angles = (conv * temperature).cumsum(1)
    torch.testing.assert_close(state[:, :, 0, :4].cos(), angles.cos())
    torch.testing.assert_close(state[:, :, 0, :4].sin(), angles.sin())
    assert angles.abs().max() > 2 * math.pi, "or whole turns would not have been tried"


def test_repos_positions_are_the_papers() -> None:
    module = drawn(RePo(100.0))
    hidden = hidden_of()
    z = module.tokens(hidden, torch.arange(7)[None], None, None)
    gate, content = hidden @ module.gate.T, hidden @ module.content.T
    wanted = (gate * gate.sigmoid() * content) @ module.position.T
    torch.testing.assert_close(z[..., 0], wanted)
    assert isinstance(module, AngleModule)
    cos, _ = module.turning(torch.arange(7)[None], z.transpose(1, 2), torch.float64)
    torch.testing.assert_close(cos[:, 1, :, 1], (wanted[..., 1] * 0.1).cos())


def test_repo_leaves_the_lower_third_to_rope() -> None:
    encoding = RePo().filled(Known(base=500.0, third=16 // 3))
    assert encoding == RePo(500.0, first=5)
    assert encoding.for_layer(4) == RoPE(500.0)
    assert encoding.for_layer(5) == encoding
    summed = RePo(first=1) + Window(8)
    assert str(summed.for_layer(0)) == "rope+window:size=8"
    assert summed.for_layer(1) == summed
    assert isinstance(summed.for_layer(0).effects(SHAPE)[0], Rotate)
    assert Layers([RePo(first=2)]).for_layer(1) == RoPE()
    with pytest.raises(ValueError, match="number of a layer, from 0, got -1"):
        RePo(first=-1)


@pytest.mark.parametrize("encoding", BY_TOKEN, ids=lambda e: e.name)
def test_tokens_one_by_one_and_in_pieces_are_what_they_are_at_once(encoding: OfPairs) -> None:
    """With the states of those before: Selective RoPE's convolution reaches back into them."""
    module, qkv, hidden = drawn(encoding), random_qkv(), hidden_of()
    out, _ = attend(module, qkv, hidden=hidden)
    for pieces in ([1] * 7, [4, 3], [2, 1, 4]):
        torch.testing.assert_close(decoded(module, qkv, pieces, hidden=hidden), out)


def test_a_convolution_that_forgets_is_seen() -> None:
    class Forgetful(AccumulatedAngles):
        def tokens(self, hidden: Any, positions: Any, real: Any, before: Any) -> torch.Tensor:
            if before is not None:
                before = before.clone()
                before[..., -self.rank - 1 : -1] = 0
            return super().tokens(hidden, positions, real, before)

    whole = drawn(SelectiveRoPE())
    assert isinstance(whole, AccumulatedAngles)
    module = Forgetful(whole.temperatures, 16, SHAPE).double()
    module.load_state_dict(whole.state_dict())
    qkv, hidden = random_qkv(), hidden_of()
    out, _ = attend(whole, qkv, hidden=hidden)
    assert (decoded(module, qkv, [4, 3], hidden=hidden) - out).abs().max() > 1e-3


@pytest.mark.parametrize("encoding", BY_TOKEN, ids=lambda e: e.name)
@pytest.mark.parametrize("by", ["mask", "positions"])
def test_padding_on_the_left_changes_nothing(encoding: OfPairs, by: str) -> None:
    """Whatever it holds, and whether it is told by a mask or by positions that begin anew, as of packed texts."""
    module, (q, k, v), hidden = drawn(encoding), random_qkv(), hidden_of()
    alone, _ = attend(module, (q[:, :, 3:], k[:, :, 3:], v[:, :, 3:]), hidden=hidden[:, 3:])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    real = torch.arange(7)[None] >= 3
    state = module.tokens(hidden, positions, real if by == "mask" else None, None)
    if by == "mask":
        padded, _ = attend(module, (q, k, v), hidden=hidden, positions=positions, real=real)
        torch.testing.assert_close(padded[:, :, 3:], alone)
    own = module.tokens(hidden[:, 3:], positions[:, 3:], None, None)
    if isinstance(module, AccumulatedAngles):  # whose sums begin elsewhere
        turns = slice(0, -module.rank)
        state, own = ((s[..., turns] - s[:, -1:, :, turns]).cos() for s in (state, own))
        torch.testing.assert_close(state[:, 3:], own)
    else:
        torch.testing.assert_close(state[:, 3:], own)


class TakesPaddingForText(AccumulatedAngles):
    """The convolution reaches back into it, and the sums count it."""

    def tokens(self, hidden: Any, positions: Any, real: Any, before: Any) -> torch.Tensor:
        return super().tokens(hidden, torch.arange(positions.shape[1])[None], None, before)


def changed_by_padding(kind: type[AccumulatedAngles], first: int) -> float:
    """By three tokens of it from `first` on, in what Selective RoPE attends to elsewhere."""
    whole, (q, k, v), hidden = drawn(SelectiveRoPE()), random_qkv(tokens=9), hidden_of(tokens=9)
    assert isinstance(whole, AccumulatedAngles)
    module = kind(whole.temperatures, whole.rank, SHAPE).double()
    module.load_state_dict(whole.state_dict())
    real = (torch.arange(9) < first) | (torch.arange(9) >= first + 3)
    alone, _ = attend(module, (q[:, :, real], k[:, :, real], v[:, :, real]), hidden=hidden[:, real])
    positions = (real.cumsum(0) - 1).clamp(min=0)[None]
    padded, _ = attend(module, (q, k, v), hidden=hidden, positions=positions, real=real.expand(2, 9))
    return (padded[:, :, real] - alone).abs().max().item()


@pytest.mark.parametrize("first", [0, 4], ids=["left", "inside"])
def test_selective_rope_that_takes_padding_for_text_is_seen(first: int) -> None:
    assert changed_by_padding(AccumulatedAngles, first) < 1e-12
    assert changed_by_padding(TakesPaddingForText, first) > 1e-2


@pytest.mark.parametrize("encoding", BY_TOKEN, ids=lambda e: e.name)
def test_gradients_of_tokens_angles(encoding: OfPairs) -> None:
    assert gradients_agree(drawn(encoding), random_qkv(tokens=4), hidden=hidden_of(tokens=4))


@pytest.mark.parametrize("encoding", BY_TOKEN, ids=lambda e: e.name)
def test_states_of_a_bfloat16_model_are_float32(encoding: OfPairs) -> None:
    module = module_of(encoding).bfloat16()
    hidden = hidden_of(tokens=300).bfloat16()
    positions = torch.arange(300)[None]
    state = module.tokens(hidden, positions, None, None)
    assert state.dtype == torch.float32
    truth = module.double().tokens(hidden.double(), positions, None, None)
    kept = slice(0, -module.rank) if isinstance(module, AccumulatedAngles) else slice(None)
    assert ((state - truth)[..., kept].sin()).abs().max() < 1e-4, "sums of 300 bfloat16 numbers are off by tenths"


def test_sums_of_angles_stay_exact_far_out() -> None:
    """After 100,000 tokens of about one radian each, in float32 model and states."""
    module = module_of(SelectiveRoPE(), Shape(2, 1, 2))
    with torch.no_grad():
        module.up.mul_(30)
    hidden = 1 + 0.1 * torch.randn(1, 100_000, 2)
    positions = torch.arange(100_000)[None]
    state = module.tokens(hidden, positions, None, None)[0, :, 0, 0]
    phi = module._convolved(
        torch.cat([torch.zeros(1, 3, 16), torch.nn.functional.normalize(hidden, dim=-1) @ module.down.T], 1), positions,
        None,
    )  # fmt: skip
    truth = phi[0, :, 0].double().cumsum(0)
    assert truth[-1].abs() > 10_000
    assert (state.double() - truth).sin().abs().max() < 1e-5


# xPos


def xpos_logits(q: torch.Tensor, k: torch.Tensor, base: float, distances: torch.Tensor) -> torch.Tensor:
    """By its definition, pair by pair, for q [Q, D] and k [K, D] and distances [Q, K]."""
    half = q.shape[-1] // 2
    t = torch.arange(half, dtype=torch.float64)
    zeta, theta = (t / half + 0.4) / 1.4, base ** (-t / half)
    q, k = (torch.complex(x[..., :half], x[..., half:]) for x in (q, k))
    turns = torch.polar(zeta ** (distances[..., None] / 512), distances[..., None] * theta)
    return (q[:, None] * k.conj() * turns).sum(-1).real


def test_xpos_equals_the_pin(method_pins: dict) -> None:
    pin = method_pins["xpos"]
    module = module_of(XPos(), Shape(4, 1, 4, layout="interleaved"))
    np.testing.assert_allclose([math.exp(512 * rate) for rate in module.rates], pin["zeta"], atol=1e-8)
    wanted = torch.tensor(pin["logits centre=0 (row 4)"], dtype=torch.float64).softmax(-1)
    _, weights = attend(module, pinned_qkv())
    torch.testing.assert_close(weights[0, 0, 4], wanted, atol=1e-7, rtol=0)
    wrong = torch.tensor(pin["row4 if keys cached with centre 2 and query uses centre 4"]).softmax(-1)
    assert (wanted - wrong).abs().max() > 1e-5, "what keys that were cached under another centre give"


def test_xpos_has_no_centre() -> None:
    """With a cache, in pieces, and anywhere."""
    q, k, v = random_qkv(width=8)
    module = module_of(XPos(100.0, scale=2.0), Shape(8, 2, 16))
    out, _ = attend(module, (q, k, v))
    for pieces in ([1] * 7, [4, 3]):
        torch.testing.assert_close(decoded(module, (q, k, v), pieces), out)
    torch.testing.assert_close(
        attend(module, (q, k, v), positions=torch.arange(7)[None] + 10**9)[0], out, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_xpos_does_not_overflow_far_out(dtype: torch.dtype) -> None:
    """300,000 tokens apart one factor about a middle would be 1e159, far past float32; with a text packed behind."""
    q, k, _ = (x[:1].to(dtype) for x in random_qkv(width=8))
    q.requires_grad_()
    k.requires_grad_()
    module = module_of(XPos(), Shape(8, 2, 16))
    positions = torch.tensor([[300_000, 300_001, 300_700, 0, 1, 2, 900]])
    keys = torch.tensor([[0, 150_000, 299_990, 0, 1, 2, 900]])
    found = module.logits(None, q, k, At(positions, keys, None, None))
    distances = (positions[0][:, None] - keys[0]).double()
    for h in range(2):
        wanted = xpos_logits(q[0, h].double(), k[0, h].double(), 10000.0, distances)
        torch.testing.assert_close(found[0, h].double()[distances >= 0], wanted[distances >= 0], atol=1e-5, rtol=0)
    assert torch.isfinite(found).all(), "hidden keys too: not a number plus minus infinity is not hidden"
    found[:, :, distances >= 0].sum().backward()
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


def test_xpos_takes_queries_together_without_a_seam() -> None:
    q, k, v = random_qkv(batch=1, heads=1, tokens=TOGETHER + 3, width=4)
    module = module_of(XPos(), Shape(4, 1, 4))
    last = slice(TOGETHER - 2, TOGETHER + 3)
    out, _ = attend(module, (q, k, v))
    wanted = decoded(module, (q, k, v), [TOGETHER - 2, 1, 1, 1, 1, 1])
    torch.testing.assert_close(out[:, :, last], wanted[:, :, last])


def test_xpos_gradients_and_encoders() -> None:
    assert gradients_agree(module_of(XPos(scale=2.0)), random_qkv(tokens=4))
    for encoding in (XPos(), SelectiveRoPE()):
        with pytest.raises(ValueError, match="no meaning in an encoder"):
            encoding.effects(Shape(4, 2, 8, bidirectional=True))


@pytest.mark.parametrize("name", ["darope", "fope"])
def test_a_missing_length_is_asked_for(name: str) -> None:
    from whorl.encodings.fope import FoPE

    with pytest.raises(ValueError, match=f"or {name}:train_length=4096 on the command line"):
        (DaRoPE() if name == "darope" else FoPE()).effects(SHAPE)
