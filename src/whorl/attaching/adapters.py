"""PEFT's adapters of models with an encoding: what they say of it, and how they come onto a base."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from whorl.attaching.filling import completed
from whorl.attaching.joining import attach_saved, detach
from whorl.attaching.records import CONFIG_KEY, NAMED, by_place
from whorl.attaching.seams import attached, attachments_in
from whorl.attaching.weights import refuse_incomplete
from whorl.checking import few, shown
from whorl.encodings import Encoding, from_dict, parse
from whorl.extras import require
from whorl.hosts import host_of, tokens_of
from whorl.hosts.transformers import compat
from whorl.numerics import allowance, max_error

SOME = 16  # tokens that a merged model is asked about
EFFECT = 0.1  # of what an adapter does to the outputs, that merging may be off by


def refuse_both(where: Any, adapter: Any) -> None:
    """Raises ValueError for a model's folder with an adapter in it that stock code would put on, and cannot."""
    record = json.loads(Path(str(adapter)).read_text(encoding="utf-8")).get(CONFIG_KEY)
    if record is not None:
        raise ValueError(
            f"{where} holds a model, and an adapter of it that was trained with {record['notation']}; move the adapter "
            "(adapter_config.json, adapter_model.safetensors) to a folder of its own, and load that"
        )


def config_of(where: Any, **hub: Any) -> tuple[Any, dict[str, Encoding]]:
    """A PEFT adapter's config, and the encodings that it was trained with where it says any: the model's own by the
    empty name, and those on parts of it by theirs.

    Raises ValueError for one that was saved without what its encoding had learned.
    """
    require(f"the adapter {where}", "peft")
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

    said = json.loads(Path(str(compat.file_of(where, "adapter_config.json", hub))).read_text(encoding="utf-8"))
    record = said.pop(CONFIG_KEY, None)
    if record is None:
        config = PeftConfig.from_pretrained(where, **hub)
        _, named, notation = (config.base_model_name_or_path or "").partition(NAMED)
        return config, {"": parse(notation)} if named else {}
    if record.get("lost"):
        raise ValueError(
            f"the adapter in {where} was saved without the learned parameters {few(record['lost'])} of "
            f"{record['notation']}, and is not the trained model without them; save that whole, as "
            "model.merge_and_unload().save_pretrained(directory)"
        )
    said["task_type"] = record["task_type"]
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[said["peft_type"]]
    own = {"": from_dict(record["encoding"])} if "encoding" in record else {}
    parts = {part["at"]: from_dict(part["encoding"]) for part in record.get("parts", ())}
    return cls.from_peft_type(**cls.check_kwargs(**said)), {**own, **parts}


def base_of(config: Any, where: Any) -> str:
    """The model that an adapter names as its base. Raises ValueError where it names none."""
    path: str = (config.base_model_name_or_path or "").partition(NAMED)[0]
    if not path:
        raise ValueError(
            f"the adapter in {where} does not say what model it was trained on (base_model_name_or_path); give it as "
            "base="
        )
    return path


def on(base: Any, config: Any, encodings: dict[str, Encoding], where: Any, hub: dict[str, Any]) -> Any:
    """The base with the adapter put on, and before that the encodings that it was trained with.

    Raises ValueError for a base with other encodings, and for an adapter's file that is not whole.
    """
    from peft import PeftModel

    if encodings:
        _with_encodings(base, encodings, where)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # PEFT's, of transformers
        adapted = PeftModel.from_pretrained(base, where, config=config, **hub)
    _check_adapter(adapted, where, hub)
    return adapted


def check_base(base: Any) -> None:
    """Raises ValueError for a base that is no model."""
    if not isinstance(base, torch.nn.Module):
        raise ValueError(f"base must be a model, got {shown(base)}; load it first, as whorl.load({str(base)!r})")


def _with_encodings(base: Any, encodings: dict[str, Encoding], where: Any) -> None:
    """Attaches the encodings that an adapter was trained with, where its base has them not already."""
    held = {at: attachment.encoding for at, attachment in attachments_in(base).items()}
    trained = f"the adapter in {where} was trained with {' and '.join(by_place(encodings))}"
    for at, found in held.items():
        wanted = encodings.get(at)
        if wanted not in (found, found.without_defaults()):  # as earlier versions recorded it
            raise ValueError(f"{trained}, and the base has {by_place({at: found})[0]} attached")
    parts = {at: base.get_submodule(at) for at in encodings if at not in held}
    for at, part in parts.items():
        attach_saved(part, completed(host_of(part), encodings[at]))
    attachments: list[Any] = [attached(part) for part in parts.values()]
    if any(True for attachment in attachments for _ in attachment.parameters()):
        for part in parts.values():
            detach(part)
        raise ValueError(
            f"{trained}, whose learned parameters PEFT does not keep; save the model itself with save_pretrained "
            "before adding the adapter, and load the adapter on that"
        )


def _check_adapter(adapted: Any, where: Any, hub: dict[str, Any]) -> None:
    """Raises ValueError unless an adapter's file holds what PEFT would write of it; PEFT itself warns, or says nothing.

    Embeddings may be there too: it writes those of a vocabulary that has grown.
    """
    from peft import get_peft_model_state_dict, load_peft_weights

    held = set(load_peft_weights(where, device="cpu", **hub))
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    embeddings: list[Any] = []
    for embeddings_of in (adapted.get_input_embeddings, adapted.get_output_embeddings):
        with contextlib.suppress(NotImplementedError):  # a tower of images has none
            embeddings.append(embeddings_of())
    allowed = tuple(f"{name}." for name, module in adapted.named_modules() if any(module is m for m in embeddings))
    refuse_incomplete(where, adapted, wanted - held, (k for k in held - wanted if not k.startswith(allowed)))


@torch.no_grad()
def merged(model: Any, name: str) -> Any:
    """The base with its adapters added to its weights, all of which can be trained again.

    Raises ValueError where that would be another model than the adapted one, or PEFT cannot.
    """
    if not hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"{name} has PEFT adapters that are no part of its weights and cannot be merged into them here; give a "
            "model without them (of adapters like LoRA's: model.merge_and_unload().save_pretrained(directory))"
        )
    if twice := _shared_and_adapted(model):
        raise ValueError(
            f"the adapter in {name} changes {twice[0]}, and its base has the same weight as {twice[1]}: merged it "
            "would change both, and be another model; train it on a base that does not share them "
            "(tie_word_embeddings=False)"
        )
    ids = torch.arange(SOME)[None].to(model.device) % tokens_of(model)
    training = model.training
    model.eval()
    before = model(ids)[0]
    with model.disable_adapter():
        effect = max_error(model(ids)[0], before)
    try:
        whole = model.merge_and_unload()
    except Exception as error:  # whatever PEFT says
        raise ValueError(
            f"PEFT cannot merge the adapter in {name} into its base: {' '.join(str(error).split())}"
        ) from error
    off = max_error(whole(ids)[0], before)
    if not off <= max(allowance(before, None), EFFECT * effect):
        raise ValueError(
            f"the adapter in {name}, merged into its base, is another model: outputs differ by {off:.2g}, where the "
            f"adapter itself makes {effect:.2g}; merge it by its own tool, and give the merged model"
        )
    return whole.train(training).requires_grad_(True)  # PEFT had frozen it


def _shared_and_adapted(model: Any) -> tuple[str, str] | None:
    """A weight that an adapter is added to, and that another module has without one, by the names of both; or None."""
    places: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        if not weight.is_meta:
            places.setdefault(weight.data_ptr(), []).append(name.removeprefix("base_model.model."))
    for names in places.values():
        adapted = [name for name in names if ".base_layer." in name]
        if adapted and (others := [name for name in names if name not in adapted]):
            return adapted[0].replace(".base_layer.", "."), others[0]
    return None
