"""How stock transformers says an encoding, where it can.

Stock terms are not believed but asked: a candidate is written only if the host's own rotary module, built from the
candidate config, has the wanted frequencies.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from whorl.attaching.filling import filled
from whorl.attaching.plan import layer_plan
from whorl.attaching.reading import encoding_of, in_stock_terms
from whorl.attaching.seams import attached
from whorl.encodings import Encoding, Spectrum
from whorl.encodings.learned import Learned
from whorl.encodings.spectrum import same_spectrum
from whorl.hosts import OpenHost, head_dim_of, open_host, stock_spectrum
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.messages import quiet
from whorl.hosts.transformers.rope_settings import length_dependent
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
        first = wanted.setdefault(label, seam.spectrum)
        if in_stock_terms(host, first) != in_stock_terms(host, seam.spectrum):
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
        padded = in_stock_terms(host, spectrum)
        ways = (w for s in dict.fromkeys((spectrum, padded)) for w in candidates(of_layer, s, width, own, longest))
        for candidate in (own, *ways):
            trial = {**settings, label: candidate} if label else candidate
            if _understood(host, trial, host.layer_types[index], attention, padded):
                settings = trial
                break
        else:
            return f"no rope_type of {_name(host)} gives these frequencies on {padded.width} of {width} channels" + (
                "" if host.rotation is None or host.rotation.free else ", and its code turns whole heads"
            )
    older = older_settings(host.model, host.rotary.config, settings)
    return StockForm(_with_own_length(host.rotary.config, settings), older=older)


def _with_own_length(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as changes to a config, whose own field for the original length (Phi-3) goes before theirs."""
    name = "original_max_position_embeddings"
    own = {name: settings[name]} if name in settings and hasattr(config, name) else {}
    return {"rope_parameters": settings, **own}


def older_settings(model: Any, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Nothing for a model whose rope settings are in a part of its config, which older readers do not find."""
    return for_older_readers(config.model_type, settings) if type(model.config) is type(config) else {}


def _understood(host: OpenHost, settings: dict[str, Any], layer_type: str, attention: Any, spectrum: Spectrum) -> bool:
    """Whether the stock rotary module, built from a config with these settings as a load would, has this spectrum, and
    at every length."""
    try:
        with quiet():
            config = type(host.rotary.config).from_dict(
                {**host.rotary.config.to_dict(), **_with_own_length(host.rotary.config, copy.deepcopy(settings))}
            )
            rotary = type(host.rotary)(config)
    except Exception:  # whatever stock code raises here, it would raise in a load
        return False
    read = config.rope_parameters.get(layer_type) if host.typed else config.rope_parameters
    if length_dependent(read or {}):
        return False
    if "rotary_ndims" in compat.names_in(type(attention)):  # slices by the config itself
        share = read.get("partial_rotary_factor", 1.0)
        if int(head_dim_of(config, attention) * share) != attention.rotary_ndims:
            return False
    try:
        stock = stock_spectrum(rotary, layer_type, spectrum.head_dim)
    except ValueError:  # its float32 made something of them that is no frequency
        return False
    return stock is not None and same_spectrum(in_stock_terms(host, stock), spectrum)
