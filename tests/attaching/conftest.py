"""A model of four layers with an encoding attached, by (family, notation): see `by_length.pairs`."""

from __future__ import annotations

from typing import Any

import pytest

import whorl

from .by_length import four_layers


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Any:
    family, encoding = request.param
    whole = "rope:fraction=1,base" if family == "gpt_neox" else "rope:base"  # its own encoding turns a quarter
    return whorl.attach(four_layers(family), encoding.replace("rope:base", whole))
