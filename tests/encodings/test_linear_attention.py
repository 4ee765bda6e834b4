"""RoFormer's linear attention (arXiv 2104.09864, equation 19) against the pin, its definition, and its chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attended import FUTURE, QKV, attend, decoded, gradients_agree, pinned_qkv, random_qkv

from whorl.encodings import parse
from whorl.encodings.effects import Score, Shape
from whorl.encodings.linear import FeatureAttention
from whorl.encodings.scores import At, Features
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore


def module_of(
    notation: str, layout: str = "half", width: int = 4, *, kind: type = FeatureAttention
) -> FeatureAttention:
    (term,) = parse(notation).terms
    (effect,) = term.effects(Shape(head_dim=width, heads=2, width=2 * width, layout=layout))
    assert isinstance(effect, Score)
    assert isinstance(effect.module, FeatureAttention)
    effect.module.__class__ = kind
    return effect.module


def turned(x: torch.Tensor, layout: str, base: float = 10000.0) -> torch.Tensor:
    """RoPE written out: channel pairs as complex numbers."""
    width, tokens = x.shape[-1], x.shape[-2]
    angles = torch.arange(tokens, dtype=torch.float64)[:, None] * base ** (-torch.arange(0, width, 2) / width)
    pairs = torch.complex(*(x.chunk(2, -1) if layout == "half" else (x[..., 0::2], x[..., 1::2])))
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    halves = (pairs.real, pairs.imag)
    return torch.cat(halves, -1) if layout == "half" else torch.stack(halves, -1).flatten(-2)


def by_definition(qkv: QKV, rotate: object, seen: torch.Tensor) -> torch.Tensor:
    q, k, _ = qkv
    f_q, f_k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    over = rotate(f_q) @ rotate(f_k).mT * seen  # type: ignore[operator]
    return over / (f_q @ f_k.mT * seen).sum(-1, keepdim=True)


def test_rope_and_linear_equal_the_pin(method_pins: dict) -> None:
    pin = method_pins["roformer_eq19_causal"]
    out, weights = attend(module_of("rope+linear", "interleaved"), pinned_qkv())
    np.testing.assert_allclose(weights[0, 0].sum(-1), pin["row_sums"], atol=1e-6)
    np.testing.assert_allclose(weights[0, 0, 4], pin["weights (row 4)"], atol=1e-6)
    np.testing.assert_allclose(out[0, 0, 4], pin["out_last"], atol=1e-6)


class TurnedFirst(FeatureAttention):
    """Planted: q and k are turned before the feature map."""

    def features(self, q: torch.Tensor, k: torch.Tensor, at: At) -> Features:
        q, k = self._turned(q, at.query_positions), self._turned(k, at.key_positions)
        of_q, of_k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
        return Features(of_q, of_k, of_q, of_k)


class TurnedBelow(FeatureAttention):
    """Planted: the denominator is of turned features too."""

    def features(self, q: torch.Tensor, k: torch.Tensor, at: At) -> Features:
        found = super().features(q, k, at)
        return Features(found.of_q, found.of_k, found.of_q, found.of_k)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("causal", [True, False])
def test_rotation_comes_after_the_feature_map_and_in_the_numerator_alone(layout: str, causal: bool) -> None:
    qkv, seen = random_qkv(), ~FUTURE if causal else torch.ones(7, 7, dtype=torch.bool)
    expected = by_definition(qkv, lambda x: turned(x, layout), seen)
    for scale in (0.5, 0.1):
        _, weights = attend(module_of("rope+linear", layout), qkv, causal=causal, scale=scale)
        torch.testing.assert_close(weights, expected)
    for kind in (TurnedFirst, TurnedBelow):
        _, planted = attend(module_of("rope+linear", layout, kind=kind), qkv, causal=causal)
        assert (planted - expected).abs().max() > 1e-2
    _, plain = attend(module_of("linear"), qkv, causal=causal)
    torch.testing.assert_close(plain, by_definition(qkv, lambda x: x, seen))


def attended(
    qkv: QKV, impl: str, *, causal: bool = True, mask: torch.Tensor | None = None, notation: str = "rope+linear"
) -> torch.Tensor:
    q, k, v = qkv
    at = torch.arange(k.shape[2])[None]
    module = module_of(notation, width=q.shape[-1])
    return biased_attention(
        q, k, v, [], query_positions=at[:, -q.shape[2] :], key_positions=at, mask=mask, causal=causal, scale=0.5,
        scores=[BoundScore(module)], impl=impl,
    )[0]  # fmt: skip


def padding(tokens: int, left: int) -> torch.Tensor:
    """Some on the left of the second row."""
    return (torch.arange(tokens) >= torch.tensor([[0], [left]]))[:, None, None, :].expand(-1, 1, tokens, -1)


@pytest.mark.parametrize("tokens", [64, 65, 200])
@pytest.mark.parametrize("causal", [True, False])
def test_chunks_equal_all_keys_at_once(tokens: int, causal: bool) -> None:
    q, k, v = random_qkv(tokens=tokens)
    for mask in (None, padding(tokens, 70), padding(tokens, 5)):
        if mask is None or tokens > 70:
            torch.testing.assert_close(
                attended((q, k, v), "linear", causal=causal, mask=mask),
                attended((q, k, v), "reference", causal=causal, mask=mask),
            )
    grouped = (q[:, :, tokens // 2 :] if tokens == 200 else q, k[:, :1], v[:, :1])  # a cache before, and shared keys
    torch.testing.assert_close(
        attended(grouped, "linear", causal=causal), attended(grouped, "reference", causal=causal)
    )


def test_gradients_of_chunks_are_those_of_all_keys_at_once() -> None:
    made = []
    for impl in ("linear", "rows", "reference"):
        torch.manual_seed(0)
        inputs = tuple(x.requires_grad_() for x in random_qkv(tokens=130))
        attended(inputs, impl).square().sum().backward()  # type: ignore[arg-type]
        made.append([x.grad for x in inputs])
    for impl in (0, 1):
        for one, other in zip(made[impl], made[2], strict=True):
            torch.testing.assert_close(one, other)


def test_chunks_refuse_what_is_no_sum_over_all_keys_before() -> None:
    q, k, v = random_qkv(tokens=128)
    document = torch.arange(128) // 64
    packed = (document[:, None] == document)[None, None]
    with pytest.raises(ValueError, match="do not see all keys from one first to their own"):
        attended((q, k, v), "linear", mask=packed)
    torch.testing.assert_close(attended((q, k, v), "auto", mask=packed), attended((q, k, v), "reference", mask=packed))


def test_decoding_with_a_cache_equals_all_at_once() -> None:
    module, qkv = module_of("rope+linear"), random_qkv(tokens=9)
    torch.testing.assert_close(decoded(module, qkv, [4, 1, 3, 1]), attend(module, qkv)[0])


def test_a_query_that_sees_nothing_has_an_output_of_zeros() -> None:
    real = torch.arange(7).expand(2, 7) >= 3
    out, _ = attend(module_of("rope+linear"), random_qkv(), real=real)
    assert not out[:, :, :3].any()
    assert out[:, :, 3:].isfinite().all()


def test_gradients() -> None:
    assert gradients_agree(module_of("rope+linear"), random_qkv(batch=1, tokens=4))


@pytest.mark.parametrize("other", ["alibi", "window:size=4", "sinusoidal"])
def test_linear_goes_with_rotations_alone(other: str) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        parse(f"{other}+linear")


def test_the_scaling_of_this_name_is_told_from_it() -> None:
    assert str(parse("rope~linear:factor=4+linear")) == "rope~linear:factor=4+linear"
    with pytest.raises(ValueError, match="with factor, linear is a scaling; write rope~linear"):
        parse("linear:factor=4")


def test_what_rotates_by_length_is_refused() -> None:
    (term,) = parse("rope~dynamic-ntk:factor=2,original=64+linear").terms
    with pytest.raises(ValueError, match="one spectrum for all lengths"):
        term.effects(Shape(head_dim=4, heads=2, width=8))
