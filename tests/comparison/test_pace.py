"""The time left of a comparison, on a clock that the test turns."""

from __future__ import annotations

from whorl.comparison.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_known_before_a_step() -> None:
    pace = Pace(["a", "b"], steps=10, clock=Clock())
    assert pace.left() is None
    pace.at("a", 0)
    assert pace.left() is None


def test_steps_per_second_and_then_whole_trials() -> None:
    clock = Clock()
    pace = Pace("abc", steps=10, clock=clock)
    pace.at("a", 0)
    clock.now += 4
    pace.at("a", 2)
    assert pace.left() == 8 * 2 + 2 * 20, "2 s a step: what is left of a, and two trials"
    clock.now += 16
    pace.at("a", 10)
    assert pace.left() == 40
    clock.now += 5
    pace.over("a")
    assert pace.left() == 50, "its evaluation took 5 s, and so will those of the others"
    pace.at("b", 0)
    clock.now += 20
    pace.at("b", 10)
    assert pace.left() == 5 + 25
    clock.now += 5
    pace.over("b")
    pace.over("c")
    assert pace.left() == 0


def test_one_that_goes_on_counts_from_where_it_was() -> None:
    clock = Clock()
    pace = Pace("ab", steps=100, clock=clock)
    pace.at("a", 90)
    clock.now += 10
    pace.at("a", 100)
    pace.over("a")
    assert pace.left() == 100


def test_a_failed_one_says_nothing_of_the_others() -> None:
    clock = Clock()
    pace = Pace("ab", steps=10, clock=clock)
    pace.at("a", 0)
    clock.now += 1
    pace.at("a", 1)
    pace.over("a")
    assert pace.left() is None
    assert (pace.waiting, pace.running) == ({"b"}, {})


def test_side_by_side() -> None:
    clock = Clock()
    pace = Pace("abcd", steps=10, at_once=2, clock=clock)
    for trial in "ab":
        pace.at(trial, 0)
    clock.now += 10
    pace.at("a", 5)
    pace.at("b", 1)
    assert pace.left() == max(9 * 10, (5 * 2 + 9 * 10 + 2 * (2 + 10) / 2 * 10) / 2), "b is slow, and who ends last"
    pace.at("b", 5)
    assert pace.left() == (10 + 10 + 2 * 20) / 2


def test_a_trial_that_was_stopped_for_hours_tells_as_much_as_one_that_was_not() -> None:
    clock = Clock()
    pace = Pace("abcd", steps=100, clock=clock)
    for step in range(91):
        pace.at("a", step)
        clock.now += 1
    clock.now += 5 * 3600
    pace.at("a", 91)
    assert pace.left() == 9 + 3 * 100
    for step in range(92, 101):
        clock.now += 1
        pace.at("a", step)
    pace.over("a")
    assert pace.left() == 3 * 100
    pace.at("b", 0)
    clock.now += 100
    pace.at("b", 100)
    clock.now += 5 * 3600  # in its evaluation, whose time is not known before
    pace.over("b")
    assert pace.left() == 2 * 100, "it is left out beside one that was not stopped"


def test_trials_of_unlike_speed_all_count() -> None:
    clock = Clock()
    pace = Pace("abc", steps=10, clock=clock)
    for trial, seconds in (("a", 10), ("b", 50)):
        pace.at(trial, 0)
        clock.now += seconds
        pace.at(trial, 10)
        pace.over(trial)
    assert pace.left() == 30
