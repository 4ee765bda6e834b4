"""Products that are turned by every token between query and key, in blocks that double: against the reference."""

from __future__ import annotations

import pytest
import torch
from attention_cases import HEADS, Largest, agree, at, data, kinds, modules
from scores_cases import bound

from whorl.encodings.path import Householder
from whorl.encodings.scores import At, ScoreModule
from whorl.ops import biased_attention
from whorl.ops.impl import householder, native, rows
from whorl.ops.scores import BoundScore
from whorl.testing import max_error

pytestmark = pytest.mark.skipif(native.missing() is not None, reason="the compiled loops cannot be had here")
DIM = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few tokens are several levels of blocks."""
    monkeypatch.setattr(householder, "CHUNK", 8)


class Given(Householder):
    """Of whose states nothing is learned."""

    def __init__(self, *, forgets: bool) -> None:
        ScoreModule.__init__(self)
        self.size = DIM
        self.forgets = self.keeps_state = forgets  # without gates the state of a query is not asked for

    def _forgotten(self, at: At) -> tuple[torch.Tensor, torch.Tensor]:
        """A query's own sum moves all its logits alike: its gradient is 0 but for roundings, which say nothing."""
        of_q, of_k = super()._forgotten(at)
        return of_q.detach() + 0 * of_q, of_k


def turned(queries: int, keys: int, *, forgets: bool = False, batch: int = 2) -> BoundScore:
    """Of the last `queries` tokens; betas are of all sizes, and gates forget over some ten tokens."""
    w = torch.nn.functional.normalize(torch.randn(batch, keys, HEADS, DIM), dim=-1)
    found = [w, 2 * torch.rand(batch, keys, HEADS, 1)]
    if forgets:
        found.append(torch.rand(batch, keys, HEADS, 1).div(-10).cumsum(1))
    state = torch.cat(found, -1)
    return BoundScore(Given(forgets=forgets), state[:, keys - queries :] if forgets else None, state)


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [8, 64, 203])
def test_agrees(tokens: int, dtype: torch.dtype, forgets: bool) -> None:
    """One chunk, blocks that come out even and such that do not; with grouped heads and a factor."""
    factor = torch.randint(-1, 2, (2, HEADS, tokens)).float().exp2()
    how = {"factor": factor, "causal": True, **at(torch.arange(tokens)[None])}
    agree(
        "householder",
        [],
        data(tokens, tokens, DIM, dtype),
        dtype,
        scores=[turned(tokens, tokens, forgets=forgets)],
        **how,
    )


def right_padded(keys: int = 37) -> tuple[torch.Tensor, torch.Tensor, int]:
    own = torch.arange(keys)
    real = torch.stack([own >= 0, own < 21])[:, None, None]
    return own[None], (own[:, None] >= own) & real, keys


def padded_on_both_sides(keys: int = 37) -> tuple[torch.Tensor, torch.Tensor, int]:
    positions, mask, queries = right_padded(keys)
    return positions, mask & (torch.arange(keys) >= 5), queries


def blind(keys: int = 37) -> tuple[torch.Tensor, torch.Tensor, int]:
    positions, mask, queries = right_padded(keys)
    return positions, mask & (torch.arange(keys) % 16 >= 4)[:, None], queries


OTHERS = {"right padded": right_padded, "padded on both sides": padded_on_both_sides, "rows that see nothing": blind}


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("kind", ["packed", "left padded", "cached", "static cache", "gaps", *OTHERS])
def test_masks_and_positions_of_every_kind(kind: str, forgets: bool) -> None:
    positions, mask, queries = OTHERS[kind]() if kind in OTHERS else kinds(kind)
    keys = positions.shape[1]
    how = {"mask": mask, **at(positions[:, -queries:], positions)}
    scores = [turned(queries, keys, forgets=forgets)]
    agree("householder", [], data(queries, keys, DIM, torch.float32), torch.float32, scores=scores, **how)


def test_channels_of_another_score_are_added() -> None:
    scores = [turned(40, 40, forgets=True), bound("channels of q and k", 40, 40)]
    how = {"causal": True, **at(torch.arange(40)[None])}
    agree("householder", [], data(40, 40, DIM, torch.float32), torch.float32, scores=scores, **how)


@pytest.mark.parametrize("alike", [False, True])
def test_beta_near_two_keeps_its_precision(alike: bool) -> None:
    score = turned(203, 203)
    assert score.key_state is not None
    with torch.no_grad():
        if alike:
            w = score.key_state[:, :1, :, :DIM] + 0.01 * torch.randn(2, 203, HEADS, DIM)
            score.key_state[..., :DIM] = torch.nn.functional.normalize(w, dim=-1)
        score.key_state[..., DIM] = 2 - score.key_state[..., DIM] / 200
    how = {"causal": True, **at(torch.arange(203)[None])}
    agree("householder", [], data(203, 203, DIM, torch.float32), torch.float32, scores=[score], **how)


def test_heads_done_a_few_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, mask, _ = kinds("left padded")
    tensors, scores = [x.requires_grad_() for x in data(37, 37, DIM, torch.float32)], [turned(37, 37)]
    how = {"mask": mask, "scale": 0.4, "scores": scores, "impl": "householder", **at(positions)}

    def made() -> list[torch.Tensor]:
        out, _ = biased_attention(*tensors, [], **how)
        return [out, *torch.autograd.grad(out.square().sum(), tensors)]

    together = made()
    monkeypatch.setattr(householder, "ROOM", 0)
    for one, other in zip(together, made(), strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_grows_with_the_square_of_the_tokens() -> None:
    """The largest tensor of a forward and a backward pass: states of tokens, or turns of chunks, and no logits."""
    tokens = 640
    tensors = [x.requires_grad_() for x in data(tokens, tokens, DIM, torch.float32, batch=1)]
    scores = [turned(tokens, tokens, batch=1)]
    with Largest() as largest:
        out, weights = biased_attention(
            *tensors, [], causal=True, scale=0.4, scores=scores, **at(torch.arange(tokens)[None])
        )
        assert weights is None
        out.sum().backward()
    assert largest.numbers <= HEADS * tokens * 2 * DIM


def test_auto_takes_it_and_goes_by_rows_where_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, how = data(40, 40, DIM, torch.float32), {"scale": 0.4, "causal": True, **at(torch.arange(40)[None])}
    scores, ran = [turned(40, 40)], []
    for module in (householder, rows):
        monkeypatch.setattr(module, "run", lambda problem, run=module.run: ran.append(run.__module__) or run(problem))
    biased_attention(*tensors, [], scores=scores, **how)
    few = {**how, "query_positions": how["query_positions"][:, -7:]}
    biased_attention(tensors[0][:, :, -7:], *tensors[1:], [], scores=scores, **few)
    assert [name.rpartition(".")[2] for name in ran] == ["householder", "rows"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"softcap": 2.0}, "it has no biases, sinks or soft cap"),
        ({"sinks": torch.zeros(HEADS)}, "it has no biases, sinks or soft cap"),
        ({"biases": modules("alibi")}, "it has no biases, sinks or soft cap"),
        ({"scores": []}, "its logits are products that the tokens between query and key turn"),
        ({"causal": False}, "queries see keys after their own"),
        ({"mask": torch.arange(40)[None, None, None] != 3}, "more than one run of keys"),
        ({"mask": torch.zeros(1, 1, 40, 40, dtype=torch.bool)}, "no query sees a key"),
        ({"dropout": 0.5}, "it has no dropout"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict, why: str) -> None:
    how = {"scale": 0.4, "causal": True, "biases": [], "scores": [turned(40, 40)], **at(torch.arange(40)[None])}
    with pytest.raises(ValueError, match=f"impl='householder' cannot run here: .*{why}"):
        biased_attention(*data(40, 40, DIM, torch.float32), impl="householder", **{**how, **change})


def test_a_query_that_some_token_before_it_does_not_turn_is_refused() -> None:
    """It does not see token 20, which turns the query after it."""
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    mask[21, 20:] = False
    how = {"scale": 0.4, "scores": [turned(40, 40)], "mask": mask[None, None], **at(torch.arange(40)[None])}
    tensors = data(40, 40, DIM, torch.float32)
    with pytest.raises(ValueError, match="tokens that turn other queries stand before a query"):
        biased_attention(*tensors, [], impl="householder", **how)
    by_reference, _ = biased_attention(*tensors, [], impl="reference", **how)
    by_auto, _ = biased_attention(*tensors, [], **how)
    assert max_error(by_auto, by_reference) < 1e-4


def test_second_derivatives_are_refused() -> None:
    tensors = [x.requires_grad_() for x in data(40, 40, DIM, torch.float32)]
    how = {"scale": 0.4, "causal": True, "scores": [turned(40, 40)], **at(torch.arange(40)[None])}
    out, _ = biased_attention(*tensors, [], impl="householder", **how)
    (grad,) = torch.autograd.grad(out.square().sum(), tensors[0], create_graph=True)
    with pytest.raises(ValueError, match="impl='householder' of biased_attention has first derivatives alone"):
        grad.sum().backward()
