"""Models without a seam are refused when an encoding is attached, with what they are as the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import whorl

TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
LATENT = {
    **TEXT,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
}
STACKS = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 1,
}
VISION = {"depth": 1, "num_heads": 2, "patch_size": 4, "hidden_size": 32, "out_hidden_size": 64}
AXES = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}


def built(name: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**sizes)).eval()


CLOSED: dict[str, tuple[Callable[[], Any], str]] = {
    "t5": (
        lambda: built("T5ForConditionalGeneration", vocab_size=97, d_model=32, d_kv=8, d_ff=32, num_layers=1),
        "T5ForConditionalGeneration is an encoder-decoder",
    ),
    "bart": (lambda: built("BartForConditionalGeneration", **STACKS), "is an encoder-decoder"),
    "whisper": (
        lambda: built(
            "WhisperForConditionalGeneration", **STACKS, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3
        ),
        "is an encoder-decoder",
    ),
    "t5gemma": (
        lambda: built(
            "T5GemmaForConditionalGeneration", encoder=TEXT, decoder={**TEXT, "cross_attention_hidden_size": 64}
        ),
        "is an encoder-decoder",  # its encoder alone looks like a known family
    ),
    "mamba": (
        lambda: built("MambaForCausalLM", vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4),
        r"MambaForCausalLM has no attention \(its layers hold norm, mixer\)",
    ),
    "deepseek_v2": (lambda: built("DeepseekV2ForCausalLM", **LATENT), "multi-head latent attention"),
    "deepseek_v3": (lambda: built("DeepseekV3ForCausalLM", **LATENT), "kv_lora_rank=16"),
    "deepseek_v3, in halves": (
        lambda: built("DeepseekV3ForCausalLM", **LATENT, rope_interleave=False),
        "turns 8 channels apart from the rest, in a way that is not supported yet",
    ),
    "qwen2_5_omni": (
        lambda: built("Qwen2_5OmniThinkerForConditionalGeneration", text_config=AXES, vision_config=VISION),
        r"three positions per token, time, height and width \(M-RoPE, mrope_section \[2, 3, 3\]\), in a way that",
    ),
    "glm4v, its text alone": (lambda: built("Glm4vTextModel", **AXES), "Qwen2.5-VL's and Qwen3-VL's are"),
    "glm4v, its tower": (
        lambda: built("Glm4vForConditionalGeneration", text_config=AXES, vision_config=VISION).model.visual,
        "Glm4vVisionModel reads images of any sizes packed in one row, and turns q and k by the rows and columns",
    ),
}


@pytest.mark.parametrize("kind", CLOSED)
@pytest.mark.parametrize("encoding", ["rope", "alibi"])
def test_what_has_no_seam_says_what_it_is(kind: str, encoding: str) -> None:
    make, reason = CLOSED[kind]
    with pytest.raises(ValueError, match=reason) as refused:
        whorl.attach(make(), encoding)
    assert "no known seam" in str(refused.value)
    assert "`whorl list` names the families that are known" in str(refused.value)
    assert "failed with" not in str(refused.value)


def test_three_positions_are_refused_before_there_are_weights() -> None:
    """Where nothing can be proved by a forward, as in the checks before a comparison."""
    with torch.device("meta"):
        model = built("Glm4vTextModel", **AXES)
    with pytest.raises(ValueError, match="M-RoPE"):
        whorl.attach(model, "rope")


def test_latent_attention_that_turns_as_others_do_opens() -> None:
    model = built("MiniCPM3ForCausalLM", **LATENT, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    assert whorl.attached(whorl.attach(model, "p-rope:p=0.5")) is not None


def test_a_known_family_inside_is_named() -> None:
    model = built(
        "Llama4ForConditionalGeneration",
        text_config={**TEXT, "num_local_experts": 2, "intermediate_size_mlp": 96, "pad_token_id": 0},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 8, "patch_size": 4, "vision_output_dim": 32, "projector_input_dim": 32,
                       "projector_output_dim": 32},
    )  # fmt: skip
    ids = torch.arange(9)[None]
    with pytest.raises(ValueError, match=r"try whorl.attach\(model.get_submodule\('language_model'\), encoding\)"):
        whorl.attach(model, "alibi")
    with torch.no_grad():
        stock = model(ids).logits
        whorl.attach(model.get_submodule("language_model"), "alibi")
        assert (model(ids).logits - stock).abs().max() > 1e-3
        whorl.detach(model.get_submodule("language_model"))
        assert torch.equal(model(ids).logits, stock)
