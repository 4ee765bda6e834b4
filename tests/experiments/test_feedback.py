"""Feedback: what is selected is what has the most, both arms draw alike, and growth is paired by prompt."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import whorl
from tests.experiments import EXPERIMENTS, script
from whorl.testing import logits_and_budget, max_error, peaked, tiny_model

FOLDER = EXPERIMENTS / "0014-feedback"
feedback = script("feedback", FOLDER.name)


def test_a_pair_is_repeated_where_it_stands_before() -> None:
    assert feedback.repeated([1, 2, 3], [4, 1, 2]) == pytest.approx(1 / 3), "1 2; neither 3 4 nor 4 1"
    assert feedback.repeated([1, 2], [1, 2]) == 1 / 2, "2 1 is new"
    assert feedback.repeated([1, 2], [5, 5, 5]) == pytest.approx(1 / 3), "within the way too"


@pytest.mark.parametrize("encoding", ["rope", "fox", "rope+window:size=8/nope"])
def test_what_has_the_most_is_kept_and_goes_back(encoding: str) -> None:
    model = peaked(whorl.attach(tiny_model("llama"), encoding).eval())
    prompts = torch.arange(12).view(2, 6)
    counted = torch.arange(model.config.vocab_size) % 2 == 0
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = type(model).forward

    def noting(self: Any, ids: torch.Tensor, **options: Any) -> Any:
        out = forward(self, ids, **options)
        calls.append((ids, out.logits[:, -1]))
        return out

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(model), "forward", noting)
        fed, contexts = feedback.refine(model, prompts, counted, 3, 4, 3, True, 0)
    left, _ = feedback.refine(model, prompts, counted, 3, 4, 3, False, 0)
    assert [np.array(fed[measure]).shape for measure in feedback.MEASURES] == [(2, 3)] * 2
    assert all(a[0] >= b[0] for a, b in zip(fed["proxy"], left["proxy"], strict=True)), "of the same ways"
    assert np.mean(fed["proxy"]) > np.mean(left["proxy"])
    assert (fed, contexts) == feedback.refine(model, prompts, counted, 3, 4, 3, True, 0), "the same draws"

    # What a way of the last round sees is the prompt and all that was kept: a forward without a cache gives its logits.
    ways = torch.cat([ids for ids, _ in calls[-4:]], 1)
    before = torch.tensor(contexts)[:, :-4].repeat_interleave(3, 0)
    with torch.no_grad():
        whole, budget = logits_and_budget(model, torch.cat([before, ways], 1))
        other, _ = logits_and_budget(model, torch.cat([before.flip(0), ways], 1))
    assert max_error(calls[-1][1], whole[:, -1]) < budget
    assert max_error(calls[-1][1], other[:, -1]) > 100 * budget, "in another context it would be seen"
    assert any(torch.equal(way, torch.tensor(contexts[0][-4:])) for way in ways[:3])


def test_growth_is_held_against_the_control_prompt_by_prompt() -> None:
    flat, rising = [[0.1] * 8] * 4, [[0.1 * at for at in range(8)]] * 4
    assert feedback.growth(rising) == pytest.approx([0.6] * 4)

    def runs(seed: int, **by_arm: Any) -> list[dict[str, Any]]:
        return [
            {"encoding": "rope", "seed": seed, "arm": arm, "by_round": {"proxy": values, "side effect": flat}}
            for arm, values in by_arm.items()
        ]

    made = runs(0, feedback=rising, control=flat) + runs(1, feedback=rising, control=flat) + runs(2, feedback=rising)
    told = feedback.summary(made)["rope"]
    assert told["seeds"] == 2, "one without its control is not held against anything"
    assert told["proxy"]["more"] == pytest.approx((0.6, 0.6, 0.6))
    assert told["side effect"]["more"] == pytest.approx((0, 0, 0))
    assert "| `rope` | 2 | +60.0, +0.0 | +60.0 (+60.0 to +60.0) | +0.0, +0.0 | not resolved (+0.0 to +0.0) |" in (
        feedback.table(feedback.summary(made))
    )


def test_what_is_committed_is_that_of_its_runs() -> None:
    results = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    told = json.loads(json.dumps(feedback.summary(results["runs"])))
    assert results["summary"] == told
    assert feedback.table(told) in (FOLDER / "README.md").read_text(encoding="utf-8")
