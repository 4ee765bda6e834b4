"""SAVE, in the way of the library that a model is of. `whorl.attaching.loading` reads all of them again."""

from __future__ import annotations

from typing import Any

from whorl.attaching import timm_folders
from whorl.checking import check_path
from whorl.hosts import TimmHost, host_of


def save(model: Any, directory: Any) -> None:
    """Writes a model and the encoding that it has, stock or attached, into a directory, for `load`.

    `model.save_pretrained(directory)`, where a model has that (see `whorl.attaching.saving`); a model of timm goes into
    the files of its `save_for_hf`, config and safetensors. Stock code that would drop an attached encoding fails on it.

    Raises ValueError for a model of neither, and for one of timm that it could not build again.
    """
    directory = check_path("directory", directory, "a directory")
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(directory)
        return
    host = host_of(model)
    if not isinstance(host, TimmHost):
        raise ValueError(
            f"nothing says how a {type(model).__name__} is built, so that its folder could not be loaded; keep "
            "model.state_dict(), which holds the encoding too"
        )
    timm_folders.save(host.model, directory)
