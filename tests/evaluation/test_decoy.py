"""Decoy: what stands where, and what models score that bind names, go by what is near, or cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation import answering, material
from tests.runtimes.exports import trained
from whorl.evaluation.base import Material
from whorl.evaluation.decoy import NAMES, WORDS, Decoy, asks_first

LENGTH = 220


@pytest.fixture(scope="module")
def probe(text: Path) -> Decoy:
    return Decoy(material(text, longest=400, sequences=6))


def words_of(text: str) -> dict[str, str]:
    """The words of what is stated, by the names."""
    parts = [part.split(".")[0].split(" = ") for part in text.split("\n") if " report: codeword = " in part]
    return {name.removesuffix(" report: codeword").split()[-1]: word for name, word in parts}


def test_each_draw_is_asked_four_times(probe: Decoy) -> None:
    assert probe.steps == 8, "whole fours"
    decode = probe.material.tokenizer.decode
    seen = []
    for i in range(4):
        ids, right, other = probe.sequence(LENGTH, i)
        assert ids.shape == (LENGTH,)
        said = decode(ids)
        first, last = words_of(said).items()
        asked = said.rpartition("Summary of ")[2].partition(":")[0]
        assert asked == (first if asks_first(i) else last)[0]
        assert said.startswith(f"<|endoftext|>\n{first[0]}")
        assert said.count("\n", said.rindex(f"{last[0]} report")) == 2, "the decoy stands right before the question"
        goes_on = (first if asks_first(i) else last)[1]
        assert f" {goes_on}".startswith(said.rpartition("=")[2] + decode([right]))
        assert right != other
        seen.append((first, last, asked))
    (a, b, _), (c, d, _), (e, f, _), _ = seen
    assert (a, b) == (c, d)
    assert (e, f) == ((a[0], b[1]), (b[0], a[1])), "the words are swapped"
    assert len({probe.sequence(LENGTH, i)[0].tolist()[5] for i in range(8)}) > 1
    with pytest.raises(ValueError, match="30 tokens do not hold two statements and a question of"):
        probe.sequence(30, 0)


def test_every_pair_of_words_differs_in_a_token_in_every_tokenizer(text: Path) -> None:
    windows = material(text).windows
    for kind in ("gpt-2", "sentencepiece"):
        probe = Decoy(Material(trained(kind), windows, 4, 8, 0))
        for right in WORDS:
            for other in set(WORDS) - {right}:
                asked, a, b = probe._question(NAMES[0], right, other)
                assert a != b
                whole = probe.material.ids(f"\nSummary of {NAMES[0]}: codeword = {right}")
                assert whole[: len(asked) + 1] == [*asked, a]


def answers(probe: Decoy, name_of: Callable[[str, list[str]], str]) -> dict[str, float]:
    """The row of a model that answers with the word of the name that `name_of` chooses, by the one that is asked."""
    decode, ids_of = probe.material.tokenizer.decode, probe.material.ids

    def next_token(ids: list[int], place: int) -> int | None:
        if place < LENGTH - 1:
            return None
        said = decode(ids)
        stated = words_of(said)
        asked = said.rpartition("Summary of ")[2].partition(":")[0]
        start = len(ids_of(said[said.rindex("\nSummary of ") :]))
        return ids_of(f"\nSummary of {asked}: codeword = {stated[name_of(asked, list(stated))]}")[start]

    return probe.measure(answering(next_token), LENGTH, lambda done: None).row.values


def test_a_model_that_binds_names_has_all(probe: Decoy) -> None:
    found = answers(probe, lambda asked, stated: asked)
    assert (found["prefers"], found["nearest"]) == (1, 1)
    assert found["margin"] == pytest.approx(20)


def test_one_that_goes_by_what_is_near_has_none_and_the_control_says_so(probe: Decoy) -> None:
    found = answers(probe, lambda asked, stated: stated[-1])
    assert (found["prefers"], found["nearest"]) == (0, 1)
    assert found["margin"] == pytest.approx(-20)


def test_one_that_likes_some_words_better_has_chance(probe: Decoy) -> None:
    """It takes the word that is first by the alphabet, wherever it stands: right exactly half of the time."""
    decode, ids_of = probe.material.tokenizer.decode, probe.material.ids

    def next_token(ids: list[int], place: int) -> int | None:
        if place < LENGTH - 1:
            return None
        said = decode(ids)
        question = said[said.rindex("\nSummary of ") :]
        word = min(words_of(said).values())
        whole = question if question.endswith(" ") else f"{question} "
        return ids_of(whole.rpartition("=")[0] + f"= {word}")[len(ids_of(question))]

    row = probe.measure(answering(next_token), LENGTH, lambda done: None).row
    assert (row.values["prefers"], row.values["nearest"]) == (0.5, 0.5)
    assert row.values["margin"] == pytest.approx(0)
    assert row.sequences == 4
