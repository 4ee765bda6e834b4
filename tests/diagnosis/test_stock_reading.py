"""A directory that says its encoding in stock terms too is examined as both of its readers read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import whorl
from whorl.diagnosis import CHECKS, doctor
from whorl.testing import tiny_model

OF_STOCK = ("initialised", "precision", "angles", "settings", "ignored", "theta", "attention-factor")


@pytest.fixture
def extended(tmp_path: Path) -> Path:
    model = whorl.attach(tiny_model("llama", max_position_embeddings=64), "rope~yarn:factor=4,original=16")
    model.save_pretrained(tmp_path)
    return tmp_path


def test_checks_of_settings_and_tables_are_asked_of_stock(extended: Path) -> None:
    told: list[tuple[str, int]] = []
    found = doctor(extended, advance=lambda check, of: told.append((check, of)))
    assert found.healthy, str(found)
    for check in OF_STOCK:
        assert found[check].status == "pass", check
        assert found[check].measured.startswith("as stock reads it: "), check
    assert found["cache"].status == "pass"
    assert "stock" not in found["cache"].measured
    assert told == [(check.title, len(CHECKS)) for check in CHECKS]


def test_a_stock_reading_that_does_not_reach_the_declared_length_fails(extended: Path) -> None:
    config = json.loads((extended / "config.json").read_text())
    (extended / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    found = doctor(extended)
    assert found.failed == ("length",), str(found)
    assert found["length"].measured.startswith("as stock reads it: yarn x 4 reaches from 16 to 64 tokens")


def test_a_model_object_keeps_its_encoding() -> None:
    model = whorl.attach(tiny_model("llama"), "rope~yarn:factor=4,original=16")
    assert doctor(model)["precision"].status == "n/a"
    assert whorl.attached(model) is not None
