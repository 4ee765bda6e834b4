"""A trained model for the tests that change one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import texts

import whorl

LENGTH = 32


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished trial of rope, and the text that it was trained on."""
    folder = tmp_path_factory.mktemp("trial")
    text = texts.lay(folder / "text")
    how = {"train_length": LENGTH, "lengths": ("1x",), "tokens": 20 * 8 * LENGTH, "batch_size": 8, "tail": 8}
    whorl.compare(["rope"], out=folder / "run", text=str(text), windows=4, quiet=True, precision="fp32", **how)
    return next((folder / "run" / "trials").iterdir()), str(text)
