"""What the report says of small models, held against arrays and JSON; and that a number that is wrong would be seen."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import whorl
from tests.inspection import sentences
from tests.inspection.sentences import Wrong, check
from tests.inspection.test_planted import planted, text
from whorl.results.inspection import Inspection
from whorl.testing import peaked, tiny_model

IDS = torch.randint(3, 97, (4, 64), generator=torch.Generator().manual_seed(0))


def tiny(name: str, notation: str = "", ids: torch.Tensor = IDS, **how: Any) -> Inspection:
    torch.manual_seed(0)
    model = peaked(tiny_model(name)).eval()
    if notation:
        whorl.attach(model, notation)
    return whorl.inspect(model, ids, **{"random_windows": 4, **how})


MODELS = {
    "shorter than its training": lambda: tiny("llama", train_length=256),
    "of its training length": lambda: tiny("llama", train_length=64),
    "past its training": lambda: tiny("llama", train_length=16, ablate=True),
    "local and global layers": lambda: tiny("gemma3_text", train_length=64),
    "local and global layers, past": lambda: tiny("gemma3_text", train_length=32),
    "some layers": lambda: tiny("llama", train_length=32, layers=[0, 2]),
    "without random tokens": lambda: tiny("llama", train_length=64, random_windows=0),
    "one window": lambda: tiny("llama", ids=IDS[:1], train_length=64),
    "gates and scales": lambda: tiny("llama", "rope+fox+ssmax", train_length=16),
    "no pairs": lambda: tiny("llama", "alibi", train_length=32),
    "planted heads": lambda: whorl.inspect(planted(), text(), random_windows=4),
    "a planted offset": lambda: whorl.inspect(planted(offset=3, pair=1), text(), random_windows=4),
}
found: dict[str, Inspection] = {}


def inspected(name: str) -> Inspection:
    if name not in found:
        found[name] = MODELS[name]()
    return found[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_sentence_is_known_and_says_what_arrays_and_json_say(name: str) -> None:
    m = inspected(name)
    told = sentences.sentences(m)
    assert len(told) > 2
    for each in told:
        check(m, each)


@pytest.mark.parametrize("name", MODELS)
def test_a_number_that_is_wrong_is_seen(name: str) -> None:
    """Each number of each sentence in turn, its last digit one more; a layer, a pair and a count as well."""
    m = inspected(name)
    for told in sentences.sentences(m):
        for number in re.finditer(r"\d+(?:,\d{3})*(?:\.\d+)?", told):
            if told[number.start() - 1 : number.start()] == "." or number[0] in KEPT.get(word_after(told, number), ()):
                continue
            last = int(number[0][-1])
            wrong = told[: number.end() - 1] + str((last + 1) % 10) + told[number.end() :]
            with pytest.raises(Wrong):
                check(m, wrong)


KEPT = {"nats": ("0.69",), "nats.": ("0.69",), "than": ("0.005",)}
"""What is no number of the model's, by the word after it."""


def word_after(told: str, number: re.Match[str]) -> str:
    return (told[number.end() :].split() or [""])[0]


def test_a_sentence_that_no_one_knows_is_wrong() -> None:
    m = inspected("of its training length")
    for told in ("Slow pairs are used most.", "Pairs 1 and 2 make 540 % of the U-shape on the text."):
        with pytest.raises(Wrong):
            check(m, told)
