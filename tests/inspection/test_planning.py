"""What is planned for a budget of time, what is said of it, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import whorl
from whorl.inspection import passes, planning
from whorl.inspection.planning import Asked, Cost, Deadline, planned, spread
from whorl.results.plan import Plan, Reading
from whorl.testing import peaked, tiny_model
from whorl.watching import Layer

IDS = torch.randint(3, 97, (8, 64), generator=torch.Generator().manual_seed(0))
LAYERS = [Layer(i, (1.0, 0.1), "half", 1.0, None if i % 6 == 5 else 512) for i in range(18)]
DEFAULT = Asked(train_length=8192, windows=8, random_windows=16)


def stages(plan: Plan) -> dict[str, tuple[int, int]]:
    return {stage.stage: (stage.windows, stage.length) for stage in plan.stages}


def test_what_fits_is_read_whole() -> None:
    plan = planned(DEFAULT, Cost(1e-6, 0), 5, 300, LAYERS)
    assert stages(plan) == {"text": (32, 8192), "random": (16, 8192), "long": (8, 32768)}
    assert (plan.left_out, plan.layers, plan.minutes) == ((), None, 5)
    assert stages(plan) == stages(planning.everything(DEFAULT))


def test_longer_windows_are_given_up_before_few_windows_are_fewer() -> None:
    """A window of 8,192 tokens in 60 seconds, with a cost that grows with the tokens alone."""
    plan = planned(DEFAULT, Cost(60 / 8192, 0), 5, 300, LAYERS)
    assert stages(plan) == {"text": (4, 4096), "random": (4, 4096)}
    assert sum(stage.seconds for stage in plan.stages) == pytest.approx(240, rel=0.01)
    assert plan.left_out == (
        "windows past the training length: one of 32,768 takes about 4 minutes",
        "windows of more than 4,096 tokens: one of 8,192, the training length, takes about 60 seconds",
        "4 of the 8 windows of text",
        "12 of the 16 windows of random tokens",
    )


def test_a_length_that_was_asked_for_stays() -> None:
    asked = replace(DEFAULT, length=16384)
    cost = Cost(10 / 8192, 0, bare=0.5)
    found = [planned(asked, cost, 1, seconds, LAYERS) for seconds in (450, 66, 42, 20, 6)]
    assert stages(found[0]) == {"text": (16, 8192), "random": (8, 8192), "long": (8, 16384)}
    assert stages(found[1]) == {"text": (2, 8192), "random": (2, 8192)}, "nothing past the training length"
    assert found[2].layers == tuple(spread(LAYERS, 2))
    assert found[2].left_out[-1] == (
        "8 of the 18 layers; measured are, evenly of each kind, 0, 2, 4, 5, 7, 9, 12, 14, 16, 17"
    )
    assert stages(found[3]) == {"text": (2, 8192)}
    assert stages(found[4]) == {"text": (1, 8192)}
    assert found[4].left_out[-1] == (
        "nothing else can be, and what is left takes about 6 seconds, longer than there is"
    )


def test_layers_are_spread_over_each_kind() -> None:
    chosen = spread(LAYERS, 2)
    assert {5, 17} <= set(chosen), "every other one of the three without a window, the last in any case"
    assert 8 <= len(chosen) <= 10
    assert {16, 17} <= set(spread(LAYERS, 4)), "the last with a window and the last without one"


def test_windows_are_timed_until_one_takes_a_fiftieth(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = [0.0], []

    class Timed:
        def __init__(self, host: object, ids: torch.Tensor, only: object = None, **how: object) -> None:
            self.tokens, self.only = ids.shape[1], only

        def run(self) -> None:
            seen.append(self.tokens)
            now[0] += (self.tokens * 1e-3 + self.tokens**2 * 1e-6) * (1 if self.only is None else 0.25)

    monkeypatch.setattr(planning, "Pass", Timed)
    monkeypatch.setattr(planning, "clock", lambda: now[0])
    long = Asked(train_length=100_000, windows=8, random_windows=16, length=100_000)
    cost = planning.measured(planning_host(), True, long, 100)
    assert seen == [32, 256, 256, 512, 1024], "two seconds of the hundred; the third without a layer"
    assert (cost.per_token, cost.per_square, cost.bare) == pytest.approx((1e-3, 1e-6, 0.25))
    assert cost.of(4096, 0) == pytest.approx((4.096 + 16.777216) / 4)
    seen.clear()
    planning.measured(planning_host(), True, replace(long, length=64, windows=800), 1)
    assert max(seen) == 64, "no longer than can be asked for"
    seen.clear()
    few = replace(long, length=512, windows=2, random_windows=2)
    cost = planning.measured(planning_host(), True, few, 100)
    assert seen == [32, 256], "if all of that grew with the square, 4 windows of 512 tokens would take 5 seconds"
    assert cost.of(512) == pytest.approx(2 * (0.256 + 0.065536))
    seen.clear()
    planning.measured(planning_host(), True, few, 5)
    assert seen == [32, 256, 256, 512], "which would not fit"


def test_the_report_has_its_time_where_others_want_the_processor_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planning.for_stages(300, 1) == pytest.approx(270), "a tenth is for the report"
    assert planning.for_stages(300, 6) == 300 - 5 * planning.REPORT
    assert planning.for_stages(60, 1000) == pytest.approx(40), "a third at the most"
    cost = Cost(60 / 8192, 0)
    assert sum(stage.seconds for stage in planned(DEFAULT, cost, 5, 300, LAYERS).stages) == pytest.approx(240, rel=0.01)
    slow = planned(DEFAULT, replace(cost, pace=8), 5, 300, LAYERS)
    assert sum(stage.seconds for stage in slow.stages) <= 230

    now, used = [0.0], [0.0]
    monkeypatch.setattr(planning, "clock", lambda: now[0])
    monkeypatch.setattr(planning, "processor", lambda: used[0])
    deadline = Deadline(Plan(5, (Reading("text", 8, 32, 200),)), 300)
    now[0], used[0] = 240.0, 240.0
    assert not deadline.enough("text", 5)
    used[0] = 240 / 8
    assert deadline.enough("text", 5), "at an eighth of a processor the report takes 70 seconds longer"


def planning_host() -> object:
    from whorl.hosts import open_host

    return open_host(tiny_model("llama"))


def test_a_stage_ends_when_its_time_is_up_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(1, (Reading("text", 16, 32, 30), Reading("random", 8, 32, 10), Reading("long", 8, 64, 20)))
    now = [0.0]
    monkeypatch.setattr(planning, "clock", lambda: now[0])
    monkeypatch.setattr(planning, "processor", lambda: now[0])
    deadline = Deadline(plan, 60)
    assert not deadline.enough("text", 5)
    now[0] = 31
    assert deadline.enough("text", 5)
    assert not deadline.enough("text", 1), "one window has no standard error"
    assert not deadline.enough("random", 5)
    assert not Deadline(plan, None).enough("text", 5)

    now[0] = 0
    monkeypatch.setattr(passes, "BATCH_TOKENS", 32)

    def tick(name: str, steps: int) -> Ticking:
        return Ticking(now)

    found = whorl.inspect(
        peaked(tiny_model("llama")), IDS, train_length=32, minutes=1, plan=plan, random_windows=8, stage=tick
    ).summary
    assert [stage.read for stage in found.plan.stages] == [3, 2, 2], (
        "ten seconds a window, and a tenth of the minute for the report"
    )
    assert found.settings.windows == 2
    assert found.settings.random_windows == 2
    assert "13 of the 16 windows of the stage 'text, in range': the time was up" in found.plan.left_out


class Ticking:
    """A stage in which every window takes ten seconds."""

    def __init__(self, now: list[float]) -> None:
        self.now = now

    def __enter__(self) -> Ticking:
        return self

    def __call__(self, windows: int) -> None:
        self.now[0] += 10 * windows

    def __exit__(self, *_: object) -> None:
        pass


def test_a_few_layers_are_measured_as_in_all(tmp_path: Path) -> None:
    model = peaked(tiny_model("llama"))
    whole = whorl.inspect(model, IDS, train_length=32, random_windows=2)
    found = whorl.inspect(model, IDS, train_length=32, random_windows=2, layers=[1])
    for name in ("norm_q", "logit", "attention", "key_distribution"):
        np.testing.assert_array_equal(found.arrays[name][1], whole.arrays[name][1])
        assert np.isnan(found.arrays[name][[0, 2]]).all()
    assert found.departure.shape == whole.departure.shape
    assert np.isnan(found.departure[[0, 2]]).all()
    assert found.summary.plan.layers == (1,)
    assert [row.layer for row in found.summary.first_token] == [1]
    from whorl.reports import inspection as report

    report.write([found], tmp_path)
    with pytest.raises(ValueError, match=r"layers must be some of 0 to 2, those that the model has, got \[3\]"):
        whorl.inspect(model, IDS, layers=[3])


def test_a_budget_is_planned_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "measured", lambda *_, **__: Cost(1 / 32, 0))
    found = whorl.inspect(tiny_model("llama"), IDS, train_length=32, random_windows=8, minutes=0.5).summary
    assert {stage.stage: stage.read for stage in found.plan.stages} == {"text": 8, "random": 8, "long": 4}
    assert found.plan.left_out == ("4 of the 8 windows of text",)
    assert found.settings.windows == 4
    whole = whorl.inspect(tiny_model("llama"), IDS, train_length=32, random_windows=8).summary
    assert whole.plan.left_out == ()
    again = whorl.inspect(tiny_model("llama"), IDS, train_length=32, plan=found.plan).summary
    assert again.u_shape == found.u_shape, "a plan that is given again reads the same"


def test_a_plan_of_something_else_is_refused() -> None:
    model, ids = peaked(tiny_model("llama")), torch.randint(3, 97, (2, 64), generator=torch.Generator().manual_seed(0))
    plan = whorl.inspect(model, ids, train_length=32, random_windows=2).summary.plan
    with pytest.raises(ValueError, match=r"the plan is of the layers \[1, 7\], and this model has 0 to 2"):
        whorl.inspect(model, ids, train_length=32, plan=replace(plan, layers=(1, 7)))
    with pytest.raises(ValueError, match=r"the plan is of windows of 64 tokens, and these have 40"):
        whorl.inspect(model, ids[:, :40], train_length=32, plan=plan)
