"""Models that also see or hear: an encoding is attached to the text's layers, and the towers stay as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import whorl
from whorl.hosts import open_host
from whorl.testing import SIZES, logits_and_budget, max_error, peaked

IMAGE = 90  # the token that stands for a patch
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
AUDIO = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}


@pytest.fixture
def gemma() -> Any:
    """A Gemma 3 that sees: images are four tokens that see one another, and every second layer has a window."""
    torch.manual_seed(0)
    layers = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 8}
    config = transformers.Gemma3Config(
        text_config={**SIZES, **layers}, vision_config=VISION, mm_tokens_per_image=4, image_token_index=IMAGE
    )
    return peaked(transformers.Gemma3ForConditionalGeneration(config)).eval()


def inputs() -> dict[str, torch.Tensor]:
    """Twelve tokens, four of which are an image."""
    ids = torch.arange(3, 15)[None]
    ids[0, 2:6] = IMAGE
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "pixel_values": pixels, "token_type_ids": (ids == IMAGE).long()}


@torch.no_grad()
def seen(model: Any) -> torch.Tensor:
    return model(**inputs()).logits


def implementations(model: Any) -> list[str]:
    return [c._attn_implementation for c in (model.config, model.config.text_config, model.config.vision_config)]


@pytest.mark.parametrize("how", ["sdpa", {"text_config": "eager", "vision_config": "sdpa"}, "eager"])
@pytest.mark.parametrize("encoding", ["alibi", "t5", "rope+window:size=5", "rope~dynamic-ntk:factor=4,original=8"])
def test_an_image_goes_in_as_before_and_detach_gives_it_all_back(gemma, encoding: str, how: Any) -> None:
    gemma.set_attn_implementation(how)
    was, stock = implementations(gemma), seen(gemma)
    whorl.attach(gemma, encoding)
    assert implementations(gemma)[1:] == ["whorl", was[2]]
    moved = seen(gemma)
    assert torch.isfinite(moved).all()
    assert max_error(moved, stock) > 1e-3
    whorl.detach(gemma)
    assert implementations(gemma) == was
    assert torch.equal(seen(gemma), stock)


def test_the_tokens_of_an_image_still_see_one_another(gemma) -> None:
    """In whorl's attention, whose mask is made block by block: what the model has, and a window that hides none."""
    stock, budget = logits_and_budget(gemma, **inputs())
    own = whorl.encoding_of(gemma)
    assert isinstance(own, whorl.Layers)
    rules = [rule if "window" in rule.kinds else rule + whorl.Window(99) for rule in own.rules]
    whorl.attach(gemma, own.with_rules(rules))
    assert implementations(gemma)[1] == "whorl"
    assert max_error(seen(gemma), stock) <= budget
    with torch.no_grad():  # and a fault is seen: without their types, they are tokens like others
        causal = gemma(**{**inputs(), "token_type_ids": torch.zeros(1, 12, dtype=torch.long)}).logits
    assert max_error(causal, stock) > 100 * budget


def test_a_tower_that_comes_first_and_has_layers_is_not_the_text() -> None:
    torch.manual_seed(0)
    config = transformers.Qwen2AudioConfig(text_config={"model_type": "qwen2", **SIZES}, audio_config=AUDIO)
    model = transformers.Qwen2AudioForConditionalGeneration(config).eval()
    assert type(open_host(model).base).__name__ == "Qwen2Model"
    ids = torch.arange(9)[None]
    with torch.no_grad():
        stock = model(input_ids=ids).logits
        assert max_error(whorl.attach(model, "alibi")(input_ids=ids).logits, stock) > 1e-3
        assert model.config.audio_config._attn_implementation == "sdpa"
        assert torch.equal(whorl.detach(model)(input_ids=ids).logits, stock)


def llava() -> Any:
    config = transformers.LlavaConfig(
        text_config={**SIZES, "model_type": "llama"},
        vision_config={**VISION, "model_type": "clip_vision_model"},
        image_token_index=IMAGE,
    )
    return transformers.LlavaForConditionalGeneration(config)


def music() -> Any:
    """Its config has rope settings and a length at the top too: those of the sounds."""
    encoder = {**AUDIO, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.MusicFlamingoConfig(
        text_config={**SIZES, "model_type": "qwen2"},
        audio_token_id=IMAGE,
        audio_config={"model_type": "audioflamingo3_encoder", **encoder, "num_mel_bins": 8, "max_source_positions": 16},
    )
    return transformers.MusicFlamingoForConditionalGeneration(config)


@pytest.mark.parametrize("kind", ["gemma", "llava", "music"])
@pytest.mark.parametrize("encoding", ["rope:base=77", "hope:train_length=16,base=77", "rope:base=77~yarn:factor=4"])
@torch.no_grad()
def test_stock_terms_are_said_of_the_text_alone(kind: str, encoding: str, tmp_path, request) -> None:
    torch.manual_seed(0)
    model = request.getfixturevalue("gemma") if kind == "gemma" else peaked({"llava": llava, "music": music}[kind]())
    model = model.eval()
    other = {k: v for k, v in model.config.to_dict().items() if k != "text_config"}
    ids = torch.arange(3, 43)[None]
    stock = model(ids).logits
    whorl.attach(model, encoding)
    logits, budget = logits_and_budget(model, ids)
    assert max_error(logits, stock) > 100 * budget
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").eval()
    assert max_error(again(ids).logits, logits) <= budget
    loaded = whorl.load(tmp_path / "saved")
    assert max_error(loaded(ids).logits, logits) <= budget
    assert whorl.encoding_of(loaded) == whorl.encoding_of(model)
    kept = {k: v for k, v in again.config.to_dict().items() if k in other}
    for key in ("rope_parameters", "max_position_embeddings"):
        assert kept.get(key) == other.get(key), key
