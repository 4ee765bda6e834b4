"""Folders of timm's models, as its `save_for_hf` writes them: kept with an encoding, and read again.

The weights hold an attached encoding (see `whorl.attaching.keeping`). The config says it too, and in the place of the
architecture what to do: whoever builds a model from it is told that there is none of that name.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open

from whorl.attaching.filling import completed
from whorl.attaching.joining import attach_saved
from whorl.attaching.present import follow_layers
from whorl.attaching.records import CONFIG_KEY, ENTRY, UNFINISHED, from_tensor, record_of, replace_json
from whorl.attaching.seams import attached
from whorl.attaching.weights import load_weights
from whorl.encodings import Encoding, from_dict
from whorl.extras import require
from whorl.files import read_json
from whorl.hosts import host_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"
GUARD = "use whorl.load(directory) for this checkpoint: stock timm would drop its positional encoding"


def save(model: Any, directory: Any) -> None:
    """Writes a model of timm, with the encoding that is attached to it, if any. Both files are whole before either
    takes the place of an earlier one.

    Raises ValueError for a model that timm cannot build again: one that `timm.create_model` has not built, or that was
    given arguments which are no JSON.
    """
    from timm.models import save_for_hf

    if not getattr(model, "pretrained_cfg", None):
        raise ValueError(
            f"nothing says how this {type(model).__name__} was built, so that its folder could not be loaded; build it "
            "with timm.create_model, or keep model.state_dict()"
        )
    attachment = attached(model)
    if attachment is not None:
        follow_layers(model, attachment)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=folder) as made:
        depth = {} if attachment is None else {"depth": attachment.layers}  # blocks may have been taken out
        save_for_hf(model, made, safe_serialization=True, model_args=depth)
        if attachment is not None:
            config = read_json(Path(made) / CONFIG)
            record = {**record_of(attachment.encoding), "architecture": config["architecture"]}
            replace_json(Path(made) / CONFIG, {**config, "architecture": GUARD, CONFIG_KEY: record})
        for name in (WEIGHTS, CONFIG):
            os.replace(Path(made) / name, folder / name)


def is_one(where: str) -> bool:
    """Whether this is the path of such a folder."""
    path = Path(where) / CONFIG
    if not path.is_file():
        return False
    config = read_json(path)
    return isinstance(config, dict) and "pretrained_cfg" in config and "model_type" not in config


def load(where: str, **kwargs: Any) -> Any:
    """The model in such a folder, in evaluation mode, with its encoding. Keyword arguments go to `timm.create_model`.

    Raises ValueError where config and weights do not belong together, or are not those of the model.
    """
    require(f"the model in {where}", "timm")
    import timm

    folder = Path(where)
    config = read_json(folder / CONFIG)
    record = config.get(CONFIG_KEY)
    encoding = _encoding(folder)
    said = None if record is None else from_dict(record["encoding"])
    if said is not None and said != encoding:
        raise ValueError(
            f"the config in {where} says {said}, and its weights were trained with {encoding or 'none'}: {UNFINISHED}, "
            "or somebody exchanged its files; save again"
        )
    architecture = config["architecture"] if record is None else record["architecture"]
    how = {**config.get("model_args", {}), **kwargs}
    try:
        model = timm.create_model(architecture, pretrained=False, pretrained_cfg=config["pretrained_cfg"], **how)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"timm {timm.__version__} cannot build the {architecture} in {where}: {error}") from error
    if encoding is not None:
        attach_saved(model, completed(host_of(model), encoding))
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def _encoding(folder: Path) -> Encoding | None:
    """That which the weights hold."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            entry = f"whorl.{ENTRY}"
            return from_tensor(file.get_tensor(entry)) if entry in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot read the weights in {folder}: {error}") from error
