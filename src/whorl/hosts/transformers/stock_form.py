"""An encoding in stock terms: changes to a config.

Stock terms are not believed but asked: a candidate is written only if the host's own rotary module, built from the
candidate config, has the wanted frequencies.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from whorl.encodings import Encoding, Spectrum
from whorl.encodings.learned import Learned
from whorl.encodings.spectrum import same_spectrum
from whorl.hosts.protocol import Host, StockForm, in_stock_terms
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.messages import quiet
from whorl.hosts.transformers.rope_settings import MSCALES, by_layer_type, length_dependent, not_of_rotation
from whorl.hosts.transformers.rotary_module import stock_spectrum
from whorl.hosts.transformers.sizes import head_dim_of
from whorl.hosts.transformers.stock_terms import candidates, for_older_readers, tidied


def as_table(host: Host, encoding: Encoding, size: str, table: torch.Tensor | None) -> StockForm | str:
    """A learned table; size: the config's name for its number of rows."""
    if not isinstance(encoding, Learned) or encoding.max_positions is None:
        return f"{host.stock} has a learned table of positions and nothing else"
    return StockForm({size: encoding.max_positions}, table)


def as_rope_parameters(host: Host, encoding: Encoding, wanted: Mapping[str, Spectrum]) -> StockForm | str:
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
        kept, others = not_of_rotation(own), set()
        for candidate in (tidied(own, width, longest), *ways):
            if differ := {name for name, value in kept.items() if candidate.get(name, value) != value}:
                others |= differ
                continue
            candidate = {**kept, **candidate}
            trial = {**settings, label: candidate} if label else candidate
            if _understood(host, trial, host.layer_types[index], attention, padded):
                settings = trial
                break
        else:
            return (
                f"no rope_type of {host.stock} gives these frequencies on {padded.width} of {width} channels"
                + ("" if host.rotation is None or host.rotation.free else ", and its code turns whole heads")
                + (f" (its attention goes by {', '.join(sorted(others))} too, which stays)" if others else "")
            )
    config = host.rotary.config
    changes = {**_with_own_length(config, settings), **_without_warnings(config, settings)}
    return StockForm(changes, older=older_settings(host.model, config, settings))


def _with_own_length(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as changes to a config, whose own field for the original length (Phi-3) goes before theirs."""
    name = "original_max_position_embeddings"
    own = {name: settings[name]} if name in settings and hasattr(config, name) else {}
    return {"rope_parameters": settings, **own}


def older_settings(model: Any, config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file says besides. Nothing for a model whose rope settings are in a part of its config, which older
    readers do not find."""
    if type(model.config) is not type(config):
        return {}
    return {**for_older_readers(config.model_type, settings), **_without_warnings(config, settings)}


def _without_warnings(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Has stock, which warns of keys that it does not know, pass over the mscales of a longrope, which vLLM reads. An
    attribute of that name is not written, so that the file needs it besides."""
    if not any(MSCALES[0] in flat for flat in by_layer_type(settings).values() or (settings,)):
        return {}
    name = "ignore_keys_at_rope_validation"
    return {name: sorted({*getattr(type(config), name, ()), *MSCALES})}


def _understood(host: Host, settings: dict[str, Any], layer_type: str, attention: Any, spectrum: Spectrum) -> bool:
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
