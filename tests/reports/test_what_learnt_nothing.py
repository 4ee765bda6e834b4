"""That an encoding learnt nothing is said wherever its numbers are; a perplexity past all sense breaks nothing."""

import io
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import report_samples as samples

from whorl.comparison.display import Display
from whorl.console import console
from whorl.reports.comparison import unlearnt, write


def language(unigram: float = 25.0) -> dict[str, Any]:
    rows = [{"length": n, "tail": unigram} for n in samples.LENGTHS]
    return samples.language(data={"task": "language", "version": 1, "vocab_size": 1024, "unigram": rows})


def on_a_terminal(data: dict[str, Any]) -> str:
    shown = io.StringIO()
    Display(console(file=shown, width=300)).finish(samples.read(data), Path("out"))
    return shown.getvalue()


NOPE = (
    "In range, nope is not below a unigram model, which knows how often each token occurs and nothing else (25.0), and "
    "not compared."
)


def test_what_is_not_below_a_unigram_model_is_named_below_the_table() -> None:
    data = language()
    assert repr(samples.read(data)).splitlines()[-1] == NOPE
    assert NOPE in on_a_terminal(data)
    assert "No encoding learnt anything from context" in repr(samples.read(language(5.0)))


def test_where_all_have_learnt_there_is_the_table_alone() -> None:
    data = language(100.0)
    assert unlearnt(samples.read(data)) == []
    assert len(repr(samples.read(data)).splitlines()) == 1 + len(samples.TAILS)
    assert "unigram model," not in on_a_terminal(data)


def test_a_task_that_was_not_learnt_is_named_below_the_table() -> None:
    data = samples.copying(rope={128: 0.99, 256: 0.5}, hope={128: 0.2, 256: 0.1})
    told = repr(samples.read(data)).splitlines()[-1]
    assert told.startswith("The copy task was learnt in range")
    assert told.endswith("by rope. The others did not learn it, and their values at longer lengths mean nothing.")
    assert told in on_a_terminal(data)


def test_an_evaluation_of_a_later_version_is_shown_all_the_same() -> None:
    data = samples.language()
    for trial in data["trials"]:
        trial["evaluations"] = {"tomorrow": trial["evaluations"]["perplexity"]}
    assert "tomorrow tail" in repr(samples.read(data))


@pytest.mark.parametrize("value", [1.7e308, 1e160, 1e31, 1e29, 1e7])
@pytest.mark.parametrize("where", [0, -1])
def test_a_huge_perplexity_breaks_nothing(value: float, where: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("whorl.reports.png.png", lambda chart: {})
    data = samples.language((0, 1, 2))
    for trial in data["trials"][:2]:
        trial["evaluations"]["perplexity"][where] |= {"tail": value, "mean": value, "stderr": value}
    found = samples.read(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<table" in found._repr_html_()
        write(found, tmp_path)
        shown = repr(found) + on_a_terminal(data)
    assert not re.search(r"[\d,]{12}", shown), "no number of hundreds of digits"
    cell = found.encodings[0].cell(_tail(), samples.LENGTHS[where])
    assert cell is not None
    assert cell.diverged == ([0, 1] if value > 1e30 else [])
    assert (cell.spread is None) == (value > 1e30)


def _tail() -> Any:
    from whorl.tasks import get

    return get("language").measured()[0]


def test_a_huge_value_stays_as_it_was_measured_in_the_rows() -> None:
    data = samples.language()
    data["trials"][0]["evaluations"]["perplexity"][0]["tail"] = 1e308
    (row, *_) = samples.read(data).trials[0].evaluations["perplexity"]
    assert (row.values["tail"], row.value("tail"), row.value("nothing")) == (1e308, math.inf, None)
