"""attach and detach where families or circumstances differ. What holds of every pair is in tests/contract."""

from __future__ import annotations

import copy

import pytest
import torch

import whorl
from tests.contract import TOKENS, difference
from whorl.testing import logits_and_budget, tiny_model

FAR = torch.arange(40)[None] + 1_000_003

# --- hosts with a table of positions ----------------------------------------------------------------------------------


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


# --- parts, copies, precision, compilation ----------------------------------------------------------------------------


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


# --- other people's code ----------------------------------------------------------------------------------------------


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
