"""The first tier holds every value of every parameter of a matrix, and the two tiers are everything."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

from tests.tiers import covering

MATRIX = """
import pytest

PAIRS = [(family, encoding) for family in "abcdefg" for encoding in ("rope", "alibi", "nope")]

@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    return request.param

@pytest.mark.matrix(times=2)
@pytest.mark.parametrize("dtype", [1, 2])
def test_all(pair, dtype):
    pass

def test_no_matrix(pair):
    pass

@pytest.mark.full
def test_slow():
    pass
"""


def test_every_value_occurs_as_often_as_asked() -> None:
    cases = [*product("abcdefg", (1, 2, 3), (None, True)), ("once", 1, None)]
    for times in (1, 2, 5):
        chosen = [cases[at] for at in covering(cases, times)]
        for column in range(3):
            for value in {case[column] for case in cases}:
                occurs = sum(case[column] == value for case in cases)
                assert sum(case[column] == value for case in chosen) >= min(times, occurs)
        assert len(chosen) <= times * 8 + 2
    assert covering([], 1) == set()


def test_the_tiers_are_everything(tmp_path: Path) -> None:
    file = tmp_path / "test_matrix.py"
    file.write_text(MATRIX)
    command = [sys.executable, "-m", "pytest", "-p", "tests.tiers", "--collect-only", "-q", f"--rootdir={tmp_path}"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def collected(chosen: str) -> set[str]:
        done = subprocess.run(
            [*command, "-m", chosen, str(file)],
            capture_output=True, text=True, cwd=Path(__file__).parents[1], env=environment,
        )  # fmt: skip
        return {line for line in done.stdout.splitlines() if "::" in line}

    first, second = collected("not full"), collected("full")
    assert len(first) + len(second) == len(first | second) == 7 * 3 * 2 + 7 * 3 + 1
    few = {name for name in first if "test_all" in name}
    assert 14 <= len(few) <= 16
    for value in (*(f"[{family}-" for family in "abcdefg"), "-rope-", "-alibi-", "-nope-", "-1]", "-2]"):
        assert sum(value in name for name in few) >= 2, value
    assert len(first - few) == 21
