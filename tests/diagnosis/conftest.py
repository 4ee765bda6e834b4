"""Directories to examine: a tiny model's, and a real one's with a text that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from whorl.testing import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def babyllama(shared: Path) -> Path:
    return shared / "fixtures" / "babyllama-tok105"


@pytest.fixture(scope="module")
def story(shared: Path, babyllama: Path) -> torch.Tensor:
    from transformers import AutoTokenizer

    text = (shared / "fixtures" / "text" / "tinystories_sample.txt").read_text()
    return torch.tensor(AutoTokenizer.from_pretrained(babyllama)(text)["input_ids"])
