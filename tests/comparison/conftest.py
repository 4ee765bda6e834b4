"""A small real text for the tests of comparisons."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of real source files, from the standard library."""
    folder = tmp_path_factory.mktemp("text")
    for name in ("argparse", "ast", "bdb", "calendar", "cmd", "csv", "difflib", "dis", "enum", "heapq", "pdb", "uuid"):
        source = Path(sys.modules["json"].__file__).parents[1] / f"{name}.py"  # type: ignore[type-var, arg-type]
        (folder / f"{name}.txt").write_text(source.read_text())
    return folder
