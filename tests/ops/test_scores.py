"""Scores: what each step of `whorl.encodings.scores` changes, by its definition, and every implementation of them."""

from __future__ import annotations

import pytest
import torch
from attention_cases import HEADS, Largest, agree, at, data, everything, kinds, modules
from scores_cases import BY_ROWS, BY_TOKEN, Forgets, bound

from whorl.encodings import Shape, parse
from whorl.encodings.scores import At, ScoreModule
from whorl.ops import biased_attention
from whorl.ops.impl import rows
from whorl.ops.scores import BoundScore
from whorl.ops.visible import DenseVisible
from whorl.testing import max_error


def attended(module: ScoreModule | None, factor: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and weights of 5 tokens, 4 heads on 2 key heads; the state of a token is its number."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, 5, 8, dtype=torch.float64) for heads in (4, 2, 2))
    at = torch.arange(5)[None]
    state = at[..., None, None].double()
    scores = () if module is None else (BoundScore(module, state, state),)
    out, weights = biased_attention(
        q, k, v, [], query_positions=at, key_positions=at, causal=True, scale=0.5, factor=factor, scores=scores,
        impl="reference",
    )  # fmt: skip
    assert weights is not None
    return out, weights


def test_channels_add_their_product() -> None:
    class Newest(ScoreModule):
        def channels(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
            assert at.query_state is not None
            assert at.key_state is not None
            return torch.ones_like(at.query_state), at.key_state

    _, plain = attended(None)
    _, scored = attended(Newest())
    tilted = plain * torch.arange(5).exp()
    torch.testing.assert_close(scored, tilted / tilted.sum(-1, keepdim=True))


def test_logits_weights_and_values() -> None:
    class Anew(ScoreModule):
        scores_anew = True

        def logits(self, s: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor, at: At) -> torch.Tensor:
            assert s is None
            assert at.scale == 0.5
            return 2 * q @ k.transpose(-1, -2)

        def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
            assert at.seen is not None
            assert torch.equal(s == -torch.inf, ~at.seen.expand_as(s))
            return s.softmax(-1)

        def values(self, weights: torch.Tensor, v: torch.Tensor, at: At) -> torch.Tensor:
            return 10 * weights @ v

    twice, weights = attended(None, factor=torch.full((1, 1, 5), 2.0, dtype=torch.float64))
    out, scored = attended(Anew())
    torch.testing.assert_close(scored, weights)
    torch.testing.assert_close(out, 11 * twice)


def test_inputs_take_the_place_of_q_and_k() -> None:
    class Flipped(ScoreModule):
        def inputs(self, q: torch.Tensor, k: torch.Tensor, at: At) -> tuple[torch.Tensor, torch.Tensor]:
            return q.flip(-1), -k.flip(-1)

    _, weights = attended(None, factor=torch.full((1, 4, 5), -1.0, dtype=torch.float64))
    _, scored = attended(Flipped())
    torch.testing.assert_close(scored, weights)


class Softens(ScoreModule):
    """A softmax in the place of the softmax."""

    def weights(self, s: torch.Tensor, at: At) -> torch.Tensor:
        return s.softmax(-1)


@pytest.fixture(autouse=True)
def blocks_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are several."""
    monkeypatch.setattr(rows, "MOST", rows.FEWEST)


IMPLS = {**dict.fromkeys(BY_TOKEN, ("cpu", "blocked")), **dict.fromkeys(BY_ROWS, ("rows",))}
PAIRS = [(name, impl) for name, impls in IMPLS.items() for impl in impls]


@pytest.mark.parametrize(("name", "impl"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_implementation_agrees(name: str, impl: str, dtype: torch.dtype) -> None:
    """At an odd size, with grouped heads, a bias, a factor and sinks; forward and every gradient."""
    tokens = 203 if impl == "cpu" else 67
    factor = torch.randint(-1, 2, (2, HEADS, tokens)).float().exp2()  # which rounds nothing
    how = {"factor": factor, "causal": True, **at(torch.arange(tokens)[None])}
    if name != "weights":  # which has no softmax for sinks
        how["sinks"] = torch.randn(HEADS)
    agree(impl, modules("alibi"), data(tokens, tokens, 8, dtype), dtype, scores=[bound(name, tokens, tokens)], **how)


@pytest.mark.parametrize("name", BY_TOKEN)
@pytest.mark.parametrize("impl", ["cpu", "decode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_query_where_decoding_takes_it(name: str, impl: str, dtype: torch.dtype) -> None:
    positions, tensors, scores = torch.arange(67)[None], data(1, 67, 8, dtype), [bound(name, 1, 67)]
    how = {"sinks": torch.randn(HEADS), "softcap": 2.0, **at(positions[:, -1:], positions)}
    truth, plain, ours = (
        everything(which, modules("alibi"), tensors, of, scores=scores, **how)[0]
        for which, of in (("reference", torch.float64), ("reference", dtype), (impl, dtype))
    )
    rounding = 4 * torch.finfo(dtype).eps * float(truth.abs().max())
    assert max_error(ours, truth) <= 2 * max_error(plain, truth) + rounding


@pytest.mark.parametrize(("name", "impl"), PAIRS)
@pytest.mark.parametrize("kind", ["packed", "left padded", "cached", "static cache", "gaps", "any mask"])
def test_masks_and_positions_of_every_kind(name: str, impl: str, kind: str) -> None:
    if impl == "cpu" and kind in ("any mask", "gaps"):
        pytest.skip("the compiled loops take runs of keys at positions without gaps")
    positions, mask, queries = kinds(kind)
    dtype = torch.float32 if impl == "cpu" else torch.float64
    tensors, keys = data(queries, positions.shape[1], 8, dtype), positions.shape[1]
    how = at(positions[:, -queries:], positions)
    if name != "weights":
        how["sinks"] = torch.randn(HEADS)
    agree(impl, modules("alibi"), tensors, dtype, mask=mask, scores=[bound(name, queries, keys)], **how)


@torch.no_grad()
@pytest.mark.parametrize("impl", ["reference", "cpu", "blocked", "rows"])
def test_sums_in_the_thousands_are_not_rounded(impl: str) -> None:
    """c_i - c_j goes by what two sums of gates differ in, in a bfloat16 model too: there a channel would be a multiple
    of 32 here, and added to another product first it would cost that 11 of its bits."""
    q, k, v = data(300, 300, 8, torch.bfloat16)
    state = torch.linspace(-4000, -5000, 300).view(1, -1, 1, 1).expand(2, -1, HEADS, -1)
    how = {"scale": 0.4, "causal": True, **at(torch.arange(300)[None])}

    def out(impl: str, dtype: torch.dtype, state: torch.Tensor) -> torch.Tensor:
        scores = [BoundScore(Forgets(), state, state), *([BoundScore(Softens())] if impl == "rows" else [])]
        return biased_attention(*(x.to(dtype) for x in (q, k, v)), [], impl=impl, scores=scores, **how)[0].double()

    exact = out("reference", torch.float64, state.double())
    allowed = 2 * torch.finfo(torch.bfloat16).eps * float(exact.abs().max())
    assert max_error(out(impl, torch.bfloat16, state), exact) <= allowed
    assert max_error(out(impl, torch.bfloat16, state.bfloat16().float()), exact) > 10 * allowed, "the planted fault"


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_take_no_more_than_one_block(name: str) -> None:
    """The largest tensor of a forward and a backward pass, of 20 blocks of queries."""
    tokens = 20 * rows.FEWEST
    q, k, v = (x.requires_grad_() for x in data(tokens, tokens, 8, torch.float32, batch=1))
    how = {
        "causal": True,
        "scale": 0.4,
        "scores": [bound(name, tokens, tokens, batch=1)],
        **at(torch.arange(tokens)[None]),
    }
    with Largest() as largest:
        out, weights = biased_attention(q, k, v, modules("alibi"), **how)
        assert weights is None
        out.sum().backward()
    assert largest.numbers <= HEADS * rows.FEWEST * tokens


def test_rows_see_the_keys_that_they_must_and_few_others() -> None:
    own = torch.arange(100)
    spans = rows._spans(None, own[None], own[None], True, None, 40)
    assert spans == [(0, 40, 0, 40), (40, 80, 0, 80), (80, 100, 0, 100)]
    assert rows._spans(None, own[None], own[None], True, 10, 40)[1:] == [(40, 80, 31, 80), (80, 100, 71, 100)]
    assert rows._spans(None, own[None], own[None], False, 10, 40)[0] == (0, 40, 0, 49)
    assert rows._spans(None, own[90:][None], own[None], False, 10, 40) == [(0, 10, 81, 100)]
    document = own >= 50
    packed = DenseVisible((document[:, None] == document)[None, None], 100, 100)
    assert rows._spans(packed, own[None], own[None], True, None, 50) == [(0, 50, 0, 50), (50, 100, 50, 100)]
    blind = DenseVisible(torch.zeros(1, 1, 100, 100, dtype=torch.bool), 100, 100)
    assert rows._spans(blind, own[None], own[None], False, None, 60) == [(0, 60, 0, 1), (60, 100, 0, 1)]


@pytest.mark.parametrize("name", BY_ROWS)
def test_rows_are_cut_by_a_window_and_a_row_may_see_nothing(name: str) -> None:
    positions, mask = torch.arange(70)[None], torch.ones(2, 1, 70, 70, dtype=torch.bool)
    mask[1, :, :30] = False
    tensors = data(70, 70, 8, torch.float64)
    how = {"causal": True, "mask": mask, **at(positions)}
    agree("rows", modules("alibi+window:size=9"), tensors, torch.float64, scores=[bound(name, 70, 70)], **how)


def test_steps_of_several_scores_go_together() -> None:
    tensors, how = data(40, 40, 8, torch.float64), {"causal": True, "softcap": 3.0, **at(torch.arange(40)[None])}
    how["sinks"] = torch.randn(HEADS)
    scores = [bound(name, 40, 40) for name in ("inputs", "logits", "channels", "values", "channels of q and k")]
    agree("rows", modules("t5"), tensors, torch.float64, scores=scores, **how)


@pytest.mark.parametrize("name", [*BY_TOKEN, *BY_ROWS])
def test_what_auto_takes(name: str) -> None:
    tensors = data(9, 9, 8, torch.float32)
    how = {"scale": 0.4, "causal": True, "scores": [bound(name, 9, 9)], **at(torch.arange(9)[None])}
    for impl in {"cpu", "blocked", "rows"} - set(IMPLS[name]):
        with pytest.raises(ValueError, match=f"impl='{impl}' cannot run here"):
            biased_attention(*tensors, modules("alibi"), impl=impl, **how)
    got, weights = biased_attention(*tensors, modules("alibi"), **how)
    assert weights is None
    assert torch.equal(got, biased_attention(*tensors, modules("alibi"), impl=IMPLS[name][0], **how)[0])


def test_a_second_derivative_of_rows_is_refused() -> None:
    q, k, v = (x.requires_grad_() for x in data(9, 9, 8, torch.float32))
    how = {"scale": 0.4, "scores": [bound("logits", 9, 9)], **at(torch.arange(9)[None])}
    out, _ = biased_attention(q, k, v, [], **how)
    (grad,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(ValueError, match="impl='rows' of biased_attention has first derivatives alone"):
        grad.sum().backward()


@pytest.mark.parametrize("impl", ["blocked", "rows"])
def test_autocast_changes_no_gradient(impl: str) -> None:
    name = "logits" if impl == "rows" else "channels"
    tensors, grads = data(30, 30, 8, torch.float32), []
    how = {"scale": 0.4, "causal": True, "impl": impl, "scores": [bound(name, 30, 30)], **at(torch.arange(30)[None])}
    for enabled in (False, True):
        leaves = [x.clone().requires_grad_() for x in tensors]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out, _ = biased_attention(*leaves, modules("alibi"), **how)
            grads.append(torch.autograd.grad(out.square().sum(), leaves))
    for got, expected in zip(*grads, strict=True):
        assert torch.equal(got, expected)


WRONG = {
    r"factor must hold real numbers .* \[2, 4, 9\], got \[2, 9\]": {"factor": torch.ones(2, 9)},
    r"factor must hold real numbers .* got \[1, 1, 9\] int64": {"factor": torch.ones(1, 1, 9).long()},
    "factor must be on q's device cpu, got meta": {"factor": torch.ones(1, 1, 9, device="meta")},
    "Forgets keeps a state of each token, and query_state is None": {"scores": [BoundScore(Forgets())]},
    r"key_state of Forgets must hold real numbers .* got \[2, 8, 4, 1\] float32": {
        "scores": [BoundScore(Forgets(), torch.ones(2, 9, 4, 1), torch.ones(2, 8, 4, 1))]
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        biased_attention(*data(9, 9, 8, torch.float32), [], scale=1.0, **at(torch.arange(9)[None]), **WRONG[message])


def test_a_quotient_of_features_has_no_logits_to_cap() -> None:
    (effect,) = parse("linear").effects(Shape(8, HEADS, 32))
    q, k, v = data(5, 5, 8, torch.float32)
    how = {"scale": 0.4, "causal": True, "scores": [BoundScore(effect.module)], **at(torch.arange(5)[None])}
    biased_attention(q, k, v, [], **how)
    with pytest.raises(ValueError, match="softcap must be None where weights are a quotient of features, got 2.0"):
        biased_attention(q, k, v, [], softcap=2.0, **how)


@pytest.mark.parametrize(("impl", "tokens"), [("decode", 1), ("blocked", 70), ("linear", 70), ("rows", 70)])
def test_pytorchs_operations_drop_no_weights(impl: str, tokens: int) -> None:
    scores = [BoundScore(e.module) for e in parse("linear").effects(Shape(8, HEADS, 32)) if impl in ("linear", "rows")]
    positions = torch.arange(70)[None]
    tensors, places = data(tokens, 70, 8, torch.float32), at(positions[:, -tokens:], positions)
    how = {"scale": 0.4, "causal": True, "impl": impl, "scores": scores, **places}
    biased_attention(*tensors, [], **how)
    with pytest.raises(ValueError, match=f"impl='{impl}' cannot run here: it has no dropout on its weights"):
        biased_attention(*tensors, [], dropout=0.5, **how)
