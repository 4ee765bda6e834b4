"""Rotations by learned frequencies or fixed mixtures, and polar ones: LeRoPE, GRAPE-M, FoPE, PoPE."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encodings.attended import attend, gradients_agree, pinned_qkv, random_qkv

import whorl
from whorl.encodings import parse
from whorl.encodings.angles import AngleModule, turned
from whorl.encodings.effects import Score, Shape
from whorl.encodings.fope import FoPE
from whorl.encodings.grape_m import GRAPEM
from whorl.encodings.learned_rope import LearnedRoPE
from whorl.encodings.pope import PoPE
from whorl.encodings.rope import OfPairs, RoPE
from whorl.encodings.scores import ScoreModule
from whorl.ops import rotate, rotation_tables
from whorl.testing import tiny_model


def module_of(encoding: OfPairs, shape: Shape) -> ScoreModule:
    (effect,) = encoding.effects(shape)
    assert isinstance(effect, Score)
    assert effect.shared == isinstance(encoding, LearnedRoPE | FoPE), "LeRoPE's alphas are those of all layers"
    return effect.module


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(
    "encoding", [LearnedRoPE(500.0), GRAPEM(500.0), GRAPEM(500.0, per="head"), LearnedRoPE(500.0, 0.5)]
)
def test_learned_frequencies_start_as_the_hosts_rotation(encoding: OfPairs, layout: str) -> None:
    """In the layout and the width in which the host turns, at positions far out as well."""
    q, k, v = random_qkv(width=8, dtype=torch.float32)
    positions = torch.arange(7)[None] + torch.tensor([[0], [100_000]])
    spectrum = RoPE(500.0, encoding.fraction).spectrum(8)
    module = module_of(encoding, Shape(8, 2, 16, layout=layout))
    hosts = rotate(q, k, rotation_tables(spectrum, positions), layout=layout)
    _, wanted = attend(Plain(), (*hosts, v), positions=positions)
    _, found = attend(module, (q, k, v), positions=positions)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    _, other = attend(
        module_of(encoding, Shape(8, 2, 16, layout="half" if layout != "half" else "interleaved")), (q, k, v)
    )
    assert (other[0] - wanted[0]).abs().max() > 0.01, "another layout is another rotation"


class Plain(ScoreModule):
    def inputs(self, q: torch.Tensor, k: torch.Tensor, at: object) -> tuple[torch.Tensor, torch.Tensor]:
        return q, k


def test_learned_rope_is_rope_at_theta_e_alpha() -> None:
    module = module_of(LearnedRoPE(100.0), Shape(4, 1, 4)).double()
    (alpha,) = module.parameters()
    with torch.no_grad():
        alpha.copy_(torch.tensor([0.3, -1.5], dtype=torch.float64))
    q, k, v = pinned_qkv()
    _, weights = attend(module, (q, k, v))
    theta = torch.tensor([1.0 * math.exp(0.3), 0.1 * math.exp(-1.5)], dtype=torch.float64)
    (q, k), at = (torch.complex(x[0, 0, :, :2], x[0, 0, :, 2:]) for x in (q, k)), torch.arange(5)
    phases = torch.polar(torch.ones(5, 5, 2, dtype=torch.float64), (at[:, None] - at)[..., None] * theta)
    logits = 0.5 * (q[:, None] * k.conj() * phases).sum(-1).real
    wanted = logits.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf).softmax(-1)
    torch.testing.assert_close(weights[0, 0], wanted, atol=1e-12, rtol=0)


def test_grape_m_is_the_exponential_of_its_generators() -> None:
    """Rodrigues' formula in every plane, and all of it as the exponential of one skew matrix."""
    module = module_of(GRAPEM(100.0), Shape(6, 1, 6)).double()
    assert isinstance(module, AngleModule)
    (w,) = module.parameters()
    with torch.no_grad():
        w.add_(torch.tensor([0.01, -0.02, 0.03], dtype=torch.float64))
    omega = torch.tensor([100.0 ** (-2 * j / 6) for j in range(3)], dtype=torch.float64)
    omega = omega * (16 * w[0]).exp().detach()
    x = torch.randn(1, 1, 1, 6, dtype=torch.float64)
    for n in (0, 1, 9):
        generator, product = torch.zeros(6, 6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
        for j in range(3):
            a, b = torch.eye(6, dtype=torch.float64)[j], torch.eye(6, dtype=torch.float64)[j + 3]
            L = torch.outer(b, a) - torch.outer(a, b)
            generator += omega[j] * L
            angle = n * omega[j]
            product = product @ (torch.eye(6, dtype=torch.float64) + angle.sin() * L + (1 - angle.cos()) * L @ L)
        found = turned(x, *module.turning(torch.tensor([[n]]), None, torch.float64), "half")[0, 0, 0]
        torch.testing.assert_close(found, torch.linalg.matrix_exp(n * generator) @ x[0, 0, 0], atol=1e-12, rtol=0)
        torch.testing.assert_close(found, product @ x[0, 0, 0], atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["learned-rope", "grape-m", "grape-m:per=head"])
def test_what_starts_as_rope_does_in_bfloat16_too(name: str) -> None:
    """grape-m kept whole logarithms, which bfloat16 rounded: frequencies 2.8 % off, 1.8 radians at 2,000 tokens."""
    module = module_of(parse(f"{name}{',' if ':' in name else ':'}base=10000,fraction=1"), Shape(64, 4, 4)).to(
        torch.bfloat16
    )
    assert isinstance(module, AngleModule)
    found = module.turning(torch.tensor([[1999]]), None, torch.float64)
    angles = 1999 * 10000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    for ours, wanted in zip(found, (angles.cos(), angles.sin()), strict=True):
        torch.testing.assert_close(ours[0], wanted.expand_as(ours[0]), atol=1e-9, rtol=0)


def test_what_earlier_versions_kept_of_grape_m_is_read(tmp_path: Path) -> None:
    model = whorl.attach(tiny_model("llama"), "grape-m:base=500")
    with torch.no_grad():
        for weight in whorl.attached(model).parameters():
            weight.copy_(0.01 * torch.randn_like(weight))
    model.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    width = next(x.shape[1] for key, x in kept.items() if key.endswith(".shift"))
    start = torch.tensor([math.log(500.0 ** (-j / width)) / 16 for j in range(width)])
    earlier = {k.replace(".shift", ".log_frequency"): x + start if k.endswith(".shift") else x for k, x in kept.items()}
    save_file(earlier, tmp_path / "model.safetensors", {"format": "pt"})
    ids = torch.arange(3, 30)[None]
    torch.testing.assert_close(whorl.load(tmp_path)(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=0)
    again = whorl.attach(tiny_model("llama"), "grape-m:base=500").eval()
    again.load_state_dict(earlier | {k: x for k, x in model.state_dict().items() if k not in kept})
    torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


def test_pope_equals_the_pin(method_pins: dict) -> None:
    pin = method_pins["pope"]
    module = module_of(PoPE(10000.0), Shape(4, 1, 4)).double()
    (delta,) = module.parameters()
    with torch.no_grad():
        delta.copy_(torch.tensor([pin["delta"]]))
    np.testing.assert_allclose(module.frequencies, pin["freqs"], rtol=1e-12)
    _, weights = attend(module, pinned_qkv())
    wanted = torch.tensor(pin["logits (row 4)"], dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(weights[0, 0, 4], wanted, atol=1e-7, rtol=0)


def test_popes_offsets_learn_from_where_they_start() -> None:
    """At 0, a bound of their range: a step inwards changes logits, one outwards does not, and the next comes back."""
    module = module_of(PoPE(), Shape(4, 2, 8)).double()
    (delta,) = module.parameters()
    qkv = random_qkv()
    start = attend(module, qkv)[0]
    for step, moves in ((-0.1, True), (0.1, False)):
        with torch.no_grad():
            delta.fill_(step)
        out = attend(module, qkv)[0]
        assert ((out - start).abs().max() > 1e-3) == moves
    delta.grad = None
    (attend(module, qkv)[0] * qkv[0]).sum().backward()
    assert (delta.grad > 0).any(), "what has left the range is led back"
    assert not (delta.grad < 0).any()


def test_fope_is_the_official_construction() -> None:
    """Written out: mixtures of the waves that fit, on the first pairs; cos = sin = 1 on the others."""
    module = module_of(FoPE(70, 10000.0), Shape(16, 2, 32)).double()
    of_cos, of_sin = module.of_cos, module.of_sin
    waves = [10000.0 ** (-2 * i / 16) for i in range(8) if 2 * math.pi / 10000.0 ** (-2 * i / 16) <= 70]
    assert of_cos.shape == of_sin.shape == (2, 3, 3)
    assert not torch.equal(of_cos, of_sin)
    torch.testing.assert_close(of_cos, torch.eye(3).double().expand_as(of_cos), atol=0.5, rtol=0)
    assert not any(p.requires_grad for p in module.parameters())
    assert isinstance(module, AngleModule)
    cos, sin = module.turning(torch.tensor([[0, 7]]), None, torch.float64)
    for h in range(2):
        for i in range(8):
            for matrix, wave, found in ((of_cos, math.cos, cos), (of_sin, math.sin, sin)):
                wanted = 1.0
                if i < 3:
                    total = sum(float(matrix[h, j, i]) for j in range(3))
                    wanted = sum(wave(7 * f) * float(matrix[h, j, i]) for j, f in enumerate(waves)) / total
                assert float(found[0, h, 1, i]) == pytest.approx(wanted, abs=1e-12)


def test_fopes_other_pairs_count_twice_and_carry_no_position() -> None:
    module = module_of(FoPE(2), Shape(8, 2, 16)).double()  # nothing fits in two tokens
    q, k, v = random_qkv(width=8)
    _, found = attend(module, (q, k, v))
    _, twice = attend(Plain(), (q, k, v), scale=1.0)
    torch.testing.assert_close(found, twice)
    most = module_of(FoPE(10**9), Shape(16, 2, 32))
    assert most.of_cos.shape == (2, 8, 4), "at most half of the pairs have a wave"


@pytest.mark.parametrize("encoding", [LearnedRoPE(100.0), GRAPEM(100.0, per="head"), FoPE(60), PoPE(100.0)])
def test_gradients(encoding: OfPairs) -> None:
    module = module_of(encoding, Shape(4, 2, 8)).double()
    with torch.no_grad():
        for p in module.parameters():
            p.sub_(0.1)
    q, k, v = random_qkv(tokens=4)
    assert gradients_agree(module, (q, k, v))


@pytest.mark.parametrize("encoding", [LearnedRoPE(), GRAPEM(), FoPE(60), PoPE()])
def test_in_bfloat16_the_arithmetic_is_float32(encoding: OfPairs) -> None:
    q, k, v = (x.bfloat16() for x in random_qkv(width=8))
    rounded = module_of(encoding, Shape(8, 2, 16)).bfloat16()
    positions = torch.arange(7)[None] + 5000
    exact = module_of(encoding, Shape(8, 2, 16)).bfloat16().double()
    truth, _ = attend(exact, (q.double(), k.double(), v.double()), positions=positions)
    found, _ = attend(rounded, (q, k, v), positions=positions)
    assert found.dtype == torch.bfloat16
    assert (found.double() - truth).abs().max() < 2**-7 * v.abs().max(), "an angle in bfloat16 would be off by radians"


@pytest.mark.parametrize("encoding", ["fope", "rope+pape-ri:unit=4"])
def test_what_is_fixed_stays_so_where_a_whole_model_is_thawed(encoding: str) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed
    model.requires_grad_(True)
    model(torch.arange(3, 23)[None]).logits.square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == fixed
