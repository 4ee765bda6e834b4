"""Which rotation the weights were trained with, found by the loss of a real model on a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from whorl.diagnosis import Diagnosis, doctor
from whorl.diagnosis.texts import cut, interval
from whorl.testing import tiny_model

from . import changed


def under(babyllama: Path, story: torch.Tensor, **settings: Any) -> Diagnosis:
    """The real model, whose weights were trained at theta 10,000 without a scaling, under other settings."""
    config = transformers.AutoConfig.from_pretrained(babyllama)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, **settings}
    return doctor(transformers.LlamaForCausalLM.from_pretrained(babyllama, config=config), text_ids=story)


def test_another_base_than_the_trained_one(babyllama: Path, story: torch.Tensor) -> None:
    found = under(babyllama, story, rope_theta=5e5)
    assert found.failed == ("fit",), str(found)
    assert "with theta 10,000 (difference -" in found["fit"].measured
    assert "windows that it was not chosen on" in found["fit"].measured


def test_another_base_and_a_scaling(babyllama: Path, story: torch.Tensor) -> None:
    found = under(babyllama, story, rope_theta=5e5, rope_type="linear", factor=2.0)
    assert found.failed == ("fit",), str(found)
    assert "with theta 10,000 and no scaling" in found["fit"].measured


def test_the_trained_settings_fit_best(babyllama: Path, story: torch.Tensor) -> None:
    found = under(babyllama, story)["fit"]
    assert found.status == "pass"
    assert "none of 27 other" in found.measured


def test_an_extension_that_was_not_trained_is_a_warning(babyllama: Path, story: torch.Tensor) -> None:
    found = under(babyllama, story, rope_type="linear", factor=4.0)
    assert found.healthy
    assert found["fit"].status == "warn"
    assert "an extension that was not trained" in found["fit"].measured


def test_a_directory_is_read_with_the_story(babyllama: Path, tmp_path: Path) -> None:
    """No text is needed for a small model with a tokenizer: theta changed in config.json is found."""
    shutil.copytree(babyllama, tmp_path / "model", copy_function=shutil.copyfile)
    (tmp_path / "model").chmod(0o755)
    settings = {"rope_type": "default", "rope_theta": 5e5}
    assert doctor(changed(tmp_path / "model", rope_parameters=settings)).failed == ("fit",)


def test_without_a_text_it_is_not_asked_and_says_so(tmp_path: Path) -> None:
    found = doctor(tiny_model("llama"))
    assert found.having("not asked") == ("fit", "layout")
    assert "give a text with --text" in found["fit"].measured
    tiny_model("llama").save_pretrained(tmp_path)
    assert json.loads(json.dumps(doctor(tmp_path).to_json()))["findings"]
    assert doctor(tmp_path)["fit"].status == "not asked"
    assert doctor(tiny_model("llama"), text_ids=torch.arange(3, 90))["fit"].status == "not asked", "too short"


def test_a_model_that_gives_no_loss_is_not_asked_for_one() -> None:
    text = torch.arange(3, 90).repeat(20)
    assert doctor(tiny_model("llama").model, text_ids=text)["fit"].status == "n/a"
    assert doctor(tiny_model("gpt2"), text_ids=text)["fit"].status == "n/a"
    assert doctor(tiny_model("falcon"), text_ids=text)["fit"].status == "n/a"


def test_the_interval_is_students() -> None:
    """99 % two-sided: t is 4.604 with 4 degrees of freedom and 3.106 with 11, by the tables."""
    for count, t in ((5, 4.604), (12, 3.106)):
        x = torch.randn(count, dtype=torch.float64)
        mean, half = interval(x)
        assert mean == pytest.approx(float(x.mean()))
        assert half == pytest.approx(t * float(x.std()) / count**0.5, rel=0.02)
    assert interval(torch.ones(2))[1] == float("inf")


def test_windows_are_cut_until_there_are_enough() -> None:
    text = torch.arange(2048).view(8, 256)
    assert cut(text, 12).shape == (16, 128)
    assert sorted(cut(text, 12).flatten().tolist()) == list(range(2048))
    assert cut(text[:, :40], 12).shape == (8, 40), "never below 32 tokens"
