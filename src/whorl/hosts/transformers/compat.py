"""What whorl leans on that transformers, torch, accelerate and PEFT do not promise: each in one small function.

A function says what is leaned on. Its canary in tests/hosts/test_compat.py breaks when that changes, and says in words
what has changed. Whatever has a public name by now is used by that name and is not here.
"""

from __future__ import annotations

import dis
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import nn

# --- the code of a family's forward ----------------------------------------------------------------------------------


def names_in(module_class: Any) -> tuple[str, ...]:
    """The globals and attributes that a class's `forward` names, in the order of their first use.

    Leans on: decorators of a forward keep the function that they wrap in `__wrapped__`, and it is Python code.
    """
    names: tuple[str, ...] = _forward(module_class).__code__.co_names
    return names


def masks_by_window(module_class: Any) -> bool:
    """Whether a class's `forward` masks what lies before a window: a config may hold a `sliding_window` that no code of
    its family reads. Leans on what transformers' functions for such masks are called."""
    return any("sliding_window" in name and "mask" in name for name in names_in(module_class))


def has_word(name: str, *parts: Any) -> bool:
    """Whether the source in which the classes of these parts of a model stand has this name as a word.
    Leans on: all that a family does stands in the modules of its model and of its config."""
    return any(name in _words(type(part).__module__) for part in parts)


@functools.cache
def _words(module: str) -> frozenset[str]:
    try:
        return frozenset(re.findall(r"\w+", inspect.getsource(sys.modules[module])))
    except (OSError, TypeError):  # no source at hand
        return frozenset()


def names_after(module_class: Any, name: str) -> list[str]:
    """The names that a class's `forward` reads after its last use of `name`. Leans on `dis` to list them in order."""
    named = [i.argval for i in dis.get_instructions(_forward(module_class)) if isinstance(i.argval, str)]
    return named[len(named) - named[::-1].index(name) :]


def global_of(module_class: Any, name: str) -> Any:
    """What a class's `forward` finds under a global name. Leans on its `__globals__`."""
    return _forward(module_class).__globals__[name]


def with_global(module_class: Any, name: str, value: Any) -> Callable[..., Any]:
    """The class's `forward` with the global `name` pointing elsewhere; the class itself is not touched.

    Leans on: a family calls its rotation by a global name, so a copy of the function with other globals calls ours.
    `__name__` is left out of them: with it, torch.compile looks values up in the real module.
    """
    forward = _forward(module_class)
    replaced = {key: value for key, value in forward.__globals__.items() if key != "__name__"}
    replaced[name] = value
    rebound = types.FunctionType(
        forward.__code__, replaced, forward.__name__, forward.__defaults__, forward.__closure__
    )
    rebound.__kwdefaults__ = forward.__kwdefaults__
    return rebound


def _forward(module_class: Any) -> Any:
    return inspect.unwrap(module_class.forward)


# --- what a layer gets, and how it attends ---------------------------------------------------------------------------

ROTATION = "position_embeddings"  # the argument in which layers get what the rotary module gave


def cache_in(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of an attention's forward: `past_key_values`, or `layer_past` in older families."""
    return kwargs.get("past_key_values", kwargs.get("layer_past"))


def attends_by_name(attention_class: Any) -> bool:
    """Whether an attention looks its implementation up in transformers' registry.

    Leans on: code that does names `ALL_ATTENTION_FUNCTIONS`.
    """
    return "ALL_ATTENTION_FUNCTIONS" in names_in(attention_class)


def attention_of(config: Any) -> str | None:
    """The attention implementation that layers with this config use. Leans on `config._attn_implementation`, which has
    a public setter (`model.set_attn_implementation`) and no public reader."""
    name: str | None = config._attn_implementation
    return name


def set_attention_of(config: Any, name: str | None) -> None:
    """Sets that of this config alone. Leans on `_attn_implementation_internal`: what is public sets the parts too."""
    config._attn_implementation_internal = name


def build_with_attention(config: Any, name: str) -> None:
    """Sets the attention, parts and all, with which a model is built from a config. Leans on the setter of
    `config._attn_implementation`: what is public is the model's, which is not there yet."""
    config._attn_implementation = name


def whole_mask(**how: Any) -> torch.Tensor:
    """transformers' boolean mask [batch, 1, queries, keys], also where attention could do without one.

    Leans on `sdpa_mask`, the arguments with which transformers asks a registered mask function (`batch_size`,
    `q_length`, `kv_length`, `q_offset`, `kv_offset`, `mask_function`, `attention_mask`, `local_size`), and the two
    that let it leave the mask out.
    """
    from transformers.masking_utils import sdpa_mask

    mask: torch.Tensor = sdpa_mask(**{**how, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    return mask


def is_causal(mask_function: Any) -> bool:
    """Whether a mask is transformers' plain causal one. Another may be causal, too."""
    from transformers.masking_utils import causal_mask_function

    return mask_function is causal_mask_function


def known_mask(
    mask_function: Any,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    attention_mask: Any = None,
    **_: Any,
) -> str | None:
    """What a mask is known to show, without making it: under transformers' plain causal mask, of keys of which none is
    padding, "all" to one query at the last of them, and keys up to their own to several ("causal"); or None. Leans on
    what `whole_mask` does."""
    if not is_causal(mask_function) or not (isinstance(q_offset, int) and isinstance(kv_offset, int)):
        return None
    last = kv_offset + kv_length
    if attention_mask is not None and (attention_mask.shape[-1] < last or not bool(attention_mask.all())):
        return None
    if q_length == 1:
        return "all" if q_offset + 1 >= last else None
    return "causal" if q_offset + q_length == last else None


# --- torch -----------------------------------------------------------------------------------------------------------


def keep_address(tensor: torch.Tensor) -> None:
    """Promises torch.compile that a tensor stays where it is, so that a compiled call may write to it. Of one that is
    made in a compiled call there is nothing to promise.

    Leans on `torch._dynamo.mark_static_address`, as transformers' static caches do.
    """
    if not torch.compiler.is_compiling():
        torch._dynamo.mark_static_address(tensor)


def assert_in_graph(condition: torch.Tensor, message: str) -> None:
    """Raises RuntimeError, in a compiled call too, where a tensor of one element is false. Leans on
    `torch._assert_async`, which waits for no device."""
    torch._assert_async(condition, message)


def note_on(tensor: torch.Tensor, note: Any) -> None:
    """Leaves a note on a tensor that was just made, for `noted_on`, in a compiled call too, where it costs nothing.

    Leans on dynamo to trace an attribute that is set on a new tensor.
    """
    noted: Any = tensor
    noted.whorl_note = note


def noted_on(tensor: torch.Tensor) -> Any:
    """The note on a tensor, or None: a slice or a copy has none."""
    return getattr(tensor, "whorl_note", None)


def compiled_inside(model: Any) -> Any:
    """The module inside torch.compile's wrapper, or None. Leans on its attribute `_orig_mod`."""
    return getattr(model, "_orig_mod", None)


def flattened_by_fsdp(parameter: Any) -> bool:
    """Whether a parameter is FSDP's (first version) own. Leans on the mark `_fsdp_flattened`."""
    return bool(getattr(parameter, "_fsdp_flattened", False))


def tensor_parallel_mesh(model: Any) -> Any:
    """The devices over which transformers splits a model's layers, or None. Leans on `model._device_mesh`."""
    return getattr(model, "_device_mesh", None)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX. Leans on two private questions of `torch.cpu`."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# --- other people's forwards and saves -------------------------------------------------------------------------------


def forward_slot(module: nn.Module) -> str:
    """The attribute of a module in which an instance's own forward stands.

    Leans on: accelerate's hooks stand in `forward` themselves (`_hf_hook` says so), and keep what they call and will
    put back in `_old_forward`.
    """
    return "_old_forward" if hasattr(module, "_hf_hook") and "_old_forward" in module.__dict__ else "forward"


def runs_on(module: nn.Module) -> torch.device | None:
    """The device to which accelerate's hooks bring a module's weights when it is called; None where none do.

    Leans on `_hf_hook`, as above.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if (device := getattr(one, "execution_device", None)) is not None:
                return torch.device(device)
    return None


@contextmanager
def brought(module: nn.Module | None) -> Iterator[None]:
    """While this lasts, the weights of a module and its parts are there that accelerate keeps elsewhere."""
    with ExitStack() as stack:
        for part in () if module is None else module.modules():
            if hasattr(part, "_hf_hook"):
                from accelerate.utils import align_module_device

                stack.enter_context(align_module_device(part))
        yield


def use_one_gpu(arguments: Any) -> None:
    """Has the Trainer leave a process's other GPUs alone, over which it would split every batch. Leans on `_n_gpu`, of
    which the public `n_gpu` is the reader."""
    arguments._n_gpu = 1


def only_adapters_are_saved(model: Any) -> bool:
    """Whether `save_pretrained` writes a model's adapters and no config. Leans on `_hf_peft_config_loaded`."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def write_adapter_as(config: Any, to_dict: Callable[[Any], dict[str, Any]] | None) -> None:
    """Has PEFT write this one config of an adapter as a function of it says; None: as its class does.

    Leans on: it is written as its `to_dict` gives it, and one with a task type that PEFT does not know is not read.
    """
    config.__dict__.pop("to_dict", None)
    if to_dict is not None:
        config.__dict__["to_dict"] = types.MethodType(to_dict, config)


def add_to_written(config: Any, entries: dict[str, Any]) -> None:
    """Adds entries to what this one config writes: set as attributes, stock code would drop or check some of them.

    Leans on: a config is written as its `to_diff_dict` gives it.
    """

    def to_diff_dict(self: Any) -> dict[str, Any]:
        written = type(self).to_diff_dict(self)
        written.pop("to_diff_dict", None)
        return {**written, **entries}

    config.__dict__["to_diff_dict"] = types.MethodType(to_diff_dict, config)


@contextmanager
def saved_by_own_names(model: Any) -> Iterator[None]:
    """In it `model.save_pretrained` names weights as the model's modules are named, and not as in published checkpoints
    of its family, where these have others.

    Leans on the argument `save_original_format`. (What reads a file by `load_state_dict`, as the Trainer does, finds
    none of its weights under other names, warns, and goes on without them.)
    """
    if not hasattr(model, "save_pretrained"):
        yield
        return
    had = vars(model).get("save_pretrained")
    vars(model)["save_pretrained"] = functools.partial(model.save_pretrained, save_original_format=False)
    try:
        yield
    finally:
        del model.save_pretrained
        if had is not None:
            vars(model)["save_pretrained"] = had


def unreadable(words: str) -> dict[str, Any]:
    """Entries of a config that make every stock load of it fail with these words, and every model built from it alone.

    Leans on: the stock loader looks for the file that `transformers_weights` names, does not find it, and says so; a
    model built from the config asks for its implementations of attention, and of experts also where the caller gives
    the other one, and says that this is none.
    """
    return {
        "transformers_weights": f"{words}.safetensors",
        "attn_implementation": words,
        "experts_implementation": words,
    }


def readable_again(config: Any, words: str) -> None:
    """Takes the entries of `unreadable(words)` out of a config that has been read, where they have other names."""
    config.__dict__.pop("transformers_weights", None)
    for name in ("_attn_implementation", "_experts_implementation"):
        if getattr(config, name) == words:
            setattr(config, name, None)


def file_of(where: Any, name: str, hub: dict[str, Any]) -> str | None:
    """The path of one file of a checkpoint, here or on the hub; None where there is no such file.

    Leans on an argument of `transformers.utils.cached_file` that says not to raise then.
    """
    from transformers.utils import cached_file

    return cached_file(where, name, _raise_exceptions_for_missing_entries=False, **hub)


class Save(NamedTuple):
    """A `save_pretrained` that is running: whose, where to, and whether this process writes."""

    saver: Any
    directory: Path
    writes: bool


def running_save() -> Save | None:
    """The `save_pretrained` of a transformers or PEFT model that asks for the state dict now, or None.

    Leans on the frames above: both ask for it inside that method, after the config has been written (transformers) or
    before (PEFT), and call what they are told `self`, `save_directory` and `save_on_this_rank` or `is_main_process`.
    """
    from transformers import PreTrainedModel

    peft = getattr(sys.modules.get("peft"), "PeftModel", None)
    classes = (PreTrainedModel,) if peft is None else (PreTrainedModel, peft)
    savers = [cls.save_pretrained.__code__ for cls in classes]
    for frame in _frames():
        if frame.f_code in savers:
            how = frame.f_locals
            writes = how.get("save_on_this_rank", how.get("is_main_process", True))
            return Save(how["self"], Path(how["save_directory"]), bool(writes))
    return None


def in_accelerates_sharding() -> bool:
    """Whether accelerate asks for the state dict to shard it, and takes every entry for a sharded parameter.

    Leans on the name of its function.
    """
    return any(frame.f_code.co_name == "fsdp2_load_full_state_dict" for frame in _frames())


def in_prompt_learning() -> bool:
    """Whether a PEFT model runs now that has learned keys, or a prompt, and puts them into caches itself.

    Leans on the frames above: its methods call it `self`.
    """
    peft = getattr(sys.modules.get("peft"), "PeftModel", None)
    if peft is None:
        return False
    models = (model for frame in _frames() if isinstance(model := frame.f_locals.get("self"), peft))
    return any(model.active_peft_config.is_prompt_learning for model in models)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
