"""Checks that run the model: models without a language head, weights that are not numbers, forwards that raise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import whorl
from whorl.diagnosis import agreement, doctor
from whorl.diagnosis.reading import rounded_angles
from whorl.diagnosis.subject import Subject
from whorl.hosts import open_host
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


def off(rotary: Any, radians: float) -> Any:
    """Angles that are off by so much, a little more or less at each position."""

    def turn(module: Any, args: Any, kwargs: Any, tables: Any) -> Any:
        positions = kwargs["position_ids"] if kwargs else args[1]
        by = radians * torch.sin(0.7 * positions.double())[..., None]
        cos, sin = (table.double() for table in tables)
        return tuple(t.float() for t in (cos * by.cos() - sin * by.sin(), sin * by.cos() + cos * by.sin()))

    return rotary.register_forward_hook(turn, with_kwargs=True)


def test_what_far_positions_may_differ_by_is_what_rounding_makes_of_them() -> None:
    """2,048 tokens on, the rounding of float32 angles is 1e-4 radians at most; a fault of ten times that is seen."""
    model = tiny_model("llama")

    def asked() -> tuple[Any, Any]:
        subject = Subject(model, open_host(model))
        return agreement.shift(subject), subject.runs

    answer, runs = asked()
    assert answer.status == "pass"
    assert runs.allowed(40) < 3 * runs.budget
    assert runs.allowed(2088) < 200 * runs.budget, "position x 2^-24, as a rounding of q and k, would be 1,044 budgets"
    handle = off(model.model.rotary_emb, 1e-3)
    assert asked()[0].status == "fail"
    handle.remove()
    handle = off(model.model.rotary_emb, 1e-6)
    assert asked()[0].status == "pass"
    handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "glm", "llama4_text"])
def test_rounded_angles_are_off_by_a_rounding(family: str) -> None:
    rotary = open_host(tiny_model(family)).rotary
    more = ("full_attention",) if family == "gemma3_text" else ()
    like, positions = torch.zeros(1, 4, 8, dtype=torch.float64), torch.tensor([[1, 100, 1000, 4000]])
    plain = rotary(like, positions, *more)
    with rounded_angles(rotary):
        moved = rotary(like, positions, *more)
    a, b = (t if isinstance(t, torch.Tensor) else torch.complex(t[0], t[1]) for t in (plain, moved))
    difference = (a - b).abs().amax(-1)[0]
    assert torch.all(difference <= 1.01 * positions[0] * 2**-24 + 2e-7)
    assert difference[3] > 0.9 * 4000 * 2**-24, "the fastest pair turns by a radian a token"


def test_a_rotary_module_that_does_not_run_fails_one_check() -> None:
    settings = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    lists = {"short_factor": [1.0], "long_factor": [1.0, 2.0]}  # of eight pairs
    found = doctor(tiny_model("llama", rope_parameters={**settings, **lists}))
    assert {*found.failed} - {"ignored"} == {"runs"}, str(found)  # 5.17 keeps short lists, which is told too
    assert found["settings"].measured == "the rotary module does not run"
    assert found["batch"].measured == "the model does not run"
