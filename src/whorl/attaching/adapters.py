"""PEFT's adapters of models with an encoding: what they say of it, and how they come onto a base."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from whorl.attaching.filling import completed
from whorl.attaching.joining import attach, detach
from whorl.attaching.records import CONFIG_KEY, NAMED
from whorl.attaching.seams import Attachment, attached
from whorl.attaching.weights import refuse_incomplete
from whorl.checking import few
from whorl.encodings import Encoding, from_dict, parse
from whorl.extras import require
from whorl.hosts import host_of
from whorl.hosts.transformers import compat


def refuse_both(where: Any, adapter: Any) -> None:
    """Raises ValueError for a model's folder with an adapter in it that stock code would put on, and cannot."""
    record = json.loads(Path(str(adapter)).read_text(encoding="utf-8")).get(CONFIG_KEY)
    if record is not None:
        raise ValueError(
            f"{where} holds a model, and an adapter of it that was trained with {record['notation']}; move the adapter "
            "(adapter_config.json, adapter_model.safetensors) to a folder of its own, and load that"
        )


def config_of(where: Any, **hub: Any) -> tuple[Any, Encoding | None]:
    """A PEFT adapter's config, and the encoding that it was trained with where it says one.

    Raises ValueError for one that was saved without what its encoding had learned.
    """
    require(f"the adapter {where}", "peft")
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig

    said = json.loads(Path(str(compat.file_of(where, "adapter_config.json", hub))).read_text(encoding="utf-8"))
    record = said.pop(CONFIG_KEY, None)
    if record is None:
        config = PeftConfig.from_pretrained(where, **hub)
        _, named, notation = (config.base_model_name_or_path or "").partition(NAMED)
        return config, parse(notation) if named else None
    if record.get("lost"):
        raise ValueError(
            f"the adapter in {where} was saved without the learned parameters {few(record['lost'])} of "
            f"{record['notation']}, and is not the trained model without them; save that whole, as "
            "model.merge_and_unload().save_pretrained(directory)"
        )
    said["task_type"] = record["task_type"]
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[said["peft_type"]]
    return cls.from_peft_type(**cls.check_kwargs(**said)), from_dict(record["encoding"])


def base_of(config: Any, where: Any) -> str:
    """The model that an adapter names as its base. Raises ValueError where it names none."""
    path: str = (config.base_model_name_or_path or "").partition(NAMED)[0]
    if not path:
        raise ValueError(
            f"the adapter in {where} does not say what model it was trained on (base_model_name_or_path); give it as "
            "base="
        )
    return path


def on(base: Any, config: Any, encoding: Encoding | None, where: Any, hub: dict[str, Any]) -> Any:
    """The base with the adapter put on, and before that the encoding that it was trained with.

    Raises ValueError for a base with another encoding, and for an adapter's file that is not whole.
    """
    from peft import PeftModel

    if encoding is not None:
        _with_encoding(base, encoding, where)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # PEFT's, of transformers
        adapted = PeftModel.from_pretrained(base, where, config=config, **hub)
    _check_adapter(adapted, where, hub)
    return adapted


def _with_encoding(base: Any, encoding: Encoding, where: Any) -> None:
    """Attaches the encoding that an adapter was trained with, unless its base, or a part of that, has it already."""
    found = [m.encoding for m in base.modules() if isinstance(m, Attachment)]
    if encoding in found or encoding in [e.without_defaults() for e in found]:  # as earlier versions recorded it
        return
    if found:
        raise ValueError(f"the adapter in {where} was trained with {encoding}, and the base has {found[0]} attached")
    attachment = attached(attach(base, completed(host_of(base), encoding)))
    if any(True for _ in attachment.parameters()):  # type: ignore[union-attr]
        detach(base)
        raise ValueError(
            f"the adapter in {where} was trained with {encoding}, whose learned parameters PEFT does not keep; "
            "save the model itself with save_pretrained before adding the adapter, and load the adapter on that"
        )


def _check_adapter(adapted: Any, where: Any, hub: dict[str, Any]) -> None:
    """Raises ValueError unless an adapter's file holds what PEFT would write of it; PEFT itself warns, or says nothing.

    Embeddings may be there too: it writes those of a vocabulary that has grown.
    """
    from peft import get_peft_model_state_dict, load_peft_weights

    held = set(load_peft_weights(where, device="cpu", **hub))
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    embeddings = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    allowed = tuple(f"{name}." for name, module in adapted.named_modules() if any(module is m for m in embeddings))
    refuse_incomplete(where, adapted, wanted - held, (k for k in held - wanted if not k.startswith(allowed)))
