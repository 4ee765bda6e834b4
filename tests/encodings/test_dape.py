"""DAPE (arXiv 2405.14722) against its definition written out, and minus infinity in its MLP."""

from __future__ import annotations

import pytest
import torch
from attended import FUTURE, QKV, attend, decoded, gradients_agree, random_qkv

from whorl.encodings import parse
from whorl.encodings.dape import DAPE, AdaptedBias
from whorl.encodings.effects import Score, Shape
from whorl.encodings.scores import At

SHAPE = Shape(head_dim=4, heads=2, width=8)


def module_of(bias: str = "kerple", hidden: int = 32) -> AdaptedBias:
    (effect,) = DAPE(bias, hidden).effects(SHAPE)
    assert isinstance(effect, Score)
    assert isinstance(effect.module, AdaptedBias)
    return effect.module.double()


@pytest.mark.parametrize("bias", ["kerple", "alibi", "t5"])
@pytest.mark.parametrize("causal", [True, False])
def test_dape_equals_its_definition(bias: str, causal: bool) -> None:
    """With nn.Linear at each pair of tokens."""
    module, (q, k, v) = module_of(bias), random_qkv()
    (effect,) = parse(bias).effects(SHAPE)
    at = torch.arange(7)[None]
    logits = q @ k.mT * 0.5
    added = effect.module.double()(at, at).double().expand_as(logits)  # type: ignore[union-attr]
    first, second = torch.nn.Linear(4, 32).double(), torch.nn.Linear(32, 2).double()
    for linear, layer in ((first, 0), (second, 1)):
        linear.weight.data = module.get_parameter(f"weight_{layer}").data
        linear.bias.data = module.get_parameter(f"bias_{layer}").data[:, 0]
    pairs = torch.cat([logits, added], 1).movedim(1, -1)
    expected = logits + added + second(torch.nn.functional.leaky_relu(first(pairs))).movedim(-1, 1)
    if causal:
        expected = expected.masked_fill(FUTURE, -torch.inf)
    _, weights = attend(module, (q, k, v), causal=causal)
    torch.testing.assert_close(weights, expected.softmax(-1))


class OnMaskedLogits(AdaptedBias):
    """Planted: hidden keys at minus infinity before the MLP."""

    def logits(self, s: torch.Tensor, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
        assert at.seen is not None
        return super().logits(s.masked_fill(~at.seen, -torch.inf), q, k, at)


def gradients(module: AdaptedBias, qkv: QKV) -> list[torch.Tensor]:
    attend(module, qkv)[0].sum().backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_gradients_are_numbers_because_logits_are_not_masked_before_the_mlp() -> None:
    module, qkv = module_of(), random_qkv()
    assert all(grad.isfinite().all() for grad in gradients(module, qkv))
    planted = OnMaskedLogits(module.bias, 2, 32, SHAPE.generator()).double()
    assert not all(grad.isfinite().all() for grad in gradients(planted, qkv))


def test_decoding_with_a_cache_equals_all_at_once() -> None:
    module, qkv = module_of(), random_qkv(tokens=9)
    torch.testing.assert_close(decoded(module, qkv, [4, 1, 3, 1]), attend(module, qkv)[0])


class Logits(torch.nn.Module):
    """Its logits as its forward."""

    def __init__(self, score: AdaptedBias) -> None:
        super().__init__()
        self.score = score

    def forward(self, *args: torch.Tensor | At) -> torch.Tensor:
        return self.score.logits(*args)


def test_parameters_may_be_exchanged_for_tensors() -> None:
    """As torch.func.functional_call and pruning do."""
    module, (q, k, _) = Logits(module_of()), random_qkv()
    at = At(torch.arange(7)[None], torch.arange(7)[None], None, None)
    other = {name: torch.randn_like(x) for name, x in module.named_parameters()}
    with torch.no_grad():
        called = torch.func.functional_call(module, other, (q @ k.mT, q, k, at))
        module.load_state_dict(other)
        torch.testing.assert_close(called, module(q @ k.mT, q, k, at))


def test_gradients() -> None:
    assert gradients_agree(module_of(hidden=3), random_qkv(batch=1, tokens=4))


@pytest.mark.parametrize("bias", ["rope", "window", "no-such"])
def test_what_is_no_bias_is_refused(bias: str) -> None:
    with pytest.raises(ValueError, match="biases the logits|unknown encoding"):
        DAPE(bias)
