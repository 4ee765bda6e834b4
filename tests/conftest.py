"""Shared by all tests: two threads at most, no network, and where the fixtures lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import texts
from tests.tiers import pytest_collection_modifyitems  # noqa: F401

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels run on the CPU, slowly, before it is imported

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures beside the checkout; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no fixtures: {SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def pins(shared: Path) -> dict[str, dict]:
    """Values that other projects' tests pin, by name."""
    cases = json.loads((shared / "pins" / "peer_values.json").read_text())
    return {case["name"]: case for case in cases}


@pytest.fixture(scope="session")
def method_pins(shared: Path) -> dict[str, dict]:
    """Values of the encodings of 2021 to 2026 on one tiny input (`pinned_qkv` in tests/encodings/attended.py)."""
    return json.loads((shared / "pins" / "encodings_2021_2026.json").read_text())


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of real source files, from the standard library."""
    return texts.lay(tmp_path_factory.mktemp("text"))
