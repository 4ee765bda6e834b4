"""LOAD: `whorl.load(dir)`, and the one way in which all of whorl reads a checkpoint's weights.

A weight that a checkpoint lacks is drawn at random by transformers, with a warning; one that the model does not know is
dropped. Both are refused here, by name: of recorded and of other models, trials and adapters.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from whorl.attaching import adapters, timm_folders
from whorl.attaching.filling import completed
from whorl.attaching.joining import attach_saved
from whorl.attaching.keeping import digest_of
from whorl.attaching.reading import encoding_of, same_rotations
from whorl.attaching.records import CONFIG_KEY, ENTRY, GUARD, UNFINISHED, from_tensor
from whorl.attaching.saving import is_ours
from whorl.attaching.seams import attached
from whorl.attaching.weights import refuse_incomplete, refuse_misshapen
from whorl.checking import check_path, few, trials_beside
from whorl.encodings import Encoding, from_dict
from whorl.gguf_files.header import gguf_at
from whorl.gguf_files.opening import config_and_encoding, open_gguf
from whorl.hosts import bases_of, host_of, name_of, open_host
from whorl.hosts.transformers import compat
from whorl.hosts.transformers.messages import quiet
from whorl.hub import ADAPTER, CONFIG, check_on_hub

log = logging.getLogger(__name__)

HUB = ("revision", "token", "cache_dir", "subfolder", "local_files_only")  # where a file of a checkpoint is
COMPUTED = ("inv_freq", "masked_bias", "position_ids")  # buffers that old checkpoints hold, and that models compute now
OF_LOADING = ("attn_implementation", "dtype", "torch_dtype", "quantization_config", "generation_config", *HUB)
LONG = 400  # characters of what stock code says


def load(name_or_path: Any, *, base: Any = None, **kwargs: Any) -> Any:
    """Loads a model that was saved with an encoding, and attaches it; any other checkpoint loads as stock does.

    name_or_path: a directory or a hub name, also of a PEFT adapter trained on a model with an encoding; or a `.gguf`
    file, or a folder with one and no other model, whose weights become float32 unless a dtype is given. Keyword
    arguments go to `from_pretrained` (dtype, device_map, revision, ...), or to `timm.create_model` for a folder with a
    model of timm. Those that the config or its text's has (rope_parameters, max_position_embeddings) go to it, but for
    a rotation beside the encoding that was recorded. The model is of the class that was saved.

    Code that comes with a checkpoint runs with `trust_remote_code=True` only, and nobody is asked.

    base: the model to put an adapter on, with the encoding or without; the one that the adapter names is loaded where
    none is given. (Plain PEFT refuses such an adapter, since it would not see a base without the encoding.)

    Raises ValueError when the config (or rope_parameters) and the recorded encoding contradict each other, when a base
    has another encoding than its adapter was trained with, and as `from_pretrained` does.

    >>> model = whorl.load("path/to/dir")
    >>> whorl.encoding_of(model)
    ALiBi()
    """
    import transformers

    name_or_path = check_path("name_or_path", name_or_path, "a directory, a .gguf file or a hub name")
    if (file := gguf_at(name_or_path)) is not None:
        _refuse_base(file, base)
        return _load_gguf(file, kwargs)
    _refuse_no_folder(name_or_path)
    if timm_folders.is_one(name_or_path):
        _refuse_base(name_or_path, base)
        return timm_folders.load(name_or_path, **kwargs)
    hub: dict[str, Any] = {k: kwargs[k] for k in HUB if k in kwargs}
    _ask_hub(name_or_path, hub)
    if (adapter := compat.file_of(name_or_path, ADAPTER, hub)) is not None:
        if compat.file_of(name_or_path, CONFIG, hub) is None:
            return _load_adapter(name_or_path, base, hub, kwargs)
        adapters.refuse_both(name_or_path, adapter)
    _refuse_base(name_or_path, base)
    trusted = kwargs.get("trust_remote_code", False)
    config, settings = kwargs.pop("config", None), {}
    if config is None:
        config = configuration(name_or_path, trust_remote_code=trusted, **hub)
        settings = _settings(config, kwargs)
        if settings:
            config = configuration(name_or_path, trust_remote_code=trusted, **hub, **settings)
    record = _unguarded(config)
    _refuse_rotation_beside(record, settings, name_or_path)
    if record is not None and record.get("unfinished"):
        raise ValueError(f"{UNFINISHED}: the weights in {name_or_path} may be those of an earlier one; save again")
    cls = _class(config, transformers.AutoModelForCausalLM if record is None else None)
    model, entries = _loaded(cls, name_or_path, config=config, **kwargs)
    weights = hub | {"variant": kwargs.get("variant")}
    kept = bool(entries) or (record is not None and not record["stock"])
    ours = _by_part(name_or_path, model, entries, weights) if kept else {}
    held = {at: from_tensor(found[ENTRY]) for at, found in ours.items() if ENTRY in found}
    parts: dict[str | None, Encoding]
    if record is None:
        parts = dict(held.items())
    elif "parts" in record:
        parts = {part["at"]: from_dict(part["encoding"]) for part in record["parts"]}
    else:
        said = from_dict(record["encoding"])
        parts = {None: said}
        if record["stock"]:
            _check_record(model, completed(host_of(model), said), name_or_path)
    if record is not None and record.get("in_weights"):
        _check_weights(name_or_path, parts, held)
    for at, encoding in parts.items():
        part = model if at is None else model.get_submodule(at)
        part = model if any(part is base for base in bases_of(model)) else part  # which saves it in its own terms
        name = part.name_or_path
        attachment = attached(attach_saved(part, completed(host_of(part), encoding)))
        assert attachment is not None
        part.name_or_path = name  # this directory says it all
        attachment.stock_directory = record is not None and record["stock"]
        if not attachment.stock_directory:
            own = ours.get(at or "", {}) if len(ours) > 1 else next(iter(ours.values()))
            _load_learned(attachment, own, name_or_path)
    return model


def _settings(config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes what is for the config out of the keyword arguments: what it has itself, as stock code does, and what the
    config of its text has (Qwen2-VL, Gemma 3)."""
    text = config.get_text_config()
    found: dict[str, Any] = {}
    for name in [*kwargs]:
        if name not in OF_LOADING and hasattr(config, name):
            found[name] = kwargs.pop(name)
        elif name not in OF_LOADING and hasattr(text, name):
            found["text_config"] = {**found.get("text_config", {}), name: kwargs.pop(name)}
    return found


def _refuse_rotation_beside(record: dict[str, Any] | None, settings: dict[str, Any], where: Any) -> None:
    """Raises ValueError for rope_parameters of a folder that records its encoding, which is what is attached."""
    if record is None or "rope_parameters" not in {**settings, **settings.get("text_config", {})}:
        return
    own = "encodings of its parts" if "parts" in record else from_dict(record["encoding"])
    raise ValueError(
        f"{where} was saved with {own}, which rope_parameters do not change; leave them out, and attach the encoding "
        "that you want to what whorl.load gives"
    )


def _refuse_base(where: Any, base: Any) -> None:
    if base is not None:
        raise ValueError(f"{where} is a model and no adapter, so there is nothing to put on a base")


def _load_gguf(file: Path, kwargs: dict[str, Any]) -> Any:
    """The model of a GGUF file, with the encoding attached that its config cannot say."""
    if of_hub := sorted(set(kwargs) & set(HUB)):
        raise ValueError(f"{', '.join(of_hub)} are of the hub, and {file} is a file")
    how = {k: v for k, v in kwargs.items() if k not in ("trust_remote_code", "use_safetensors")}
    model, encoding = open_gguf(file, **how)
    if encoding is not None:
        attach_saved(model, completed(open_host(model), encoding))
        model.name_or_path = str(file)  # which says it all
    return model


def _refuse_no_folder(where: str) -> None:
    """Raises ValueError for a path that is no folder, which stock code would take for a hub name."""
    path = Path(where)
    if path.is_file():
        raise ValueError(f"{where!r} is a file, and a checkpoint is a folder; try {str(path.parent)!r}")
    hub_name = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", where) and not where.startswith(".")
    if not hub_name and not path.is_dir():
        raise ValueError(f"no checkpoint at {where!r}: there is no such folder, and it is no hub name")


def _ask_hub(where: str, hub: dict[str, Any]) -> None:
    """Says at once that a name is no folder, and raises ValueError where the hub has none of that name either."""
    if not hub.get("local_files_only"):
        check_on_hub(where, *(hub.get(of) for of in ("revision", "token", "cache_dir")))


def configuration(where: Any, **kwargs: Any) -> Any:
    """The config of a checkpoint, as it would be without the entries that keep stock code from building its model.

    What whorl has recorded stays in it, under "whorl". Raises ValueError where it cannot be read, or needs code of its
    own.
    """
    from transformers import AutoConfig

    if (file := gguf_at(where)) is not None:
        return config_and_encoding(file)[0]
    with _explained(where), quiet():
        config = AutoConfig.from_pretrained(where, **{"trust_remote_code": False, **kwargs})
    record = _unguarded(config)
    if record is not None:
        setattr(config, CONFIG_KEY, record)
    return config


def without_weights(where: Any) -> Any:
    """The model that `load` would give, as its config alone says it: its encoding is attached and its rotary module
    whole, and its weights are on the meta device. For questions that ask no weight, before a load.

    Raises ValueError where the config cannot be read, and for what is not said in a config: an adapter, a model of
    several parts with encodings of their own.
    """
    import transformers

    encoding: Encoding | None
    if (file := gguf_at(where)) is not None:
        config, encoding = config_and_encoding(file)
        record = None
    else:
        config = configuration(where)
        record = config.__dict__.pop(CONFIG_KEY, None)
        encoding = None if record is None or "parts" in record else from_dict(record["encoding"])
    if record is not None and "parts" in record:
        raise ValueError(f"{where} records an encoding for each of its parts")
    cls = _class(config, None if record is not None else transformers.AutoModelForCausalLM)
    with _explained(where), quiet():
        with torch.device("meta"):
            model = cls(config) if hasattr(cls, "config_class") and cls.config_class else cls.from_config(config)
        host = open_host(model)
        if host.rotary is not None:
            model.set_submodule(name_of(model, host.rotary), type(host.rotary)(host.rotary.config))
    return model if encoding is None else attach_saved(model, completed(open_host(model), encoding))


def from_config(config: Any, where: Any, cls: Any = None) -> Any:
    """A model with random float32 weights, of one of transformers' classes for all families; AutoModelForCausalLM where
    none is given. Raises ValueError where the config is none of one."""
    from transformers import AutoModelForCausalLM

    with _explained(where):
        return (cls or AutoModelForCausalLM).from_config(config, dtype=torch.float32)


def _check_weights(where: Any, parts: dict[Any, Encoding], held: dict[str, Encoding]) -> None:
    """The weights say the encoding too; where they say another, a save broke off between the config and the weights."""
    agree = list(held.values()) == list(parts.values()) if None in parts else held == parts
    if not agree:
        said, found = (", ".join(str(e) for e in encodings.values()) or "none" for encodings in (parts, held))
        raise ValueError(
            f"the config in {where} says {said}, and its weights were trained with {found}: {UNFINISHED}, or somebody "
            "exchanged its files; save again"
        )


def _unguarded(config: Any) -> dict[str, Any] | None:
    """Takes whorl's entries out of a config. Returns its record."""
    record: dict[str, Any] | None = config.__dict__.pop(CONFIG_KEY, None)
    if record is not None:
        if not isinstance(record, dict) or not isinstance(record.get("architecture"), str):
            raise ValueError(
                f"the config's record under {CONFIG_KEY!r} is damaged, it names no architecture: {str(record)[:80]}"
            )
        compat.readable_again(config, GUARD)
        config.architectures = [record["architecture"]]
    return record


def from_pretrained(cls: Any, where: Any, **kwargs: Any) -> Any:
    """`cls.from_pretrained(where, **kwargs)`, of a checkpoint that holds exactly the weights of the model.

    Weights are read from safetensors alone: nothing is unpickled.

    What is no loss passes: tied weights, what the class declares as optional, buffers that models compute by now, and
    the second head of a family that is pretrained with two (BERT). Raises ValueError with the names for anything that
    is missing or not known to the model, with the reason for a checkpoint that cannot be read, and where the weights
    say an encoding, for which `load` is.
    """
    model, entries = _loaded(cls, where, **kwargs)
    if entries:
        raise ValueError(f"the weights in {where} were trained with an encoding attached; whorl.load({str(where)!r})")
    return model


def _loaded(cls: Any, where: Any, **kwargs: Any) -> tuple[Any, list[str]]:
    """The model, and the names of its modules whose encoding is recorded among the weights."""
    how = {"trust_remote_code": False, "use_safetensors": True, "ignore_mismatched_sizes": True, **kwargs}
    with _explained(where), quiet():  # what the report would say is looked at here
        model, found = cls.from_pretrained(where, output_loading_info=True, **how)
    unknown = [k for k in found["unexpected_keys"] if not is_ours(k) and k.rpartition(".")[2] not in COMPUTED]
    if unknown:
        known = _known_in_pretraining(model)
        unknown = [k for k in unknown if k not in known]
    refuse_incomplete(where, model, found["missing_keys"], unknown)
    if "ignore_mismatched_sizes" not in kwargs:
        refuse_misshapen(where, model, found["mismatched_keys"])
    weights = {k: kwargs[k] for k in (*HUB, "variant") if k in kwargs}
    _refuse_whole_numbers(where, model, weights | {"local_files_only": True})  # they have just been read
    mark = f"whorl.{ENTRY}"
    return model, [k.removesuffix(mark).removesuffix(".") for k in found["unexpected_keys"] if k.endswith(mark)]


def _refuse_whole_numbers(where: Any, model: Any, weights: dict[str, Any]) -> None:
    """Raises ValueError for weights of a quantization that the config does not say: stock code takes them as they are,
    without the factors that make numbers of them."""
    if getattr(model.config, "quantization_config", None) is not None:
        return
    whole = sorted(
        f"{key} ({dtype})"
        for file in _weight_files(where, weights)
        for key in file.keys()  # noqa: SIM118
        if key.endswith(".weight") and (dtype := file.get_slice(key).get_dtype())[0] in "IUB" and dtype != "BF16"
    )
    if whole:
        raise ValueError(
            f"the weights in {where} are whole numbers, and its config says no quantization: {few(whole)}; take a "
            "checkpoint in real numbers"
        )


@contextmanager
def _explained(where: Any) -> Iterator[None]:
    """Turns what stock code raises on a checkpoint that it cannot read into one ValueError with the reason."""
    try:
        yield
    except Exception as error:  # of any kind: the files are a stranger's, and stock code does not check them
        raise ValueError(f"cannot load {str(where)!r}: {_reason(Path(str(where)), error)}") from error


def _reason(folder: Path, error: Exception) -> str:
    import transformers

    said = " ".join(str(error).split())
    if not folder.exists():
        return f"there is no such folder here, and from the hub nothing came ({said[:LONG]})"
    if folder.is_file():
        return said[:LONG]
    if not any(any(folder.glob(f"{at}{CONFIG}")) for at in ("", "*/")):  # it may be in a subfolder
        trials = trials_beside(folder)
        if (folder / ADAPTER).exists():
            return f"it holds an adapter and no {CONFIG}; give the merged model (model.merge_and_unload())"
        if (folder / "result.json").exists():
            return (
                "it is a trial of whorl compare: from whorl.comparison import load_trial, which loads it; "
                "save_pretrained of that model makes a directory for whorl.load"
            )
        return f"it holds no {CONFIG}: it is no model{f'; {trials}' if trials else ''}"
    if "trust_remote_code" in said:
        return (
            "it needs code that comes with it, which whorl does not run by itself; read that code, and if you trust it "
            f"load the model in Python, with whorl.load({str(folder)!r}, trust_remote_code=True)"
        )
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        return "its weights are pickled (*.bin), and whorl reads safetensors alone; save it anew as safetensors"
    variants = sorted({path.name.split(".")[1] for path in folder.glob("model.*.safetensors*")} - {"safetensors"})
    if variants and not any(folder.glob("model.safetensors*")) and not any(folder.glob("model-*.safetensors")):
        return f"its weights are of a variant; load it with variant={' or '.join(map(repr, variants))}"
    kind = ""
    if not isinstance(error, ValueError | OSError):  # no refusal in words, and perhaps of this version alone
        kind = f"transformers {transformers.__version__} raises {type(error).__name__}: "
    return kind + (said if len(said) <= LONG else f"{said[:LONG]}...")


def _known_in_pretraining(model: Any) -> set[str]:
    """The weights that the class has with which this family is pretrained, some of which may be a second head's."""
    from transformers import MODEL_FOR_PRETRAINING_MAPPING

    if type(model.config) not in MODEL_FOR_PRETRAINING_MAPPING:
        return set()
    with torch.device("meta"), quiet():
        return set(MODEL_FOR_PRETRAINING_MAPPING[type(model.config)](model.config).state_dict())


def _check_record(model: Any, encoding: Encoding, where: Any) -> None:
    """The stock settings and whorl's record of them are in one file, where one of the two may have been edited."""
    host, own = host_of(model), encoding_of(model)
    agree = own == encoding if host.rotary is None else same_rotations(host, own, encoding)
    if not agree:
        raise ValueError(
            f"the config in {where} says {own} in stock terms and {encoding} under {CONFIG_KEY!r}; somebody changed "
            f"one of them. Delete the {CONFIG_KEY!r} entry to keep the stock one"
        )


def _class(config: Any, default: Any) -> Any:
    """That which the config names, of transformers or of the module beside the config's own (a tower of Qwen2-VL, which
    transformers does not export)."""
    import transformers

    names, where = config.architectures or [], type(config).__module__
    for name in names:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    if where.startswith("transformers.models."):
        with contextlib.suppress(ModuleNotFoundError):
            beside = importlib.import_module(where.replace(".configuration_", ".modeling_"))
            for name in names:
                if hasattr(beside, name):
                    return getattr(beside, name)
    if default is None:
        raise ValueError(f"transformers {transformers.__version__} has no model class {config.architectures}")
    return default


def _weight_files(where: Any, weights: dict[str, Any]) -> Iterator[Any]:
    """The files of a checkpoint in safetensors, each open until the next; of its `variant`, which stands in the names
    before the last dot."""
    from safetensors import safe_open

    hub = {k: v for k, v in weights.items() if k != "variant"}
    dot = f".{variant}." if (variant := weights.get("variant")) else "."
    index = compat.file_of(where, f"model.safetensors.index{dot}json", hub)
    names = {whole := f"model{dot}safetensors"}
    if index is not None and compat.file_of(where, whole, hub) is None:  # of both, transformers reads the whole
        names = set(json.loads(Path(index).read_text())["weight_map"].values())
    for name in sorted(names):
        with safe_open(compat.file_of(where, name, hub), framework="pt") as file:
            yield file


def _by_part(where: Any, model: Any, entries: list[str], weights: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """What whorl has put among a checkpoint's weights, by the module of which it is and by its name in the attachment.

    transformers may save modules under older names than they have. Of several, each is known by the weights beside it.
    Raises ValueError where these do not tell.
    """
    names: set[str] = set()
    ours: dict[str, torch.Tensor] = {}
    for file in _weight_files(where, weights):
        names |= set(file.keys())
        ours |= {key: file.get_tensor(key) for key in file.keys() if is_ours(key)}  # noqa: SIM118
    saved = {f"{key.rpartition('whorl.')[0]}whorl." for key in ours}
    if len(saved) > 1:
        places = {at: _own_place(model, at, saved, names) for at in entries}
    else:
        places = {at: "".join(saved) for at in entries or [""]}
    if len(set(places.values())) < len(entries):
        raise ValueError(
            f"the weights in {where} hold the encodings of {sorted(entries)} under {sorted(saved)}, and the weights "
            "beside them do not tell which is whose; save each of these parts by itself"
        )
    return {
        at: {key.removeprefix(place): x for key, x in ours.items() if key.startswith(place)}
        for at, place in places.items()
    }


def _own_place(model: Any, at: str, saved: set[str], names: set[str]) -> str:
    """Of the places of encodings in a file, that beside which most of a module's own weights are."""
    exact = f"{at}.whorl." if at else "whorl."
    if exact in saved:
        return exact
    own = [name for name in model.get_submodule(at).state_dict() if not is_ours(name)]
    return max(sorted(saved), key=lambda place: sum(place.removesuffix("whorl.") + name in names for name in own))


@torch.no_grad()
def _load_learned(attachment: Any, ours: dict[str, torch.Tensor], where: Any) -> None:
    """The encoding's own parameters and counts, from the same safetensors as the rest; exactly those."""
    wanted = {name: x for name, x in attachment.state_dict().items() if name != ENTRY}
    held = {name: x for name, x in ours.items() if name != ENTRY}
    for at, module in attachment.named_modules():
        if hasattr(module, "as_now"):
            module.as_now(held, f"{at}.")
    if lacking := sorted(wanted.keys() - held.keys()):
        raise ValueError(f"{where} lacks the learned parameters {lacking} of {attachment.encoding}")
    if unknown := sorted(held.keys() - wanted.keys()):
        raise ValueError(f"{where} holds {few(unknown)} of an encoding, and {attachment.encoding} has none such")
    misshapen = [
        f"{name} ({list(held[name].shape)} there, {list(x.shape)} by its config)"
        for name, x in sorted(wanted.items())
        if held[name].shape != x.shape
    ]
    if misshapen:
        raise ValueError(f"the weights in {where} are of another shape than {attachment.encoding}'s: {few(misshapen)}")
    attachment.load_state_dict(held)
    attachment.as_loaded = {name: digest_of(x) for name, x in attachment.named_parameters()}


def _load_adapter(where: Any, base: Any, hub: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    config, encodings = adapters.config_of(where, **hub)
    if base is None:
        of_adapter = ("revision", "subfolder")  # of its own place: its config says the base's
        of_base = {k: v for k, v in kwargs.items() if k not in of_adapter}
        if config.revision is not None:
            of_base["revision"] = config.revision
        base = load(adapters.base_of(config, where), **of_base)
    elif set(kwargs) - set(hub):
        raise ValueError(f"{sorted(set(kwargs) - set(hub))} are for loading a base, and one was given")
    adapters.check_base(base)
    return adapters.on(base, config, encodings, where, hub)
