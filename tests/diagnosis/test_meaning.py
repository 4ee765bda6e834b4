"""What settings mean, against the stock code."""

from __future__ import annotations

from typing import Any

import pytest

from whorl.diagnosis import doctor
from whorl.diagnosis.meaning import Sizes, meant
from whorl.diagnosis.reading import measured
from whorl.testing import tiny_model

from . import LONGROPE, SCALED, YARN, rope, rotary


@pytest.mark.parametrize("settings", [*SCALED, LONGROPE], ids=lambda s: s["rope_type"])
def test_what_settings_mean_is_what_stock_code_makes_of_them(settings: dict[str, Any]) -> None:
    model = tiny_model("llama", **rope(settings))
    done, _ = measured(rotary(model), "")
    meaning = meant(model.config.rope_parameters, Sizes(16, 64))
    assert done.frequencies == pytest.approx(meaning.frequencies, rel=2e-6)
    assert done.amplitude == pytest.approx(meaning.amplitude, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 0.5}, "factor must be a finite number of at least 1"),
        ({"rope_type": "default", "rope_theta": 1.0}, "base must be a finite number above 1, got 1.0"),
        ({**YARN, "beta_fast": 0.5}, "beta_fast must not be below beta_slow"),
    ],
)
def test_settings_that_no_encoding_says_are_held_against_stock_code(settings: dict[str, Any], words: str) -> None:
    model = tiny_model("llama", **rope(settings))
    found = doctor(model)
    assert found.healthy, str(found)
    assert f"as stock code builds it from settings that no encoding says: {words}" in found["settings"].measured
    rotary(model).inv_freq.mul_(1.01)
    assert doctor(model).failed == ("settings",)


def test_a_long_list_is_meant_past_the_original_length_only() -> None:
    sizes = Sizes(16, 64)
    within, past = meant(LONGROPE, sizes, 32), meant(LONGROPE, sizes, 33)
    assert within is not None
    assert past is not None
    assert within.frequencies == pytest.approx(4 * past.frequencies, rel=1e-15)
