"""What the documents name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_tests_that_a_page_names_are_there(page: Path) -> None:
    """By path, with tests/ before it or without, and by the beginning of a test's name."""
    for path, name in re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)(?:::(\w+?)(?:\.\.\.)?)?`", page.read_text("utf-8")):
        file = ROOT / "tests" / path
        assert file.exists(), f"{page.name} names {path}"
        assert not name or f"def {name}" in file.read_text("utf-8"), f"{page.name} names {path}::{name}"
