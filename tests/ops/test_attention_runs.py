"""Biases and scores by runs of distance in the compiled loops: iRPE's and Shaw's vectors, and FIRE's lines."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from attention_cases import HEADS, Largest, agree, at, data, kinds
from scores_cases import bound

from whorl.encodings import Bias, Shape, parse
from whorl.encodings.fire import InterpolatedBias
from whorl.encodings.grid import Grid
from whorl.encodings.scores import ScoreModule
from whorl.ops import biased_attention
from whorl.ops import runs as by_runs
from whorl.ops.scores import BoundScore
from whorl.testing import max_error

NOTATIONS = (
    "fire:train_length=40",
    "irpe",
    "irpe:on=v",
    "irpe:on=kv,heads=own,method=euclidean",
    "shaw:reach=5",
    "shaw+t5",
    "fire:train_length=40+window:size=9",
)
TIMES = 24  # gradients that arrive: FIRE has parameters of a single number


def found(notation: str, dim: int = 24, *, bidirectional: bool = False, heads: int = HEADS) -> dict:
    """Its modules, as `agree` takes them."""
    biases, scores = [], []
    for effect in parse(notation).effects(Shape(dim, heads, dim * heads, bidirectional=bidirectional)):
        for parameter in effect.module.parameters():
            if not isinstance(effect.module, InterpolatedBias):
                torch.nn.init.normal_(parameter, std=0.5)
        if isinstance(effect.module, ScoreModule):
            scores.append(BoundScore(effect.module))
        else:
            biases.append(effect.module)
    return {"biases": biases, "scores": scores}


@pytest.mark.matrix(times=4)
@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "both ways"])
@pytest.mark.parametrize("tokens", [37, 203], ids=["one tile", "several tiles"])
def test_forward_and_every_gradient(tokens: int, bidirectional: bool, dtype: torch.dtype, notation: str) -> None:
    """At odd sizes, with grouped heads, a cap and sinks."""
    agree(
        "cpu", tensors=data(tokens, tokens, 24, dtype), dtype=dtype, causal=not bidirectional, softcap=2.0,
        sinks=torch.randn(HEADS), times=TIMES, **found(notation, bidirectional=bidirectional),
        **at(torch.arange(tokens)[None]),
    )  # fmt: skip


@pytest.mark.parametrize("notation", ["fire:train_length=20", "shaw:reach=5"])
@pytest.mark.parametrize("kind", ["packed", "left padded", "cached", "static cache", "bidirectional"])
def test_positions_and_masks_of_every_kind(notation: str, kind: str) -> None:
    """A query that sees nothing is among the left padded."""
    positions, mask, queries = kinds(kind)
    where = positions[:, 9 : 9 + queries] if kind == "static cache" else positions[:, -queries:]
    how = found(notation, bidirectional=kind == "bidirectional")
    tensors = data(queries, positions.shape[1], 24, torch.float32)
    agree("cpu", tensors=tensors, dtype=torch.float32, mask=mask, times=TIMES, **how, **at(where, positions))


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["plain", "padded", "gated"])
def test_one_query(how: str, dtype: torch.dtype, notation: str) -> None:
    """As in decoding: a loop of its own, and more keys than one of its pieces has."""
    tensors, positions, given = data(1, 403, 24, dtype, batch=8), torch.arange(403)[None], found(notation)
    if how == "padded":
        padding = torch.arange(8)[:, None] * 16
        given["mask"] = (positions >= padding)[:, None, None]
        positions = (positions - padding).clamp(min=0)
    elif how == "gated":
        given["scores"].append(bound("channels", 1, 403, batch=8))
    agree(
        "cpu", tensors=tensors, dtype=dtype, softcap=2.0, sinks=torch.randn(HEADS), times=TIMES, **given,
        **at(positions[:, -1:], positions),
    )  # fmt: skip


def test_channels_beside_runs() -> None:
    how = found("irpe:on=kv")
    how["scores"].append(bound("channels", 203, 203))
    where = at(torch.arange(203)[None])
    agree("cpu", tensors=data(203, 203, 24, torch.float32), dtype=torch.float32, causal=True, **how, **where)


def test_far_from_the_first_token() -> None:
    """Where FIRE's shares are of millions, and its runs all lie beyond what is seen or within it."""
    positions = torch.arange(150)[None] + 3_000_000
    agree(
        "cpu", tensors=data(70, 150, 24, torch.float32), dtype=torch.float32, causal=True, times=TIMES,
        **found("fire:train_length=40"), **at(positions[:, -70:], positions),
    )  # fmt: skip


@pytest.mark.parametrize("notation", ["shaw", "fire:train_length=16"])
def test_fewer_heads_than_threads(notation: str) -> None:
    tensors = [torch.randn(1, heads, 600, 24) for heads in (2, 1, 1)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        agree(
            "cpu", tensors=tensors, dtype=torch.float32, causal=True, **found(notation, heads=2),
            **at(torch.arange(600)[None]), times=TIMES,
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("notation", ["shaw:reach=3", "fire:train_length=16"])
def test_dropout_drops_what_runs_add_up_too(notation: str) -> None:
    tokens, p, how = 90, 0.25, found(notation)
    positions = torch.arange(tokens)[None]
    seen = torch.ones(tokens, tokens).tril().bool()[None, None]
    tensors, grads = data(tokens, tokens, 24, torch.float32), torch.randn(TIMES, 2, HEADS, tokens, 24)

    def dropped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: list, scores: list) -> torch.Tensor:
        torch.manual_seed(3)
        given = {"biases": biases, "scores": scores, "scale": 0.4, "causal": True, "dropout": p, "impl": "cpu"}
        return biased_attention(q, k, v, **given, **at(positions))[0]

    kept = dropped(*tensors[:2], torch.eye(tokens).expand(2, 2, -1, -1), [], []) != 0

    def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, biases: list, scores: list) -> torch.Tensor:
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        logits = q @ k.mT * 0.4
        for module in biases:
            logits = logits + module(positions, positions)
        scored = [(score.module, score.at(positions, positions, seen, 0.4)) for score in scores]
        for module, known in scored:
            logits = module.logits(logits, q * 0.4, k, known)
        weights = logits.masked_fill(~seen, -torch.inf).softmax(-1) * kept / (1 - p)
        out = weights @ v
        for module, known in scored:
            out = out + module.values(weights, v, known)
        return out

    def everything(attend: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        biases = [copy.deepcopy(module).to(dtype) for module in how["biases"]]
        scores = [BoundScore(copy.deepcopy(score.module).to(dtype)) for score in how["scores"]]
        learned = [x for module in (*biases, *(s.module for s in scores)) for x in module.parameters()]
        out = attend(*leaves, biases, scores)
        each = [torch.autograd.grad(out, [*leaves, *learned], x.to(dtype), retain_graph=True) for x in grads]
        return [out.detach(), *(torch.stack(x) for x in zip(*each, strict=True))]

    truth, plain = (everything(by_hand, dtype) for dtype in (torch.float64, torch.float32))
    for got, exact, same in zip(everything(dropped, torch.float32), truth, plain, strict=True):
        rounding = torch.finfo(torch.float32).eps * float(exact.abs().max())
        assert max_error(got, exact) <= 2 * max_error(same, exact) + 4 * rounding


@pytest.mark.parametrize("notation", ["shaw", "fire:train_length=16"])
def test_nothing_grows_with_queries_times_keys(notation: str) -> None:
    tokens = 500
    q, k, v = (x.requires_grad_() for x in data(tokens, tokens, 24, torch.float32, batch=1))
    with Largest() as largest:
        out, _ = biased_attention(
            q, k, v, scale=0.4, causal=True, impl="cpu", **found(notation), **at(torch.arange(tokens)[None])
        )
        out.sum().backward()
    assert largest.numbers <= HEADS * tokens * 33, "a number for each run of a query"


@pytest.mark.parametrize("notation", ["irpe", "irpe:on=qkv", "irpe:mode=bias", "pape"])
def test_on_a_grid_nothing_grows_with_the_square_of_its_patches(notation: str) -> None:
    """Forward and backward: of four times as many patches, the largest tensor is about four times as large, or less."""
    largest = {}
    for side in (20, 40):
        (effect,) = parse(notation).effects(Shape(8, HEADS, 8 * HEADS, bidirectional=True, axes=2))
        positions, hidden = Grid(side, side).positions(), torch.randn(1, side**2, 8 * HEADS)
        q, k, v = (torch.randn(1, HEADS, side**2, 8).requires_grad_() for _ in "qkv")
        biases, scores = [], []
        if isinstance(effect, Bias):
            biases = [effect.module]
        else:
            kept = effect.module.tokens(hidden, positions, None, None) if effect.module.keeps_state else None
            scores = [BoundScore(effect.module, kept, kept)]
        with Largest() as found:
            out, _ = biased_attention(q, k, v, biases, scale=0.4, scores=scores, **at(positions))
            out.square().sum().backward()
        largest[side] = found.numbers
    assert largest[40] < 6 * largest[20]
    assert largest[40] < HEADS * 40**4 / 2


def test_what_the_loops_take_and_what_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, where = data(40, 40, 24, torch.float32), at(torch.arange(40)[None])

    def asked(notation: str, **how) -> torch.Tensor:
        return biased_attention(*tensors, scale=0.4, causal=True, impl="cpu", **found(notation), **how, **where)[0]

    for notation in ("irpe", "shaw", "fire"):
        asked(notation)
    for refused, why in (
        ("irpe:on=qk", "BucketedVectors must see all keys of a query at once"),
        ("shaw+fire", "ClippedVectors must see all keys of a query at once"),  # two that go by runs
    ):
        with pytest.raises(ValueError, match=f"impl='cpu' cannot run here: {why}"):
            asked(refused)
    gaps = torch.arange(40)[None] ** 2
    with pytest.raises(ValueError, match="the positions of a run of keys have gaps"):
        biased_attention(*tensors, scale=0.4, impl="cpu", **found("irpe"), **at(gaps))
    monkeypatch.setattr(by_runs, "MOST", 16)
    asked("irpe")
    for refused, why in (("shaw", "ClippedVectors must see"), ("fire", "InterpolatedBias is not a bias of distance")):
        with pytest.raises(ValueError, match=f"impl='cpu' cannot run here: {why}"):
            asked(refused)


def test_values_of_another_width_are_refused() -> None:
    q, k, v = data(40, 40, 24, torch.float32)
    with pytest.raises(ValueError, match="vectors of 24 channels cannot be added to values of 20"):
        biased_attention(q, k, v[..., :20], scale=0.4, **found("shaw"), **at(torch.arange(40)[None]))


def test_loops_for_each_kind_of_machine(loops: str) -> None:
    for notation in ("shaw", "fire:train_length=40"):
        agree(
            "cpu", tensors=data(150, 150, 20, torch.float32), dtype=torch.float32, causal=True, times=TIMES,
            **found(notation, 20), **at(torch.arange(150)[None]),
        )  # fmt: skip
