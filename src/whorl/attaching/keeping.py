"""KEEP, by whatever way weights leave a model: an attached encoding is in its state dict, in the configs of models that
hold it as a part, and in the adapters that are trained on it.

state dict   `...whorl._extra_state`, the encoding as JSON in bytes (a uint8 tensor, which safetensors takes). So
             torch.save(model.state_dict()), accelerate's save_model and FSDP's checkpoints hold it. A strict load into
             a model without it raises by that key, and every load into a model with another encoding raises.
a larger     A model does not know who holds it as a part (`LlamaForCausalLM.model`, a multimodal model's
model        `language_model`). But transformers asks for the state dict inside `save_pretrained`, after the config has
             been written: the record and the guards are added to that file then.
an adapter   PEFT asks for the state dict too, before it writes the adapter's config. Plain PEFT refuses an adapter
             whose config names a task type that there is not; this one says what to do.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any

import torch

from whorl.attaching.parallel import is_here
from whorl.attaching.present import follow_layers
from whorl.attaching.records import (
    ADAPTER_GUARD,
    CONFIG_KEY,
    NAMED,
    architecture_of,
    by_place,
    guards,
    record_of,
    replace_json,
)
from whorl.attaching.seams import Attachment, attached, attachments_in
from whorl.hosts import name_of
from whorl.hosts.transformers import compat


def before_state_dict(attachment: Any, prefix: str, keep_vars: bool) -> None:
    """A state-dict hook of what `attach` puts on a model: a larger model, or PEFT, may be saving it as a part."""
    if attachment.in_save:
        return
    save = compat.running_save()
    if save is not None:
        at = next((name for name, module in save.saver.named_modules() if module is attachment), None)
        if at is not None:
            _save_as_a_part(save, at.rpartition(".")[0], attachment)


def before_state_dict_of_model(model: Any, prefix: str, keep_vars: bool) -> None:
    """The same of the model itself, whose adapters may be written later from this state dict."""
    attachment = attached(model)
    if attachment is None:
        return
    follow_layers(model, attachment)
    if hasattr(model, "peft_config"):
        mark_adapters(model)


def before_load(base: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook of the base before it takes weights: of those in stock terms (a Trainer's checkpoint, or stock code's
    own) the learned table is where the host has its table of positions."""
    attachment = base.whorl
    ours, theirs, offset = attachment.kept_as
    rows = state.get(prefix + theirs)
    if any(key.startswith(f"{prefix}whorl.") for key in state) or rows is None:
        return
    if rows[offset:].shape == attachment.get_parameter(ours).shape:
        state[f"{prefix}whorl.{ours}"] = rows[offset:]


def _save_as_a_part(save: compat.Save, at: str, attachment: Any) -> None:
    saver = save.saver
    if hasattr(saver, "peft_config"):
        mark_adapters(saver)
        return
    if not save.writes:
        return
    path = save.directory / "config.json"
    if not path.exists():
        raise ValueError(
            f"this {type(saver).__name__} holds a model with {attachment.encoding} attached (at {at!r}), and there is "
            f"no config at {path} to say so in; save the part by itself"
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    parts = _parts_in(config.get(CONFIG_KEY), saver)
    config[CONFIG_KEY] = {
        "architecture": architecture_of(saver),
        "stock": False,
        "in_weights": True,
        "why": "it is attached to a part of this model",
        "parts": [*(p for p in parts if p["at"] != at), {"at": at, **record_of(attachment.encoding)}],
    }
    config |= guards(architecture_of(saver))
    replace_json(path, config)


def _parts_in(record: Any, saver: Any) -> list[dict[str, Any]]:
    """The parts that a record names; that of the model itself is one, where stock terms do not say its encoding."""
    if not isinstance(record, dict):
        return []
    if "parts" in record:
        return list(record["parts"])
    own = attached(saver)
    if own is None or record.get("stock", True):
        return []
    at = name_of(saver, own).rpartition(".")[0]
    return [{"at": at, **record_of(own.encoding)}]


def mark_adapters(model: Any) -> None:
    """What PEFT writes of this model's adapters from now on says the encoding, and those on parts of the model, and is
    refused by plain PEFT.

    Not where the base's own directory says the encoding in stock terms: it is complete without whorl.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = attachments_in(base)
    lost = [f"{at}.{n}" if at else n for at, one in found.items() for n in _not_in_an_adapter(model, one)]
    for config in _adapters(model):
        config.__dict__["whorl_lost"] = lost
        if all(attachment.stock_directory for attachment in found.values()):
            compat.write_adapter_as(config, None)
        else:
            compat.write_adapter_as(config, _adapter_to_dict)
            config.__dict__["whorl_record"] = _record_of_all(found)


def _record_of_all(found: dict[str, Attachment]) -> dict[str, Any]:
    """That of a model's own encoding, with the encodings on its parts."""
    encodings = {at: attachment.encoding for at, attachment in sorted(found.items(), key=lambda one: one[0] != "")}
    own = record_of(encodings[""]) if "" in encodings else {}
    parts = [{"at": at, **record_of(encoding)} for at, encoding in encodings.items() if at]
    return {**own, "parts": parts, "notation": ", ".join(by_place(encodings))} if parts else own


def unmark_adapters(model: Any) -> None:
    for config in _adapters(model):
        compat.write_adapter_as(config, None)
        for name in ("whorl_record", "whorl_lost"):
            config.__dict__.pop(name, None)


def _not_in_an_adapter(model: Any, attachment: Any) -> list[str]:
    """The encoding's learned parameters that an adapter's directory and its base's would not have between them.

    A base that was read from a directory with its encoding has those there that are not trained since: that are frozen,
    and what they were then.
    """
    learned = dict(attachment.named_parameters())
    names = [str(getattr(m, "name_or_path", "")) for m in model.modules()] if learned else []
    in_base = any(names) and not any(NAMED in name for name in names)  # a name of a model attached to in memory says so
    were = attachment.as_loaded
    moved = [n for n, p in learned.items() if were.get(n) and digest_of(p) not in ("", were[n])]
    return [n for n, p in learned.items() if p.requires_grad or not in_base or n in moved]


@torch.no_grad()
def digest_of(parameter: torch.Tensor) -> str:
    """Of its numbers as bfloat16 has them, so that another dtype is no other parameter; nothing where they are
    elsewhere (sharded, or on the meta device)."""
    if not is_here(parameter):
        return ""
    return hashlib.sha256(
        parameter.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
    ).hexdigest()


def _adapters(model: Any) -> list[Any]:
    found = getattr(model, "peft_config", None)
    return list(found.values()) if isinstance(found, dict) else []


def _adapter_to_dict(self: Any) -> dict[str, Any]:
    if self.whorl_lost:
        encoding = self.whorl_record["notation"]
        warnings.warn(
            f"PEFT does not write the learned parameters {self.whorl_lost} of {encoding} with this adapter, which is "
            "not the trained model without them. Save it whole: model.merge_and_unload().save_pretrained(directory); "
            "or, where they are not trained with the adapter, save the base before it gets one, and train on "
            "whorl.load of that",
            stacklevel=2,
        )
    written = type(self).to_dict(self)
    kind = written.get("task_type")
    record = {**self.whorl_record, "task_type": getattr(kind, "value", kind), "lost": self.whorl_lost}
    return {**written, CONFIG_KEY: record, "task_type": f"{ADAPTER_GUARD} {record['notation']}"}
