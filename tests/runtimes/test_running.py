"""What `make test-runtimes` makes of an engine's answers, with engines that are pretended."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

RUNNING = Path(__file__).parents[2] / "benchmarks" / "runtimes"
HOPE = "hope:train_length=2048"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts as modules, building into a folder of the test's own, and a tiny subject."""
    monkeypatch.syspath_prepend(str(RUNNING))
    found = {name: importlib.import_module(name) for name in ("engines", "subjects", "run")}
    for module in found.values():
        monkeypatch.setattr(module, "BUILD", tmp_path)
    return SimpleNamespace(**found, subject=found["subjects"].tiny())


def rows_of(bench: Any, encoding: str, answer: Any, failed: dict[str, str] | None = None) -> list[Any]:
    class Pretended(bench.engines.Engine):
        def ask(self, model: Path, ids: list[int], at: list[int], threads: int) -> np.ndarray:
            assert (model / "config.json").exists()
            return answer()

    engine = Pretended("mlx", "hf", "mlx", (), "transformers")
    return list(bench.run.rows(bench.subject, encoding, "hf", [engine], 1, {} if failed is None else failed))


def test_an_answer_is_right_where_rounding_explains_it_and_else_wrong(bench: Any) -> None:
    own, explained = bench.subject.said(HOPE), bench.subject.explained()
    (near,) = rows_of(bench, HOPE, lambda: own + 0.9 * explained)
    (far,) = rows_of(bench, HOPE, lambda: own + 2 * explained)
    assert (near.result, far.result, far.why) == ("right", "wrong", "")
    assert near.off < explained < far.off < near.control_off / 50


def test_an_engine_that_drops_the_encoding_is_wrong_and_the_row_says_how(bench: Any) -> None:
    (row,) = rows_of(bench, HOPE, lambda: bench.subject.said("rope"))
    assert row.result == "wrong"
    assert "dropped" in row.why
    assert row.off == row.control_off
    (row,) = rows_of(bench, "rope", lambda: bench.subject.said("rope:base=10000"))
    assert row.result == "wrong"
    assert "dropped" in row.why


def test_to_stop_is_a_refusal_only_of_an_engine_that_runs_the_plain_model(bench: Any) -> None:
    def stops() -> np.ndarray:
        raise bench.engines.NoAnswerError("KeyError: 'proportional'")

    failed: dict[str, str] = {}
    assert rows_of(bench, "rope", stops, failed) == []
    assert failed == {"mlx": "KeyError: 'proportional'"}
    (row,) = rows_of(bench, HOPE, stops)
    assert (row.result, row.off, row.why) == ("refuses", None, "KeyError: 'proportional'")


def test_what_whorl_does_not_export_is_not_run(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def never() -> np.ndarray:
        raise AssertionError("was asked")

    assert rows_of(bench, "alibi", never) == []
    assert "whorl does not export it" in capsys.readouterr().out


def test_a_control_that_nobody_could_tell_shows_nothing(bench: Any) -> None:
    with pytest.raises(SystemExit, match="nothing is shown"):
        rows_of(bench, "p-rope:p=1", lambda: bench.subject.said("rope"))


def test_the_last_words_of_an_engine_are_its_error(bench: Any) -> None:
    said = "Traceback (most recent call last):\n  ...\nKeyError: 'proportional'\n\nDuring this:\nRuntimeError: core\n"
    assert bench.engines._last_words(said) == "KeyError: 'proportional'"
    assert bench.engines._last_words("killed\n") == "killed"


def test_every_engine_has_its_script_and_the_version_that_is_pinned(bench: Any) -> None:
    for engine in bench.engines.ENGINES:
        assert (RUNNING / f"with_{engine.script}.py").is_file()
        assert engine.version()[0].isdigit()
