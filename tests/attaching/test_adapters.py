"""PEFT's adapters: what merging them makes, and what cannot be merged or read without them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import whorl
from tests.hosts.test_packed import whole
from whorl.attaching.loading import configuration
from whorl.evaluation.opening import opened
from whorl.hosts import open_host
from whorl.results.extension import EXTENSION, Extension, Method
from whorl.sources import source
from whorl.testing import tiny_model

IDS = torch.randint(3, 97, (1, 20), generator=torch.Generator().manual_seed(0))


def adapted(tmp_path: Path, config: Any, tied: bool = True) -> Any:
    """A model with an adapter of which every number was moved, in tmp_path / "adapter"; its base is in "base"."""
    from peft import get_peft_model

    tiny_model("llama", tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight), alpha=0.05)
    model.save_pretrained(tmp_path / "adapter")
    return model.eval()


def lora(**how: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 2, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **how})


@torch.no_grad()
@pytest.mark.parametrize(
    "how", [{}, {"use_dora": True}, {"modules_to_save": ["norm"]}, {"trainable_token_indices": [3, 4]}], ids=str
)
def test_merged_it_is_the_adapted_model(how: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(tmp_path, lora(**how))
    said: list[str] = []
    whole = source(str(tmp_path / "adapter")).whole(said.append)
    assert said == ["the adapter is merged into its base: what is written is one model"]
    torch.testing.assert_close(whole(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert not hasattr(whole, "peft_config")
    assert not whole.training
    assert all(weight.requires_grad for weight in whole.parameters())


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "changes lm_head.weight, .* same weight as model.embed_tokens"),
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            "changes model.embed_tokens.weight, .* as lm_head",
        ),
        ({"lora_bias": True}, "PEFT cannot merge the adapter in .*: Impossible to merge LoRA with `lora_bias=True`"),
        ({"layer_replication": [[0, 2], [0, 2]]}, r"is another model: outputs differ by \d"),
    ],
    ids=["head", "embedding", "bias", "replicated"],
)
def test_what_merging_would_make_another_model_is_refused(how: dict[str, Any], why: str, tmp_path: Path) -> None:
    """PEFT adds what it has for one end of tied embeddings to both, and for a replicated layer to all of its copies."""
    adapted(tmp_path, lora(**how))
    with pytest.raises(ValueError, match=why):
        source(str(tmp_path / "adapter")).whole(print)


@torch.no_grad()
def test_ends_that_are_not_tied_are_merged(tmp_path: Path) -> None:
    model = adapted(tmp_path, lora(target_modules=["lm_head", "embed_tokens"]), tied=False)
    whole = source(str(tmp_path / "adapter")).whole(print)
    torch.testing.assert_close(whole(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig", "aLoRA"])
def test_what_is_in_the_wrapper_alone_is_not_read_as_the_model_without_it(kind: str, tmp_path: Path) -> None:
    """Every measuring command read the base, and gave its numbers for the adapted model's."""
    import peft

    if kind == "aLoRA":
        model, why = adapted(tmp_path, lora(alora_invocation_tokens=[5, 6])), "that is on after certain tokens alone"
    else:
        config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
        model, why = adapted(tmp_path, config), r"puts a learned prompt before each text, .* give its base"
    loaded = whorl.load(tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)
    for read in (open_host, whorl.doctor, lambda one: whorl.inspect(one, IDS)):
        with pytest.raises(ValueError, match=why):
            read(loaded)
    with pytest.raises(ValueError, match=why):
        opened(source(str(tmp_path / "adapter")), None)


@torch.no_grad()
def test_an_adapter_below_a_folder_finds_its_base_where_that_is(tmp_path: Path) -> None:
    """The base was looked for in the adapter's subfolder, and in its branch."""
    model = adapted(tmp_path, lora())
    (tmp_path / "many").mkdir()
    (tmp_path / "adapter").rename(tmp_path / "many" / "second")
    loaded = whorl.load(tmp_path / "many", subfolder="second", revision="main").eval()
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)


def test_a_base_by_its_path_is_refused_in_words(tmp_path: Path) -> None:
    adapted(tmp_path, lora())
    where = str(tmp_path / "base")
    with pytest.raises(ValueError, match=r"base must be a model, got a str .*; load it first, as whorl\.load\('"):
        whorl.load(tmp_path / "adapter", base=where)


def test_an_adapter_on_a_model_that_was_extended_knows_the_length_before(tmp_path: Path) -> None:
    adapted(tmp_path, lora())
    found = source(str(tmp_path / "adapter"))
    assert found.extended_from is None
    tried = (Method("yarn", "rope~yarn:factor=2,original=32", 3.0, 3.0, True),)
    how = {"layers_as_they_were": (), "tried": tried, "loads": "stock transformers"}
    Extension("base", 32, 64, "stdlib", (2, 64), "yarn", "rope~yarn:factor=2,original=32", **how).write(
        tmp_path / "base" / EXTENSION
    )
    found = source(str(tmp_path / "adapter"))
    assert (found.extended_from, found.tells_length) == (32, EXTENSION)


def test_the_layers_of_an_adapters_base_are_not_streamed(tmp_path: Path) -> None:
    adapted(tmp_path, lora())
    with pytest.raises(ValueError, match="cannot be streamed: it is an adapter"):
        source(str(tmp_path / "adapter")).model(stream_layers=True)
    with pytest.raises(ValueError, match=r"holds an adapter and no config.json; give the merged model"):
        configuration(tmp_path / "adapter")


@pytest.mark.parametrize("beside", [True, False])
def test_a_comparison_trains_no_model_with_an_adapter(beside: bool, tmp_path: Path) -> None:
    """Beside its model stock code put it on, all else frozen: a trial trained a part, and could not be read again."""
    adapted(tmp_path, lora())
    if beside:
        shutil.copytree(tmp_path / "base", tmp_path / "adapter", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="holds a PEFT adapter, and a comparison trains whole models; give the merged"):
        whorl.compare(["rope"], model=str(tmp_path / "adapter"), task="copy", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


VISUAL = "axial-rope:base=100,order=ij"


def qwen() -> Any:
    """Of texts and images; its text and its tower can have an encoding each."""
    return whole("Qwen2_5_VLForConditionalGeneration")


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
@pytest.mark.parametrize(
    ("text", "tower"), [(None, "nope"), (None, VISUAL), ("hope:train_length=16", VISUAL), ("nope", "nope")]
)
@torch.no_grad()
def test_an_adapter_says_the_encodings_of_all_parts(text: str | None, tower: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model = qwen()
    whorl.attach(model.model.visual, tower)
    if text is not None:
        whorl.attach(model, text)
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv", "q_proj"], init_lora_weights=False)).eval()
    lora.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"whorl.load\(directory\) for this adapter.*{tower} at model.visual"):
        PeftModel.from_pretrained(qwen(), tmp_path)
    patches, grids = torch.randn(24, 96, generator=torch.Generator().manual_seed(1)), torch.tensor([[1, 4, 6]])
    for has_tower in (False, True):
        base = qwen()
        if has_tower:
            whorl.attach(base.model.visual, tower)
        loaded = whorl.load(tmp_path, base=base).eval()
        assert str(whorl.encoding_of(loaded)) == str(whorl.encoding_of(model))
        assert str(whorl.encoding_of(base.model.visual)) == tower
        assert torch.equal(loaded(IDS).logits, lora(IDS).logits)
        seen, expected = (m.model.visual(patches, grids).last_hidden_state for m in (base, model))
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("of_text", [True, False])
def test_a_base_with_an_encoding_that_its_adapter_does_not_know_is_refused(of_text: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, base = qwen(), qwen()
    whorl.attach(model if of_text else model.model.visual, "nope")
    whorl.attach(base.model.visual if of_text else base, "nope")
    get_peft_model(model, LoraConfig(r=2, target_modules=["qkv", "q_proj"])).save_pretrained(tmp_path)
    at_tower = "nope at model.visual"
    wanted, found = ("nope", at_tower) if of_text else (at_tower, "nope")
    with pytest.raises(ValueError, match=f"was trained with {wanted}, and the base has {found} attached"):
        whorl.load(tmp_path, base=base)


def test_an_adapter_says_what_is_lost_of_a_part(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = whole("Qwen3VLForConditionalGeneration")
    whorl.attach(model.model.visual, "learned-2d+axial-rope:order=ij")
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv"]))
    with pytest.warns(UserWarning, match=r"model.visual.effects.0.weight.* of learned-2d.* at model.visual with this"):
        lora.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"was saved without the learned parameters model.visual.effects.0"):
        whorl.load(tmp_path, base=whole("Qwen3VLForConditionalGeneration"))


@pytest.mark.parametrize("name", ["Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"])
def test_an_adapter_of_a_tower_alone(name: str, tmp_path: Path) -> None:
    """transformers knows no embeddings of Qwen3-VL's."""
    from peft import LoraConfig, get_peft_model

    tower = whorl.attach(whole(name).model.visual, VISUAL)
    lora = get_peft_model(tower, LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False)).eval()
    lora.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path, base=whole(name).model.visual).eval()
    assert str(whorl.encoding_of(loaded)) == VISUAL
    patches, grids = torch.randn(24, 96, generator=torch.Generator().manual_seed(1)), torch.tensor([[1, 4, 6]])
    assert torch.equal(loaded(patches, grids).last_hidden_state, lora(patches, grids).last_hidden_state)
