"""What a person sees of a comparison that runs: how far it is, and how long all of it still takes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from whorl.comparison import display as seen
from whorl.comparison.display import Display
from whorl.comparison.pace import Pace
from whorl.console import console
from whorl.results.comparison import Comparison
from whorl.results.failure import Failure

STEPS = 900
RESULTS = Path(__file__).parents[2] / "experiments/0001-language/results.json"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("terminal", [False, True])
def test_the_time_left_is_that_of_all_trials(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = Clock(), io.StringIO()
    monkeypatch.setattr(seen, "Pace", lambda waiting, steps: Pace(waiting, steps, clock=clock))
    results = Comparison.from_json(json.loads(RESULTS.read_text()))
    ids = [trial.id for trial in results.trials[:4]]
    display = Display(console(file=shown, width=300, force_terminal=terminal, color_system=None))
    assert results.config.steps == STEPS
    display.start(results.config, results.machine, ids, ids[1:])
    display.trial_done(results.trials[0], again=True)
    with display.training(ids[1], STEPS) as update:
        update(0, None)
        clock.now = 180.0  # seconds
        update(STEPS // 10, 3.5)
    assert "about 87.0 min left" in shown.getvalue(), "9 tenths of one and two of 30 minutes each"
    if not terminal:
        assert f"training {ids[1].rsplit('-', 1)[0]}: 90 of 900 loss 3.500, about 87.0 min left\n" in shown.getvalue()
    display.trial_failed(Failure(id=ids[1], notation="a", seed=0, error="RuntimeError: [b]"))
    assert f"failed {ids[1]}: RuntimeError: [b]\n" in shown.getvalue()
    assert display.pace.waiting == set(ids[2:])
