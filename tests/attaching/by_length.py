"""Spectra that depend on the length of the context: models that have them, for several test files."""

from __future__ import annotations

from typing import Any

import pytest

from whorl.encodings.frequencies import Frequencies
from whorl.testing import tiny_model

LENGTH, ORIGINAL = 40, 16
SHORT, LONG = "1@1@1.05@1.1@1.2@1.3@1.4@1.5", "1.1@1.5@2@2.5@3@4@5@6"
DYNAMIC = f"rope:base=10000~dynamic-ntk:factor=4,original={ORIGINAL}"  # in steps of 4 tokens: 7 spectra within 40
EXACT = f"{DYNAMIC},step=1"  # as stock has it
LONGROPE = f"rope:base=10000~longrope:short_factor={SHORT},long_factor={LONG},factor=4,original={ORIGINAL}"
COMPOSED = (
    f"hope:train_length={ORIGINAL}~dynamic-ntk:factor=8",
    f"p-rope:p=0.5~longrope:short_factor={SHORT},long_factor={LONG},attention_factor=1.25,original={ORIGINAL}",
    f"{DYNAMIC}+window:size=9/nope",
    f"{LONGROPE}+alibi",
    f"{DYNAMIC}~linear:factor=2/rope",
)
FOUR = ("llama", "qwen3", "gpt_neox", "phi3")
PAIRS = [(f, e) for f in FOUR for e in (DYNAMIC, LONGROPE)]
EVERY = [*PAIRS, *((f, e) for f, e in zip(FOUR * 2, COMPOSED, strict=False))]


def four_layers(family: str, **overrides: Any) -> Any:
    return tiny_model(family, num_hidden_layers=4, **overrides)


def pairs(which: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", which, ids=[f"{f}-{e[:28]}" for f, e in which], indirect=True)


def fixed(spectrum: Any) -> Frequencies:
    """The encoding that has this spectrum at every length."""
    return Frequencies(spectrum.frequencies, spectrum.amplitude)
