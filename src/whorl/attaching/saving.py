"""KEEP: `model.save_pretrained(dir)` of a model with an encoding. `whorl.attaching.loading` reads it again.

What stock transformers can express is written natively: the saved config says it in stock terms, and
`from_pretrained(dir)` gives the same logits where whorl is not installed. Anything else is written under its own key,
and every stock load of it fails: the config names a weights file that is not there and an attention implementation that
there is not, by names that say what to do.

Stock terms are not believed but asked: a candidate is written only if the host's own rotary module, built from the
candidate config, has the wanted frequencies.
"""

from __future__ import annotations

import copy
import inspect
import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from whorl.attaching.filling import filled
from whorl.attaching.joining import attached, layer_plan
from whorl.attaching.keeping import CONFIG_KEY, ENTRY, UNFINISHED, architecture_of, guards, record_of, replace_json
from whorl.attaching.reading import encoding_of, in_stock_terms, same_spectrum
from whorl.encodings import Encoding, Spectrum
from whorl.encodings.learned import Learned
from whorl.hosts import FAMILIES, OpenHost, head_dim_of, open_host, stock_spectrum
from whorl.hosts.transformers.rope_settings import length_dependent, rope_parameters
from whorl.hosts.transformers.stock_terms import candidates, for_older_readers


@dataclass(frozen=True)
class StockForm:
    """How stock transformers says an encoding.

    config  changes to the config (to its text part, where it has several)
    table   rows for the host's table of positions
    older   what the file says besides, for readers that do not know rope_parameters
    """

    config: dict[str, Any]
    table: torch.Tensor | None = None
    older: dict[str, Any] = field(default_factory=dict)


def stock_form(model: Any, encoding: Encoding | None = None) -> StockForm | str:
    """How stock transformers says this encoding (default: the model's own) on this model, or the reason why it cannot.

    Raises ValueError for a model without a known seam.
    """
    host = open_host(model)
    encoding = encoding_of(model) if encoding is None else filled(host, encoding)
    if host.rotary is None:
        return _as_table(host, encoding)
    plan = layer_plan(host, encoding)
    scaled = next((seam.scaled for seam in plan.layers if seam.scaled is not None), None)
    if scaled is not None:
        return (
            f"{_name(host)} turns a whole batch by the spectrum of its longest row, and leaves keys in its cache as "
            f"they came; {scaled} goes by each query's own context, which past the original length is something else"
        )
    if plan.add is not None:
        return f"{_name(host)} adds nothing to its embedding"
    if any(seam.biases for seam in plan.layers):
        return f"{_name(host)} has no place for a bias (a window other than its own is one)"
    if any(seam.late for seam in plan.layers):
        return f"{_name(host)} does not turn some of the layers that {encoding} turns"
    wanted: dict[str, Spectrum] = {}
    for turns, layer_type, seam in zip(host.turns, host.layer_types, plan.layers, strict=True):
        if not turns:
            continue
        label = layer_type if host.typed else ""
        spectrum = in_stock_terms(host, seam.spectrum)
        if wanted.setdefault(label, spectrum) != spectrum:
            return f"{_name(host)} has one spectrum for {'layers of a type' if host.typed else 'all its layers'}"
    return _as_rope_parameters(host, encoding, wanted)


def _name(host: OpenHost) -> str:
    return f"stock {host.model.config.model_type}"


def _as_table(host: OpenHost, encoding: Encoding) -> StockForm | str:
    if not isinstance(encoding, Learned) or encoding.max_positions is None:
        return f"{_name(host)} has a learned table of positions and nothing else"
    attachment = attached(host.model)
    table = None if attachment is None else next(attachment.parameters())
    return StockForm({host.family.table_size: encoding.max_positions}, table)


def _as_rope_parameters(host: OpenHost, encoding: Encoding, wanted: dict[str, Spectrum]) -> StockForm | str:
    """Tries ways of saying each spectrum, and takes the first that the host's own rotary module understands."""
    settings = copy.deepcopy(host.rotary.config.rope_parameters)
    for label, spectrum in wanted.items():
        own = settings[label] if label else settings
        index = host.layer_types.index(label) if label else host.turns.index(True)
        attention = host.attentions[index]
        width = head_dim_of(host.rotary.config, attention)
        of_layer = encoding.for_layer(index, host.layer_types[index])
        longest = host.rotary.config.max_position_embeddings
        for candidate in (own, *candidates(of_layer, spectrum, width, own, longest)):
            trial = {**settings, label: candidate} if label else candidate
            if _understood(host, trial, host.layer_types[index], attention, spectrum):
                settings = trial
                break
        else:
            return f"no rope_type of {_name(host)} gives these frequencies on {spectrum.width} of {width} channels" + (
                "" if host.rotation is None or host.rotation.free else ", and its code turns whole heads"
            )
    return StockForm({"rope_parameters": settings}, older=_older(host.model, host.rotary.config, settings))


def _older(model: Any, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Nothing for a model whose rope settings are in a part of its config, which older readers do not find."""
    return for_older_readers(config.model_type, settings) if type(model.config) is type(config) else {}


def _understood(host: OpenHost, settings: dict[str, Any], layer_type: str, attention: Any, spectrum: Spectrum) -> bool:
    """Whether the stock rotary module, built from a config with these settings as a load would, has this spectrum, and
    at every length."""
    try:
        with quiet():
            config = type(host.rotary.config).from_dict(
                {**host.rotary.config.to_dict(), "rope_parameters": copy.deepcopy(settings)}
            )
            rotary = type(host.rotary)(config)
    except Exception:  # whatever stock code raises here, it would raise in a load
        return False
    read = config.rope_parameters.get(layer_type) if host.typed else config.rope_parameters
    if length_dependent(read or {}):
        return False
    if "rotary_ndims" in inspect.unwrap(type(attention).forward).__code__.co_names:  # slices by the config itself
        share = read.get("partial_rotary_factor", 1.0)
        if int(head_dim_of(config, attention) * share) != attention.rotary_ndims:
            return False
    try:
        stock = stock_spectrum(rotary, layer_type, spectrum.head_dim)
    except ValueError:  # its float32 made something of them that is no frequency
        return False
    return stock is not None and same_spectrum(stock, spectrum)


def save_pretrained(model: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """In place of the class's own on a model with an encoding attached: same arguments, and the encoding is kept.

    A save that breaks off over an earlier one leaves no config beside weights that are not its own: in stock terms it
    says until the end that it is unfinished; else the weights hold the encoding too, and `whorl.load` compares.
    """
    attachment = attached(model)
    assert attachment is not None
    encoding, cls = attachment.encoding, type(model)
    record = {**record_of(encoding), "architecture": architecture_of(model)}
    call = inspect.signature(cls.save_pretrained).bind(model, save_directory, *args, **kwargs)
    given = call.arguments.get("state_dict")
    form = stock_form(model, encoding)
    config = copy.deepcopy(model.config)
    over = False
    if isinstance(form, StockForm):
        record |= {"stock": True}
        for key, value in form.config.items():
            setattr(config.get_text_config(), key, value)  # the text's part, where the model reads images or sounds too
        if form.table is not None:
            call.arguments["state_dict"] = _with_table(
                model, form.table, model.state_dict() if given is None else given
            )
        elif given is not None:
            call.arguments["state_dict"] = {k: v for k, v in given.items() if not is_ours(k)}
        # What is pushed from inside the save is read by nobody before it is whole.
        over = _holds_weights(save_directory) and not call.arguments.get("push_to_hub")
        over = over and not getattr(model, "_hf_peft_config_loaded", False)  # adapters alone are written, and no config
        stamp = {**form.older, **({"transformers_weights": f"{UNFINISHED}.safetensors"} if over else {})}
        record |= {"unfinished": True} if over else {}
    else:
        in_weights = given is None or any(k.endswith(ENTRY) for k in given)
        record |= {"stock": False, "in_weights": in_weights, "why": form}
        stamp = guards(architecture_of(model))
    _stamp(config, {**stamp, CONFIG_KEY: record})
    attachment.in_save = "stock" if isinstance(form, StockForm) else "whorl"
    try:
        with _in_place(model, config):
            saved = cls.save_pretrained(*call.args, **call.kwargs)
    finally:
        attachment.in_save = ""
    if over and call.arguments.get("is_main_process", True) and _first_process():
        _finish(Path(save_directory) / "config.json")
    return saved


def save_for_all(model: Any, folder: Any) -> None:
    """`model.save_pretrained(folder)`, of a stock model with the entries that older readers look for."""
    older: dict[str, Any] = {}
    if attached(model) is None:
        settings = rope_parameters(model.config)
        known = model.config.model_type in FAMILIES
        older = _older(model, model.config, settings) if settings and known else {}
    if not older:
        model.save_pretrained(folder)
        return
    config = copy.deepcopy(model.config)
    _stamp(config, older)
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


def _stamp(config: Any, stamp: dict[str, Any]) -> None:
    """Adds entries to what this one config writes. Set as attributes, stock code would drop or check some of them."""

    def to_diff_dict(self: Any) -> dict[str, Any]:
        written = type(self).to_diff_dict(self)
        written.pop("to_diff_dict", None)
        return {**written, **stamp}

    config.__dict__["to_diff_dict"] = types.MethodType(to_diff_dict, config)


def _with_table(model: Any, table: torch.Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """The state dict with the attached table in the place of the host's own, and whorl's entries left out."""
    own = open_host(model).position_table
    offset = getattr(own, "offset", 0)
    name = next(n for n, m in model.named_modules() if m is own) + ".weight"
    learned = next((v for k, v in state.items() if is_ours(k) and not k.endswith(ENTRY)), table)
    rows = torch.cat([own.weight[:offset].to(learned), learned.detach()])
    return {k: rows if k == name else v for k, v in state.items() if not is_ours(k)}


def is_ours(key: str) -> bool:
    return "whorl" in key.split(".")


@contextmanager
def quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
