"""What a person sees of a comparison that runs: how far it is, and how long all of it still takes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from whorl.comparison import display as seen
from whorl.comparison.display import Display, Reached
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
    assert "goes on from step" not in shown.getvalue()
    with display.training(ids[2], STEPS) as update:
        update(450, None)
        update(451, None)
    assert shown.getvalue().count(f"{ids[2]} goes on from step 450, where it was interrupted\n") == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_trials_side_by_side_are_told_together(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shown = Clock(), io.StringIO()
    monkeypatch.setattr(seen, "Pace", lambda waiting, steps: Pace(waiting, steps, clock=clock))
    results = Comparison.from_json(json.loads(RESULTS.read_text()))
    ids = [trial.id for trial in results.trials[:4]]
    display = Display(console(file=shown, width=300, force_terminal=terminal, color_system=None))
    display.start(results.config, results.machine, ids, ids[1:])
    with display.side_by_side(2) as update:
        update({ids[1]: Reached("training", 0, STEPS), ids[2]: Reached("training", 0, STEPS)})
        clock.now = 60.0
        update({ids[1]: Reached("training", 90, STEPS, 3.5), ids[2]: Reached("training", 90, STEPS)})
        time.sleep(0.2)  # a terminal is drawn ten times a second or so
        names = [trial.rsplit("-", 1)[0] for trial in ids]
        told = shown.getvalue()
        assert f"{names[1]} training 90 of 900, loss 3.500" in told
        assert f"{names[2]} training 90 of 900" in told
        assert "1 of 4 trials are over" in told
        assert "about 14.0 min left" in told, "9 minutes each of two at once, and 10 of one by one of them"
        update({ids[1]: Reached("evaluating", 1, 5)})
        assert display.pace.running[ids[1]].step == STEPS


def test_in_a_file_trials_side_by_side_have_a_line_at_each_tenth_of_a_trial_and_each_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, shown = Clock(), io.StringIO()
    monkeypatch.setattr(seen.time, "monotonic", clock)
    results = Comparison.from_json(json.loads(RESULTS.read_text()))
    ids = [trial.id for trial in results.trials[:2]]
    display = Display(console(file=shown, width=300, color_system=None))
    display.start(results.config, results.machine, ids, ids)
    with display.side_by_side(2) as update:
        for step in range(0, 91, 15):  # both together are a tenth of a trial further every 45 steps
            update({one: Reached("training", step, STEPS) for one in ids})
            clock.now += 0.5
        clock.now += 60
        update({one: Reached("training", 91, STEPS) for one in ids})
    told = [line for line in shown.getvalue().splitlines() if "trials are over" in line]
    assert [int(line.split(" training ")[1].split()[0]) for line in told] == [0, 45, 90, 91]
    assert all("about" not in line for line in told[:1])
    assert all("left" in line for line in told[1:]), "how long all of it still takes"
