"""What encodings ask for that a host would have said."""

from __future__ import annotations

import re

import pytest

from whorl.encodings import Shape, parse

LENGTH = "the length that the model is trained at"


@pytest.mark.parametrize(
    ("name", "what", "python", "example"),
    [
        ("hope", LENGTH, "HoPE(train_length=4096)", "train_length=4096"),
        ("fope", LENGTH, "FoPE(train_length=4096)", "train_length=4096"),
        ("darope", LENGTH, "DaRoPE(train_length=4096)", "train_length=4096"),
        ("learned", "the size of its table", "Learned(max_positions=1024)", "max_positions=1024"),
        ("learned-2d", "the grid of patches that its table is of", "Learned2D(grid=(14, 14))", "grid=14@14"),
        ("hope-2d", "the grid of patches that the model is trained at", "HoPE2D(grid=(14, 14))", "grid=14@14"),
    ],
)
def test_what_is_missing_is_said_with_an_example(name: str, what: str, python: str, example: str) -> None:
    words = f"{name} needs {what}, and none was given; try {python}, or {name}:{example} on the command line"
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(name).effects(Shape(8, 3, 16, bidirectional=True, axes=2))
