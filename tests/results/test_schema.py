"""A result goes to JSON and back unchanged, and a file that does not hold one is named with its key."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from whorl.results.schema import REST, Keyed


@dataclass(frozen=True)
class Point:
    at: int
    loss: float
    note: str | None = None
    others: dict[str, float] = field(default_factory=dict, metadata=REST)

    def __post_init__(self) -> None:
        if self.at < 0:
            raise ValueError("a point lies at 0 or later")


@dataclass(frozen=True)
class Curve(Keyed):
    schema: ClassVar[int] = 2

    name: str
    points: tuple[Point, ...]
    share: float | None
    turning: int | tuple[int, ...] | None
    by_length: dict[int, float]
    whole: bool = True
    facts: Any = None

    @classmethod
    def upgraded(cls, value: dict[str, Any], schema: int) -> dict[str, Any]:
        return {**value, "name": value.pop("title")} if schema == 0 else value


CURVE = Curve("a", (Point(0, 2.5), Point(1, 0.1, "last", {"tail": 3.0})), None, (11, 0), {128: 1.5, 256: 2.5})
FILE = {
    "schema": 2,
    "name": "a",
    "points": [{"at": 0, "loss": 2.5}, {"at": 1, "loss": 0.1, "note": "last", "tail": 3.0}],
    "share": None,
    "turning": [11, 0],
    "by_length": {"128": 1.5, "256": 2.5},
}


def test_a_result_is_the_same_after_its_file(tmp_path: Path) -> None:
    assert CURVE.to_json() == FILE
    CURVE.write(tmp_path / "curve.json")
    assert json.loads((tmp_path / "curve.json").read_text()) == FILE
    assert Curve.read(tmp_path / "curve.json") == CURVE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_and_comes_back_as_nan(bad: float) -> None:
    written = Curve("a", (Point(0, bad, others={"tail": bad}),), None, None, {}).to_json()
    assert written["points"] == [{"at": 0, "loss": None, "tail": None}]
    (point,) = Curve.from_json(json.loads(json.dumps(written, allow_nan=False))).points
    assert math.isnan(point.loss)
    assert math.isnan(point.others["tail"])
    read = json.loads(json.dumps(written).replace("null", "Infinity"))
    assert math.isnan(Curve.from_json(read | {"turning": None}).points[0].loss), "which JSON has not, and Python writes"


def test_a_key_that_nobody_must_know_is_passed_over_and_a_later_schema_is_refused() -> None:
    assert Curve.from_json({**FILE, "colour": "red"}) == CURVE
    with pytest.raises(ValueError, match=r"a\.json was written by a later version of whorl \(schema 3; .* up to 2"):
        Curve.from_json({**FILE, "schema": 3}, "a.json")


def test_a_file_without_a_schema_is_upgraded() -> None:
    earlier = {k: v for k, v in FILE.items() if k not in ("schema", "name")} | {"title": "a"}
    assert Curve.from_json(earlier) == CURVE


WRONG = {
    "nothing": ({}, r"it is no Curve of schema 0 .KeyError..title.."),
    "no name": ({k: v for k, v in FILE.items() if k != "name"}, "it has no name"),
    "schema": ({**FILE, "schema": "2"}, "its schema must be a whole number, got '2'"),
    "text": ({**FILE, "name": 3}, "its name must be text, got 3"),
    "no list": ({**FILE, "points": {"at": 0}}, "its points must be a list, got {'at': 0}"),
    "missing within": ({**FILE, "points": [{"at": 0}]}, r"it has no points\[0\]\.loss"),
    "wrong within": (
        {**FILE, "points": [{"at": 0.5, "loss": 1}]},
        r"its points\[0\]\.at must be a whole number, got 0.5",
    ),
    "true is no number": ({**FILE, "points": [{"at": True, "loss": 1}]}, r"its points\[0\]\.at must be a whole number"),
    "a rest": ({**FILE, "points": [{"at": 0, "loss": 1, "tail": "x"}]}, r"its points\[0\]\.tail must be a number"),
    "no float": ({**FILE, "share": 10**400}, "its share must be a number, got a whole one of more than 64 bits"),
    "no count": ({**FILE, "turning": 1 << 64}, "its turning must be a list, got 18446744073709551616"),
    "no count within": (
        {**FILE, "points": [{"at": 10**400, "loss": 1}]},
        r"its points\[0\]\.at must be a whole number, got a whole one of more than 64 bits",
    ),
    "null": ({**FILE, "name": None}, "its name must be text, got None"),
    "either": ({**FILE, "turning": "x"}, "its turning must be a list, got 'x'"),
    "a key": ({**FILE, "by_length": {"far": 1.0}}, "its by_length has the key 'far', which is no whole number"),
    "its own check": ({**FILE, "points": [{"at": -1, "loss": 1}]}, r"points\[0\]: a point lies at 0 or later"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_holds_no_result_is_named_with_its_key(wrong: str, tmp_path: Path) -> None:
    value, message = WRONG[wrong]
    (tmp_path / "curve.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=rf"curve\.json is damaged, {message}.*; restore it, or delete it"):
        Curve.read(tmp_path / "curve.json")


@pytest.mark.parametrize(("value", "what"), [(5, "5"), ([FILE], "a list"), ("rope", "'rope'")])
def test_a_file_of_something_else_is_not_called_damaged(value: Any, what: str, tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=rf"curve\.json is no Curve: it holds {what}$"):
        Curve.read(tmp_path / "curve.json")


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"schema": ' * 100_000])
def test_a_file_that_is_nested_too_deeply_is_named(deep: str, tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(deep)
    with pytest.raises(ValueError, match=r"curve\.json is damaged, its JSON is nested too deeply; restore it"):
        Curve.read(tmp_path / "curve.json")


def test_a_result_is_read_by_key_as_a_dict_is() -> None:
    assert dict(CURVE) == FILE
    assert list(CURVE) == list(CURVE.keys()) == list(FILE)
    assert CURVE["points"][1] == FILE["points"][1]
    assert "points" in CURVE
    assert "colour" not in CURVE
    assert 0 not in CURVE
    assert (CURVE.get("name"), CURVE.get("colour"), CURVE.get("colour", "red")) == ("a", None, "red")
    with pytest.raises(KeyError, match="colour"):
        CURVE["colour"]
