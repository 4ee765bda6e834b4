"""Study 0007 goes on from what is committed, and says what is missing, without its models."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.experiments import EXPERIMENTS

FOLDER = EXPERIMENTS / "0007-pretrained-llms"
NAMES = ("study", "gather")  # others have a study too


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The study and what gathers it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(FOLDER))
        for name in NAMES:
            patched.delitem(sys.modules, name, raising=False)
        study, gather = (importlib.import_module(name) for name in NAMES)
        yield study, gather
        for name in NAMES:
            del sys.modules[name]


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads((FOLDER / "results.json").read_text())


def test_what_is_committed_is_finished_and_the_rest_is_missing(
    modules: tuple[ModuleType, ModuleType], committed: dict[str, Any], tmp_path: Path
) -> None:
    module, _ = modules
    cuts = committed["cuts-smollm2"]
    cuts["unfinished"] = True
    cuts["windows"]["nope"]["prose"] = cuts["windows"]["nope"]["prose"][:4]
    for windows in committed["cuts-gemma3"]["windows"].values():
        windows.update({text: losses[:4] for text, losses in windows.items()})
    committed["cuts-gemma3"]["unfinished"] = True
    del committed["reach-smollm2"]
    study = module.Study(tmp_path / "no models", tmp_path, committed)
    lines = module.listing(study).splitlines()
    assert "usage-gemma3: finished" in lines
    assert "reach-smollm2: missing" in lines
    at = lines.index("cuts-smollm2: 87 of 88 measurements are there")
    assert lines[at + 1] == "  missing from window 5 on: nope prose"
    at = lines.index("cuts-gemma3: 42 of 84 measurements are there")
    assert lines[at + 1] == "  missing from window 5 on: all"
    assert list(tmp_path.iterdir()) == [], "a list writes nothing"
    (tmp_path / "reach-smollm2.json").touch()
    assert "reach-smollm2: finished" in module.listing(study).splitlines(), "of this run"
    nothing = module.listing(module.Study(tmp_path, tmp_path / "empty")).splitlines()
    assert not [line for line in nothing if line.endswith(": finished")]
    assert "cuts-gemma3: 0 of 84 measurements are there" in nothing


def test_a_stage_goes_on_from_results_json_and_gathers_to_the_same(
    modules: tuple[ModuleType, ModuleType],
    committed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, gather = modules
    whole = json.loads(json.dumps(committed["cuts-smollm2"]))
    cuts = committed["cuts-smollm2"]
    cuts["unfinished"] = True
    for text in ("code", "prose"):
        cuts["windows"]["nope"][text] = cuts["windows"]["nope"][text][:4]
    asked = []

    def losses(self: Any, name: str, encoding: str, ids: Any, every: int = 1, **options: Any) -> Any:
        asked.append((encoding, *ids))
        text, at = ids
        return np.array(whole["windows"][encoding][text][at : at + 4])[:, None]

    class Windows(str):
        """Which windows, in the place of their tokens."""

        def __getitem__(self, at: Any) -> Any:
            return (str(self), at.start)

    monkeypatch.setattr(module.Study, "_losses", losses)
    monkeypatch.setattr(module.Study, "windows", lambda self, name, text, length, count: Windows(text))
    study = module.Study(tmp_path, tmp_path, committed)
    module.run(study, "cuts-smollm2", lambda: study.cuts("smollm2"))
    module.run(study, "usage-smollm2", lambda: pytest.fail("it is in results.json"))
    assert asked == [("nope", "code", 4), ("nope", "prose", 4)], "and nothing that is there"
    assert len(cuts["windows"]["nope"]["code"]) == 4, "what is committed is not written over in memory"
    now = gather.together(committed, gather.gathered(tmp_path))
    assert now.keys() == committed.keys()
    assert "unfinished" not in now["cuts-smollm2"]
    assert {**now["cuts-smollm2"], "rows": 0, "windows": 0}.keys() == whole.keys()
    assert now["cuts-smollm2"]["windows"] == whole["windows"]
    key = lambda row: (row["encoding"], row["text"])  # noqa: E731
    assert sorted(now["cuts-smollm2"]["rows"], key=key) == sorted(whole["rows"], key=key)


def test_an_unfinished_stage_does_not_take_the_place_of_a_finished_one(
    modules: tuple[ModuleType, ModuleType],
) -> None:
    _, gather = modules
    earlier = {"cuts": {"rows": 8}, "long": {"rows": 1, "unfinished": True}, "usage": {"rows": 3}}
    now = {"cuts": {"rows": 4, "unfinished": True}, "long": {"rows": 2, "unfinished": True}}
    assert gather.together(earlier, now) == {**earlier, "long": now["long"]}


def test_windows_of_other_tokens_are_not_put_to_those_that_are_there(
    modules: tuple[ModuleType, ModuleType], committed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = modules

    class Tokenizer:
        def decode(self, ids: Any) -> str:
            return "a" * len(ids)

    stream = (np.arange(600, dtype=np.int32), "0123")
    monkeypatch.setattr(module.reading, "load_tokenizer", lambda models, name: Tokenizer())
    monkeypatch.setattr(module.reading, "token_stream", lambda tokenizer, text: stream)
    monkeypatch.setattr(module.reading, "first_token", lambda tokenizer: 7)
    with pytest.raises(ValueError, match="--again measures everything anew"):
        module.Study(tmp_path, tmp_path, committed).windows("gemma3", "code", 9, 2)
    assert list(tmp_path.iterdir()) == []
    assert module.Study(tmp_path, tmp_path).windows("gemma3", "code", 9, 2)[:, 0].tolist() == [7, 7]
