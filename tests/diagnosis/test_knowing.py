"""What is said about a model must be about that model: guessed seams are proved before anything is answered."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING

import whorl
from whorl.diagnosis import doctor
from whorl.testing import tiny_model

from . import rotary


def sound(family: str) -> torch.nn.Module:
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    return tiny_model(family)


@pytest.mark.parametrize("family", ["granite_swa", "minimax", "flint", "beam", "deepseek_v4"])
def test_a_family_whose_seams_are_a_wrong_guess_is_not_examined(family: str) -> None:
    model = sound(family)
    before = model(torch.arange(3, 30)[None]).logits
    with pytest.raises(ValueError, match=f"no known seam in model type '{family}'"):
        doctor(model)
    with pytest.raises(ValueError, match="no known seam"):
        whorl.attach(model, "nope")
    assert torch.equal(model(torch.arange(3, 30)[None]).logits, before), "the model is left as it was"


def test_a_rotary_module_that_the_layers_do_not_read_is_no_seam() -> None:
    """GraniteSWA keeps its tables elsewhere: zeroing those that turn its layers used to pass."""
    model = sound("granite_swa")
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.zero_()
    with pytest.raises(ValueError, match="no known seam"):
        doctor(model)


def test_a_guess_that_a_forward_bears_out_is_examined_and_its_faults_are_found() -> None:
    """The patient itself fails the proof by its fault; with its rotary module built anew it does not."""
    model = sound("minimax_m2")
    assert doctor(model).healthy
    for value in (0.0, float("nan")):
        ill = sound("minimax_m2")
        rotary(ill).inv_freq.fill_(value)
        own = rotary(ill)
        assert doctor(ill).failed == ("initialised",)
        assert rotary(ill) is own
    ill = sound("minimax_m2")
    ill.model.rotary_emb.register_forward_hook(lambda module, args, out: tuple(2 * t for t in out))
    assert doctor(ill).failed == ("attention-factor",)


def test_what_cannot_be_proved_says_why() -> None:
    with torch.device("meta"):
        empty = sound("minimax_m2")
    with pytest.raises(ValueError, match="load its weights first"):
        doctor(empty)
    ill = sound("minimax_m2")
    ill.model.norm.weight.data[0] = torch.inf
    with pytest.raises(ValueError, match=r"not finite: model\.norm\.weight \(1 of 64\)"):
        doctor(ill)
