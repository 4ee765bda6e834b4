"""A trial that is handed to another process is refused there where it would be another trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from whorl.comparison.display import Reached
from whorl.comparison.orders import Ended, Order
from whorl.comparison.planning import plan_trials
from whorl.comparison.running import Runner
from whorl.files import write_json
from whorl.locking import alone
from whorl.training.settings import Settings


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """Of a trial of four steps, in a folder that is a comparison's."""
    settings = Settings(
        task="copy", train_length=16, lengths=("1x",), tokens=4 * 2 * 16, batch_size=2, windows=2, precision="fp32"
    ).resolve()
    write_json(tmp_path / "config.json", settings.to_dict())
    task = settings.make_task()
    (trial,) = plan_trials(["rope"], [0], settings, task.fingerprint())
    return Order.of(Runner(tmp_path, task, task.fingerprint(), 0), trial)


def test_it_is_carried_out_once(order: Order) -> None:
    result = Path(order.folder, "trials", order.id, "result.json")
    write_json(order.progress, {"stage": "training", "done": 3, "of": 4, "loss": 2.5})
    assert str(order.reached()) == str(Reached("training", 3, 4, 2.5)) == "training 3 of 4, loss 2.500"
    assert order.carry_out() == Ended("finished")
    written = result.stat().st_mtime_ns
    assert order.carry_out() == Ended("finished")
    assert result.stat().st_mtime_ns == written
    assert order.reached() is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": "not shared"}, "there is no not shared/config.json where this trial was to be run"),
        ({"data": "0123"}, "the data made here are not those of the comparison"),
        ({"versions": {"torch": "0.1"}}, "with other versions: python "),
    ],
)
def test_what_differs_is_said(
    order: Order, change: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = replace(order, **change).carry_out()
    assert ended.how == "broken"
    assert words in ended.words
    assert ended.trace is not None
    assert not Path(order.folder, "trials").exists()
    assert not Path("not shared").exists()


def test_another_process_at_the_trial_is_named(order: Order) -> None:
    with alone(Path(order.folder, "trials", order.id), "compare"):
        ended = order.carry_out()
    assert ended.how == "busy"
    assert "is being written by whorl compare, process" in ended.words


def test_a_full_disk_is_no_trials_own(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("whorl.training.trainer.train", fails)
    assert order.carry_out().how == "full"
    assert not list(Path(order.folder).rglob("failure.json"))
