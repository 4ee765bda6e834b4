"""LieRE: rotations of blocks of channels by position, against the pin and exponentials by eigenvectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.encodings.attended import attend, decoded, gradients_agree, random_qkv

from whorl.encodings import Known, parse
from whorl.encodings.effects import Score, Shape
from whorl.encodings.liere import Generators, LieRE


def module_of(encoding: LieRE, shape: Shape) -> Generators:
    (effect,) = encoding.effects(shape)
    assert isinstance(effect, Score)
    assert isinstance(effect.module, Generators)
    return effect.module


def expm(skew: np.ndarray) -> np.ndarray:
    """Of one skew-symmetric matrix, by the eigenvectors of i times it, which is Hermitian."""
    values, vectors = np.linalg.eigh(1j * skew)
    return ((vectors * np.exp(-1j * values)) @ vectors.conj().T).real


def generators(module: Generators) -> np.ndarray:
    """A [axes, heads, blocks, block, block] of a module, entry by entry."""
    entries = module.generator_bias.detach().double().numpy()
    whole = np.zeros((*entries.shape[:-1], module.block, module.block))
    at = 0
    for row in range(module.block):
        for column in range(row + 1, module.block):
            whole[..., row, column], whole[..., column, row] = entries[..., at], -entries[..., at]
            at += 1
    return whole


def test_rotations_are_the_pins(method_pins: dict) -> None:
    pin = method_pins["liere"]
    module = module_of(LieRE(1.0), Shape(4, 1, 4, axes=2)).double()
    wanted = np.array([pin["A_x"], pin["A_y"]])
    with torch.no_grad():
        module.generator_bias.copy_(torch.tensor(wanted[:, *np.triu_indices(4, 1)])[:, None, None])
    np.testing.assert_array_equal(generators(module)[:, 0, 0], wanted)

    def rotation(x: float, y: float) -> torch.Tensor:
        return module.rotations(torch.tensor([[[x, y]]]))[0, 0, 0, 0].detach()

    found = rotation(1, 2)
    np.testing.assert_allclose(found[0], pin["R(1,2) row0"], atol=1e-7)
    p, q = rotation(1, 2), rotation(2, 0.5)
    apart = float((p.T @ q - rotation(1, -1.5)).abs().max())
    assert apart == pytest.approx(pin["non-commuting: max|R(p)^T R(q)-R(q-p)| p=(1,2),q=(2,.5)"], abs=1e-6)
    moved = rotation(2, 3).T @ rotation(3, 1.5)
    assert float((moved - p.T @ q).abs().max()) == pytest.approx(
        pin["shift both by (1,1): max change of R(p)^T R(q)"], abs=1e-6
    )


@pytest.mark.parametrize(("block", "per"), [(None, "head"), (4, "head"), (3, "layer"), (2, "model"), (5, "head")])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_q_and_k_are_multiplied_block_by_block(axes: int, block: int | None, per: str) -> None:
    """Channels past the last whole block pass through; two heads of queries share one of keys."""
    torch.manual_seed(axes)
    module = module_of(LieRE(5.0, block, per), Shape(8, 2, 16, axes=axes)).double()
    q, k, v = random_qkv(width=8)
    k, v = k[:, :1], v[:, :1]
    positions = torch.randint(0, 9, (2, 7, axes))
    found = attend(module, (q, k, v), positions=positions if axes > 1 else positions[..., 0])[1]
    matrices, size = generators(module), block or 8

    def turned(x: torch.Tensor, head: int, row: int, token: int) -> np.ndarray:
        out = x[row, min(head, x.shape[1] - 1), token].numpy().copy()
        for at in range(8 // size):
            skew = sum(float(positions[row, token, a]) / 5 * matrices[a, head if per == "head" else 0, at]
                       for a in range(axes))  # fmt: skip
            part = slice(at * size, (at + 1) * size)
            out[part] = expm(np.asarray(skew)) @ out[part]
        return out

    for row in range(2):
        for head in range(2):
            for i in range(7):
                logits = [0.5 * turned(q, head, row, i) @ turned(k, head, row, j) for j in range(i + 1)]
                wanted = torch.tensor(np.array(logits)).softmax(-1)
                torch.testing.assert_close(found[row, head, i, : i + 1], wanted, atol=1e-10, rtol=0)


def test_in_blocks_of_two_it_turns_pairs_that_are_neighbours() -> None:
    module = module_of(LieRE(10.0, 2), Shape(8, 2, 16, axes=2)).double()
    at = torch.tensor([[[3.0, 7.0]]])
    first, second = module.generator_bias[..., 0]  # entries above the diagonal: they turn the other way round
    angle = 0.3 * first + 0.7 * second
    rotation = module.rotations(at)[0, :, 0]
    for (row, column), wanted in {(0, 0): angle.cos(), (0, 1): angle.sin(), (1, 0): -angle.sin()}.items():
        torch.testing.assert_close(rotation[..., row, column], wanted)


def test_it_starts_as_published() -> None:
    first, other = (
        module_of(LieRE(3.0), Shape(32, 4, 8, axes=2, layer=layer)).generator_bias.detach() for layer in (0, 1)
    )
    assert first.shape == (2, 4, 1, 32 * 31 // 2)
    assert 0 <= float(first.min()) < 0.02
    assert 2 * math.pi - 0.02 < float(first.max()) <= 2 * math.pi
    assert float(first.mean()) == pytest.approx(math.pi, abs=0.1)
    assert not torch.equal(first, other), "each layer draws its own"


def test_lengths_are_kept_and_along_one_axis_it_is_relative() -> None:
    module = module_of(LieRE(100.0), Shape(16, 2, 16)).double()
    far = module.rotations(torch.tensor([[[0], [1], [5000]]]))
    torch.testing.assert_close(far @ far.mT, torch.eye(16).double().expand_as(far), atol=1e-11, rtol=0)
    torch.testing.assert_close(far[:, :, 0], torch.eye(16).double().expand_as(far[:, :, 0]))
    qkv = random_qkv(width=16)
    positions = torch.arange(7)[None]
    near, moved = (attend(module, qkv, positions=positions + by)[0] for by in (0, 100_000))
    torch.testing.assert_close(near, moved, atol=1e-9, rtol=0)
    torch.testing.assert_close(decoded(module, qkv, [3, 1, 2, 1]), near, atol=1e-12, rtol=0)


@pytest.mark.parametrize("block", [None, 2])
def test_gradients(block: int | None) -> None:
    module = module_of(LieRE(3.0, block), Shape(4, 2, 8)).double()
    assert gradients_agree(module, random_qkv(tokens=4))


def test_in_bfloat16_the_arithmetic_is_float32() -> None:
    q, k, v = (x.bfloat16() for x in random_qkv(width=8))
    rounded = module_of(LieRE(100.0), Shape(8, 2, 16)).bfloat16()
    exact = module_of(LieRE(100.0), Shape(8, 2, 16)).bfloat16().double()
    positions = torch.arange(7)[None] + 5000
    truth, _ = attend(exact, (q.double(), k.double(), v.double()), positions=positions)
    found, _ = attend(rounded, (q, k, v), positions=positions)
    assert found.dtype == torch.bfloat16
    assert (found.double() - truth).abs().max() < 2**-7 * v.abs().max()


def test_a_host_says_what_makes_one() -> None:
    assert str(parse("liere").filled(Known(train_length=64))) == "liere:unit=63"
    assert str(parse("liere").filled(Known(train_length=196, grid=(7, 14)))) == "liere:unit=13"
    assert str(parse("liere").filled(Known(train_length=64, reach=1.0))) == "liere:unit=1"
    assert str(parse("liere:unit=2").filled(Known(train_length=196))) == "liere:unit=2"
    for nothing in (Known(), Known(train_length=1), Known(grid=(1, 1))):
        assert parse("liere").filled(nothing) == parse("liere")
    (effect,) = parse("liere:unit=2,per=model").effects(Shape(8, 2, 8))
    assert effect.shared


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("unit=0", "unit must be finite and above 0"),
        ("block=1", "block must be at least 2, since a channel alone cannot turn, got 1"),
        ("block=2.5", "block must be a whole number"),
        ("per=token", "per must be one of 'head', 'layer', 'model'"),
    ],
)
def test_nonsense_is_refused(arguments: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(f"liere:{arguments}")


def test_what_a_model_cannot_carry_is_refused() -> None:
    with pytest.raises(ValueError, match=r"liere needs the coordinate that counts as 1.*liere:unit=13"):
        parse("liere").effects(Shape(8, 2, 8))
    with pytest.raises(ValueError, match="block=16 is more than the 8 channels of a head that turn"):
        parse("liere:unit=3,block=16").effects(Shape(8, 2, 8))
