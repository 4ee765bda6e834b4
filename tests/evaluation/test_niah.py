"""Niah: depths, and what a model that looks a number up finds."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from tests.evaluation import VOCABULARY, answering, looks_up, material
from whorl.evaluation.niah import Niah


def test_needles_stand_at_depths_that_are_evenly_spread(text: Path) -> None:
    found = material(text, longest=400, sequences=5)
    probe = Niah(found)
    places = []
    for i in range(5):
        ids, answer = probe.sequence(400, i)
        assert ids.shape == (400,)
        said = found.tokenizer.decode(ids)
        number = said.rpartition(" ")[2]
        assert number == found.tokenizer.decode(ids[-answer:]).strip()
        assert said.count(number) == 2
        assert found.tokenizer.decode(probe.sequence(400, i, stated=False)[0]).count(number) == 1
        places.append(len(found.ids(said[: said.index(number)])) / 400)
    assert places == sorted(places)
    steps = [b - a for a, b in pairwise(places)]
    assert max(steps) - min(steps) < 0.08
    assert f"{number}.\n\nThe secret number of" in said, "the last one right before the question"
    with pytest.raises(ValueError, match="30 tokens do not hold a statement and a question"):
        probe.sequence(30, 0)


def test_a_model_finds_what_stands_no_further_back_than_it_looks(text: Path) -> None:
    probe = Niah(material(text, longest=400, sequences=6))
    told: list[int] = []
    row = probe.measure(answering(looks_up(8, reach=230)), 400, told.append).row
    assert (row.values["early"], row.values["late"]) == (0, 1), "how far back the needle of a third stands"
    assert row.values["found"] == pytest.approx(sum(row.samples) / 6)
    assert (len(row.samples), sum(told)) == (6, 6)
    everywhere = probe.measure(answering(looks_up(8)), 400, told.append).row
    assert everywhere.values["found"] == 1
    assert everywhere.values["loss"] < 0.01 < everywhere.values["unstated"]
    nothing = probe.measure(answering(lambda ids, place: None), 400, told.append).row
    assert nothing.values["found"] == 0
    assert nothing.values["loss"] == pytest.approx(math.log(VOCABULARY), rel=1e-3)
    assert nothing.values["loss"] == pytest.approx(nothing.values["unstated"])


def test_few_sequences_have_no_thirds_that_are_empty(text: Path) -> None:
    row = Niah(material(text, sequences=1)).measure(answering(lambda ids, place: None), 256, lambda done: None).row
    assert "late" not in row.values
    assert all(map(math.isfinite, row.values.values()))
