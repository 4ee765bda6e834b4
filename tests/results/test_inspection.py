"""An inspection's files: what they hold comes back, those of earlier versions load, and wrong ones are named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whorl.results.inspection import Ablation, FirstToken, Head, Inspection, OutOfRange, Summary, UShapes
from whorl.results.schema import as_json, parsed

SUMMARY: dict[str, Any] = {
    "whorl": "0.1.0",
    "created": "2026-11-20T12:34:56+00:00",
    "model": {
        "name": "runs/rope", "type": "llama", "layers": 2, "heads": 2, "key_heads": 1, "head_dim": 4,
        "parameters": 790_000, "encoding": "rope", "windows": [None, 8],
    },
    "settings": {"length": 64, "windows": 3, "train_length": 16, "random_windows": 0, "seed": 0},
    "spectrum": {
        "base": 10_000.0,
        "layout": "half",
        "layers": [
            {
                "layer": i, "pairs": 2, "turning": 2, "never_full": 1, "hope_cut": 1, "p_rope_cut": 1, "amplitude": 1.0
            }
            for i in range(2)
        ],
    },
    "absent": {"random": "no random windows were asked for"},
    "seconds": {"text": 0.5},
    "machine": {"cpu": "Some CPU", "memory_gib": None},
    "versions": {"python": "3.11.9"},
    "out_of_range": {
        "multiples": [1, 2],
        "noise": 0.02,
        "layers": [{"layer": 0, "departure": [0.02, 0.4]}, {"layer": 1, "departure": [None, None]}],
        "pairs": [{"layer": 0, "pair": 1, "wavelength": None, "departure": [0.02, 0.5]}],
        "first_pair": {"layer": 0, "pair": 1, "wavelength": None, "multiple": 2, "departure": 0.5},
        "first_layer": None,
    },
}  # fmt: skip
ARRAYS = {
    "distance_from": np.arange(3), "distance_to": np.arange(1, 4),
    "logit": np.zeros((2, 2, 3), np.float32), "departure": np.full((2, 2), np.nan, np.float32),
}  # fmt: skip
FOUND = Inspection(Summary.from_json(SUMMARY), ARRAYS)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    again = Inspection.load(tmp_path)
    assert again.summary == FOUND.summary
    assert {name: array.tolist() for name, array in again.arrays.items() if name != "departure"} == {
        name: array.tolist() for name, array in ARRAYS.items() if name != "departure"
    }
    assert again.measured("logit") is not None
    assert again.measured("departure") is None, "it holds nothing but NaN"
    assert again.measured("entropy") is None
    with pytest.raises(AttributeError, match="entropy was not measured; summary.absent says why"):
        _ = again.entropy


def test_it_is_shown_by_layer_and_in_a_notebook_by_the_head_of_its_report() -> None:
    assert [line.split() for line in repr(FOUND).splitlines()] == [
        ["layer", "turning", "departure", "at", "2x"], ["0", "2", "0.4"], ["1", "2"],
    ]  # fmt: skip
    frame = FOUND.to_frame()
    assert frame["hope_cut"].tolist() == [1, 1]
    assert frame["departure_1x"].tolist()[0] == 0.02
    head = FOUND._repr_html_()
    assert head.startswith("<h3>How runs/rope uses positions</h3>")
    assert "<p>Logits leave the range of training in pair 1 of layer 0 first" in head


def test_layers_whose_spectrum_is_not_told_have_their_rows_all_the_same() -> None:
    summary = json.loads(json.dumps(SUMMARY))
    del summary["spectrum"]["layers"][1]
    summary["u_shape"] = {"text": {
        "appears": False, "rise": 0.1, "stderr": None, "near": 1.0, "pairs": [], "activated": None,
        "layers": [{"layer": 1, "rise": 0.1, "stderr": None, "near": 1.0}],
    }}  # fmt: skip
    summary["first_token"] = [{"layer": 1, "text": 0.5, "random": None}]
    records = Inspection(Summary.from_json(summary), ARRAYS).records()
    assert [(row["layer"], row.get("turning"), row.get("rise_text")) for row in records] == [
        (0, 2, None),
        (1, None, 0.1),
    ]
    assert records[1]["first_token_text"] == 0.5
    summary["spectrum"]["layers"] = []
    found = Inspection(Summary.from_json(summary), {**ARRAYS, "norm_q": np.ones((2, 2, 2), np.float32)})
    assert len(found.records()) == 2
    assert "first token" in repr(found)
    assert "<h3>" in found._repr_html_()


def test_files_of_the_first_version_which_say_none_hold_the_same() -> None:
    assert "schema" not in SUMMARY
    now = FOUND.summary.to_json()
    assert now.pop("schema") == Summary.schema
    assert now == SUMMARY
    assert FOUND.summary["out_of_range"] == SUMMARY["out_of_range"]


def test_the_sections_that_a_study_kept_are_read() -> None:
    rows = json.loads(Path("experiments/0004-u-shape/results.json").read_text())
    kinds = {"out_of_range": OutOfRange, "ablation": Ablation, "u_shape": UShapes}
    for row in rows:
        for key, kind in kinds.items():
            assert row[key] is None or as_json(parsed(kind, row[key])) == row[key]
        for key, of in (("heads", Head), ("first_token", FirstToken)):
            assert [as_json(parsed(of, item)) for item in row[key]] == row[key]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("settings", None, "its settings must be an object, got None"),
        ("out_of_range", {"multiples": [1]}, "it has no out_of_range.noise"),
        ("heads", [{"layer": "0"}], r"its heads\[0\].layer must be a whole number, got '0'"),
        ("schema", 2, "was written by a later version of whorl"),
    ],
)
def test_a_wrong_form_names_the_file_and_the_key(key: str, value: Any, named: str, tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    path = tmp_path / "inspection.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=f"inspection.json .*{named}"):
        Inspection.load(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"norms": np.zeros(3)}, "no array 'norms'; did you mean 'norm_"),
        ({"logit": np.zeros((2, 3))}, r"logit must be \[layer, head, distance\], got 2 dimensions"),
        ({"logit": np.zeros((2, 2, 4))}, "logit must have 3 places along distance, got 4"),
        ({"departure": np.zeros((2, 3))}, "departure must have 2 places along multiple, got 3"),
        ({"departure": np.zeros((1, 2))}, "departure must have 2 places along layer, got 1"),
        ({"distance_to": np.zeros(4)}, "distance_from and distance_to have 3 and 4 places"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=named):
        Inspection(FOUND.summary, ARRAYS | arrays)
    FOUND.save(tmp_path)
    np.savez(tmp_path / "inspection.npz", **(ARRAYS | arrays))
    with pytest.raises(ValueError, match=f"inspection.npz is damaged .*{named}"):
        Inspection.load(tmp_path)


def test_a_damaged_inspection_names_its_file(tmp_path: Path) -> None:
    FOUND.save(tmp_path)
    whole = (tmp_path / "inspection.npz").read_bytes()
    (tmp_path / "inspection.npz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"inspection.npz is damaged \(.*; inspect again"):
        Inspection.load(tmp_path)
    (tmp_path / "inspection.npz").write_bytes(whole)
    (tmp_path / "inspection.json").write_text("[5]")
    with pytest.raises(ValueError, match=r"inspection.json is no Summary: it holds \[5\]"):
        Inspection.load(tmp_path)
    (tmp_path / "inspection.json").unlink()
    with pytest.raises(ValueError, match="has no inspection.json; whorl inspect"):
        Inspection.load(tmp_path)


LEFT = SUMMARY["out_of_range"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"out_of_range": {**LEFT, "multiples": [1, 2, 4]}},
            r"out_of_range: layer 0 must have a departure at each of 3 multiples, got 2",
        ),
        (
            {"out_of_range": {**LEFT, "pairs": [{**LEFT["pairs"][0], "departure": []}]}},
            r"out_of_range: layer 0 must have a departure at each of 2 multiples, got 0",
        ),
    ],
)
def test_departures_that_are_not_of_the_multiples_are_damaged(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^FILE is damaged, {message}; restore it"):
        Summary.from_json(SUMMARY | changed, "FILE")
