"""What other projects' generators give, for the tests of tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def task_pins(shared: Path) -> dict[str, Any]:
    """Strings and counts of the generators of the papers, by project."""
    return json.loads((shared / "pins" / "tasks.json").read_text())
