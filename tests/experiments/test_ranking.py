"""The ranking over all parts of a study, on small made-up results of which every rank can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.experiments import comparison, script, shares
from whorl.results.comparison import Comparison

ranking, studies, evidence, study = script("ranking"), script("studies"), script("evidence"), script("study")
FOLDER = "0012-length-generalization"
Trials = dict[str, list[Any]]


def right(*shares_: float) -> list[dict[str, Any]]:
    """In range, and at twice the training length."""
    return shares(*shares_, key="token_accuracy")


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes parts of the study, and reads them all."""

    def write(**parts: Trials | SimpleNamespace) -> dict[str, Comparison]:
        for name, trials in parts.items():
            task = "parity" if name == "parity" else "copy-items"
            options: dict[str, Any] = {"data": {"task": task, "version": 1, "vocab_size": 8}}
            if isinstance(trials, SimpleNamespace):
                trials, options = trials.trials, options | trials.options
            comparison(tmp_path / "experiments" / FOLDER / name.replace("_", "-"), trials, task, **options)
        folder = tmp_path / "experiments" / FOLDER
        return {name: Comparison.read(folder / name / "results.json") for name in (p.replace("_", "-") for p in parts)}

    return write


def test_ranks_are_taken_in_each_cell_and_equal_ones_share_theirs(written: Any) -> None:
    found = ranking.overall(
        written(
            copy={
                "nope": [right(1, 0.6), right(1, 0.5)],
                "t5": [right(1, 0.5), right(1, 0.6)],
                "rope": [right(1, 0)] * 2,
            },
            reverse={"nope": [right(1, 0.2)] * 2, "t5": [right(1, 0)] * 2, "rope": [right(1, 0)] * 2},
        )
    )
    assert found.tasks == ("copy", "reverse")
    assert found.reciprocal["nope"].tolist() == [[1, 1], [1 / 2, 1]]
    assert found.reciprocal["t5"].tolist() == [[1 / 2, 1 / 2.5], [1, 1 / 2.5]]
    assert found.reciprocal["rope"].tolist() == [[1 / 3, 1 / 2.5]] * 2
    assert found.names == ["nope", "t5", "rope"]
    assert found.mean("nope") == 3.5 / 4
    middle, low, high = found.ahead("nope", "t5")
    assert low < 0 < high, "two seeds that disagree on one of two tasks resolve nothing"
    assert middle == pytest.approx(3.5 / 4 - 2.3 / 4)


def test_what_was_not_learnt_in_range_comes_last_and_a_task_that_none_learnt_is_left_out(written: Any) -> None:
    found = ranking.overall(
        written(
            copy={"nope": [right(0.5, 0.9)] * 2, "t5": [right(1, 0.1)] * 2, "rope": [right(0.6, 0.4)] * 2},
            reverse={name: [right(0.2, 0.1)] * 2 for name in ("nope", "t5", "rope")},
        )
    )
    assert found.tasks == ("copy",)
    assert found.unlearnt == ("reverse",)
    assert found.reciprocal["t5"].tolist() == [[1], [1]]
    assert found.reciprocal["nope"].tolist() == found.reciprocal["rope"].tolist() == [[1 / 2.5]] * 2
    assert found.learnt["copy"] == {"nope": 0, "t5": 2, "rope": 0}


def test_what_is_no_better_than_guessing_is_equal(written: Any) -> None:
    """0.55 of 20 answers with chance 0.5 is no success, and no better than 0.5; 0.95 is."""
    guessing = [{"length": length, "exact_match": 0.5} for length in (128, 256)]
    data = {"task": "parity", "version": 1, "vocab_size": 8, "guessing": guessing}
    trials = {"nope": [right(1, 0.55)], "t5": [right(1, 0.5)], "rope": [right(1, 0.4)], "fox": [right(1, 0.95)]}
    found = ranking.overall(written(parity=SimpleNamespace(trials=trials, options={"data": data})))
    assert found.reciprocal["fox"].tolist() == [[1]]
    assert found.reciprocal["nope"].tolist() == found.reciprocal["rope"].tolist() == [[1 / 3]]


def test_an_encoding_that_failed_diverged_or_is_missing_is_not_ranked(written: Any) -> None:
    whole = [right(1, 0.5)] * 2
    failures = [{"id": "x", "notation": "fox", "seed": 1, "error": "killed"}]
    copy = {"nope": whole, "t5": whole, "rope": [right(1, 0.9), None], "fox": [right(1, 0.9), None], "alibi": whole}
    reverse = {**dict.fromkeys(copy, whole), "alibi": [right(1, 0.9), right(1, float("nan"))]}
    found = ranking.overall(written(copy=SimpleNamespace(trials=copy, options={"failures": failures}), reverse=reverse))
    assert found.names == ["nope", "t5"]
    assert found.left_out == {"rope": "not finished in copy", "fox": "failed in copy", "alibi": "diverged in reverse"}
    assert ranking.overall(written(copy={"nope": whole})).reciprocal == {}, "one alone has no rank"


def test_a_seed_counts_where_every_task_that_was_run_has_it(written: Any) -> None:
    one, two = [right(1, 0.5)], [right(1, 0.5)] * 2
    found = ranking.overall(written(copy={"nope": two, "t5": two}, reverse={"nope": one, "t5": one}))
    assert found.seeds == (0,)
    assert found.ahead("nope", "t5") is None, "one seed: no interval"


def ranked(nope: float, t5: float) -> dict[str, Trials]:
    """Every part of the study, three seeds; the paper's five and two more."""
    order = {"nope": nope, "t5": t5, "alibi": 0.3, "partial-rope": 0.2, "sinusoidal": 0.1, "rope": 0.05, "hope": 0.04}
    trials = {name: [right(1, share)] * 3 for name, share in order.items()}
    return {part.replace("-", "_"): trials for part in studies.STUDIES["length-generalization"].parts}


def test_whether_nope_is_first(written: Any, tmp_path: Path) -> None:
    first = evidence.First("nope", "length-generalization", studies.FIVE)
    assert first.line(evidence.Known(tmp_path)).verdict == evidence.Verdict.MISSING
    for nope, t5, verdict in ((0.5, 0.4, "FOR"), (0.4, 0.5, "AGAINST"), (0.4, 0.4, "OPEN")):
        written(**ranked(nope, t5))
        line = first.line(evidence.Known(tmp_path))
        assert line.verdict == evidence.Verdict[verdict], line.words
    assert "over 6 of 6 tasks: `nope` 0.67, `t5` 0.67, `alibi` 0.33" in line.words
    assert "; `nope` less `t5` not resolved (0.00 to 0.00), less `alibi` 0.33 (0.33 to 0.33)" in line.words
    assert line.words.endswith("three seeds ([ranking.md](experiments/0012-length-generalization/ranking.md))")


def test_the_report_has_the_paper_beside_it(written: Any, tmp_path: Path) -> None:
    written(**ranked(0.5, 0.4))
    one = studies.STUDIES["length-generalization"]
    places = study.Places(tmp_path / "experiments", tmp_path / "runs")
    study.rank(one, places)
    told = (places.experiments / FOLDER / "ranking.md").read_text(encoding="utf-8")
    assert told.count("The paper's encodings alone, over ") == 1, "which the page of claims cites"
    assert "| `nope` | 1.00 | – |\n| `t5` | 0.50 | 0.50 (0.50 to 0.50) |" in told
    assert "| `nope` | 50.0 % (3) | 50.0 % (3) |" in told
    assert "| `sinusoidal`, the paper's | 3.4 % | 0.0 % | 2.3 % | – | – | 5.7 % |" in told
    # Of copy, copy-rsc, reverse and scan by the paper's shares, T5 is first in three and NoPE in one.
    assert "Tasks: copy, copy-rsc, reverse and scan." in told
    assert "| `nope` | 1.00 | 0.58 | 0.687 |\n| `t5` | 0.50 | 0.88 | 0.549 |" in told

    path = places.experiments / FOLDER / "scan" / "results.json"
    partial = json.loads(path.read_text())
    partial["trials"] = [trial for trial in partial["trials"] if trial["notation"] != "hope"]
    path.write_text(json.dumps(partial))
    study.rank(one, places)
    told = (places.experiments / FOLDER / "ranking.md").read_text(encoding="utf-8")
    assert "Not ranked: `hope` (not finished in scan)." in told
    path.unlink()
    study.rank(one, places)
    told = (places.experiments / FOLDER / "ranking.md").read_text(encoding="utf-8")
    assert "Not measured yet: scan." in told


def test_the_papers_numbers_are_of_parts_and_encodings_of_the_study() -> None:
    one = studies.STUDIES["length-generalization"]
    assert set(one.beside.shares) < set(one.parts)
    for part in one.parts.values():
        assert set(studies.FIVE) <= set(part.encodings)
    assert all(set(by_name) == set(studies.FIVE) == set(one.beside.reported) for by_name in one.beside.shares.values())
