"""attach and detach where families or circumstances differ. What holds of every pair is in tests/contract."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch

import whorl
from whorl.attaching.joining import Attachment
from whorl.testing import SIZES, logits_and_budget, peaked, tiny_model

TOKENS = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))
FAR = torch.arange(40)[None] + 1_000_003


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


# --- hosts with a table of positions ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "opt", "bert"])
def test_the_hosts_own_table_falls_silent(family: str) -> None:
    types = {"token_type_ids": torch.zeros_like(TOKENS)} if family == "bert" else {}
    model = tiny_model(family)
    whorl.attach(model, "nope")
    before, budget = logits_and_budget(model, TOKENS)
    table = next(m for n, m in model.named_modules() if n.endswith(("wpe", "embed_positions", "position_embeddings")))
    table.weight.normal_(std=10)
    assert torch.equal(model(TOKENS).logits, before)
    assert difference(model(TOKENS, position_ids=FAR, **types).logits, before) < budget, "far past the table of 64"
    whorl.detach(model)
    assert difference(model(TOKENS).logits, before) > 100 * budget


@torch.no_grad()
def test_a_learned_table_starts_from_the_hosts_own() -> None:
    model = tiny_model("opt")
    own = model.model.decoder.embed_positions.weight[2:]  # OPT's first two rows are for padding
    for rows in (50, 64, 80):
        whorl.attach(model, whorl.Learned(max_positions=rows))
        table = whorl.attached(model).effects[0].weight
        assert torch.equal(table[:64], own[:rows])
        assert table.shape == (rows, 64)
        assert (table[64:] != 0).all()


@torch.no_grad()
def test_opts_left_padding_without_positions() -> None:
    """OPT counts positions from the mask and gives padding the position -1."""
    model = tiny_model("opt")
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), TOKENS], 1)
    for encoding in ("learned:max_positions=64", "rope", "alibi"):
        whorl.attach(model, encoding)
        logits, budget = logits_and_budget(model, TOKENS)
        assert difference(model(padded, attention_mask=(padded != 0).long()).logits[:, 5:], logits) < budget, encoding


def test_a_table_that_is_too_small_says_what_is_needed() -> None:
    model = whorl.attach(tiny_model("llama"), "learned:max_positions=39")
    with pytest.raises(ValueError, match=r"position 39 is past the learned table, which has 39 positions.*=40"):
        model(TOKENS)
    model(TOKENS[:, :39])


# --- layers ----------------------------------------------------------------------------------------------------------


def spectra(model) -> list[int]:
    """How many pairs turn in each layer."""
    return [len(m.whorl_seam.spectrum.turning) for m in model.modules() if "whorl_seam" in m.__dict__]


def test_layer_types_get_their_own() -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model("qwen3", layer_types=types, use_sliding_window=True, sliding_window=64)
    whorl.attach(model, "full_attention=nope/sliding_attention=rope")
    assert spectra(model) == [8, 0, 8]
    with pytest.raises(ValueError, match="layer 1 is of type 'full_attention'"):
        whorl.attach(model, whorl.Layers({"sliding_attention": whorl.RoPE()}))
    assert str(whorl.attached(model).encoding).startswith("full_attention=nope"), "a refused attach changes nothing"


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "gemma3_text"])
def test_every_layer_turns_by_its_own_spectrum(family: str) -> None:
    model = tiny_model(family)
    _, budget = logits_and_budget(whorl.attach(model, "rope"), TOKENS)
    logits = {e: whorl.attach(model, e)(TOKENS).logits for e in ("rope", "nope", "rope/nope", "nope/rope", "rope/rope")}
    assert torch.equal(logits.pop("rope/rope"), logits["rope"])
    for a in logits:
        assert all(difference(logits[a], logits[b]) > 100 * budget for b in logits if a != b)


@torch.no_grad()
@pytest.mark.parametrize("family", ["smollm3", "llama4_text", "exaone4", "cohere2"])
def test_layers_that_the_host_does_not_turn_stay_so_unless_they_are_named(family: str) -> None:
    model = tiny_model(family)
    whorl.attach(model, "hope:train_length=16")
    assert spectra(model) == [1, 0, 1]
    plain, budget = logits_and_budget(model, TOKENS)
    whorl.attach(model, "hope:train_length=16/")  # `Layers` of one: every layer by name
    assert spectra(model) == [1, 1, 1]
    named, budget = logits_and_budget(model, TOKENS)
    assert difference(named, plain) > 100 * budget
    assert difference(model(TOKENS, position_ids=FAR).logits, named) < budget
    out = model(TOKENS[:, :30], use_cache=True)
    steps = [out.logits]
    for t in range(30, 40):
        steps.append(model(TOKENS[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True).logits)
    assert difference(torch.cat(steps, 1), named) < budget


def test_a_window_wider_than_the_hosts_own_is_refused() -> None:
    model = tiny_model("mistral")
    whorl.attach(model, "rope+window:size=24")
    assert not any(m.whorl_seam.biases for m in model.modules() if "whorl_seam" in m.__dict__), "it is the host's own"
    whorl.attach(model, "rope+window:size=23")
    with pytest.raises(ValueError, match=r"layer 0 of MistralForCausalLM hides keys at distances of 24 or more"):
        whorl.attach(model, "rope+window:size=25")


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
@pytest.mark.parametrize("inner_family", ["llama", "qwen3"])
def test_a_model_inside_another_is_not_the_other(inner_family: str) -> None:
    """A stock model that holds another as a part (a draft model, a tower): each has its own encoding, or none."""
    outer, inner = tiny_model("llama"), tiny_model(inner_family, seed=1)
    outer.draft = inner
    stock, part = outer(TOKENS).logits, inner(TOKENS).logits
    how = inner.config._attn_implementation
    whorl.attach(outer, "alibi")
    assert whorl.attached(inner) is None
    assert inner.config._attn_implementation == how
    assert torch.equal(inner(TOKENS).logits, part)
    whorl.detach(outer)

    alone = whorl.attach(tiny_model("llama"), "hope:train_length=16")(TOKENS).logits
    whorl.attach(inner, "alibi")
    biased = inner(TOKENS).logits
    assert str(whorl.encoding_of(outer)) == "rope:base=10000", "the inner's is not its own"
    assert whorl.attached(outer) is None
    with pytest.raises(ValueError, match="nothing is attached"):
        whorl.detach(outer)
    for encoding in ("hope:train_length=16", "t5"):
        whorl.attach(outer, encoding)
        assert torch.equal(inner(TOKENS).logits, biased)
        assert str(whorl.encoding_of(inner)) == "alibi"
        if encoding != "t5":
            assert torch.equal(outer(TOKENS).logits, alone)
    assert torch.equal(whorl.detach(outer)(TOKENS).logits, stock)
    assert torch.equal(inner(TOKENS).logits, biased)


def test_t5_is_one_table_and_kerple_one_per_layer() -> None:
    model = tiny_model("llama")
    count = {"t5": 32 * 4, "kerple": 3 * 4 * 2, "t5/nope": 32 * 4, "rope+t5/t5": 32 * 4}
    for encoding, parameters in count.items():
        attachment = whorl.attached(whorl.attach(model, encoding))
        assert isinstance(attachment, Attachment)
        assert sum(p.numel() for p in attachment.parameters()) == parameters, encoding
    gemma = whorl.attach(tiny_model("gemma4_text"), "t5")  # layers of two head dims share the one table
    assert sum(p.numel() for p in whorl.attached(gemma).parameters()) == 32 * 4


@pytest.mark.parametrize(("family", "reached"), [("llama", [*range(23)]), ("bert", [*range(13), *range(17, 29)])])
def test_an_encoder_gives_later_keys_buckets_of_their_own(family: str, reached: list[int]) -> None:
    """T5 has 32 buckets up to a distance of 128; 40 tokens reach 23 of them, or 13 before and 12 after each token."""
    model = whorl.attach(tiny_model(family), "t5")
    model(TOKENS).logits.square().mean().backward()
    table = next(whorl.attached(model).parameters()).grad
    assert table.abs().sum(1).nonzero().flatten().tolist() == reached


@torch.no_grad()
def test_a_copy_has_learned_parameters_of_its_own() -> None:
    model = whorl.attach(tiny_model("llama"), "t5")
    logits = model(TOKENS).logits
    twin = copy.deepcopy(model)
    next(whorl.attached(twin).parameters()).normal_()
    assert torch.equal(model(TOKENS).logits, logits)
    assert difference(twin(TOKENS).logits, logits) > 1e-2


# --- precision, compilation, other people's code ---------------------------------------------------------------------


@torch.no_grad()
def test_bfloat16_models_keep_exact_positions() -> None:
    """At position 1,000,003 a bfloat16 table would be noise: the shift must cost no more than bfloat16 itself."""
    model = tiny_model("llama").to(torch.bfloat16)
    whorl.attach(model, "rope")
    near = model(TOKENS).logits.float()
    far = model(TOKENS, position_ids=FAR).logits.float()
    whorl.detach(model)
    exact = tiny_model("llama")(TOKENS).logits
    assert difference(far, near) <= 2 * difference(near, exact)


def test_compiles_fullgraph_and_re_attaching_is_safe() -> None:
    model = tiny_model("llama")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for encoding in ("hope:train_length=16", "rope", "alibi"):
            assert whorl.attach(compiled, encoding) is compiled, "the model inside is found"
            logits, budget = logits_and_budget(model, TOKENS)
            assert difference(compiled(TOKENS, use_cache=False).logits, logits) < budget, encoding
        whorl.detach(compiled)
        assert difference(compiled(TOKENS, use_cache=False).logits, model(TOKENS).logits) < budget


@torch.no_grad()
def test_attaching_twice_replaces_and_one_detach_gives_the_stock_model_back() -> None:
    model = tiny_model("llama")
    stock = model(TOKENS).logits
    first = whorl.attach(model, "hope:train_length=16")(TOKENS).logits
    whorl.attach(model, "alibi")
    whorl.attach(model, "t5")
    assert torch.equal(whorl.attach(model, "hope:train_length=16")(TOKENS).logits, first)
    whorl.detach(model)
    assert torch.equal(model(TOKENS).logits, stock)
    with pytest.raises(ValueError, match=r"nothing is attached.*whorl.attach\(model, encoding\) comes first"):
        whorl.detach(model)


@torch.no_grad()
def test_hooks_of_others_survive() -> None:
    model = tiny_model("llama")
    calls: list[str] = []
    for name, module in model.named_modules():
        if name.endswith(("self_attn", "rotary_emb", "layers.0")):
            module.register_forward_hook(lambda *_, n=name: calls.append(n))
            module.register_forward_pre_hook(lambda *_, n=name: calls.append(n))
    model(TOKENS)
    stock, expected = model(TOKENS).logits, sorted(calls)[::2]
    for encoding in ("hope:train_length=16", "sinusoidal"):
        calls.clear()
        whorl.attach(model, encoding)(TOKENS)
        assert sorted(calls) == expected
    calls.clear()
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)
    assert sorted(calls) == expected


@torch.no_grad()
@pytest.mark.parametrize("first", ["accelerate", "whorl"])
def test_accelerates_hooks_go_on_working(first: str) -> None:
    """They stand where whorl's forward stands, and put back what they found."""
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_submodules

    calls: list[str] = []

    class Count(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(type(module).__name__)
            return args, kwargs

    def hook() -> None:
        for module in (model.model.rotary_emb, *(layer.self_attn for layer in model.model.layers)):
            add_hook_to_module(module, Count())

    model = tiny_model("llama")
    stock = model(TOKENS).logits
    expected = whorl.attach(tiny_model("llama"), "hope:train_length=16")(TOKENS).logits
    if first == "accelerate":
        hook()
        whorl.attach(model, "hope:train_length=16")
    else:
        whorl.attach(model, "hope:train_length=16")
        hook()
    assert torch.equal(model(TOKENS).logits, expected)
    assert calls == ["LlamaRotaryEmbedding"] + ["LlamaAttention"] * 3
    whorl.detach(model)
    assert torch.equal(model(TOKENS).logits, stock)
    assert len(calls) == 8
    whorl.attach(model, "alibi")
    remove_hook_from_submodules(model)
    assert torch.equal(model(TOKENS).logits, whorl.attach(tiny_model("llama"), "alibi")(TOKENS).logits)
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)


def test_a_forward_replaced_by_others_is_refused() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[1].self_attn
    attention.forward = lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="has been replaced already.*take that off first"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None
    del attention.forward
    whorl.attach(model, "rope")
    ours, attention.forward = attention.forward, lambda *args, **kwargs: None
    with pytest.raises(ValueError, match="has been replaced already"):
        whorl.detach(model)
    attention.forward = ours
    whorl.detach(model)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_on_top() -> None:
    from peft import LoraConfig, get_peft_model

    model = whorl.attach(tiny_model("llama"), "hope:train_length=16")
    logits = model(TOKENS).logits
    lora = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.0))
    assert torch.equal(lora(TOKENS).logits, logits)
    lora(TOKENS, labels=TOKENS).loss.backward()
    trained = [n for n, p in lora.named_parameters() if p.grad is not None]
    assert len(trained) == 3 * 2 * 2
    assert all("lora" in n for n in trained)
    assert whorl.encoding_of(lora) == whorl.HoPE(train_length=16, base=10000.0)
    whorl.attach(lora, "alibi")
    assert torch.equal(lora(TOKENS).logits, whorl.attach(tiny_model("llama"), "alibi")(TOKENS).logits)
    whorl.attach(lora, "hope:train_length=16")
    merged = lora.merge_and_unload()
    assert torch.equal(merged(TOKENS).logits, logits)
    whorl.detach(merged)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantised_model_takes_an_encoding() -> None:
    """Weights are not touched, so int8 projections do not matter; learned parameters are of a floating dtype."""
    model = torch.ao.quantization.quantize_dynamic(tiny_model("llama"), {torch.nn.Linear})
    stock = model(TOKENS).logits
    whorl.attach(model, "rope")
    assert difference(model(TOKENS).logits, stock) < 1e-2 * float(stock.abs().max())  # int8 steps
    # bitsandbytes keeps packed weights as parameters of bytes
    model.register_parameter("packed", torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False))
    whorl.attach(model, "t5")
    assert [p.dtype for p in whorl.attached(model).parameters()] == [torch.float32]
    model(TOKENS)
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)


def test_pickling_says_that_the_encoding_would_be_lost(tmp_path) -> None:
    for family, encoding in (("llama", "hope:train_length=16"), ("gpt2", "alibi")):
        model = whorl.attach(tiny_model(family), encoding)
        with pytest.raises(TypeError, match=r"torch.save\(model\) would lose.*save_pretrained.*whorl.load"):
            torch.save(model, tmp_path / "model.pt")
        copy.deepcopy(model)
        torch.save(whorl.detach(model), tmp_path / "model.pt")


# --- what cannot be done ---------------------------------------------------------------------------------------------


def test_a_model_without_a_known_seam_is_refused() -> None:
    with pytest.raises(ValueError, match="got a Linear without a config.model_type"):
        whorl.attach(torch.nn.Linear(2, 2), "rope")
    from transformers import BloomConfig, BloomForCausalLM

    bloom = BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(
        ValueError,
        match=r"no known seam in model type 'bloom'.*looked for a module 'rotary_emb'.*calls apply_rotary_pos_emb.*"
        "found only word_embeddings, .*whorl list.*add a host",
    ):
        whorl.attach(bloom, "rope")


@torch.no_grad()
@pytest.mark.parametrize("family", ["olmo", "mixtral", "gemma"])
def test_a_family_that_is_not_listed_is_proved_before_it_is_used(family: str) -> None:
    model = tiny_model(family, **({"num_local_experts": 2} if family == "mixtral" else {}))
    stock, budget = logits_and_budget(model, TOKENS) if family != "mixtral" else (model(TOKENS).logits, 2e-5)
    own = whorl.encoding_of(model)
    whorl.attach(model, own)
    assert difference(model(TOKENS).logits, stock) < budget
    whorl.attach(model, "hope:train_length=16")
    assert difference(model(TOKENS).logits, stock) > 100 * budget
    assert torch.equal(whorl.detach(model)(TOKENS).logits, stock)


@torch.no_grad()
def test_an_unlisted_family_is_proved_in_its_own_precision_and_scaling() -> None:
    """Stock tables in bfloat16 are off by more than exact ones; a spectrum by length is read at the probe's length."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    whorl.attach(tiny_model("olmo", rope_parameters=dynamic).to(torch.bfloat16), "hope:train_length=16")


@torch.no_grad()
def test_an_unlisted_family_whose_rotary_module_does_something_else_is_refused() -> None:
    model = tiny_model("olmo")

    class Faster(type(model.model.rotary_emb)):
        def forward(self, x, position_ids):
            return super().forward(x, 2 * position_ids)

    model.model.rotary_emb.__class__ = Faster
    stock = model(TOKENS).logits
    with pytest.raises(ValueError, match=r"with its own encoding attached its logits moved by"):
        whorl.attach(model, "rope")
    assert torch.equal(model(TOKENS).logits, stock)


@torch.no_grad()
def test_an_unlisted_family_that_keeps_layers_unturned_is_refused() -> None:
    """Its code does not call its rotation in every layer, which only a forward shows."""
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model("afmoe", layer_types=types, sliding_window=24)
    stock = model(TOKENS).logits
    with pytest.raises(ValueError, match=r"no known seam in model type 'afmoe'.*layers \[1\] turned out to have no"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None
    assert torch.equal(model(TOKENS).logits, stock)


def test_an_alibi_falcon_is_refused() -> None:
    with pytest.raises(ValueError, match="ALiBi of its own"):
        whorl.attach(tiny_model("falcon", alibi=True), "rope")


def test_an_odd_head_dim_is_refused_and_nothing_changes() -> None:
    model = tiny_model("gpt2", hidden_size=20)
    with pytest.raises(ValueError, match="even head dim of at least 2, got 5"):
        whorl.attach(model, "rope")
    assert whorl.attached(model) is None
    whorl.attach(model, "alibi")


def test_attaching_needs_no_weights() -> None:
    with torch.device("meta"):
        model = tiny_model("llama")
    whorl.attach(model, "t5")
    assert next(whorl.attached(model).parameters()).device.type == "meta"


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["hope:train_length=16", "alibi"])
def test_impl_says_what_runs(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from whorl.ops.impl import native

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the compiled loops")

    model = whorl.attach(tiny_model("llama"), encoding)
    logits, budget = logits_and_budget(model, TOKENS)
    monkeypatch.setattr(native, "call", broken)
    with pytest.raises(RuntimeError, match="the compiled loops"):
        model(TOKENS)
    whorl.attach(model, encoding, impl="reference")
    assert difference(model(TOKENS).logits, logits) < budget
    whorl.attach(model, encoding)
    monkeypatch.setenv("WHORL_IMPL", "reference")
    assert difference(model(TOKENS).logits, logits) < budget
    with pytest.raises(ValueError, match="impl must be one of auto, reference, cpu, triton, got 'fast'"):
        whorl.attach(model, encoding, impl="fast")


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
