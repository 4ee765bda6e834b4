"""Checks that run the model: models without a language head, weights that are not numbers, forwards that raise."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

import whorl
from whorl.diagnosis import doctor
from whorl.testing import tiny_model


def headless(family: str) -> Any:
    model = tiny_model(family)
    return getattr(model, "model", model.base_model)


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3_text", "bert", "llama4_text"])
def test_models_without_a_head_are_compared_by_their_hidden_states(family: str) -> None:
    found = doctor(headless(family))
    assert found.failed == (), str(found)
    assert {"runs", "batch", "padding"} <= set(found.having("pass"))
    assert "hidden states" in found["batch"].measured
    assert "hidden states up to" in found["runs"].measured


def test_a_fault_in_a_model_without_a_head_is_found() -> None:
    model = headless("llama")
    model.layers[1].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
    )
    assert doctor(model).failed == ("padding", "packing")


def test_another_head_is_left_out() -> None:
    config = tiny_model("llama").config
    model = transformers.LlamaForSequenceClassification(config).eval()
    found = doctor(model)
    assert found.failed == (), str(found)
    assert "hidden states" in found["padding"].measured


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    """Also where no forward meets it: the row of a token that is never drawn."""
    model = tiny_model("llama")
    model.model.embed_tokens.weight.data[1, 2:4] = value
    found = doctor(model)
    assert found.failed == ("runs",)
    assert "model.embed_tokens.weight (2 of 6,208)" in found["runs"].measured
    assert "cache" in found.having("n/a")


def test_what_a_forward_raises_is_a_failed_check_with_its_words() -> None:
    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        raise ValueError("the attention implementation\nwas switched")

    model = tiny_model("llama")
    model.model.layers[2].register_forward_pre_hook(refuse, with_kwargs=True)
    found = doctor(model)
    assert found.failed == ("runs",)
    assert found["runs"].measured == "raised ValueError: the attention implementation was switched"


@pytest.mark.parametrize("notation", ["alibi", "rope~dynamic-ntk:factor=4,original=16"])
def test_an_attention_implementation_set_after_attaching_is_found(notation: str) -> None:
    """The encoding would be dropped, and the forward says so."""
    model = whorl.attach(tiny_model("llama"), notation)
    assert doctor(model).healthy
    model.set_attn_implementation("sdpa")
    found = doctor(model)
    assert found.failed == ("runs",)
    assert "somebody has set 'sdpa'" in found["runs"].measured
