"""The libraries whose models can be opened: a new one is a package beside this file, and one line in `LIBRARIES`.

A library is a module with

has(model)         whether a model, wrapped or not, is one of its own
open_model(model)  it as a `Host`. Raises ValueError naming what was looked for and what was found
bases_of(model)    the modules in which an encoding of this model's own may be: those that hold its layers
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from whorl.hosts.protocol import Host

LIBRARIES = {
    "transformers' image models": "whorl.hosts.transformers.images",
    "transformers' packed towers": "whorl.hosts.transformers.packed",
    "transformers": "whorl.hosts.transformers.opening",
    "timm": "whorl.hosts.timm.opening",
    "points": "whorl.hosts.points",  # models of any library that hold an attention of ours
}
SAYS_WHY = "transformers"  # what no library has as its own: this one names what it is instead


def host_of(model: Any) -> Host:
    """A model's host, of whichever library; one that is open already is given back as it is.

    Raises ValueError for a model without a known seam.
    """
    if isinstance(model, Host):
        return model
    host: Host = (_library_of(model) or import_module(LIBRARIES[SAYS_WHY])).open_model(model)
    return host


def bases_of(model: Any) -> list[Any]:
    """Where an encoding of this model's own may be; not those of a model that it holds as a part. Empty for a model of
    no library."""
    if isinstance(model, Host):
        return [model.base]
    library = _library_of(model)
    return [] if library is None else library.bases_of(model)


def _library_of(model: Any) -> Any:
    return next((library for library in map(import_module, LIBRARIES.values()) if library.has(model)), None)
