from __future__ import annotations

import difflib

import pytest

from whorl.registry import look_up

KNOWN = {"get-close-matches": "difflib:get_close_matches", "b": "no.such.module:B"}


def test_a_name_is_imported_when_it_is_asked_for() -> None:
    assert look_up("thing", "get-close-matches", KNOWN, "try b") is difflib.get_close_matches


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("get_Close_matchs", r"unknown thing 'get_Close_matchs'; did you mean 'get-close-matches'\?$"),
        ("zzz", r"unknown thing 'zzz'; try b \(known: get-close-matches, b\)$"),
        (None, "unknown thing None; try b "),
        (["b"], r"unknown thing \['b'\]"),
    ],
)
def test_what_is_not_there_is_said_with_what_may_have_been_meant(name: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        look_up("thing", name, KNOWN, "try b")  # type: ignore[arg-type]
