"""Checks of settings and modules, where they are more than a planted fault."""

from __future__ import annotations

import pytest

from whorl.diagnosis import doctor
from whorl.testing import tiny_model

from . import YARN, rope

# A base that is too small is a warning: Llama 2 itself falls short (docs/doctor.md)


@pytest.mark.parametrize(("base", "context", "warns"), [(500.0, 64, True), (1e4, 64, False), (1e4, 256, True)])
def test_a_small_base_is_a_warning(base: float, context: int, warns: bool) -> None:
    settings = rope({"rope_type": "default", "rope_theta": base})
    found = doctor(tiny_model("llama", max_position_embeddings=context, **settings))
    assert found.healthy
    assert (found.having("warn") == ("base",)) == warns, str(found)


def test_a_window_is_as_far_as_the_base_must_reach() -> None:
    wide = tiny_model("mistral", max_position_embeddings=4096, sliding_window=4096)
    assert doctor(wide)["base"].status == "warn"
    assert doctor(tiny_model("mistral", max_position_embeddings=4096))["base"].status == "pass"


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({"original_max_position_embeddings": 6}, "divided"),
        ({"original_max_position_embeddings": 10**6, "rope_theta": 20.0}, "kept"),
    ],
)
def test_yarn_with_no_pair_on_its_ramp_is_a_warning(settings: dict, side: str) -> None:
    found = doctor(tiny_model("llama", **rope({**YARN, **settings}), max_position_embeddings=24))
    assert found.failed == (), str(found)
    assert found["ignored"].status == "warn"
    assert f"all pairs {side}" in found["ignored"].measured
    assert doctor(tiny_model("llama", **rope(YARN)))["ignored"].status == "pass"
