"""Canaries: one for each thing that `whorl.hosts.transformers.compat` leans on. When one falls silent, the message of
its assertion says what has changed upstream; mend the function of the same name."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from whorl.hosts import FAMILIES, open_host
from whorl.hosts.transformers import compat
from whorl.ops.derivatives import exporting
from whorl.testing import tiny_model

IDS = torch.arange(3, 12)[None]


def attention_class(family: str) -> Any:
    return type(next(m for n, m in tiny_model(family).named_modules() if n.endswith(("self_attn", "attn"))))


# --- the code of a family's forward ----------------------------------------------------------------------------------


def test_forwards_are_python_code_that_names_what_it_calls() -> None:
    names = compat.names_in(attention_class("llama"))
    assert "apply_rotary_pos_emb" in names, "LlamaAttention.forward does not call apply_rotary_pos_emb by name any more"
    assert "o_proj" in names
    assert "q_norm" not in compat.names_in(attention_class("llama"))


def test_a_forward_that_masks_by_a_window_is_told() -> None:
    """Of every family that whorl knows, with a window in its config, whether the config's class declares one or not."""
    windowed = {f for f in FAMILIES if compat.masks_by_window(type(open_host(tiny_model(f)).base))}
    wrong = []
    for family in FAMILIES:
        ids = torch.arange(3, 43)[None]
        with torch.no_grad():
            near, far = (tiny_model(family, sliding_window=n)(ids, use_cache=False).logits for n in (8, 40))
        if not torch.equal(near, far) and family not in windowed:
            wrong.append(family)
    assert not wrong, "these mask by a window, and their forward names no function for it"
    assert {"mistral", "gemma3_text", "modernbert"} <= windowed
    assert "llama" not in windowed


def test_a_family_without_the_word_does_as_without_the_setting() -> None:
    """Of every family that whorl knows: what no code names changes no logit."""
    without = {f for f in FAMILIES if not compat.has_word("sliding_window", *_parts(tiny_model(f)))}
    ids = torch.arange(3, 43)[None]
    for family in without:
        with torch.no_grad():
            near, far = (tiny_model(family, sliding_window=n)(ids, use_cache=False).logits for n in (8, 40))
        assert torch.equal(near, far), f"{family} reads sliding_window elsewhere than in its own modules"
    assert "llama" in without
    assert not without & {"mistral", "gemma3_text", "modernbert"}


def _parts(model: Any) -> tuple[Any, ...]:
    return model, model.base_model, model.config


def test_names_are_read_in_their_order() -> None:
    after = compat.names_after(attention_class("hunyuan_v1_dense"), "apply_rotary_pos_emb")
    assert {"query_layernorm", "key_layernorm"} <= set(after), (
        "Hunyuan does not normalise q and k after it has turned them any more, or dis lists names in another way"
    )
    assert not any("norm" in name for name in compat.names_after(attention_class("qwen3"), "apply_rotary_pos_emb")), (
        "Qwen 3 normalises q and k after it has turned them now, or dis lists names in another way"
    )


def test_a_forward_finds_its_rotation_among_its_globals() -> None:
    from transformers.models.llama import modeling_llama

    found = compat.global_of(attention_class("llama"), "apply_rotary_pos_emb")
    assert found is modeling_llama.apply_rotary_pos_emb, "a forward's __globals__ are not its module's any more"


@torch.no_grad()
def test_a_copy_of_a_forward_with_another_global_calls_that() -> None:
    calls: list[str] = []
    model = tiny_model("llama")
    own = compat.global_of(attention_class("llama"), "apply_rotary_pos_emb")

    def noting(*args: Any, **kwargs: Any) -> Any:
        calls.append("turned")
        return own(*args, **kwargs)

    rebound = compat.with_global(attention_class("llama"), "apply_rotary_pos_emb", noting)
    expected = model(IDS).logits
    attention = model.model.layers[1].self_attn
    attention.forward = rebound.__get__(attention)
    assert torch.equal(model(IDS).logits, expected)
    assert calls == ["turned"], "a copied forward does not look its rotation up in the globals that it was given"
    tiny_model("llama")(IDS)
    assert calls == ["turned"], "the class itself, and so every other model, was changed too"


# --- what a layer gets, and how it attends ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "falcon"])
def test_a_layer_gets_its_rotation_and_cache_by_these_names(family: str) -> None:
    model, got = tiny_model(family), {}
    attention = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
    attention.register_forward_pre_hook(lambda m, args, kwargs: got.update(kwargs), with_kwargs=True)
    cache = model(IDS, use_cache=True).past_key_values
    assert compat.cache_in(got) is cache, f"{family} hands its layers a cache by another name: {sorted(got)}"
    if family != "gpt2":
        assert compat.ROTATION in got, f"{family} hands what its rotary module gave by another name: {sorted(got)}"
        assert len(got[compat.ROTATION]) == 2


def test_code_that_looks_its_attention_up_names_the_registry() -> None:
    assert compat.attends_by_name(attention_class("llama")), "ALL_ATTENTION_FUNCTIONS has another name now"
    falcon = type(tiny_model("falcon").transformer.h[0].self_attention)
    assert not compat.attends_by_name(falcon), "falcon uses the attention interface now: delete its special path"


def test_a_config_says_which_attention_its_layers_use() -> None:
    from transformers import Gemma3Config

    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    assert compat.attention_of(model.config) == "eager", "set_attn_implementation is read elsewhere now"
    config = Gemma3Config()
    compat.build_with_attention(config, "sdpa")
    compat.set_attention_of(config, "eager")
    assert compat.attention_of(config) == "eager", "the attention of a config is kept by another name now"
    assert compat.attention_of(config.text_config) == "sdpa", "setting a config's own sets those of its parts now"
    assert not hasattr(config, "attn_implementation"), "there is a public reader now: use it"


@torch.no_grad()
def test_mask_functions_are_asked_by_these_arguments() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    asked: list[dict[str, Any]] = []

    def mask(**how: Any) -> torch.Tensor:
        asked.append(how)
        return compat.whole_mask(**how)

    AttentionInterface.register("canary", sdpa_attention_forward)
    AttentionMaskInterface.register("canary", mask)
    model = tiny_model("llama")
    expected = model(IDS).logits
    model.set_attn_implementation("canary")
    torch.testing.assert_close(model(IDS).logits, expected)
    (how,) = asked
    wanted = {"batch_size", "q_length", "kv_length", "q_offset", "kv_offset", "mask_function", "attention_mask"}
    assert wanted <= how.keys(), f"transformers asks for a mask by other arguments now: {sorted(how)}"
    found = compat.whole_mask(**how)
    assert found is not None, "sdpa_mask leaves masks out although it is told not to"
    assert found.dtype == torch.bool, "sdpa_mask does not give True and False any more"
    assert torch.equal(found[0, 0], torch.ones(9, 9).tril().bool())
    part = compat.whole_mask(**{**how, "q_length": 3, "q_offset": 4, "kv_length": 5, "kv_offset": 2})
    assert torch.equal(part[0, 0], found[0, 0, 4:7, 2:7]), "sdpa_mask's offsets mean something else now"


def test_what_is_known_of_a_mask_is_so() -> None:
    from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

    functions = {"causal": causal_mask_function, "window": sliding_window_causal_mask_function(3)}
    paddings = {"none": None, "ones": torch.ones(2, 9).long(), "short": torch.ones(2, 7).long()}
    paddings["left"], paddings["bool"] = torch.tensor([[0] + [1] * 8, [1] * 9]), torch.ones(2, 9).bool()
    known = set()
    for (kind, function), (name, padding), queries, q_offset, kv_offset in itertools.product(
        functions.items(), paddings.items(), (1, 3), (5, 6, 7, 8), (0, 1)
    ):
        how = {"batch_size": 2, "q_length": queries, "kv_length": 8, "q_offset": q_offset, "kv_offset": kv_offset}
        how |= {"mask_function": function, "attention_mask": padding if padding is None else padding.bool()}
        found = compat.known_mask(**how)
        if found is not None:
            shown = torch.ones(queries, 8).bool().tril(8 - queries if found == "causal" else 8)
            assert (compat.whole_mask(**how) == shown).all(), "transformers' mask is not what it is taken to be"
            known.add((found, kind, name, queries, q_offset, kv_offset))
    unpadded = ("none", "ones", "bool")
    always = {("all", "causal", name, 1, *at) for name in unpadded for at in ((7, 0), (8, 0), (8, 1))}
    assert known == always | {("causal", "causal", name, 3, *at) for name in unpadded for at in ((5, 0), (6, 1))}


# --- torch -----------------------------------------------------------------------------------------------------------


def test_a_tensor_can_keep_its_address() -> None:
    tensor = torch.zeros(2)
    compat.keep_address(tensor)
    assert hasattr(tensor, "_dynamo_static_input_type"), "mark_static_address marks tensors in another way, if at all"


def test_a_condition_is_asserted_without_a_look_at_it() -> None:
    compat.assert_in_graph(torch.tensor(True), "no")
    with pytest.raises(RuntimeError, match="these words"):
        compat.assert_in_graph(torch.tensor(False), "these words")


def test_an_export_is_told_from_a_compiled_call() -> None:
    class Exporting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if exporting() else x

    zero = torch.zeros(2)
    for run, added in (
        (Exporting(), 0.0),
        (torch.compile(Exporting(), fullgraph=True, backend="eager"), 0.0),
        (torch.export.export(Exporting(), (zero,)).module(), 1.0),
        (torch.export.export(Exporting(), (zero,), strict=True).module(), 1.0),
    ):
        assert run(zero).tolist() == [added, added], "torch.export sets another flag, or compiled calls set this one"


def test_a_note_on_a_tensor_is_read_in_the_same_graph() -> None:
    def noted(x: torch.Tensor) -> tuple[torch.Tensor, bool]:
        made = x + 1
        compat.note_on(made, {"by": 2, "of": x})
        note = compat.noted_on(made)
        return made * note["by"] + note["of"], compat.noted_on(made[:]) is None

    for run in (noted, torch.compile(noted, fullgraph=True, backend="eager")):
        found, no_copy = run(torch.ones(3))
        assert (found.tolist(), no_copy) == ([5, 5, 5], True), "dynamo traces no attribute of a new tensor any more"


def test_torch_compile_keeps_the_module_inside() -> None:
    module = nn.Linear(2, 2)
    assert compat.compiled_inside(torch.compile(module)) is module, "torch.compile keeps the module by another name now"
    assert compat.compiled_inside(module) is None


def test_fsdp_marks_its_parameters() -> None:
    from torch.distributed.fsdp import _flat_param

    assert "_fsdp_flattened" in inspect.getsource(_flat_param), "FSDP marks flattened parameters by another name now"
    parameter = nn.Parameter(torch.zeros(1))
    assert not compat.flattened_by_fsdp(parameter)
    parameter._fsdp_flattened = True
    assert compat.flattened_by_fsdp(parameter)


def test_a_model_split_over_devices_holds_its_mesh() -> None:
    """In tests/attaching/test_parallel.py such a model is loaded in earnest."""
    import transformers

    home = Path(transformers.__file__).parent
    sources = [home / "modeling_utils.py", *home.glob("distributed/*.py"), *home.glob("integrations/*.py")]
    assert any("._device_mesh = " in path.read_text() for path in sources), "a split model keeps its mesh elsewhere now"
    assert compat.tensor_parallel_mesh(tiny_model("llama")) is None


def test_the_cpu_says_whether_it_multiplies_bfloat16() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("this system does not list what its CPU has")
    words = set(flags.read_text().split())
    assert compat.cpu_multiplies_bfloat16() == bool({"avx512_bf16", "amx_tile"} & words), "torch.cpu asks otherwise now"


# --- other people's forwards and saves -------------------------------------------------------------------------------


def test_accelerates_hooks_keep_the_forward_under_them() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    module = nn.Linear(2, 2)
    assert compat.forward_slot(module) == "forward"
    add_hook_to_module(module, ModelHook())
    assert compat.forward_slot(module) == "_old_forward", "accelerate keeps a hooked module's forward elsewhere now"
    module._old_forward = lambda x: torch.ones(3)
    assert torch.equal(module(torch.zeros(2)), torch.ones(3)), "accelerate's hooks call something else now"
    remove_hook_from_module(module)
    assert compat.forward_slot(module) == "forward"


def test_a_trainer_is_told_to_use_one_gpu(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    arguments._n_gpu = 2
    assert arguments.n_gpu == 2, "TrainingArguments keeps its number of GPUs by another name now"
    compat.use_one_gpu(arguments)
    assert arguments.n_gpu == 1


def test_a_model_with_adapters_of_its_own_says_so() -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model("llama")
    assert not compat.only_adapters_are_saved(model)
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    assert compat.only_adapters_are_saved(model), "transformers marks a model with adapters by another name now"


def test_an_adapters_config_is_written_as_it_is_told_and_read_by_its_task(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    words = "a sentence of ours"
    compat.write_adapter_as(config, lambda self: {**type(self).to_dict(self), "task_type": words})
    config.save_pretrained(tmp_path)
    assert words in (tmp_path / "adapter_config.json").read_text(), "PEFT writes configs by another method than to_dict"
    with pytest.raises(ValueError, match=words):  # if not, PEFT reads adapters of task types that it does not know
        peft.PeftConfig.from_pretrained(tmp_path)
    compat.write_adapter_as(config, None)
    config.save_pretrained(tmp_path)
    assert peft.PeftConfig.from_pretrained(tmp_path).task_type == "CAUSAL_LM"


def test_a_config_writes_what_to_diff_dict_gives(tmp_path: Path) -> None:
    config = tiny_model("llama").config
    compat.add_to_written(config, {"canary": {"sings": True}})
    config.save_pretrained(tmp_path)
    written = (tmp_path / "config.json").read_text()
    assert '"canary"' in written, "configs are written by another method than to_diff_dict now"
    assert "to_diff_dict" not in written


@pytest.mark.parametrize("entry", compat.unreadable("").keys())
def test_each_of_these_entries_alone_makes_a_stock_load_fail_with_our_words(entry: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model, words = tiny_model("llama"), "a sentence of ours"
    compat.add_to_written(model.config, {entry: compat.unreadable(words)[entry]})
    model.save_pretrained(tmp_path)
    with pytest.raises(Exception, match=words):  # if not, from_pretrained does not read this entry any more
        AutoModelForCausalLM.from_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    if entry != "transformers_weights":
        with pytest.raises(Exception, match=words):
            AutoModelForCausalLM.from_config(config)
    compat.readable_again(config, words)
    assert entry not in vars(config)
    AutoModelForCausalLM.from_pretrained(tmp_path, config=config)


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert compat.file_of(tmp_path, "config.json", {}) == str(tmp_path / "config.json")
    assert compat.file_of(tmp_path, "nothing.json", {}) is None, "cached_file cannot be asked for what may be missing"


def test_a_model_can_be_saved_by_the_names_of_its_modules(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))
    with compat.saved_by_own_names(model):
        model.save_pretrained(tmp_path / "own")
    model.save_pretrained(tmp_path / "published")
    own, published = (set(load_file(tmp_path / name / "model.safetensors")) for name in ("own", "published"))
    assert own == set(model.state_dict())
    assert published != own, "the two need no telling apart any more"
    assert "save_pretrained" not in vars(model)


@pytest.mark.parametrize("whose", ["transformers", "peft"])
def test_a_save_can_be_seen_from_the_state_dict(whose: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    if whose == "peft":
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    seen: list[compat.Save | None] = []
    model.lm_head.register_state_dict_pre_hook(lambda *_: seen.append(compat.running_save()))
    model.state_dict()
    assert seen == [None]
    model.save_pretrained(tmp_path)
    assert seen[1:], f"{whose} does not ask for a state dict while it saves any more"
    found = seen[-1]
    assert found is not None, f"{whose} asks for a state dict outside of save_pretrained now"
    assert found == (model, tmp_path, True)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert seen[-1] is not None
    assert not seen[-1].writes, f"{whose} tells a process that it does not write by another name now"


def test_accelerates_sharding_is_known_by_its_name() -> None:
    from accelerate.utils import fsdp_utils

    assert hasattr(fsdp_utils, "fsdp2_load_full_state_dict"), "accelerate shards a state dict by another function now"

    def fsdp2_load_full_state_dict() -> bool:
        return compat.in_accelerates_sharding()

    assert fsdp2_load_full_state_dict()
    assert not compat.in_accelerates_sharding()


@pytest.mark.parametrize("learns", ["a prefix", "an adapter"])
def test_a_forward_of_learned_prompts_can_be_seen_from_within(learns: str) -> None:
    peft = pytest.importorskip("peft")
    prefix = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    config = prefix if learns == "a prefix" else peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    seen: list[bool] = []
    model = peft.get_peft_model(tiny_model("llama"), config)
    model.get_base_model().lm_head.register_forward_pre_hook(lambda *_: seen.append(compat.in_prompt_learning()))
    model(torch.arange(4)[None])
    assert seen == [learns == "a prefix"]
    assert not compat.in_prompt_learning()
