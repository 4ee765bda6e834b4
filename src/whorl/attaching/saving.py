"""KEEP: `model.save_pretrained(dir)` of a model with an encoding. `whorl.attaching.loading` reads it again.

What stock transformers can express is written natively: the saved config says it in stock terms, and
`from_pretrained(dir)` gives the same logits where whorl is not installed. Anything else is written under its own key,
and every stock load of it fails: the config names a weights file that is not there and an attention implementation that
there is not, by names that say what to do.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from whorl.attaching.parallel import whole_state
from whorl.attaching.present import follow_layers
from whorl.attaching.records import CONFIG_KEY, ENTRY, UNFINISHED, architecture_of, guards, record_of, replace_json
from whorl.attaching.seams import attached
from whorl.attaching.stock import stock_form
from whorl.hosts import FAMILIES, StockForm, name_of, open_host
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.rope_settings import rope_parameters
from whorl.hosts.transformers.stock_form import older_settings


def save_pretrained(model: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """In place of the class's own on a model with an encoding attached: same arguments, and the encoding is kept.

    A save that breaks off over an earlier one leaves no config beside weights that are not its own: in stock terms it
    says until the end that it is unfinished; else the weights hold the encoding too, and `whorl.load` compares.

    Of a sharded model (`fully_shard`) every process must call it: the weights are gathered, and the first one writes.
    """
    attachment = attached(model)
    assert attachment is not None
    follow_layers(model, attachment)
    encoding, cls = attachment.encoding, type(model)
    record = {**record_of(encoding), "architecture": architecture_of(model)}
    call = inspect.signature(cls.save_pretrained).bind(model, save_directory, *args, **kwargs)
    form = stock_form(model, encoding)
    config = copy.deepcopy(model.config)
    over = False
    sharded = call.arguments.get("state_dict") is None and (whole := whole_state(model)) is not None
    if sharded:
        call.arguments["state_dict"] = whole
        call.arguments["is_main_process"] = _first_process()
    given = call.arguments.get("state_dict")
    if isinstance(form, StockForm):
        record |= {"stock": True}
        for key, value in form.config.items():
            setattr(config.get_text_config(), key, value)  # the text's part, where the model reads images or sounds too
        if form.table is not None and given != {}:
            call.arguments["state_dict"] = _with_table(
                model, form.table, model.state_dict() if given is None else given
            )
        elif given is not None:
            call.arguments["state_dict"] = {k: v for k, v in given.items() if not is_ours(k)}
        # What is pushed from inside the save is read by nobody before it is whole.
        over = _holds_weights(save_directory) and not call.arguments.get("push_to_hub")
        over = over and not compat.only_adapters_are_saved(model)  # adapters alone are written, and no config
        stamp = {**form.older, **({"transformers_weights": f"{UNFINISHED}.safetensors"} if over else {})}
        record |= {"unfinished": True} if over else {}
    else:
        in_weights = given is None or any(k.endswith(ENTRY) for k in given)
        record |= {"stock": False, "in_weights": in_weights, "why": form}
        stamp = guards(architecture_of(model))
    compat.add_to_written(config, {**stamp, CONFIG_KEY: record})
    attachment.in_save = "stock" if isinstance(form, StockForm) else "whorl"
    try:
        with _in_place(model, config):
            saved = cls.save_pretrained(*call.args, **call.kwargs)
    finally:
        attachment.in_save = ""
    if over and call.arguments.get("is_main_process", True) and _first_process():
        _finish(Path(save_directory) / "config.json")
    if sharded:
        torch.distributed.barrier()  # whoever comes back finds all files
    return saved


def save_for_all(model: Any, folder: Any) -> None:
    """`model.save_pretrained(folder)`, of a stock model with the entries that older readers look for."""
    older: dict[str, Any] = {}
    if attached(model) is None:
        settings = rope_parameters(model.config)
        known = model.config.model_type in FAMILIES
        older = older_settings(model, model.config, settings) if settings and known else {}
    if not older:
        model.save_pretrained(folder)
        return
    config = copy.deepcopy(model.config)
    compat.add_to_written(config, older)
    with _in_place(model, config):
        model.save_pretrained(folder)


@contextmanager
def _in_place(model: Any, config: Any) -> Iterator[None]:
    """With this config in the place of the model's own."""
    own = model.config
    model.config = config
    try:
        yield
    finally:
        model.config = own


def _holds_weights(directory: Any) -> bool:
    return any(Path(directory).glob("*.safetensors*")) or any(Path(directory).glob("*.bin*"))


def _first_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _finish(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["transformers_weights"], config[CONFIG_KEY]["unfinished"]
    replace_json(path, config)


def _with_table(model: Any, table: torch.Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """The state dict with the attached table in the place of the host's own, and whorl's entries left out."""
    own = open_host(model).position_table
    offset = getattr(own, "offset", 0)
    name = f"{name_of(model, own)}.weight"
    learned = next((v for k, v in state.items() if is_ours(k) and not k.endswith(ENTRY)), table)
    with compat.brought(own):
        before = (own.weight if state[name].is_meta else state[name])[:offset].detach().to(learned)
    rows = torch.cat([before, learned.detach()])
    return {k: rows if k == name else v for k, v in state.items() if not is_ours(k)}


def is_ours(key: str) -> bool:
    return "whorl" in key.split(".")
