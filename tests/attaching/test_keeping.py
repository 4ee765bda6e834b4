"""By whatever way weights leave a model, its encoding goes with them, or the way back is refused."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import whorl
from tests.contract import TOKENS, difference, drawn
from whorl.testing import logits_and_budget, max_error, tiny_model

ALIBI, HOPE = "alibi", "hope:train_length=16,base=10000"


# --- a state dict ----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("encoding", [ALIBI, HOPE, "t5"])
def test_a_state_dict_holds_the_encoding(encoding: str, tmp_path) -> None:
    """Through torch.save and through safetensors; refused by a model without it, or with another."""
    model = drawn(whorl.attach(tiny_model("llama"), encoding))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "state.safetensors")
    for state in (torch.load(tmp_path / "state.pt"), load_file(tmp_path / "state.safetensors")):
        again = whorl.attach(tiny_model("llama", seed=1), encoding)
        again.load_state_dict(state)
        assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
        with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: .*whorl._extra_state"):
            tiny_model("llama").load_state_dict(state)
        other = whorl.attach(tiny_model("llama"), "rope:base=20+window:size=8")
        with pytest.raises(
            ValueError, match=rf"trained with {encoding}, and the model has rope:base=20\+window:size=8"
        ):
            other.load_state_dict(state, strict=False)


def test_weights_without_an_encoding_go_into_a_model_with_one() -> None:
    """Those of a stock model, and those that earlier versions wrote."""
    stock, model = tiny_model("llama", seed=1), whorl.attach(tiny_model("llama"), ALIBI)
    assert model.load_state_dict(stock.state_dict()).missing_keys == []


@torch.no_grad()
def test_accelerate_saves_the_encoding_with_the_weights(tmp_path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # one per process: a Trainer in bf16 leaves its own
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(drawn(whorl.attach(tiny_model("llama"), "t5")))
    accelerator.save_model(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="whorl._extra_state"):
        tiny_model("llama", tie_word_embeddings=False).load_state_dict(weights)
    again = whorl.attach(tiny_model("llama", seed=1), "t5")
    again.load_state_dict(weights)
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


@contextmanager
def one_process(folder) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def test_the_state_dict_of_a_sharded_model_holds_it_too(tmp_path) -> None:
    with one_process(tmp_path) as mesh:
        model = fully_shard(whorl.attach(tiny_model("llama"), "t5"), mesh=mesh)
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        assert "model.whorl._extra_state" in state
        model.save_pretrained(tmp_path / "out", state_dict=state)
    assert str(whorl.encoding_of(whorl.load(tmp_path / "out"))) == "t5"


@pytest.mark.parametrize("encoding", ["t5", "kerple+randomized:length=64"])
def test_accelerates_loader_for_sharded_models_meets_nothing_else(encoding: str, tmp_path) -> None:
    """It takes every entry of the state dict for a sharded parameter, and asks it for its mesh."""
    from accelerate.utils.fsdp_utils import fsdp2_load_full_state_dict

    with one_process(tmp_path) as mesh:
        model = whorl.attach(tiny_model("llama"), encoding)
        name = f"model.whorl.{next(name for name, _ in whorl.attached(model).named_parameters())}"
        whole = {k: v.detach() + 1 for k, v in model.state_dict().items()}
        fully_shard(model, mesh=mesh)
        fsdp2_load_full_state_dict(SimpleNamespace(is_main_process=True), model, whole)
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    assert torch.equal(state[name], whole[name])


# --- a model that holds it as a part ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("encoding", [ALIBI, HOPE, "t5"])
def test_a_model_whose_base_was_given_saves_it(encoding: str, tmp_path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = tiny_model("llama")
    drawn(whorl.attach(model.model, encoding))
    logits, budget = logits_and_budget(model, TOKENS)
    model.save_pretrained(tmp_path)
    again = whorl.load(tmp_path).eval()
    assert type(again) is type(model)
    assert str(whorl.encoding_of(again)) == encoding
    assert difference(again(TOKENS).logits, logits) < budget
    with pytest.raises(ValueError, match="use whorl.load"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use whorl.load"):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(whorl.load(tmp_path / "again").eval()(TOKENS).logits, again(TOKENS).logits)
    whorl.detach(model)
    model.save_pretrained(tmp_path / "stock")
    assert "whorl" not in (tmp_path / "stock" / "config.json").read_text()
    assert not any("whorl" in k for k in load_file(tmp_path / "stock" / "model.safetensors"))


def multimodal():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    torch.manual_seed(0)
    text = tiny_model("gemma3_text").config
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4, image_token_id=90
    )
    return Gemma3ForConditionalGeneration(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("encoding", [ALIBI, "t5"])
def test_a_multimodal_model_saves_that_of_its_language_model(encoding: str, tmp_path) -> None:
    model = multimodal()
    stock = model(TOKENS).logits
    drawn(whorl.attach(model.model.language_model, encoding))
    logits = model(TOKENS).logits
    assert difference(stock, logits) > 0
    model.save_pretrained(tmp_path)
    again = whorl.load(tmp_path).eval()
    assert type(again) is type(model)
    assert torch.equal(again(TOKENS).logits, logits)
    with pytest.raises(ValueError, match="use whorl.load"):
        type(model).from_pretrained(tmp_path)


def llava():
    """Whose modules transformers saves under older names than they have."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(), text_config=tiny_model("llama").config.to_dict(), image_token_index=90
    )
    return LlavaForConditionalGeneration(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("order", [("vision_tower", ""), ("", "vision_tower"), ("language_model", "vision_tower")])
@pytest.mark.parametrize(("text", "tower"), [(ALIBI, "axial-rope"), ("fox", "learned-2d"), ("t5", "alibi-2d")])
def test_a_text_and_its_images_keep_an_encoding_each(order, text: str, tower: str, tmp_path) -> None:
    model = llava()
    for at in order:
        part = model.get_submodule(f"model.{at}") if at else model
        drawn(whorl.attach(part, tower if at == "vision_tower" else text))
    images = {"pixel_values": torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))}
    asked = {"input_ids": torch.tensor([[1, 90, 90, 90, 90, 5, 6]]), **images}
    logits = model(**asked).logits
    model.save_pretrained(tmp_path)
    again = whorl.load(tmp_path).eval()
    assert torch.equal(again(**asked).logits, logits)
    assert str(whorl.encoding_of(again)).startswith(text.partition(":")[0])
    assert str(whorl.encoding_of(again.model.vision_tower)).startswith(tower)
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(whorl.load(tmp_path / "again").eval()(**asked).logits, logits)


@torch.no_grad()
def test_a_text_whose_tower_is_detached_is_in_stock_terms_again(tmp_path) -> None:
    model = whorl.attach(llava(), "rope:base=77")
    whorl.attach(model.model.vision_tower, "alibi-2d")
    model.save_pretrained(tmp_path / "both")
    again = whorl.load(tmp_path / "both")
    whorl.detach(again.model.vision_tower)
    logits = again(TOKENS).logits
    again.save_pretrained(tmp_path / "text")
    stock = type(again).from_pretrained(tmp_path / "text").eval()
    assert max_error(stock(TOKENS).logits, logits) < 1e-5
    assert stock.config.text_config.rope_parameters["rope_theta"] == 77


def test_of_parts_that_nothing_tells_apart_none_is_guessed(tmp_path) -> None:
    from whorl.attaching.loading import _by_part

    save_file({f"{name}.whorl._extra_state": torch.zeros(2) for name in "ab"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="do not tell which is whose; save each of these parts by itself"):
        _by_part(tmp_path, llava(), ["model.vision_tower", "model.language_model"], {})


@torch.no_grad()
def test_two_parts_keep_one_each(tmp_path, monkeypatch) -> None:
    from transformers import LlamaForCausalLM

    class WithDraft(LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.draft = LlamaForCausalLM(config)

    model = WithDraft(tiny_model("llama").config).eval()
    drawn(whorl.attach(model.draft, "t5"))
    drawn(whorl.attach(model.model, "kerple"))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {(p["at"], p["notation"]) for p in config["whorl"]["parts"]} == {("model", "kerple"), ("draft.model", "t5")}
    monkeypatch.setattr("transformers.WithDraft", WithDraft, raising=False)
    again = whorl.load(tmp_path).eval()
    assert str(whorl.encoding_of(again)) == "kerple"
    assert str(whorl.encoding_of(again.draft)) == "t5"
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    assert torch.equal(again.draft(TOKENS).logits, model.draft(TOKENS).logits)


@torch.no_grad()
def test_a_save_whose_state_dict_is_given_is_read_from_the_weights(tmp_path) -> None:
    """As FSDP's: the config was not whorl's to write. Any other loader than whorl.load is refused by name."""
    from whorl.attaching.loading import from_pretrained

    model = tiny_model("llama")
    drawn(whorl.attach(model.model, "t5"))
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert "whorl" not in (tmp_path / "config.json").read_text()
    again = whorl.load(tmp_path).eval()
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    with pytest.raises(ValueError, match=r"trained with an encoding attached; whorl.load"):
        from_pretrained(type(model), tmp_path)


@pytest.mark.parametrize("to", [HOPE, "t5", "part"])
def test_a_save_that_fails_leaves_nothing_that_loads(to: str, tmp_path, monkeypatch) -> None:
    """Over an earlier one whose weights would fit, in stock terms, in whorl's and inside a larger model."""
    tiny_model("llama").save_pretrained(tmp_path)
    model = tiny_model("llama", seed=1)
    whorl.attach(model.model if to == "part" else model, ALIBI if to == "part" else to)

    def full(*_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.modeling_utils.safe_save_file", full)
        with pytest.raises(OSError, match="no space"):
            model.save_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError), match=r"this save was not finished|use whorl.load"):
        type(model).from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this save was not finished"):
        whorl.load(tmp_path)
    model.save_pretrained(tmp_path)
    assert torch.equal(whorl.load(tmp_path).eval()(TOKENS).logits, model(TOKENS).logits)
    if to == HOPE:
        assert "unfinished" not in (tmp_path / "config.json").read_text()
        type(model).from_pretrained(tmp_path)


# --- training --------------------------------------------------------------------------------------------------------


def test_a_run_is_not_resumed_with_another_encoding(tmp_path, caplog, monkeypatch) -> None:
    """transformers' Trainer loads what fits; whorl refuses what contradicts, and a stock model is warned by the key."""
    from transformers import Trainer, TrainingArguments

    data = [{"input_ids": row, "labels": row} for row in torch.randint(3, 97, (8, 12))]

    def trainer(model, steps: int):
        arguments = TrainingArguments(
            output_dir=tmp_path, max_steps=steps, save_steps=1, per_device_train_batch_size=4, report_to="none",
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        return Trainer(model, arguments, train_dataset=data)

    trainer(whorl.attach(tiny_model("llama"), ALIBI), 1).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="trained with alibi, and the model has nope attached"):
        trainer(whorl.attach(tiny_model("llama"), "nope"), 2).train(resume_from_checkpoint=checkpoint)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING", logger="transformers"):
        trainer(tiny_model("llama"), 2).train(resume_from_checkpoint=checkpoint)
    assert "model.whorl._extra_state" in caplog.text


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning", "ignore:Could not find a config file")
@pytest.mark.parametrize("encoding", [ALIBI, HOPE])
def test_an_adapter_on_a_plain_base_is_refused_by_plain_peft(encoding: str, tmp_path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    lora = get_peft_model(whorl.attach(tiny_model("llama"), encoding), config).eval()
    logits = lora(TOKENS).logits.detach()
    lora.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"use whorl.load\(directory\) for this adapter.* encoding {encoding}"):
        PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    with pytest.raises(ValueError, match=r"use whorl.load\(directory\) for this adapter"):
        tiny_model("llama").load_adapter(str(tmp_path))
    with pytest.raises(ValueError, match="give it as base="):
        whorl.load(tmp_path)
    for base in (tiny_model("llama"), whorl.attach(tiny_model("llama"), encoding)):
        again = whorl.load(tmp_path, base=base).eval()
        assert str(whorl.encoding_of(again)) == encoding
        assert torch.equal(again(TOKENS).logits, logits)
        assert again.peft_config["default"].task_type == "CAUSAL_LM"
    with pytest.raises(ValueError, match=rf"trained with {encoding}, and the base has nope attached"):
        whorl.load(tmp_path, base=whorl.attach(tiny_model("llama"), "nope"))
    whorl.detach(lora).save_pretrained(tmp_path / "stock")
    PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "stock")


def test_an_adapter_on_a_base_that_stock_can_say_stays_stock(tmp_path) -> None:
    """The base's directory says it all, and stays usable without whorl."""
    from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model

    whorl.attach(tiny_model("llama"), HOPE).save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    lora = get_peft_model(whorl.load(tmp_path / "base"), config).eval()
    logits, budget = logits_and_budget(lora, TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lora.save_pretrained(tmp_path / "adapter")
        plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    assert difference(plain(TOKENS).logits, logits) < budget


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
def test_an_adapter_of_a_larger_model_says_that_of_its_part(tmp_path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = multimodal()
    whorl.attach(model.model.language_model, ALIBI)
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    logits = lora(TOKENS).logits.detach()
    lora.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use whorl.load"):
        PeftModel.from_pretrained(multimodal(), tmp_path)
    base = multimodal()
    whorl.attach(base.model.language_model, ALIBI)
    assert torch.equal(whorl.load(tmp_path, base=base).eval()(TOKENS).logits, logits)


def test_an_adapter_in_its_models_folder_is_told_from_one_alone(tmp_path) -> None:
    from peft import LoraConfig, get_peft_model

    base = whorl.attach(tiny_model("llama"), ALIBI)
    base.save_pretrained(tmp_path)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a model, and an adapter of it that was trained with alibi; move"):
        whorl.load(tmp_path)


@pytest.mark.parametrize("trained", [True, False])
def test_an_adapter_without_learned_parameters_says_that_they_are_lost(trained: bool, tmp_path) -> None:
    """Those that are trained beside it, and those that no directory has; none where the base's own has them."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"])
    if trained:
        lora = whorl.attach(get_peft_model(tiny_model("llama"), config), "t5")
    else:
        lora = get_peft_model(whorl.attach(tiny_model("llama"), "t5"), config)
    with pytest.warns(UserWarning, match=r"\['effects.0.weight'\] of t5 with this adapter, .*Save it whole"):
        lora.save_pretrained(tmp_path / "adapter")
    base = whorl.attach(tiny_model("llama"), "t5")
    with pytest.raises(ValueError, match="saved without the learned parameters effects.0.weight of t5"):
        whorl.load(tmp_path / "adapter", base=base)

    base.save_pretrained(tmp_path / "base")
    lora = get_peft_model(whorl.load(tmp_path / "base"), config)
    if trained:
        whorl.attached(lora).requires_grad_(True)
        with pytest.warns(UserWarning, match="Save it whole"):
            lora.save_pretrained(tmp_path / "adapter2")
        with pytest.raises(ValueError, match="saved without the learned parameters"):
            whorl.load(tmp_path / "adapter2")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            lora.save_pretrained(tmp_path / "adapter2")
        assert str(whorl.encoding_of(whorl.load(tmp_path / "adapter2"))).startswith("t5")
        stock = tiny_model("llama")
        with pytest.raises(ValueError, match="trained with t5.*, whose learned parameters PEFT does not keep"):
            whorl.load(tmp_path / "adapter2", base=stock)
        assert whorl.attached(stock) is None, "the base is as it was"


def test_parameters_that_were_trained_and_frozen_again_are_lost_too(tmp_path) -> None:
    """An adapter of a model that is frozen for its use was saved without a word, and loaded with the base's."""
    from peft import LoraConfig, get_peft_model

    whorl.attach(tiny_model("llama"), "t5").save_pretrained(tmp_path / "base")
    base = whorl.load(tmp_path / "base")
    lora = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        lora.save_pretrained(tmp_path / "untrained")
    with torch.no_grad():
        next(whorl.attached(lora).parameters()).add_(1)
    with pytest.warns(UserWarning, match=r"\['effects.0.weight'\] of t5 with this adapter, .*Save it whole"):
        lora.save_pretrained(tmp_path / "trained")
    with pytest.raises(ValueError, match="saved without the learned parameters effects.0.weight of t5"):
        whorl.load(tmp_path / "trained")


def test_an_encoding_is_trained_beside_adapters_and_no_copy_of_it_is(tmp_path) -> None:
    """PEFT's modules_to_save would train and save a copy that no layer goes by."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with pytest.raises(ValueError, match="a copy of t5 by itself is no part of the model, .*modules_to_save: whorl.at"):
        get_peft_model(
            whorl.attach(tiny_model("llama"), "t5"),
            LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["whorl"]),
        )
    lora = get_peft_model(whorl.attach(tiny_model("llama"), "t5"), config).eval()
    whorl.attached(lora).requires_grad_(True)
    before = lora(TOKENS).logits.detach()
    optimizer = torch.optim.SGD([x for x in whorl.attached(lora).parameters() if x.requires_grad], lr=10.0)
    lora(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    trained = lora(TOKENS).logits.detach()
    assert difference(trained, before) > 1e-3
    lora.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert difference(whorl.load(tmp_path / "merged").eval()(TOKENS).logits, trained) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "opt", "bert"])
def test_a_learned_table_comes_back_from_weights_in_stock_terms(family: str, tmp_path) -> None:
    """So do a Trainer's best weights and those that it resumes from: a state dict, into a model with it attached."""
    model = whorl.attach(tiny_model(family), "learned").eval()
    (table,) = whorl.attached(model).parameters()
    table.add_(torch.randn_like(table))
    truth = model(TOKENS).logits
    model.save_pretrained(tmp_path / "stock")
    weights = load_file(tmp_path / "stock" / "model.safetensors")
    assert not any("whorl" in key for key in weights)
    again = whorl.attach(tiny_model(family, seed=1), "learned").eval()
    assert not any("whorl" in key for key in again.load_state_dict(weights, strict=False).missing_keys)
    assert torch.equal(again(TOKENS).logits, truth)

    other = whorl.attach(tiny_model(family, seed=1), "learned").eval()
    other.load_state_dict(model.state_dict())  # which has both tables
    assert torch.equal(other(TOKENS).logits, truth)
    smaller = whorl.attach(tiny_model(family), "learned:max_positions=41").eval()
    assert any("whorl" in key for key in smaller.load_state_dict(weights, strict=False).missing_keys)
    whorl.detach(again).load_state_dict(weights, strict=False)
    assert torch.equal(again(TOKENS).logits, truth), "stock code reads them by its own table"
