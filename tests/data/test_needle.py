"""A needle in a text: where the number stands, and that what is asked for is what was stated, in every tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runtimes.exports import trained
from whorl.data.corpus import train_tokenizer
from whorl.data.needle import NAMES, continued, prompt


@pytest.fixture(scope="module")
def tokenizer():
    source = Path(sys.modules["json"].__file__).parents[1]  # type: ignore[type-var, arg-type]
    return train_tokenizer([(source / f"{n}.py").read_text() for n in ("argparse", "ast")], 300)


@pytest.fixture(scope="module")
def filler(tokenizer) -> list[int]:
    return tokenizer("so it goes, on and on. " * 200, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_number_stands_where_it_should(tokenizer, filler: list[int], depth: float) -> None:
    ids, answer = prompt(tokenizer, filler, 300, depth, seed=3)
    assert ids.shape == (300,)
    text = tokenizer.decode(ids)
    number = tokenizer.decode(ids[-answer:]).strip()
    assert number.isdigit()
    assert text.count(number) == 2
    assert text.endswith(f"The secret number of {NAMES[3]} is {number}")
    before = tokenizer(text[: text.index(f"The secret number of {NAMES[3]} is {number}.")])["input_ids"]
    assert abs(len(before) / 300 - depth * 0.75) < 0.15
    blank, _ = prompt(tokenizer, filler, 300, depth, seed=3, stated=False)
    assert tokenizer.decode(blank).count(number) == 1
    assert blank.shape == (300,)
    with pytest.raises(ValueError, match="20 tokens do not hold a statement and a question"):
        prompt(tokenizer, filler, 20, depth, seed=3)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "sentencepiece"])
def test_what_goes_on_has_the_tokens_that_it_has_in_a_text(kind: str) -> None:
    """SentencePiece puts a space before any text: by itself the number would begin with another token. (The small one
    joins what ends a word with the space behind it, so that more goes on than the number.)"""
    tokenizer = trained(kind)
    begun, more = continued(tokenizer, "\nThe secret number of Oslo is", " 48213")
    stated = tokenizer("\nThe secret number of Oslo is 48213.", add_special_tokens=False)["input_ids"]
    assert [*begun, *more] == stated[: len(begun) + len(more)]
    assert tokenizer.decode(more).strip() == ("is 48213" if kind == "sentencepiece" else "48213")
    apart = tokenizer(" 48213", add_special_tokens=False)["input_ids"]
    assert (more == apart) == (kind != "sentencepiece"), "as it was before, where there is no such space"
