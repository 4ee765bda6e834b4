"""LOAD: `whorl.load(dir)`, and the one way in which all of whorl reads a checkpoint's weights.

A weight that a checkpoint lacks is drawn at random by transformers, with a warning; one that the model does not know is
dropped. Both are refused here, by name: of recorded and of other models, trials and adapters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from whorl.attaching import NAMED, attach, attached
from whorl.encodings import Encoding, from_dict
from whorl.hosts import open_host
from whorl.reading import CONFIG_KEY, encoding_of, same_rotations
from whorl.saving import StockForm, is_ours, quiet, stock_form

HUB = ("revision", "token", "cache_dir", "subfolder", "local_files_only")  # where a file of a checkpoint is
COMPUTED = ("inv_freq", "masked_bias", "position_ids")  # buffers that old checkpoints hold, and that models compute now
SHOWN = 8  # names in a message
LONG = 400  # characters of what stock code says


def load(name_or_path: Any, **kwargs: Any) -> Any:
    """Loads a model that was saved with an encoding, and attaches it; any other checkpoint loads as stock does.

    name_or_path: a directory or a hub name, also of a PEFT adapter trained on a model with an encoding. Keyword
    arguments go to `from_pretrained` (dtype, device_map, revision, ...). The model is of the class that was saved.

    Code that comes with a checkpoint runs with `trust_remote_code=True` only, and nobody is asked.

    Raises ValueError when the config and the recorded encoding contradict each other, and as `from_pretrained` does.

    >>> model = whorl.load("path/to/dir")
    >>> whorl.encoding_of(model)
    ALiBi()
    """
    import transformers

    hub: dict[str, Any] = {k: kwargs[k] for k in HUB if k in kwargs}
    if _file(name_or_path, "adapter_config.json", hub) is not None and _file(name_or_path, "config.json", hub) is None:
        return _load_adapter(name_or_path, hub, kwargs)
    trusted = kwargs.get("trust_remote_code", False)
    config = kwargs.pop("config", None) or configuration(name_or_path, trust_remote_code=trusted, **hub)
    record = config.__dict__.pop(CONFIG_KEY, None)
    if record is None:
        cls = _class(config.architectures, transformers.AutoModelForCausalLM)
        return from_pretrained(cls, name_or_path, config=config, **kwargs)
    encoding = from_dict(record["encoding"])
    config.__dict__.pop("transformers_weights", None)
    config.architectures = [record["architecture"]]
    cls = _class(config.architectures, None)
    model = from_pretrained(cls, name_or_path, config=config, **kwargs)
    if record["stock"]:
        _check_record(model, encoding, name_or_path)
    name = model.name_or_path
    attach(model, encoding)
    model.name_or_path = name  # this directory says it all
    _load_learned(model, name_or_path, hub)
    return model


def configuration(where: Any, **kwargs: Any) -> Any:
    """The config of a checkpoint. Raises ValueError where it cannot be read, or needs code of its own."""
    from transformers import AutoConfig

    with _explained(where), quiet():
        return AutoConfig.from_pretrained(where, **{"trust_remote_code": False, **kwargs})


def from_config(config: Any, where: Any) -> Any:
    """A causal language model with random float32 weights. Raises ValueError where the config is none of one."""
    from transformers import AutoModelForCausalLM

    with _explained(where):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def from_pretrained(cls: Any, where: Any, **kwargs: Any) -> Any:
    """`cls.from_pretrained(where, **kwargs)`, of a checkpoint that holds exactly the weights of the model.

    Weights are read from safetensors alone: nothing is unpickled.

    What is no loss passes: tied weights, what the class declares as optional, buffers that models compute by now, and
    the second head of a family that is pretrained with two (BERT). Raises ValueError with the names for anything that
    is missing or not known to the model, and with the reason for a checkpoint that cannot be read.
    """
    how = {"trust_remote_code": False, "use_safetensors": True, **kwargs}
    with _explained(where), quiet():  # what the report would say is looked at here
        model, found = cls.from_pretrained(where, output_loading_info=True, **how)
    unknown = [k for k in found["unexpected_keys"] if not is_ours(k) and k.rpartition(".")[2] not in COMPUTED]
    if unknown:
        known = _known_in_pretraining(model)
        unknown = [k for k in unknown if k not in known]
    refuse_incomplete(where, model, found["missing_keys"], unknown)
    return model


@contextmanager
def _explained(where: Any) -> Iterator[None]:
    """Turns what stock code raises on a checkpoint that it cannot read into one ValueError with the reason."""
    try:
        yield
    except Exception as error:  # of any kind: the files are a stranger's, and stock code does not check them
        raise ValueError(f"cannot load {str(where)!r}: {_reason(Path(str(where)), error)}") from error


def _reason(folder: Path, error: Exception) -> str:
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return (
            "it needs code that comes with it, which whorl does not run by itself; read that code, and if you trust it "
            f"load the model in Python, with whorl.load({str(folder)!r}, trust_remote_code=True)"
        )
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return "its weights are pickled (*.bin), and whorl reads safetensors alone; save it anew as safetensors"
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return kind + (said if len(said) <= LONG else f"{said[:LONG]}...")


def load_weights(model: Any, path: str | Path) -> None:
    """Fills a model from one safetensors file, as `safetensors.torch.save_model` wrote it.

    Raises ValueError with the names of weights that are missing, not known to the model, or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        missing, unknown = load_model(model, path, strict=False)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a {type(model).__name__}: {reason}") from error
    refuse_incomplete(path, model, missing, unknown)


def refuse_incomplete(where: Any, model: Any, missing: Iterable[str], unknown: Iterable[str]) -> None:
    """Raises ValueError, naming them, where weights are missing or not known to the model."""
    missing, unknown = sorted(missing), sorted(unknown)
    if missing or unknown:
        raise ValueError(
            f"{where} does not hold the weights of a {type(model).__name__}: missing {_named(missing)}, "
            f"not known to it {_named(unknown)}. transformers would draw the missing ones at random and drop the others"
        )


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{keys[:SHOWN]}{more}" if keys else "none"


def _known_in_pretraining(model: Any) -> set[str]:
    """The weights that the class has with which this family is pretrained, some of which may be a second head's."""
    from transformers import MODEL_FOR_PRETRAINING_MAPPING

    if type(model.config) not in MODEL_FOR_PRETRAINING_MAPPING:
        return set()
    with torch.device("meta"), quiet():
        return set(MODEL_FOR_PRETRAINING_MAPPING[type(model.config)](model.config).state_dict())


def _check_record(model: Any, encoding: Encoding, where: Any) -> None:
    """The stock settings and whorl's record of them are in one file, and somebody may have changed one of the two."""
    host, own = open_host(model), encoding_of(model)
    agree = own == encoding if host.rotary is None else same_rotations(host, own, encoding)
    if not agree:
        raise ValueError(
            f"the config in {where} says {own} in stock terms and {encoding} under {CONFIG_KEY!r}; somebody changed "
            f"one of them. Delete the {CONFIG_KEY!r} entry to keep the stock one"
        )


def _class(architectures: list[str] | None, default: Any) -> Any:
    import transformers

    for name in architectures or []:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    if default is None:
        raise ValueError(f"transformers {transformers.__version__} has no model class {architectures}")
    return default


def _load_learned(model: Any, where: Any, hub: dict[str, Any]) -> None:
    """The encoding's own parameters, from the same safetensors as the rest."""
    from safetensors import safe_open

    wanted = dict(attached(model).named_parameters())  # type: ignore[union-attr]
    if not wanted or isinstance(stock_form(model), StockForm):
        return
    index = _file(where, "model.safetensors.index.json", hub)
    names = {"model.safetensors"} if index is None else set(json.loads(Path(index).read_text())["weight_map"].values())
    for name in sorted(names):
        with safe_open(_file(where, name, hub), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                short = key.rpartition("whorl.")[2]
                if is_ours(key) and short in wanted:
                    with torch.no_grad():
                        wanted.pop(short).copy_(file.get_tensor(key))
    if wanted:
        raise ValueError(f"{where} lacks the learned parameters {sorted(wanted)} of {encoding_of(model)}")


def _load_adapter(where: Any, hub: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    from peft import PeftConfig, PeftModel

    base = PeftConfig.from_pretrained(where, **hub).base_model_name_or_path
    if not base:
        raise ValueError(f"the adapter in {where} does not say what model it was trained on (base_model_name_or_path)")
    path, attached_in_memory, notation = base.partition(NAMED)
    model = load(path, **kwargs)
    if attached_in_memory:
        encoding = encoding_of(attach(model, notation))
        if any(True for _ in attached(model).parameters()):  # type: ignore[union-attr]
            raise ValueError(
                f"the adapter in {where} was trained with {encoding}, whose learned parameters PEFT does not keep; "
                "save the model itself with save_pretrained before adding the adapter, and load the adapter on that"
            )
    adapted = PeftModel.from_pretrained(model, where, **hub)
    _check_adapter(adapted, where, hub)
    return adapted


def _check_adapter(adapted: Any, where: Any, hub: dict[str, Any]) -> None:
    """Raises ValueError unless an adapter's file holds what PEFT would write of it; PEFT itself warns, or says nothing.

    Embeddings may be there too: it writes those of a vocabulary that has grown.
    """
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    held = set(load_peft_weights(where, device="cpu", **hub))
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    embeddings = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    allowed = tuple(f"{name}." for name, module in adapted.named_modules() if any(module is m for m in embeddings))
    refuse_incomplete(where, adapted, wanted - held, (k for k in held - wanted if not k.startswith(allowed)))


def _file(where: Any, name: str, hub: dict[str, Any]) -> str | None:
    from transformers.utils import cached_file

    return cached_file(where, name, _raise_exceptions_for_missing_entries=False, **hub)
