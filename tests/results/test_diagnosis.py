"""A diagnosis in Python and as JSON."""

import pytest

from whorl.results.diagnosis import Diagnosis, Finding

FOUND = Diagnosis(
    "path/to/model",
    (
        Finding("runs", "The model gives finite logits", "pass", "logits up to 3", "why", "what"),
        Finding("theta", "theta is said once", "fail", "it is said twice", "why", "what"),
    ),
)


def test_it_comes_back_and_says_whether_the_model_is_healthy() -> None:
    assert FOUND.failed == ("theta",)
    assert FOUND["theta"].measured == "it is said twice"
    stored = FOUND.to_json()
    assert stored["healthy"] is False
    assert Diagnosis.from_json(stored) == FOUND
    del stored["schema"]
    assert Diagnosis.from_json(stored) == FOUND, "as earlier versions printed it"
    with pytest.raises(ValueError, match=r"it has no findings\[0\].check"):
        Diagnosis.from_json({"model": "a", "findings": [{}]}, "findings.json")


def test_it_is_shown_as_lines() -> None:
    assert repr(FOUND) == str(FOUND)
    assert str(FOUND).splitlines() == [
        "path/to/model: fails theta",
        "  pass      runs             logits up to 3",
        "  fail      theta            it is said twice",
    ]
    assert "path/to/model: fails theta" in FOUND._repr_html_()
    assert [row["check"] for row in FOUND.records()] == ["runs", "theta"]


def test_findings_are_read_by_check_as_from_a_dict() -> None:
    assert dict(FOUND) == {"runs": FOUND.findings[0], "theta": FOUND.findings[1]}
    assert ("theta" in FOUND, "precision" in FOUND, FOUND.get("precision")) == (True, False, None)
    with pytest.raises(ValueError, match="no check 'precision'; there are runs, theta"):
        FOUND["precision"]
