"""Finds a model's seams and reads from the host's own code how they work.

rotary module   computes tables from positions once per forward; its output reaches every layer as an argument
rotate          the global name under which an attention's `forward` finds the rotation function
position table  a module that maps positions to vectors added to the embedding
first layer     its input is the embedding, so an added encoding can be put in there
attention       transformers' AttentionInterface, or the mask argument where a family does not use it: the place of
                biases (and of rotating q and k, where no rotary module is)
"""

from __future__ import annotations

import inspect
import os
from functools import cache
from typing import Any

import torch
from torch import nn

from whorl.encodings import Shape
from whorl.hosts.protocol import Host, Rotation
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.closed import of_images, part_that_opens, turns_latent_keys, why_closed
from whorl.hosts.transformers.families import FAMILIES, GUESSES, MULTIMODAL, Family
from whorl.hosts.transformers.host import CALLS, OpenHost
from whorl.hosts.transformers.rotary_module import axes_of_pairs, stock_width
from whorl.hosts.transformers.sizes import head_dim_of, heads_of, text_config

LISTED = FAMILIES | MULTIMODAL
KNOWN = "`whorl list` names the families that are known"


def unwrapped(model: Any) -> Any:
    """The transformers model inside torch.compile's, PEFT's and data-parallel wrappers; the model itself otherwise."""
    while True:
        inner = compat.compiled_inside(model)
        if inner is None and hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
            inner = model.get_base_model()
        if inner is None and not hasattr(model, "config") and isinstance(getattr(model, "module", None), nn.Module):
            inner = model.module
        if inner is None:
            return model
        model = inner


def refuse_prompts(model: Any) -> None:
    """Raises ValueError for one of PEFT's models of which a part is in the wrapper alone, a learned prompt or tokens
    that turn it on (aLoRA): what reads the model inside reads another one."""
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise ValueError(
            f"this {type(model).__name__} puts a learned prompt before each text, which takes positions of its own, "
            f"and whorl reads models without one; give its base ({type(config).__name__})"
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise ValueError(
            f"this {type(model).__name__} has an adapter that is on after certain tokens alone (aLoRA), and whorl "
            "reads models that are the same throughout; give its base"
        )


def open_host(model: Any) -> OpenHost:
    """A model's host; an `OpenHost` is given back as it is. Raises ValueError for a model without a known seam, and for
    one with a part in PEFT's wrapper alone (`refuse_prompts`)."""
    if isinstance(model, OpenHost):
        return model
    refuse_prompts(model)
    if isinstance(model, Host):
        raise ValueError(f"this needs a model of transformers, and got {model.named}")
    return open_model(model)


def has(model: Any) -> bool:
    """Whether a model, wrapped or not, is one of transformers."""
    model = unwrapped(model)
    return getattr(getattr(model, "config", None), "model_type", None) is not None and hasattr(model, "base_model")


def open_model(model: Any) -> OpenHost:
    """Finds a model's seams. Raises ValueError naming what was looked for and what was found."""
    model = unwrapped(model)
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if isinstance(model, str | os.PathLike):
        raise ValueError(
            f"a model is wanted, and {os.fspath(model)!r} is its path or name; load it first: "
            f"whorl.load({os.fspath(model)!r})"
        )
    if isinstance(model, type) or model_type is None or not hasattr(model, "base_model"):
        got = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ValueError(
            f"whorl attaches to Hugging Face transformers models and got {got} without a "
            "config.model_type; pass the model that AutoModelForCausalLM gave, or one of timm's for images"
        )
    if model_type in LISTED:
        return _open(model, LISTED[model_type], known=True)
    name = f"model type {model_type!r} ({type(model).__name__})"
    if (others := of_images(model)) is not None:
        raise ValueError(others)
    if (closed := why_closed(model)) is not None:
        inside = _inside(model)
        raise ValueError(f"no known seam in {name}: {closed}; {KNOWN}{inside and f'; {inside}'}")
    tried: list[tuple[int, str]] = []
    of_text = FAMILIES.get(getattr(text_config(model.config), "model_type", ""))
    for guess in (*([] if of_text is None else [of_text]), *GUESSES):
        try:
            return _open(model, guess, known=False)
        except ValueError as error:
            tried.append((_found(model, guess), str(error)))
    if (latent := turns_latent_keys(model)) is not None:
        raise ValueError(f"no known seam in {name}: {latent}; {KNOWN}")
    if inside := _inside(model):
        raise ValueError(f"no known seam in {name}, but {inside}")
    nearest = max(tried, key=lambda found_and_error: found_and_error[0])
    raise ValueError(
        f"no known seam in {name}: looked for a module 'rotary_emb' beside "
        f"a list of layers ({_one_of(g.layers for g in GUESSES)}) with an attention "
        f"({_one_of(g.attention for g in GUESSES)}) whose forward calls {_one_of(g.rotate for g in GUESSES)}; "
        f"nearest: {nearest[1]}; {KNOWN}, and CONTRIBUTING.md, 'add a host', how to add one"
    )


def _inside(model: Any) -> str:
    """What a model holds that could be given in its place; empty where there is nothing."""
    if (part := part_that_opens(model)) is None:
        return ""
    return f"its part {part} is of a known family: try whorl.attach(model.get_submodule({part!r}), encoding)"


def _found(model: Any, family: Family) -> int:
    """How much of a guess is there, so that the message can speak of the nearest one."""
    base = _base(model, family)
    layers = part_of(base, family.layers)
    attention = None if layers is None else part_of(layers[0], family.attention)
    return (layers is not None) + (attention is not None) + (part_of(base, family.rotary or "") is not None)


def _one_of(names: Any) -> str:
    return " or ".join(dict.fromkeys(names))


def _open(model: Any, family: Family, known: bool) -> OpenHost:
    base = _base(model, family)
    config = text_config(model.config)
    layers = tuple(part_of(base, family.layers, model))
    if not layers:
        raise ValueError(f"this {type(model).__name__} has no layers (config.num_hidden_layers), so nothing attends")
    attending = [(i, a) for i, layer in enumerate(layers) if (a := part_of(layer, family.attention)) is not None]
    if not attending:
        part_of(layers[0], family.attention, model)
    attentions = tuple(attention for _, attention in attending)
    rotary = part_of(base, family.rotary, model) if family.rotary else None
    rotation = None
    if rotary is not None:
        attention_class: Any = type(attentions[0])
        rotation = rotation_of(family.rotate, attention_class)
        if getattr(config, "alibi", False):
            raise ValueError(
                f"this {type(model).__name__} has an ALiBi of its own (config.alibi=True), which whorl cannot take "
                "out of its forward; set config.alibi=False and build the model anew"
            )
    all_types = getattr(config, "layer_types", None) or ["full_attention"] * len(layers)
    types = tuple(all_types[i] for i, _ in attending)
    return OpenHost(
        model=model,
        base=base,
        family=family,
        known=known,
        calls=CALLS,
        first_layer=layers[0],
        attentions=attentions,
        rotary=rotary,
        rotation=rotation,
        position_table=part_of(base, family.position_table, model) if family.position_table else None,
        shapes=tuple(_shape(config, a, rotary, rotation, t) for a, t in zip(attentions, types, strict=True)),
        layer_types=types,
        windows=tuple(_window(config, a, t) for a, t in zip(attentions, types, strict=True))
        if compat.masks_by_window(type(base))
        else (None,) * len(types),
        turns=tuple(rotary is not None and family.turns(a) for a in attentions),
        pair_axes=axes_of_pairs(rotary) if model.config.model_type in MULTIMODAL else (),
        typed=rotary is not None and _takes_layer_type(rotary),
        biases="interface" if compat.attends_by_name(type(attentions[0])) else "mask",
    )


def bases_of(model: Any) -> list[Any]:
    """Where an encoding of this model's own may be: the modules that hold its layers by what its family says, or by
    each guess; not those of a model that it holds as a part."""
    model = unwrapped(model)
    known = LISTED.get(model.config.model_type)
    families = GUESSES if known is None else (known,)
    return list({id(base): base for family in families if (base := _base(model, family)) is not None}.values())


def _base(model: Any, family: Family) -> Any:
    """The module that holds the layers: the base model, or (where its prefix is another's) one of its children, that
    of the text before a tower of sounds; never a known tower of images, which is a model by itself."""
    base = model.base_model
    text = getattr(model.config, "text_config", None)
    children = [child for child in base.children() if not hasattr(child, "config") or of_images(child) is None]
    children.sort(key=lambda child: text is None or getattr(child, "config", None) is not text)
    return next((c for c in (base, *children) if part_of(c, family.layers) is not None), base)


def _shape(config: Any, attention: Any, rotary: Any, rotation: Rotation | None, layer_type: str) -> Shape:
    width = channels = head_dim_of(config, attention)
    if rotation is not None and not rotation.free:
        width = stock_width(rotary, layer_type) or width
    return Shape(
        head_dim=width,
        heads=heads_of(config, attention),
        width=config.hidden_size,
        bidirectional=not getattr(attention, "is_causal", True),
        layout="half" if rotation is None else rotation.layout,
        channels=getattr(attention, "qk_head_dim", channels),  # of latent attention, turned and unturned together
    )


def _window(config: Any, attention: Any, layer_type: str) -> int | None:
    size = getattr(config, "sliding_window", None)
    if size is None or layer_type not in ("sliding_attention", "full_attention"):
        return None
    if getattr(config, "layer_types", None) and layer_type != "sliding_attention":
        return None
    # Encoders state half of the window, and see both ends of it.
    return int(size) if getattr(attention, "is_causal", True) else int(size) + 1


def _takes_layer_type(rotary: Any) -> bool:
    return "layer_type" in inspect.signature(type(rotary).forward).parameters


def part_of(parent: Any, name: str, model: Any = None) -> Any:
    """The attribute of this dotted name. With a model to name in the message a missing one raises, else it is None."""
    found = parent
    for part in name.split("."):
        parent, found = found, getattr(found, part, None)
        if found is None:
            break
    if found is None and model is not None:
        children = ", ".join(n for n, _ in parent.named_children()) or "no modules"
        raise ValueError(
            f"looked for {name!r} in {type(parent).__name__} of {type(model).__name__} and found only {children}"
        )
    return found


@cache
def rotation_of(name: str, attention: Any) -> Rotation:
    """Calls the rotation function of an attention class on a few numbers, to see how it pairs channels."""
    names_there = compat.names_in(attention)
    if name not in names_there:
        raise ValueError(
            f"looked for a call of {name} in {attention.__name__}.forward and found only "
            f"{', '.join(n for n in names_there if 'rot' in n) or 'nothing like it'}; "
            "this version of transformers keeps its rotation elsewhere"
        )
    function = compat.global_of(attention, name)
    names = list(inspect.signature(function).parameters)
    if names[:4] == ["q", "k", "cos", "sin"]:
        call = "pair"
    elif names[1:3] == ["cos", "sin"]:
        call = "single"
    elif len(names) == 3 and names[2].startswith("freq"):
        call = "complex"
    else:
        raise ValueError(f"{name}({', '.join(names)}) of {attention.__name__} is called in no way that whorl knows")
    x = torch.arange(1.0, 9.0, device="cpu").view(1, 1, 1, 8)

    def quarter_turn(tables: int) -> list[float] | None:
        """x after a turn by pi/2 with tables of this width, or None if the function refuses them."""
        try:
            with torch.device("cpu"):  # whatever a caller makes models on
                cos, sin = torch.zeros(1, 1, tables), torch.ones(1, 1, tables)
                if call == "complex":
                    turned = function(x, x, torch.complex(cos, sin))[0]
                else:
                    turned = function(x, cos, sin) if call == "single" else function(x, x, cos, sin)[0]
        except (RuntimeError, ValueError, IndexError):
            return None
        return turned.flatten().tolist() if turned.shape == x.shape else None

    turned = quarter_turn(8) or quarter_turn(4)
    if turned == [-5, -6, -7, -8, 1, 2, 3, 4]:
        layout, narrow = "half", [-3, -4, 1, 2, 5, 6, 7, 8]
    elif turned == [-2, 1, -4, 3, -6, 5, -8, 7]:
        layout, narrow = "interleaved", [-2, 1, -4, 3, 5, 6, 7, 8]
    else:
        raise ValueError(f"{name} of {attention.__name__} pairs channels in no way that whorl knows: {turned}")
    return Rotation(name, call, layout, free=quarter_turn(4) == narrow)
