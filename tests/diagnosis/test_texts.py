"""Checks by the loss on a text, with a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import whorl
from whorl.data.corpus import load_tokenizer, read_documents
from whorl.diagnosis import Diagnosis, doctor
from whorl.diagnosis.texts import ENOUGH
from whorl.testing import tiny_image_model, tiny_model


def test_the_real_checkpoint_is_healthy(babyllama: Path, story: torch.Tensor) -> None:
    for found in (doctor(babyllama), doctor(babyllama, text_ids=story)):
        assert found.healthy, str(found)
        assert found["layout"].status == "pass"
        assert found.having("warn") == ("base",), "one distance of 256"
        assert "at 1 of 256 distances" in found["base"].measured


def loaded(babyllama: Path) -> Any:
    return whorl.load(babyllama).eval()


@torch.no_grad()
def rearranged(model: Any, order: torch.Tensor) -> Any:
    """The rows of q and k, head by head, in another order."""
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj"):
            weight = getattr(layer.self_attn, name).weight
            weight.copy_(weight.view(-1, 16, weight.shape[1])[:, order].reshape(weight.shape))
    return model


def test_rows_in_the_other_layout(babyllama: Path, story: torch.Tensor) -> None:
    """What a conversion without its permutation gives."""
    interleaved = torch.arange(16).view(2, 8).T.flatten()
    found = doctor(rearranged(loaded(babyllama), interleaved), text_ids=story)
    assert found.failed == ("layout",), str(found)


def test_a_share_of_the_head_by_the_loss(babyllama: Path, story: torch.Tensor) -> None:
    """Seven of eight pairs as p-RoPE are healthy, and as partial rotary (rows in its order) are found out."""

    def declared(theta: float, order: torch.Tensor | None) -> Diagnosis:
        config = loaded(babyllama).config
        config.rope_parameters = {"rope_type": "proportional", "rope_theta": theta, "partial_rotary_factor": 0.875}
        model = transformers.LlamaForCausalLM.from_pretrained(babyllama, config=config).eval()
        return doctor(model if order is None else rearranged(model, order), text_ids=story)

    healthy = declared(1e4, None)
    assert healthy.healthy, str(healthy)
    assert "under the other reading" in healthy["proportional"].measured
    # Frequencies base^(-2i/14) are those of 1e4^(-2i/16) at this base, on channels i and i + 7.
    partial = torch.tensor([*range(7), *range(8, 15), 7, 15])
    assert declared(1e4 ** (14 / 16), partial).failed == ("proportional",)


def test_a_model_that_cannot_read_says_nothing(babyllama: Path, story: torch.Tensor) -> None:
    found = doctor(tiny_model("llama", vocab_size=105), text_ids=story)
    assert found["layout"].status == "n/a"
    assert "does not read this text" in found["layout"].measured


def test_a_text_by_name_is_what_its_ids_are(babyllama: Path, shared: Path) -> None:
    text = str(shared / "fixtures" / "text" / "tinystories_sample.txt")
    ids = load_tokenizer(str(babyllama))("\n".join(read_documents(text))[:ENOUGH])["input_ids"]
    assert doctor(babyllama, text=text)["layout"] == doctor(babyllama, text_ids=torch.tensor(ids))["layout"]
    with pytest.raises(ValueError, match="give one of them"):
        doctor(babyllama, text=text, text_ids=torch.tensor(ids))
    with pytest.raises(ValueError, match="a model object has none; give tokenizer or text_ids"):
        doctor(tiny_model("llama"), text=text)


def test_a_tokenizer_may_lie_elsewhere(babyllama: Path, shared: Path, tmp_path: Path) -> None:
    text = str(shared / "fixtures" / "text" / "tinystories_sample.txt")
    model = transformers.AutoModelForCausalLM.from_pretrained(babyllama)
    model.save_pretrained(tmp_path)
    lent = {"text": text, "tokenizer": str(babyllama)}
    wanted = doctor(babyllama, text=text)["layout"]
    assert wanted.status == "pass"
    assert doctor(tmp_path, **lent)["layout"] == doctor(model, **lent)["layout"] == wanted
    assert doctor(tmp_path)["layout"].status == "not asked"
    assert doctor(tmp_path, tokenizer=str(babyllama))["layout"] == doctor(babyllama)["layout"], "of the story"
    for why, how in {
        r"holds none; give one \(--tokenizer; in Python tokenizer\)": {"text": text},
        "are tokens already": {"text_ids": [1, 2, 3], "tokenizer": str(babyllama)},
        "no tokenizer at": {"tokenizer": str(tmp_path)},
    }.items():
        with pytest.raises(ValueError, match=why):
            doctor(tmp_path, **how)
    with pytest.raises(ValueError, match="ViTModel reads images; leave out text and tokenizer"):
        doctor(tiny_image_model("vit"), **lent)
