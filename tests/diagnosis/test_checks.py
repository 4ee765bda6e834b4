"""whorl.doctor: every check fails on the fault that it is for, alone, and on nothing healthy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from whorl.diagnosis import CHECKS, doctor
from whorl.hosts import ENCODERS
from whorl.testing import tiny_model

from ..contract import DECODERS, EVERY, TOKENS, drawn, packs, refused
from . import LONGROPE, SCALED, YARN, rope, rotary
from .planted import PLANTED, Plant, filled

# Healthy models


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_every_family_is_healthy(family: str) -> None:
    model = tiny_model(family)
    logits = model(TOKENS).logits
    found = doctor(model)
    assert found.failed == (), str(found)
    assert found.having("warn") == ()
    assert torch.equal(model(TOKENS).logits, logits), "the model is left as it was"
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    asked = found.having("pass")
    assert {"runs", "batch", "padding", "length"} <= set(asked)
    assert ("cache" in asked) == (family not in ENCODERS)
    assert ("packing" in asked) == packs(family)
    if family not in ("gpt2", "opt", "bert"):
        assert {"initialised", "precision", "settings", "ignored", "theta", "shift", "pattern", "base"} <= set(asked)


@pytest.mark.parametrize("settings", SCALED, ids=lambda s: s["rope_type"])
def test_scaled_models_are_healthy(settings: dict[str, Any]) -> None:
    found = doctor(tiny_model("llama", **rope(settings)))
    assert found.failed == (), str(found)
    assert found["settings"].status == "pass"
    assert (found["attention-factor"].status == "pass") == (settings["rope_type"] in ("yarn", "longrope"))


@pytest.mark.parametrize("family", ["phi", "gpt_neox", "glm"])
def test_a_model_of_which_no_channel_turns_is_healthy(family: str) -> None:
    still = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.0}
    found = doctor(tiny_model(family, rope_parameters=still))
    assert found.failed == (), str(found)
    assert found["angles"].status == "n/a"


@pytest.mark.matrix
@pytest.mark.parametrize("family", ["llama", "phi", "qwen3_moe", "gemma4_text", "gpt_oss", "gpt2", "modernbert"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_healthy_when_loaded_so(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """from_pretrained(dtype=...) keeps the frequencies in float32."""
    tiny_model(family).save_pretrained(tmp_path)
    found = doctor(type(tiny_model(family)).from_pretrained(tmp_path, dtype=dtype))
    assert found.failed == (), str(found)


@pytest.mark.matrix
@pytest.mark.parametrize("family", ["llama", "gpt2", "llama4_text"])
@pytest.mark.parametrize("encoding", EVERY)
def test_attached_encodings_are_healthy(family: str, encoding: str) -> None:
    if (why := refused(family, encoding)) is not None:
        pytest.skip(why)
    model = drawn(whorl.attach(tiny_model(family), encoding))
    logits, attached = model(TOKENS).logits, whorl.encoding_of(model)
    found = doctor(model)
    assert found.failed == (), str(found)
    assert torch.equal(model(TOKENS).logits, logits)
    assert whorl.encoding_of(model) == attached
    assert (found["shift"].status == "pass") == (not attached.not_relative)


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
@torch.no_grad()
@pytest.mark.parametrize(("checks", "what", "plant"), PLANTED, ids=[f"{c}: {w}" for c, w, _ in PLANTED])
def test_a_planted_fault_fails_its_check_and_no_other(checks: str, what: str, plant: Plant) -> None:
    found = doctor(plant())
    assert found.failed == tuple(sorted(checks.split(), key=[c.name for c in CHECKS].index)), str(found)
    for name in checks.split():
        finding = found[name]
        assert finding.measured, "a failure says what it measured"
        assert "raised" not in finding.measured or name == "runs"
        assert finding.why
        assert finding.remedy


@pytest.mark.parametrize(
    ("plant", "check", "measured_is"),
    [
        (lambda: tiny_model("llama").to(torch.bfloat16), "precision", "frequencies off by 0.37%, rounded to bfloat16"),
        (lambda: filled(0.0), "initialised", "frequencies 0, 0, 0, ... (8 of them)"),
        (
            lambda: tiny_model("llama", no_rope_layers=[1, 0, 1]),
            "pattern",
            "layer 1 turns, and the config says otherwise",
        ),
        (
            lambda: tiny_model("llama", **rope({**YARN, "factor": 2.0})),
            "length",
            "yarn x 2 reaches from 16 to 32 tokens",
        ),
    ],
    ids=["rounded", "zeros", "pattern", "length"],
)
def test_a_failure_says_its_number(plant: Plant, check: str, measured_is: str) -> None:
    assert measured_is in doctor(plant())[check].measured


@pytest.mark.parametrize("settings", [{"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, LONGROPE])
def test_length_dependent_frequencies_leave_no_mark(settings: dict[str, Any]) -> None:
    model = tiny_model("llama", **rope(settings))
    before = {k: v.clone() for k, v in model.named_buffers()}
    state = {k: v for k, v in vars(rotary(model)).items() if not isinstance(v, dict)}
    doctor(model)
    assert all(torch.equal(v, before[k]) for k, v in model.named_buffers())
    assert {k: v for k, v in vars(rotary(model)).items() if not isinstance(v, dict)} == state


def test_a_forward_that_a_copy_shares_is_allowed_for() -> None:
    """Bound to the original, it gives the copy in float64 the same float32 logits: no error to go by."""
    model = tiny_model("llama")
    own = model.forward
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)
    assert doctor(model).failed == ()


def test_doctor_draws_no_random_numbers() -> None:
    model = tiny_model("gpt_oss")  # whose packing is compared with a tiny model of the family
    state = torch.random.get_rng_state()
    doctor(model)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_in_training_stays_in_training() -> None:
    model = tiny_model("llama").train()
    assert doctor(model).healthy
    assert model.training


def test_the_length_asked_for() -> None:
    model = tiny_model("llama")
    assert doctor(model, length=64).healthy
    assert doctor(model, length=65).failed == ("length",)


def test_every_check_is_planted_and_documented() -> None:
    faults = " ".join(checks for checks, _, _ in PLANTED).split()
    elsewhere = {"fit", "layout", "base", "saved", "readers"}  # a real model, a warning, a directory
    assert {c.name for c in CHECKS} == set(faults) | elsewhere
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    for check in CHECKS:
        assert f"| `{check.name}` |" in page, f"docs/doctor.md lacks {check.name}"
    assert len(PLANTED) >= 15


def test_frequencies_that_go_by_each_query_are_healthy() -> None:
    """whorl's dynamic NTK depends on the query's own position, so that cache and batch pass and shift is not asked."""
    found = doctor(whorl.attach(tiny_model("llama").eval(), "rope~dynamic-ntk:factor=4,original=16"))
    assert found["shift"].status == "n/a"
    assert found["cache"].status == found["batch"].status == "pass"
