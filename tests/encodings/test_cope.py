"""CoPE by content (arXiv 2405.18719) against the pins, its definition written out, and its traps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from attended import FUTURE, attend, decoded, gradients_agree, pinned_qkv, random_qkv

from whorl.encodings.cope import ContextualPositions, CoPE
from whorl.encodings.effects import Score, Shape
from whorl.encodings.scores import At


def module_of(positions: int = 4, width: int = 4, *, drawn: bool = True) -> ContextualPositions:
    (effect,) = CoPE(positions).effects(Shape(head_dim=2, heads=2, width=2 * width, channels=width))
    assert isinstance(effect, Score)
    module = effect.module.double()
    assert isinstance(module, ContextualPositions)
    if drawn:
        torch.nn.init.normal_(module.weight)
    return module


def test_cope_equals_the_pins(method_pins: dict) -> None:
    pin = method_pins["cope"]
    module = module_of(drawn=False)
    p, c = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(4, dtype=torch.float64)
    module.weight.data = 0.1 * torch.sin(p + 0.5 * c)
    _, weights = attend(module, pinned_qkv())
    np.testing.assert_allclose(weights[0, 0, 4].detach(), pin["weights_last_row"], atol=1e-6)


def by_definition(module: ContextualPositions, qkv: tuple[torch.Tensor, ...], scale: float) -> torch.Tensor:
    """The weights, one number at a time."""
    q, k, _ = qkv
    batch, heads, tokens, _ = q.shape
    table, last = module.weight.detach(), module.weight.shape[0] - 1
    weights = torch.zeros(batch, heads, tokens, tokens, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(tokens):
                logits = []
                for j in range(i + 1):
                    counted = [torch.sigmoid(q[b, h, i] @ k[b, h, n] * scale).item() for n in range(j, i + 1)]
                    p = min(sum(counted), last)
                    low, high = table[math.floor(p)], table[math.ceil(p)]
                    position = low + (p - math.floor(p)) * (high - low)
                    logits.append(q[b, h, i] @ k[b, h, j] * scale + q[b, h, i] @ position)
                weights[b, h, i, : i + 1] = torch.stack(logits).softmax(0)
    return weights


@pytest.mark.parametrize("positions", [1, 3, 64])
def test_cope_equals_its_definition(positions: int) -> None:
    module, qkv = module_of(positions), random_qkv(tokens=9)
    _, weights = attend(module, qkv, scale=0.4)
    torch.testing.assert_close(weights, by_definition(module, qkv, 0.4))


def test_at_its_start_cope_changes_nothing() -> None:
    q, k, v = random_qkv()
    _, weights = attend(module_of(drawn=False), (q, k, v))
    torch.testing.assert_close(weights, (q @ k.mT * 0.5).masked_fill(FUTURE, -torch.inf).softmax(-1))


class MaskedAfterTheGates(ContextualPositions):
    """Planted: what a query does not see is counted."""

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        return super().logits(s, q, k, at._replace(seen=None))


class CountedFromTheStart(MaskedAfterTheGates):
    """Planted: positions counted from the first key on, padding among them."""

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        return super().logits(s.flip(-1), q, k, at).flip(-1)


def planted(kind: type[ContextualPositions]) -> ContextualPositions:
    module = kind(4, 4).double()
    torch.nn.init.normal_(module.weight)
    return module


def changed_by_the_future(module: ContextualPositions) -> float:
    q, k, v = random_qkv(tokens=8)
    first, _ = attend(module, (q[:, :, :5], k[:, :, :5], v[:, :, :5]))
    return (attend(module, (q, k, v))[0][:, :, :5] - first).abs().max().item()


def test_the_mask_comes_before_the_gates() -> None:
    assert changed_by_the_future(module_of()) < 1e-12
    assert changed_by_the_future(planted(MaskedAfterTheGates)) > 1e-2


def changed_by_padding(module: ContextualPositions) -> float:
    """By three tokens of padding on the left."""
    q, k, v = random_qkv(tokens=9)
    real = torch.arange(9).expand(2, 9) >= 3
    alone, _ = attend(module, (q[:, :, 3:], k[:, :, 3:], v[:, :, 3:]))
    padded, _ = attend(module, (q, k, v), positions=(torch.arange(9) - 3).clamp(min=0)[None], real=real)
    return (padded[:, :, 3:] - alone).abs().max().item()


def test_left_padding_is_not_counted() -> None:
    assert changed_by_padding(module_of()) < 1e-12
    assert changed_by_padding(planted(CountedFromTheStart)) > 1e-2


def test_decoding_with_a_cache_equals_all_at_once() -> None:
    module, qkv = module_of(), random_qkv(tokens=9)
    torch.testing.assert_close(decoded(module, qkv, [4, 1, 3, 1]), attend(module, qkv)[0])


def test_gradients() -> None:
    assert gradients_agree(module_of(3), random_qkv(batch=1, tokens=4))


def test_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="has no meaning in an encoder"):
        CoPE().effects(Shape(head_dim=8, heads=2, width=16, bidirectional=True))
