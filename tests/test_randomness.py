"""The process's random numbers go on as if whorl had drawn none."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from whorl.randomness import put_back


def drawn() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def test_seeding_is_undone() -> None:
    seed(1)
    expected = drawn()
    seed(1)
    with put_back():
        seed(2)
        assert drawn() != expected
    assert drawn() == expected


def test_seeding_is_undone_after_an_error_too() -> None:
    @put_back()
    def fails() -> None:
        seed(3)
        raise RuntimeError("on purpose")

    seed(1)
    expected = drawn()
    seed(1)
    with pytest.raises(RuntimeError, match="on purpose"):
        fails()
    assert drawn() == expected
