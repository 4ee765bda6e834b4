"""Long work says where it is and how long it will take, on a terminal and in a file."""

from __future__ import annotations

import io

import pytest

from whorl.cli import progress
from whorl.cli.progress import Stages
from whorl.console import console
from whorl.stages import Worked, counted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[seconds], as the stages read them."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_in_a_file_lines_come_by_tenths_and_by_minutes(clock: list[float]) -> None:
    shown = io.StringIO()
    with Stages(console(file=shown)) as stages:
        update = stages.stage("healing")
        for step in range(1, 41):
            clock[0] = 10.0 * step if step <= 20 else 200 + 90.0 * (step - 20)  # it grows slower
            update(step, 40)
    lines = shown.getvalue().splitlines()
    assert lines[:2] == ["healing: 1 of 40, 10 s, about 6.5 min left", "healing: 4 of 40, 40 s, about 6.0 min left"]
    steps = [int(line.split()[1]) for line in lines]
    assert steps == [1, 4, 8, 12, 16, 20, *range(21, 41)]
    assert lines[-1] == "healing: 40 of 40, 33.3 min"


def test_work_that_goes_on_knows_its_time_from_the_steps_since(clock: list[float]) -> None:
    shown = io.StringIO()
    with Stages(console(file=shown)) as stages:
        update = stages.stage("control")
        clock[0] = 30.0
        update(91, 100)
    assert shown.getvalue() == "control: 91 of 100, 30 s, about 4.5 min left\n"


def test_steps_that_come_by_many_go_by_what_was_there_before(clock: list[float]) -> None:
    shown = io.StringIO()
    with Stages(console(file=shown)) as stages:
        update = stages.stage("loss before")
        update(0, 48)
        clock[0] = 30.0
        update(16, 48)
    assert shown.getvalue() == "loss before: 16 of 48, 30 s, about 1.0 min left\n"


def test_what_is_counted_by_more_begins_at_none() -> None:
    told: list[tuple[int, int]] = []
    more = counted(lambda done, of: told.append((done, of)), 10)
    more(4)
    more(6)
    assert told == [(0, 10), (4, 10), (10, 10)]


def test_on_a_terminal_there_is_a_bar_with_the_time_left(clock: list[float]) -> None:
    shown = io.StringIO()
    with Stages(console(file=shown, force_terminal=True, width=120, color_system=None)) as stages:
        update = stages.stage("a[/b]")
        clock[0] = 30.0
        update(1, 4)
    last = shown.getvalue()
    assert "a[/b] ━" in last
    assert "1/4" in last
    assert "about 1.5 min left" in last


def test_the_time_left_goes_by_no_pause(clock: list[float]) -> None:
    shown = io.StringIO()
    with Stages(console(file=shown)) as stages:
        update = stages.stage("healing")
        for step in range(1, 11):
            clock[0] += 3600 * (step == 10) + 6
            update(step, 20)
    assert shown.getvalue().splitlines()[-1] == "healing: 10 of 20, 61.0 min, about 1.0 min left"


@pytest.mark.parametrize(
    ("took", "pause"),
    [
        (299.0, 0.0),
        (301.0, 300.0),
        (7200.0, 7199.0),
    ],
)
def test_a_step_that_took_minutes_beside_seconds_was_stopped(took: float, pause: float) -> None:
    worked = Worked(50.0, 7)
    for step in range(8, 13):
        assert worked.at(50.0 + step - 7, step) == 0
    assert worked.at(55.0 + took, 13) == pause
    assert worked.at(55.0 + took, 13) == 0, "a step counts once"
    assert worked.per_step == (5 + took - pause) / 6
    assert worked.so_far(57.0 + took) == 7 + took - pause


def test_steps_that_all_take_long_are_no_pauses() -> None:
    worked = Worked(0.0, 0)
    assert [worked.at(400.0 * step, step) for step in range(1, 9)] == [0] * 8
    worked = Worked(0.0, 0)
    for step in range(1, 30):
        worked.at(float(step), step)
    pauses = [worked.at(29.0 + 400 * (step - 29), step) for step in range(30, 60)]
    assert pauses[0] == 399
    assert pauses[-1] == 0
