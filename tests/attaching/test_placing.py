"""What is put on a model and taken off again, beside other people's hooks, wrappers and forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import whorl
from tests.contract import TOKENS, difference
from whorl.testing import logits_and_budget, tiny_image_model, tiny_model


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


@pytest.mark.parametrize("learns", [True, False])
def test_a_silent_table_of_positions_learns_nothing(learns: bool) -> None:
    """DDP refuses parameters that are to learn and take no part in the loss."""
    model = tiny_model("gpt2")
    table = model.transformer.wpe.weight.requires_grad_(learns)
    for encoding in ("alibi", "t5"):
        whorl.attach(model, encoding)
        assert not table.requires_grad
    assert whorl.detach(model).transformer.wpe.weight.requires_grad is learns


def test_a_model_that_was_frozen_since_stays_so() -> None:
    """Also where the encoding alone learned, and where its own table is to learn again before it is back."""
    model = whorl.attach(tiny_model("gpt2"), "t5")
    whorl.attach(model.requires_grad_(False), "alibi")
    assert not any(p.requires_grad for p in whorl.detach(model).parameters())
    whorl.attach(model.requires_grad_(True), "t5").requires_grad_(False)
    whorl.attached(model).requires_grad_(True)
    assert not any(p.requires_grad for p in whorl.detach(model).parameters())
    whorl.attach(model, "t5").requires_grad_(True)
    assert all(p.requires_grad for p in whorl.detach(model).parameters())


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@torch.no_grad()
def test_a_table_is_saved_of_a_model_that_is_offloaded(family: str, tmp_path: Path) -> None:
    """OPT has rows before the first position, which are elsewhere."""
    model = whorl.attach(tiny_model(family), "learned")
    next(whorl.attached(model).parameters()).normal_()
    model.save_pretrained(tmp_path / "model")
    found = whorl.load(tmp_path / "model", device_map={"": "disk"}, offload_folder=tmp_path / "pieces")
    found.save_pretrained(tmp_path / "again")
    assert torch.equal(whorl.load(tmp_path / "again")(TOKENS).logits, model(TOKENS).logits)


OFFLOADED = [("llama", "t5"), ("llama", "fox"), ("gpt2", "learned"), ("vit", "learned-2d+mixed-rope"), ("vit", "irpe")]


def built(family: str) -> tuple[Any, torch.Tensor]:
    if family == "vit":
        return tiny_image_model(family), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return tiny_model(family), TOKENS


@pytest.mark.parametrize(("family", "encoding"), OFFLOADED)
@torch.no_grad()
def test_attached_to_a_model_that_is_offloaded_it_is_as_to_another(family: str, encoding: str) -> None:
    (model, inputs), (other, _) = built(family), built(family)
    expected = whorl.attach(model, encoding)(inputs)[0]
    found = whorl.attach(accelerate.cpu_offload(other, execution_device=torch.device("cpu")), encoding)
    assert not any(p.is_meta for p in whorl.attached(found).parameters())
    assert torch.equal(found(inputs)[0], expected)


@pytest.mark.filterwarnings("error:.*is a no-op:UserWarning")
@pytest.mark.parametrize(("family", "encoding"), OFFLOADED)
@torch.no_grad()
def test_loaded_from_disk_piece_by_piece_it_has_learned_the_same(family: str, encoding: str, tmp_path: Path) -> None:
    model, inputs = built(family)
    for parameter in whorl.attached(whorl.attach(model, encoding)).parameters():
        parameter.normal_()
    model.save_pretrained(tmp_path / "model")
    found = whorl.load(tmp_path / "model", device_map={"": "disk"}, offload_folder=tmp_path / "pieces")
    assert all(p.is_meta for name, p in found.named_parameters() if "whorl" not in name)
    assert torch.equal(found(inputs)[0], model(inputs)[0])
