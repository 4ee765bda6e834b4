"""SPE as an attention: its formula written out, turned and moved clouds, neighbours, padding, gradients, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.encodings.attended import QKV, attend, gradients_agree, random_qkv
from tests.encodings.test_pape import turned
from torch.nn.functional import silu
from torch.utils._python_dispatch import TorchDispatchMode

from whorl.encodings import Shape, parse
from whorl.encodings.point_codes import CODES, codes, medoids
from whorl.encodings.spe import SelectiveCodes
from whorl.ops import biased_attention
from whorl.ops.scores import BoundScore

POINTS = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
HIDDEN = torch.randn(2, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def spe(arguments: str = "units=4", heads: int = 2, channels: int = 4) -> SelectiveCodes:
    (effect,) = parse(f"spe:{arguments}").effects(Shape(channels, heads, 6, bidirectional=True, axes=3))
    module = effect.module.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (module.gates, module.even):
            p += torch.randn(p.shape, generator=generator)
        for p in (*module.to_logit, *module.to_value):
            p *= 3
    return module


def out_of(module: SelectiveCodes, points: torch.Tensor = POINTS, qkv: QKV | None = None, **more) -> torch.Tensor:
    torch.manual_seed(0)
    return attend(module, qkv or random_qkv(), hidden=HIDDEN, positions=points, causal=False, **more)[0]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [("units=4,radius=0.5", 7), ("units=4,neighbours=3,radius=9", 3), ("units=4,neighbours=7,radius=1.5", 0),
     ("codes=z@so3,units=4,origin=given", 7), ("codes=xyz,units=4,neighbours=4", 0)],
)  # fmt: skip
def test_it_is_its_formula_written_out(arguments: str, seen: int) -> None:
    """seen: how many keys each query has; 0 where that differs."""
    module, (q, k, v) = spe(arguments), random_qkv()
    found = attend(module, (q, k, v), hidden=HIDDEN, positions=POINTS, causal=False)
    points = POINTS if "given" in arguments else POINTS - POINTS.mean(1, keepdim=True)
    m = medoids(points, None, module.neighbours, module.radius)
    counts = set()
    for b, h, i in ((0, 0, 6), (1, 1, 3), (0, 1, 0), (1, 0, 5)):
        distance = (points[b] - points[b, i]).norm(dim=-1)
        keys = list(range(7))
        if module.neighbours:
            order = distance.argsort()[: module.neighbours].tolist()
            keys = [j for j in order if distance[j] <= module.radius]
        counts.add(len(keys))
        gate = (module.gates[h] @ HIDDEN[b, i] + module.even[h]).sigmoid()
        logits, values = [], []
        for j in keys:
            code = codes(points[b, i], m[b, i], points[b, j], module.radius)
            logit, value = 0.5 * q[b, h, i] @ k[b, h, j], v[b, h, j]
            for c, name in enumerate(module.codes):
                hidden = silu(module.into[c] @ code[CODES[name]] + module.bias[c])
                logit = logit + gate[c] * module.to_logit[c][h] @ hidden
                value = value + gate[c] * hidden @ module.to_value[c][h]
            logits.append(logit)
            values.append(value)
        weights = torch.stack(logits).softmax(0)
        torch.testing.assert_close(found[0][b, h, i], weights @ torch.stack(values))
        torch.testing.assert_close(found[1][b, h, i, keys], weights)
    assert counts == {seen} if seen else len(counts) > 1


@pytest.mark.parametrize("neighbours", [0, 4])
def test_codes_decide_what_turning_a_cloud_changes(neighbours: int) -> None:
    z = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    ways = {
        "moved": (POINTS + 40.0, {"xyz", "z", "so3", "xyz@z@so3"}),
        "about z": (POINTS @ z, {"z", "so3"}),
        "all": (turned(POINTS), {"so3"}),
        "mirror": (POINTS * torch.tensor([1.0, -1.0, 1.0]), set()),
        "scaled": (1.2 * POINTS, set()),
    }
    for chosen in ("xyz", "z", "so3", "xyz@z@so3"):
        module = spe(f"codes={chosen},neighbours={neighbours},radius=2")
        here = out_of(module)
        for way, (points, unchanged) in ways.items():
            apart = float((out_of(module, points) - here).detach().abs().max())
            assert (apart < 1e-9) if chosen in unchanged else (apart > 1e-4), (chosen, way, apart)


def test_a_closed_gate_keeps_its_code_out() -> None:
    module = spe("radius=2")
    with torch.no_grad():
        module.gates.zero_()
        module.even[:, :2], module.even[:, 2] = -1e3, 1.0
    torch.testing.assert_close(out_of(module, turned(POINTS)), out_of(module), atol=1e-9, rtol=0)


@pytest.mark.parametrize("arguments", ["units=2,radius=2", "units=2,neighbours=3,radius=2"])
def test_gradients_reach_all_and_the_coordinates_too(arguments: str) -> None:
    module, qkv = spe(arguments), random_qkv(1, 2, 5)
    hidden, points = HIDDEN[:1, :5], POINTS[:1, :5]
    assert gradients_agree(module, qkv, hidden=hidden, positions=points, causal=False)
    assert torch.autograd.gradcheck(
        lambda x: attend(module, qkv, hidden=hidden, positions=x, causal=False)[0], [points.clone().requires_grad_()]
    )


@pytest.mark.parametrize("arguments", ["radius=2", "neighbours=5,radius=1.5"])
def test_blocks_give_what_the_reference_gives_and_every_gradient(
    arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whorl.ops.impl.rows.BLOCK_BYTES", 1)  # as few queries in a block as there may be
    module, qkv = spe(arguments), random_qkv(tokens=39)
    points, hidden = torch.randn(2, 39, 3).double(), torch.randn(2, 39, 6).double()
    real = torch.arange(39) < torch.tensor([[39], [33]])
    found = []
    for impl in ("reference", "rows"):
        leaves = [x.clone().requires_grad_() for x in (*qkv, hidden, points)]
        q, k, v, x, at = leaves
        state = module.tokens(x, at, real, None)
        out, _ = biased_attention(
            q, k, v, [], query_positions=at.detach(), key_positions=at.detach(), mask=real[:, None, None], scale=0.5,
            scores=[BoundScore(module, state, state)], impl=impl,
        )  # fmt: skip
        found.append([out, *torch.autograd.grad(out.square().sum(), [*leaves, *module.parameters()])])
    for reference, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, reference, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("arguments", ["radius=2", "neighbours=4,radius=2"])
def test_padding_is_no_point(arguments: str) -> None:
    module, qkv = spe(arguments), random_qkv()
    real = torch.arange(7) < torch.tensor([[7], [4]])
    found = out_of(module, POINTS, qkv, real=real)
    elsewhere = torch.where(real[..., None], POINTS, POINTS + 3.0)
    assert torch.equal(out_of(module, elsewhere, qkv, real=real)[1, :, :4], found[1, :, :4])
    short = tuple(x[1:, :, :4] for x in qkv)
    alone, _ = attend(module, short, hidden=HIDDEN[1:, :4], positions=POINTS[1:, :4], causal=False)
    torch.testing.assert_close(found[1, :, :4], alone[0])


class Largest(TorchDispatchMode):
    """The most numbers that a tensor has which any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.numel())
        return made


@pytest.mark.parametrize("arguments", ["units=4", "units=4,neighbours=8"])
def test_memory_grows_with_the_points_and_not_their_square(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward; block by block, so that blocks are made small here."""
    monkeypatch.setattr("whorl.ops.impl.rows.BLOCK_BYTES", 1)
    monkeypatch.setattr("whorl.encodings.point_codes.BLOCK_BYTES", 1)
    module, most = spe(arguments), []
    for tokens in (128, 512):
        q, k, v = (x.requires_grad_() for x in random_qkv(1, 2, tokens))
        at, hidden = torch.randn(1, tokens, 3).double(), torch.randn(1, tokens, 6).double()
        with Largest() as seen:
            state = module.tokens(hidden, at, None, None)
            scores = [BoundScore(module, state, state)]
            out, _ = biased_attention(q, k, v, [], query_positions=at, key_positions=at, scale=0.5, scores=scores)
            out.square().sum().backward()
        most.append(seen.numbers)
    assert most[1] < 5 * most[0], most


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("spe:codes=so2", "codes must be one of 'xyz', .*got 'so2'"),
        ("spe:radius=0", "radius must be finite and above 0"),
        ("spe:neighbours=-1", "neighbours must be a whole number of at least 1, got -1; 0 lets a query see all"),
        ("spe:origin=here", "origin must be one of 'mean', 'given'"),
    ],
)
def test_nonsense_is_refused(notation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(notation)


def test_decoders_are_refused() -> None:
    with pytest.raises(ValueError, match="in a decoder a token sees those before it alone"):
        parse("spe").effects(Shape(4, 2, 6, axes=3))


@pytest.mark.parametrize("neighbours", [0, 3])
def test_codes_of_a_block_of_queries_are_worked_out_once(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (effect,) = parse(f"spe:neighbours={neighbours}").effects(Shape(4, 2, 6, bidirectional=True, axes=3))
    seen: list[int] = []

    def counted(p: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append(p.shape[1])
        return codes(p, *more)

    monkeypatch.setattr("whorl.encodings.spe.codes", counted)
    hidden, points = torch.randn(1, 9, 6), torch.randn(1, 9, 3)
    state = effect.module.tokens(hidden, points, None, None)
    q = torch.randn(1, 2, 9, 4)
    biased_attention(
        q, q, q, [], query_positions=points, key_positions=points, scale=0.5,
        scores=[BoundScore(effect.module, state, state)], impl="rows",
    )  # fmt: skip
    assert sum(seen) == 9, "each query is in one block"
