"""Every trial has an id of all that determines it; what cannot be run is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from whorl.comparison.fitting import attached_to_each
from whorl.comparison.planning import check_asked, check_model, plan_trials
from whorl.tasks import TASKS
from whorl.training.settings import Settings

ENCODINGS = ("rope", "hope", "p-rope:p=0.5")


def test_a_trials_id_depends_on_everything_that_determines_it() -> None:
    settings = Settings(precision="fp32").resolve()
    trials = plan_trials(ENCODINGS, (0, 1), settings, "data")
    assert [t.seed for t in trials] == [0, 0, 0, 1, 1, 1]
    assert len({t.id for t in trials}) == 6
    assert trials == plan_trials(ENCODINGS, (0, 1), settings, "data")
    ids = {t.id for t in trials}
    for other in (
        plan_trials(ENCODINGS, (0, 1), settings, "other data"),
        plan_trials(ENCODINGS, (0, 1), Settings(precision="fp32", learning_rate=1e-3).resolve(), "data"),
        plan_trials(["rope:base=500", "hope:train_length=64"], (0, 1), settings, "data"),
    ):
        assert not ids & {t.id for t in other}
    assert str(trials[1].encoding) == "hope:train_length=128,base=10000", "HoPE's training length is the run's"


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_compares_where_nothing_is_named_is_what_it_takes(task: str) -> None:
    settings = Settings(task=task, precision="fp32").resolve()
    asked = check_asked(settings.task_class.encodings, (0,), settings)
    assert len(attached_to_each(asked, settings)) > 2


def test_the_same_trial_twice_is_refused() -> None:
    settings = Settings(precision="fp32").resolve()
    asked = ["hope:train_length=128,base=10000", "rope:base=10000"]
    assert [str(e) for e in check_asked(["hope", "rope"], (0,), settings)] == asked
    with pytest.raises(ValueError, match="encoding hope:train_length=128 is asked for twice"):
        check_asked(["hope", "hope:train_length=128"], (0,), settings)
    with pytest.raises(ValueError, match="seed 3 is asked for twice"):
        check_asked(["hope"], (3, 3), settings)
    with pytest.raises(ValueError, match="no seed was given"):
        check_asked(["hope"], (), settings)


def test_a_model_that_is_not_there() -> None:
    check_model("tiny")
    check_model("org/name")
    with pytest.raises(ValueError, match="'tinny' is neither tiny, small, base nor a path"):
        check_model("tinny")


def test_a_gguf_file_that_is_not_whole_is_refused_before_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ValueError, match=r"cannot read .*half\.gguf: its header ends early or is damaged"):
        check_model(str(tmp_path / "half.gguf"))
    with pytest.raises(ValueError, match=r"there is no file .*none\.gguf"):
        check_model(str(tmp_path / "none.gguf"))


# Named before arguments could be unset; a finished trial is found by its name.
IDS = {
    "rope": "rope-s0-c6b2a5b594",
    "hope": "hope-train-length-128-s0-553e012008",
    "p-rope:p=0.5,base=500": "p-rope-p-0.5-base-500-s0-fdd216cf6e",
    "partial-rope": "partial-rope-s0-8debaa7735",
    "learned": "learned-max-positions-128-s0-ccd54c5e0d",
    "rope+window:size=64/nope": "rope-window-size-64-nope-s0-26eb359f2b",
    "hope~linear:factor=2+alibi": "hope-train-length-128-linear-factor-2-alibi-s0-71d147d0ef",
}


@pytest.mark.parametrize("encoding", IDS)
def test_trials_from_scratch_keep_their_names(encoding: str) -> None:
    settings = Settings(precision="fp32").resolve()
    (trial,) = plan_trials([encoding], (0,), settings, "data")
    assert trial.id == IDS[encoding]
