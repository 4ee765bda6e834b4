"""The float64 formulas, against the stock code."""

from __future__ import annotations

from typing import Any

import pytest

from whorl.diagnosis.meaning import Sizes, meant
from whorl.diagnosis.reading import measured
from whorl.testing import tiny_model

from . import LONGROPE, SCALED, rope, rotary


@pytest.mark.parametrize("settings", [*SCALED, LONGROPE], ids=lambda s: s["rope_type"])
def test_what_settings_mean_is_what_stock_code_makes_of_them(settings: dict[str, Any]) -> None:
    model = tiny_model("llama", **rope(settings))
    done, _ = measured(rotary(model), "")
    meaning = meant(model.config.rope_parameters, Sizes(16, 64))
    assert done.frequencies == pytest.approx(meaning.frequencies, rel=2e-6)
    assert done.amplitude == pytest.approx(meaning.amplitude, rel=1e-6)
