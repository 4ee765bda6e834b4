"""What extend and convert wrote comes back, and so does what earlier versions wrote."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from whorl.results.extension import Conversion, Extension, Method, Needle

EXTENSION: dict[str, Any] = {
    "from": "path/to/model", "train_length": 256, "to": 1024, "text": "book.txt", "windows": [6, 1024],
    "method": "yarn", "encoding": "rope~yarn:factor=4", "layers_as_they_were": [1],
    "tried": [
        {"method": "none", "encoding": "rope", "in_range": 0.8, "past": 4.4, "whole_context": True},
        {"method": "yarn", "encoding": "rope~yarn:factor=4", "in_range": 0.9, "past": None, "whole_context": True},
        {"method": "window of 64", "encoding": "rope+window:size=64", "in_range": 0.8, "past": 0.7,
         "whole_context": False},
    ],
    "needle": [{"length": 256, "depth": 0.5, "found": 1.0, "loss": 0.1, "without": 5.0, "entropy": 2.0}],
    "loads": "stock",
}  # fmt: skip
CONVERSION: dict[str, Any] = {
    "from": "rope", "to": "hope:train_length=64", "tokens": 2000, "within": {"layers": [0], "leave": None},
    "filled": "hope: base 10,000", "before": {"64": 2.0, "256": None}, "swapped": {"64": 3.0, "256": 4.0},
    "healed": {"64": 2.5, "256": 2.6}, "control": None, "control_diverged": "the training diverged",
    "curve": [{"step": 1, "tokens": 64, "loss": 3.0, "learning_rate": 0.0}],
    "model": "path/to/model", "text": "book.txt", "train_length": 64, "learning_rate": 0.0005, "gradual": 0.0,
    "train_length_from": "--train-length", "loads": "stock",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "stored"), [(Extension, EXTENSION), (Conversion, CONVERSION)])
def test_what_was_written_comes_back(kind: type[Extension | Conversion], stored: dict[str, Any]) -> None:
    found = kind.from_json(stored)
    now = found.to_json()
    assert now.pop("schema") == kind.schema
    assert now == stored
    assert repr(kind.from_json(found.to_json())) == repr(found)


def test_an_extension_is_read_by_attribute() -> None:
    found = Extension.from_json(EXTENSION)
    assert found.from_ == "path/to/model"
    assert found.best is found.tried[1]
    assert found.best.past != found.best.past, "a loss that is not finite"
    assert found.needle == (Needle(256, 0.5, 1.0, 0.1, 5.0, 2.0),)
    assert found.tried[2] == Method("window of 64", "rope+window:size=64", 0.8, 0.7, False)
    assert repr(found).splitlines()[:2] == [
        "path/to/model, nats per token  in range  last quarter, to 1,024",
        "none                              0.800                   4.400",
    ]
    assert [row["kept"] for row in found.records()] == [False, True, False]


def test_a_healing_that_hurts_is_told_by_length() -> None:
    assert Conversion.from_json(CONVERSION).hurt_by_healing() == []
    worse = CONVERSION | {"swapped": {"64": 3.0, "256": None}, "healed": {"64": 3.02, "256": None}}
    assert Conversion.from_json(worse).hurt_by_healing() == [64]
    assert Conversion.from_json(worse | {"healed": {"64": 3.005, "256": None}}).hurt_by_healing() == []


def test_the_first_extensions_did_not_say_which_methods_take_context() -> None:
    old = json.loads(json.dumps(EXTENSION))
    del old["layers_as_they_were"]
    for row in old["tried"]:
        del row["whole_context"]
    found = Extension.from_json(old)
    assert [row.whole_context for row in found.tried] == [True, True, False]
    assert found.layers_as_they_were == ()
    with pytest.raises(ValueError, match=r"the result is damaged, it has no tried\[0\].whole_context"):
        Extension.from_json(old | {"schema": 1, "layers_as_they_were": []})


def test_the_first_conversions_filled_nothing() -> None:
    old = {key: value for key, value in CONVERSION.items() if key not in ("filled", "within", "train_length_from")}
    found = Conversion.from_json(old)
    assert (found.filled, found.within, found.train_length_from) == ("", None, "")
    assert found.before == {64: 2.0, 256: None}
    assert found.table()[1][0] == ("before", "2.000", "out of reach")
    assert {"of": "healed", "length": 256, "loss": 2.6} in found.records()


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("from", 5, "its from must be text, got 5"),
        ("tried", "none", "its tried must be a list, got 'none'"),
        ("tried", [5], r"its tried\[0\] must be an object, got 5"),
        ("train_length", None, "its train_length must be a whole number, got None"),
    ],
)
def test_a_wrong_form_names_the_file_and_the_key(key: str, value: Any, named: str, tmp_path: Path) -> None:
    path = tmp_path / "extension.json"
    path.write_text(json.dumps(EXTENSION | {key: value}))
    with pytest.raises(ValueError, match=f"extension.json is damaged, {named}"):
        Extension.read(path)


@pytest.mark.parametrize(
    ("kind", "changed", "named"),
    [
        (Extension, {"method": "pi"}, "it: method 'pi' is none of those that were tried (none, yarn, window of 64)"),
        (Extension, {"tried": []}, "it: method 'yarn' is none of those that were tried ()"),
        (Extension, {"to": -1}, "it: to must be a whole number from 1 to"),
        (Conversion, {"train_length": 0}, "it: train-length must be a whole number from 1 to"),
        (Conversion, {"before": {}}, "it: swapped must have the lengths of before (), got 64, 256"),
        (Conversion, {"swapped": {"64": 3.0}}, "it: swapped must have the lengths of before (64, 256), got 64"),
        (Conversion, {"healed": {}}, "it: healed must have the lengths of before (64, 256), got none"),
        (Conversion, {"healed": {"256": 1.0, "64": 2.0}}, "it: healed must have the lengths of before"),
        (Conversion, {"control": {"64": 3.0, "128": 1.0}}, "it: untouched, trained alike must have the lengths"),
    ],
)
def test_what_does_not_fit_together_is_damaged(
    kind: type[Extension | Conversion], changed: dict[str, Any], named: str
) -> None:
    stored = EXTENSION if kind is Extension else CONVERSION
    with pytest.raises(ValueError, match=re.escape(f"FILE is damaged, {named}")):
        kind.from_json(stored | changed, "FILE")
