"""What goes by runs of distance, written out for each query and key: the same numbers as modules give there."""

from __future__ import annotations

import pytest
import torch

from whorl.encodings import Shape, parse
from whorl.encodings.by_run import ByRun
from whorl.encodings.fire import InterpolatedBias
from whorl.encodings.relative_vectors import RelativeVectors
from whorl.encodings.scores import At

WHERE = {  # positions of queries and of keys
    "causal": (torch.arange(40)[None], torch.arange(40)[None]),
    "with a cache": (torch.arange(30, 40)[None], torch.arange(40)[None]),
    "both ways": (torch.arange(40)[None], torch.arange(40)[None]),
    "far behind": (torch.arange(90, 95)[None], torch.arange(30)[None]),
    "of two rows": (torch.stack([torch.arange(9), torch.arange(500, 509)]), torch.arange(9)[None]),
}


def written_out(found: ByRun, distance: torch.Tensor, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to logits [B, H, Q, K], for distances [B, Q, K]; and the run of each [B, 1, Q, K]."""
    queries = distance.shape[1]
    begun = distance[:, None] <= found.farthest.expand(-1, -1, queries)[..., None]  # [B, R - 1, Q, K]
    run = begun.sum(1, keepdim=True)

    def each(x: torch.Tensor) -> torch.Tensor:
        batch = max(len(x), len(distance))
        x = x.expand(batch, -1, -1, queries).mT  # [B, H, Q, R]
        return x.gather(-1, run.expand(batch, x.shape[1], -1, -1))

    added = torch.zeros(1) if found.values is None else each(found.values)
    if found.slopes is not None:
        assert found.feature is not None
        added = added + each(found.slopes) * found.feature[distance - least][:, None]
    return added, run


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("c", [0.1, -3.0, 1e-4, 0.0])
@pytest.mark.parametrize("width", [1, 32])
def test_fire(width: int, c: float, where: str) -> None:
    module = InterpolatedBias(3, width, 20, torch.Generator().manual_seed(0)).double()
    module.c.data.fill_(c)
    queries, keys = WHERE[where]
    distance = queries[:, :, None] - keys[:, None]
    least, most = (0 if where == "causal" else int(distance.min())), int(distance.max())
    seen = (distance >= least)[:, None]
    found = module.by_run(torch.zeros(1), queries, least, most, 8)
    assert len(found.farthest[0]) < module.runs
    added, _ = written_out(found, distance.clamp(min=least), least)
    expected = module(queries, keys)
    weights = torch.randn(expected.shape, dtype=torch.float64) * seen
    results = []
    for x in (added, expected):
        results.append([x * seen, *torch.autograd.grad((x * weights).sum(), list(module.parameters()))])
    for got, true in zip(*results, strict=True):
        torch.testing.assert_close(got, true)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("notation", ["shaw:reach=4", "irpe:on=kv", "irpe:on=kv,method=euclidean,heads=own"])
def test_tables(notation: str, where: str) -> None:
    queries, keys = WHERE[where]
    (effect,) = parse(notation).effects(Shape(8, 3, 24, bidirectional=where != "causal"))
    (module,) = effect.modules
    assert isinstance(module, RelativeVectors)
    for table in module.parameters():
        torch.nn.init.normal_(table)
    q, k, v = (torch.randn(2, 3, x.shape[1], 8) for x in (queries, keys, keys))
    distance = queries[:, :, None] - keys[:, None]
    least, most = (0 if where == "causal" else int(distance.min())), int(distance.max())
    seen = (distance >= least)[:, None]
    found = module.by_run(q, queries, least, most, 8)
    assert len(found.farthest[0]) < module.runs
    added, run = written_out(found, distance.clamp(min=least), least)
    at, weights = At(queries, keys, None, None), torch.rand(2, 3, queries.shape[1], keys.shape[1]) * seen
    expected = module.logits(torch.zeros_like(weights), q, k, at)
    torch.testing.assert_close(added * seen, expected * seen)
    assert found.vectors is not None
    vectors = found.vectors.expand(3, -1, -1)[:, run[:, 0]].transpose(0, 1)  # [B, H, Q, K, channels]
    torch.testing.assert_close((weights[..., None] * vectors).sum(-2), module.values(weights, v, at))


def test_a_table_that_keys_meet_does_not_go_by_runs_of_queries() -> None:
    (effect,) = parse("irpe:on=qk").effects(Shape(8, 3, 24))
    (module,) = effect.modules
    assert module.runs == 0
