"""Whether the seams that were found are the model's own: what is said about a model must be about that model.

A family that is not in `FAMILIES` is opened by a guess, and a guess can find a rotary module that the layers do not
use, or layers that do not turn. So it is proved first, as `whorl.attach` proves it: by a forward in which the model's
own encoding, attached to these seams, changes nothing.

A patient fails that proof too, by the very fault that is looked for. So the proof is tried again with its rotary module
built anew, by the family's class from the config; and only where that fails as well is the family not known.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from whorl.attaching import attached
from whorl.attaching.proving import prove
from whorl.encodings.scalings.longrope import FLOAT32_MAX
from whorl.finite import not_finite
from whorl.hosts import OpenHost, open_host
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.messages import quiet
from whorl.hosts.transformers.rope_settings import LISTS, READ, by_layer_type

FROM_ZERO = ("partial_rotary_factor", "low_freq_factor", "mscale", "mscale_all_dim")
NUMBERS = {"rope_theta", "partial_rotary_factor"}.union(*READ.values()) - {*LISTS, "truncate"}


def require_known(host: OpenHost) -> None:
    """Returns for a family of `FAMILIES`, one with an encoding attached, and one that a forward has proved.

    Raises ValueError for any other, naming what was tried: it is examined by nobody.
    """
    if host.known or attached(host.model) is not None:
        return
    if any(p.is_meta for p in host.model.parameters()):
        raise ValueError(
            f"model type {host.model.config.model_type!r} is not among the families that whorl knows, and its seams "
            "can be proved by a forward only: load its weights first"
        )
    broken = not_finite(host.model)
    if broken:
        raise ValueError(
            f"model type {host.model.config.model_type!r} is not among the families that whorl knows, and its seams "
            f"cannot be proved while weights are not finite: {', '.join(broken[:3])}"
        )
    try:
        prove(host)
    except ValueError as as_it_is:
        with _rotary_anew(host) as sound:
            if sound is None:
                raise
            try:
                prove(sound)
            except ValueError:
                raise as_it_is from None


def require_numbers(config: Any) -> None:
    """Raises ValueError for rope settings that are no settings: words for numbers, nothing or less than nothing."""
    whole = getattr(config, "rope_parameters", None)
    if whole is None:
        return
    if not isinstance(whole, dict):
        raise ValueError(f"rope_parameters are {whole!r}, and not settings by name")
    for settings in (whole, *by_layer_type(whole).values()):
        for name, value in settings.items():
            for number in value if name in LISTS and isinstance(value, list) else [value]:
                if number is not None and name in {*NUMBERS, *LISTS} and not _number(name, number):
                    raise ValueError(f"the rope settings say {name}={value!r}; it takes a finite, positive number")
        if (share := settings.get("partial_rotary_factor")) is not None and share > 1:
            raise ValueError(f"the rope settings say partial_rotary_factor={share!r}, more than the whole head")
        low, high = (settings.get(name) for name in ("low_freq_factor", "high_freq_factor"))
        if low is not None and high is not None and high < low:
            raise ValueError(f"the rope settings say high_freq_factor={high!r}, below low_freq_factor={low!r}")
    labels = [*(getattr(config, "layer_types", None) or []), "full_attention", "sliding_attention"]
    for name in dict.fromkeys(label for label in labels if isinstance(label, str)):
        if not isinstance(whole.get(name), dict | None):
            raise ValueError(f"rope_parameters say {name}={whole[name]!r}, and not settings by name")


def _number(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if name in LISTS:
        return value > 0  # whorl stops a pair by a factor past float32
    return (value >= 0 if name in FROM_ZERO else value > 0) and value < FLOAT32_MAX


def skeleton(host: OpenHost) -> OpenHost | None:
    """The model that the config describes now, without weights; None where it cannot be built."""
    config = copy.deepcopy(host.model.config)
    compat.build_with_attention(config, "eager")
    try:
        with torch.device("meta"), quiet():
            empty = type(host.model)(config)
        return open_host(empty)
    except Exception:  # whatever stock code raises: other checks say why
        return None


@contextmanager
def _rotary_anew(host: OpenHost) -> Iterator[OpenHost | None]:
    """While open, the host has the rotary module that its family makes of its config; None where none can be made."""
    empty = skeleton(host)
    fresh = None if empty is None else _built(type(empty.rotary), empty.rotary.config, host.model.device)
    if fresh is None:
        yield None
        return
    parent, _, name = f"base.{host.family.rotary}".rpartition(".")
    holder: Any = host
    for part in parent.split("."):
        holder = getattr(holder, part)
    own = getattr(holder, name)
    setattr(holder, name, fresh)
    try:
        yield replace(host, rotary=fresh)
    finally:
        setattr(holder, name, own)


def _built(rotary: Any, config: Any, device: torch.device) -> Any:
    try:
        with torch.device("cpu"), quiet():
            return rotary(config).to(device)
    except Exception:  # whatever stock code raises: the proof as it is says what is missing
        return None
