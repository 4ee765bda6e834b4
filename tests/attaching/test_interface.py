"""The attention implementation "whorl": the masks that it honours, and what happens where somebody sets another."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference
from whorl.testing import SIZES, logits_and_budget, peaked, tiny_model


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere"])
@pytest.mark.parametrize("encoding", ["alibi", "rope+window:size=8/nope"])
def test_an_additive_mask_of_the_callers_own_is_honoured(family: str, encoding: str) -> None:
    model = whorl.attach(tiny_model(family), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    additive = torch.zeros(40, 40).masked_fill(torch.ones(40, 40).triu(1).bool(), torch.finfo(torch.float32).min)
    given = model(TOKENS, attention_mask=additive.expand(2, 1, 40, 40), use_cache=False).logits
    assert difference(given, logits) < budget


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere"])
@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, -torch.inf])
def test_a_query_that_an_additive_mask_shows_nothing(family: str, lowest: float) -> None:
    """Its attention gives 0 and is passed over, as with a mask of True and False."""
    model = whorl.attach(tiny_model(family), "alibi")
    _, budget = logits_and_budget(model, TOKENS)
    seen = torch.ones(40, 40).tril().bool()
    seen[:7] = False
    additive = torch.zeros(40, 40).masked_fill(~seen, lowest)
    given, expected = (
        model(TOKENS, attention_mask=mask.expand(2, 1, 40, 40), use_cache=False).logits for mask in (additive, seen)
    )
    assert difference(given, expected) < budget


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("impl", ["auto", "flex"])
def test_a_static_cache_has_more_slots_than_the_padding_mask_has_tokens(impl: str) -> None:
    from transformers import StaticCache

    model = whorl.attach(tiny_model("llama"), "alibi", impl="reference")
    padded = torch.ones(TOKENS.shape, dtype=torch.long)
    padded[1, :7] = 0
    how = {"attention_mask": padded, "position_ids": (padded.cumsum(1) - 1).clamp(min=0)}
    expected, budget = logits_and_budget(model, TOKENS, **how)
    whorl.attach(model, "alibi", impl=impl)
    cache = StaticCache(config=model.config, max_cache_len=TOKENS.shape[1] + 9)
    logits = model(TOKENS, past_key_values=cache, **how).logits
    assert difference(logits[padded.bool()], expected[padded.bool()]) < budget


@torch.no_grad()
def test_a_layer_without_a_mask_would_see_what_comes_later() -> None:
    model = whorl.attach(tiny_model("llama"), "alibi")
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda m, a, k: (a, {**k, "attention_mask": None}), with_kwargs=True)
    with pytest.raises(ValueError, match="LlamaAttention got no mask, which would let every token see those after it"):
        model(TOKENS)


@pytest.mark.parametrize("encoding", ["alibi", "rope"])
def test_cross_attention_is_refused_by_its_name(encoding: str) -> None:
    model = tiny_model("gpt2", add_cross_attention=True)
    ids, given = torch.arange(8)[None], torch.zeros(1, 5, 64)
    whorl.attach(model, encoding)(ids)
    with pytest.raises(ValueError, match="this GPT2Attention is a cross-attention, which whorl does not know"):
        model(ids, encoder_hidden_states=given)
    whorl.attach(model, "sinusoidal")(ids, encoder_hidden_states=given)


# --- somebody sets another attention implementation -------------------------------------------------------------------


DYNAMIC_NTK = "rope~dynamic-ntk:factor=4,original=16"
TURNED_LATE = "rope/"  # every layer by name, also where the host has no rotation


def gemma3_with_images(**overrides: object):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    text = {
        **{k: v for k, v in SIZES.items() if v is not None},
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 24,
    }
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 4,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_id=96,
        boi_token_id=95,
        eoi_token_id=94,
    )
    return peaked(Gemma3ForConditionalGeneration(config)).eval()


def of(family: str):
    return gemma3_with_images() if family == "gemma3" else tiny_model(family)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"),
    [
        ("llama", "alibi"),
        ("llama", "rope+window:size=8"),
        ("llama", DYNAMIC_NTK),
        ("smollm3", TURNED_LATE),
        ("gpt2", "t5"),
        ("gpt2", "rope"),
        ("opt", "kerple"),
        ("bert", "alibi"),
        ("gemma3", "alibi"),
        ("gemma3", DYNAMIC_NTK),
    ],
)
def test_another_attention_implementation_would_drop_the_encoding_and_raises(family: str, encoding: str) -> None:
    model = of(family)
    stock, was = model(TOKENS).logits, model.config._attn_implementation
    whorl.attach(model, encoding)
    logits = model(TOKENS).logits

    def by_the_config() -> None:
        model.config.get_text_config()._attn_implementation = "eager"

    changes: dict[str, Callable[[], None]] = {
        "eager": by_the_config,
        "sdpa": lambda: model.set_attn_implementation({"": "sdpa", "text_config": "sdpa"}),
    }
    for name, change in changes.items():
        twin = copy.deepcopy(model)
        change()
        with pytest.raises(
            ValueError,
            match=f"{re.escape(str(whorl.encoding_of(model)))} is attached .* has set '{name}', which would drop",
        ):
            model(TOKENS)
        assert torch.equal(twin(TOKENS).logits, logits), "a copy has an implementation of its own"
        part = model.get_submodule("model.language_model") if family == "gemma3" else model
        part.set_attn_implementation("whorl")  # as the error says
        assert torch.equal(model(TOKENS).logits, logits)
    changes["eager"]()
    whorl.detach(model)
    assert model.config.get_text_config()._attn_implementation == was
    assert torch.equal(model(TOKENS).logits, stock)


@torch.no_grad()
def test_the_other_parts_of_a_model_attend_as_before() -> None:
    model = gemma3_with_images()
    ids = torch.tensor([[5, 6, 95, 96, 96, 96, 96, 94, 7, 8]])
    image = {"pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    image.update(token_type_ids=(ids == 96).long(), attention_mask=torch.ones_like(ids))
    stock = model(ids, **image).logits
    plain = whorl.attach(model, "nope")(ids, **image).logits
    model.set_attn_implementation("eager")
    whorl.attach(model, "alibi")
    for effect in whorl.attached(model).effects:
        effect.slopes = (0.0,) * len(effect.slopes)
    assert model.config.vision_config._attn_implementation == "eager"
    assert difference(model(ids, **image).logits, plain) < 1e-5 * float(plain.abs().max())
    assert difference(stock, plain) > 1e-2
    whorl.detach(model)
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(ids, **image).logits, stock)


def test_what_wraps_a_model_does_not_hide_the_change() -> None:
    model = whorl.attach(tiny_model("llama"), "alibi")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(TOKENS, use_cache=False)
    model.set_attn_implementation("sdpa")
    with pytest.raises((ValueError, torch._dynamo.exc.Unsupported), match="alibi is attached|raise"):
        compiled(TOKENS, use_cache=False)
    model.train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="alibi is attached to this LlamaAttention"):
        model(TOKENS, labels=TOKENS)
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="alibi is attached to this LlamaAttention"):
        adapted(TOKENS)
    adapted.set_attn_implementation("whorl")
    adapted(TOKENS)


@torch.no_grad()
def test_paged_and_flash_attention_are_refused_by_name() -> None:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = whorl.attach(tiny_model("llama"), "alibi")
    for name, kind in (("paged|eager", "paged attention"), ("flash_attention_2", "flash attention")):
        model.config._attn_implementation_internal = name
        with pytest.raises(ValueError, match=rf"{kind} \(as generate_batch .* has no place for biases.*rope, hope"):
            model(TOKENS)
    model.set_attn_implementation("paged|eager")
    settings = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    small = {"continuous_batching_config": ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=32)}
    failed = model.generate_batch(inputs=[TOKENS[0, :5].tolist()], generation_config=settings, **small)
    assert all("has no place for biases" in one.error and not one.generated_tokens for one in failed.values())

    model = whorl.attach(tiny_model("llama"), "hope:train_length=16")  # any implementation carries it
    alone = model.generate(TOKENS[:1, :5], generation_config=settings)[0, 5:].tolist()
    batch = model.generate_batch(inputs=[TOKENS[0, :5].tolist()], generation_config=settings, **small)
    assert [one.generated_tokens for one in batch.values()] == [alone]


@torch.no_grad()
def test_a_host_that_takes_biases_in_its_mask_needs_one() -> None:
    model = whorl.attach(tiny_model("falcon"), "alibi")
    logits, budget = logits_and_budget(model, TOKENS)
    model.set_attn_implementation("eager")
    assert difference(model(TOKENS).logits, logits) < budget, "both give it a mask"
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(
        ValueError, match="goes in through the attention mask .* under 'flash_attention_2' it gets none"
    ):
        model(TOKENS)


@torch.no_grad()
def test_loading_takes_an_implementation_and_gives_it_back(tmp_path) -> None:
    model = whorl.attach(tiny_model("llama"), "alibi")
    logits = model(TOKENS).logits
    model.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path, attn_implementation="eager")
    assert torch.equal(loaded(TOKENS).logits, logits)
    loaded.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="would drop it"):
        loaded(TOKENS)
    whorl.detach(loaded)
    assert loaded.config._attn_implementation == "eager"


@torch.no_grad()
def test_an_encoding_that_only_turns_leaves_the_choice() -> None:
    model = whorl.attach(tiny_model("llama"), "p-rope:p=0.5")
    logits, budget = logits_and_budget(model, TOKENS)
    whorl.attach(tiny_model("llama"), "alibi")  # makes "whorl" known
    for name in ("eager", "whorl", "sdpa"):
        model.set_attn_implementation(name)
        out = model(TOKENS[:, :30], use_cache=True)
        rest = model(TOKENS[:, 30:], past_key_values=out.past_key_values).logits
        assert difference(torch.cat([out.logits, rest], 1), logits) < budget
    whorl.detach(model)
    assert model.config._attn_implementation == "sdpa"


def test_the_doctor_sees_it() -> None:
    model = whorl.attach(tiny_model("llama"), "alibi")
    assert not whorl.doctor(model).failed
    model.set_attn_implementation("sdpa")
    found = whorl.doctor(model)
    assert found.failed == ("runs",)
    assert "somebody has set 'sdpa', which would drop it" in found["runs"].measured


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["cope:positions=8", "path", "linear"])
def test_what_an_additive_mask_hides_is_hidden_from_scores_too(encoding: str) -> None:
    """They count, turn by and sum over keys that are seen, before hidden logits are at -inf."""
    model = whorl.attach(tiny_model("llama"), encoding)
    for parameter in model.base_model.whorl.parameters():  # a table of zeros adds nothing
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    logits, budget = logits_and_budget(model, TOKENS)
    additive = torch.zeros(40, 40).masked_fill(torch.ones(40, 40).triu(1).bool(), torch.finfo(torch.float32).min)
    given = model(TOKENS, attention_mask=additive.expand(2, 1, 40, 40), use_cache=False).logits
    assert difference(given, logits) < budget


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    "encoding",
    [
        "rope",
        "hope:train_length=16",
        "alibi",
        "t5",
        "rope+window:size=8",
        "log-n",
        "fox",
        "path",
        "cope",
        "selective-rope",
        "learned",
    ],
)
def test_a_trace_answers_as_the_model_does_at_other_sizes_too(encoding: str, grad: bool) -> None:
    """torch.jit.trace records what PyTorch's own operations do, and no loops of ours (it had taken empty memory)."""

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = whorl.attach(tiny_model("llama"), encoding).eval()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.model(ids, use_cache=False).logits

    model, sizes = Logits(), [(2, 20), (2, 31), (3, 7)]
    asked = [torch.randint(3, 97, size, generator=torch.Generator().manual_seed(n)) for n, size in enumerate(sizes)]
    with torch.set_grad_enabled(grad):
        truth = [model(ids) for ids in asked]
        traced = torch.jit.trace(model, (asked[0],))
        for ids, logits in zip(asked, truth, strict=True):
            assert difference(traced(ids), logits) < 1e-5


@torch.no_grad()
def test_models_of_one_config_object_say_so() -> None:
    config = tiny_model("llama").config
    first, second = (type(tiny_model("llama"))(config).eval() for _ in range(2))
    whorl.attach(first, "alibi")
    with pytest.raises(ValueError, match=r"no encoding attached; .*built from one config object .*deepcopy\(config\)"):
        second(TOKENS)
    whorl.attach(second, "t5")
    whorl.detach(first)
    with pytest.raises(ValueError, match="somebody has set 'sdpa', .*built from one config object, attaching to one"):
        second(TOKENS)
    second.set_attn_implementation("whorl")
    assert second(TOKENS).logits.isfinite().all()


BEFORE = ["fox", "cope", "path", "selective-rope", "stick-breaking", "xpos"]


@torch.no_grad()
@pytest.mark.parametrize("encoding", BEFORE)
def test_what_goes_by_the_keys_before_refuses_tokens_of_an_image_that_see_those_after(encoding: str) -> None:
    """In Gemma 3 the tokens of one image see each other. Texts read and decode as ever."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    text = tiny_model("gemma3_text").config.to_dict()
    vision = SiglipVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text, vision_config=vision.to_dict(), mm_tokens_per_image=4, image_token_id=90)
    model = whorl.attach(Gemma3ForConditionalGeneration(config).eval(), encoding)
    with pytest.raises(ValueError, match=rf"{encoding}\S*, attached to this Gemma3Attention, .* some tokens see those"):
        model(TOKENS, token_type_ids=(torch.arange(40) // 4 == 3).long().expand(2, 40))
    assert model(TOKENS, token_type_ids=torch.zeros_like(TOKENS)).logits.isfinite().all()
    model.generate(TOKENS, max_new_tokens=2, do_sample=False)


@torch.no_grad()
@pytest.mark.parametrize("encoding", BEFORE)
@pytest.mark.parametrize("additive", [False, True])
def test_a_prefix_that_sees_all_of_itself_is_refused_by_them_and_packing_is_not(encoding: str, additive: bool) -> None:
    model = whorl.attach(tiny_model("llama"), encoding)
    causal = torch.ones(40, 40).tril().bool()
    prefix, packed = causal.clone(), causal.clone()
    prefix[:8, :8], packed[20:, :20] = True, False

    def read(mask: torch.Tensor) -> torch.Tensor:
        given = torch.zeros(40, 40).masked_fill(~mask, -torch.inf) if additive else mask
        return model(TOKENS, attention_mask=given.expand(2, 1, 40, 40), use_cache=False).logits

    assert read(packed).isfinite().all()
    with pytest.raises(ValueError, match="try one that goes by distance, as alibi or t5"):
        read(prefix)


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", "fox"])
def test_a_host_that_does_not_say_where_tokens_stand_after_a_cache(encoding: str) -> None:
    """BERT as a decoder passes no positions on; what the error says to give is enough."""
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = whorl.attach(peaked(BertLMHeadModel(BertConfig(**sizes, vocab_size=97, is_decoder=True))).eval(), encoding)
    logits, budget = logits_and_budget(model, TOKENS, use_cache=False)
    cache = model(TOKENS[:, :30], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="these 10 tokens stand, after 30 in a cache") as refused:
        model(TOKENS[:, 30:], past_key_values=copy.deepcopy(cache))
    given = re.search(r"position_ids=torch.arange\((\d+), (\d+)\)\[None\]", str(refused.value))
    positions = torch.arange(int(given[1]), int(given[2]))[None]
    got = model(TOKENS[:, 30:], past_key_values=cache, position_ids=positions).logits
    assert difference(got, logits[:, 30:]) < budget
