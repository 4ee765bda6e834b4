"""What a model's directory holds: JSON and safetensors. A pickle is never opened, and code in it never run."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from whorl.attaching import attached, timm_folders
from whorl.attaching.reading import same_rotations, stock_encoding
from whorl.attaching.records import CONFIG_KEY
from whorl.diagnosis.knowing import require_numbers
from whorl.diagnosis.meaning import Sizes, meant
from whorl.encodings import from_dict
from whorl.gguf_files.header import gguf_at
from whorl.hosts import FAMILIES, OpenHost, head_dim_of, open_host
from whorl.hosts.transformers.messages import quiet
from whorl.hosts.transformers.rope_settings import BASE_NAMES, FOREIGN_BASE_NAMES, by_layer_type, of_layers, rope_type
from whorl.hosts.transformers.stock_terms import for_older_readers
from whorl.hub import check_on_hub
from whorl.sources import read_by

PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
TOP = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}
GRANTED = (10000.0, 1.0)  # a base and a share that readers take where they find none
LEAST_BYTES = 0.25  # of a number in any quantisation
NO_THETA = 10**300  # JSON's integers have no end
NO_LIMIT = 10**15  # tokenizers without a limit say 10^30
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # of a hub name


@dataclass(frozen=True)
class Files:
    """A directory as it is, before anything is built from it.

    frequencies     rotary buffers among the weights, by their full name
    shapes          of all weights, by name; together they are `bytes` long
    ignored         files that were left alone: pickles, and code that a config asks for
    contradiction   words, when whorl's record and the stock settings disagree
    """

    path: Path
    config: dict[str, Any]
    tokenizer: dict[str, Any] = field(default_factory=dict)
    frequencies: dict[str, torch.Tensor] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    bytes: int = 0
    ignored: tuple[str, ...] = ()
    contradiction: str = ""

    @property
    def tokenizer_length(self) -> int | None:
        """The tokens that the tokenizer lets through, or None where it has no limit."""
        found = self.tokenizer.get("model_max_length")
        return int(found) if isinstance(found, int | float) and 0 < found < NO_LIMIT else None

    @property
    def text_config(self) -> dict[str, Any]:
        """The part of the file that describes the language model."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def rope_settings(self) -> dict[str, Any]:
        """What the file itself says of its rotation, under the new name or the old one."""
        found = self.text_config.get("rope_parameters") or self.text_config.get("rope_scaling")
        return found if isinstance(found, dict) else {}

    @property
    def thetas(self) -> list[float]:
        """Every theta that the file says."""
        text, settings = self.text_config, self.rope_settings
        places = [text, settings, *by_layer_type(settings).values()]
        names = ("rope_theta", *BASE_NAMES, *FOREIGN_BASE_NAMES)
        said = [p[n] for p in places for n in names if isinstance(p.get(n), int | float)]
        return sorted({float(theta) for theta in said if 0 < theta < NO_THETA})


def read_directory(where: str | Path) -> Files:
    """Reads a model's directory, or the files of a hub name that are JSON or safetensors.

    Raises ValueError for a directory without a config, or whose weights are pickled only.
    """
    path = _local(where)
    if not (path / "config.json").exists():
        raise ValueError(f"{path} holds no config.json; give the directory of a model (for an adapter, the merged one)")
    pickles = sorted(p.name for pattern in PICKLES for p in path.glob(pattern))
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        what = f"only pickled weights ({', '.join(pickles)}), which are never opened" if pickles else "no safetensors"
        raise ValueError(f"{path} holds {what}; save the model with save_pretrained, which writes safetensors")
    config = _json(path / "config.json")
    named = config.get("auto_map")
    code = sorted(str(v) for v in named.values()) if isinstance(named, dict) else []
    frequencies, shapes = _stored(weights)
    tokenizer = path / "tokenizer_config.json"
    return Files(
        path=path,
        config=config,
        tokenizer=_json(tokenizer) if tokenizer.exists() else {},
        frequencies=frequencies,
        shapes=shapes,
        bytes=sum(p.stat().st_size for p in weights),
        ignored=(*pickles, *code),
    )


def _local(where: str | Path) -> Path:
    path = Path(where)
    if path.is_dir():
        return path
    name = str(where)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"there is no directory {name}; give a model's directory or a hub name")
    check_on_hub(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"no model at {name!r}: {str(error).splitlines()[0]}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def _stored(weights: list[Path]) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """The rotary buffers among the weights, and the shapes of all."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    shapes[key] = tuple(file.get_slice(key).get_shape())
                    if key.endswith("inv_freq"):
                        found[key] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
    return found, shapes


def opened(where: str | Path) -> tuple[Any, Files | None, Path]:
    """The model of a directory, a GGUF file, a hub name or a trial of `whorl compare`; what its directory holds (None
    for a GGUF, which has no config beside the model, and a trial, whose settings are the comparison's); and where its
    tokenizer is.

    Raises ValueError for what is none of these.
    """
    path = Path(where)
    _refuse_points(path)
    if (file := gguf_at(path)) is not None:
        from whorl.attaching.loading import load as load_model

        return load_model(file), None, file
    if (path / "trials").is_dir():
        raise ValueError(f"{path} is a comparison: name one of its trials, a folder in {path / 'trials'}")
    if (path / "result.json").exists() and not (path / "config.json").exists():
        from whorl.training.trials import load_trial

        try:
            return load_trial(path), None, _tokenizer(path)
        except ValueError:
            raise
        except Exception as error:  # of any kind: the files are a stranger's
            raise ValueError(f"{path} is no whole trial: {type(error).__name__}: {error}") from error
    model, files = load(read_directory(where))
    return model, files, files.path


def _tokenizer(trial: Path) -> Path:
    """A trial's own tokenizer, or (of earlier versions) its comparison's."""
    own = trial / "tokenizer"
    return own if own.is_dir() else trial.parent.parent / "tokenizer"


def tokenizer_of(where: str | Path) -> Path:
    """Where the tokenizer of what `opened` opens is, without loading that. Raises ValueError for a trial of points."""
    path = Path(where)
    _refuse_points(path)
    if (file := gguf_at(path)) is not None:
        return file
    return _tokenizer(path) if (path / "result.json").exists() else _local(where)


def _refuse_points(path: Path) -> None:
    if (path / "result.json").exists() and read_by(str(path)) == "points":
        raise ValueError(
            f"{path} reads points, and the checks are of models of texts and of images; whorl compare --task points "
            "tests a model on clouds that are turned, moved, thinner and denser"
        )


def load(files: Files) -> tuple[Any, Files]:
    """The model of a directory, and what was found on the way. Where whorl's record contradicts the stock settings, the
    record is left out: the stock settings are what stock transformers runs.

    Raises ValueError for whatever is no model: see `whorl.attaching.loading`.
    """
    from whorl.attaching.loading import configuration
    from whorl.attaching.loading import load as load_model

    if timm_folders.is_one(str(files.path)):
        return _whole(files, load_model), files
    config = configuration(files.path)
    require_numbers(config.get_text_config())
    _refuse_what_the_weights_cannot_fill(files, config)
    record = config.__dict__.get(CONFIG_KEY)
    if isinstance(record, dict) and record.get("stock"):
        files = replace(files, contradiction=_contradiction(config, record))
        if files.contradiction:
            del config.__dict__[CONFIG_KEY]
    # As it was saved: rounding to the config's dtype is part of what is examined.
    return _whole(files, partial(load_model, config=config, dtype="auto", use_safetensors=True)), files


def _whole(files: Files, load_model: Callable[[Path], Any]) -> Any:
    """The model of a directory. Raises ValueError, with the reason, where that is none."""
    try:
        return load_model(files.path)
    except ValueError:
        raise
    except Exception as error:  # of any kind: the files are a stranger's
        raise ValueError(f"{files.path} holds no model: {type(error).__name__}: {error}") from error


def _refuse_what_the_weights_cannot_fill(files: Files, config: Any) -> None:
    """Raises ValueError where the config describes far more than the files hold: a load would draw the rest at random,
    and a wrong number in the config may ask for more memory than there is."""
    from transformers import AutoModel

    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > max(len(files.shapes), 1):
        raise ValueError(
            f"{files.path}: the config describes {layers:,} layers, and the weights are {len(files.shapes):,} tensors"
        )
    try:
        with torch.device("meta"), quiet():
            empty = AutoModel.from_config(config, trust_remote_code=False)
    except Exception:  # whatever stock code raises, the load below raises with the reason
        return
    numbers = sum(p.numel() for p in empty.parameters())
    if numbers * LEAST_BYTES > files.bytes:
        raise ValueError(
            f"{files.path}: the config describes a model of {numbers:,} numbers, and the weights are {files.bytes:,} "
            "bytes: one of the two is of another model"
        )
    for name, wanted in empty.state_dict().items():
        for key in (name, f"{empty.base_model_prefix}.{name}"):
            held = files.shapes.get(key)
            if held is not None and held != tuple(wanted.shape) and not hasattr(config, "quantization_config"):
                raise ValueError(
                    f"{files.path}: {key} is {list(held)} among the weights, and the config describes "
                    f"{list(wanted.shape)}"
                )


def _contradiction(config: Any, record: dict[str, Any]) -> str:
    """Words, when the stock settings turn otherwise than whorl's record of them says."""
    try:
        host = _without_weights(config, record)
        own, recorded = stock_encoding(host, at_any_length=False), from_dict(record["encoding"])
        agree = own == recorded if host.rotary is None else same_rotations(host, own, recorded)
    except (ValueError, KeyError, TypeError) as error:
        return f"the record under {CONFIG_KEY!r} cannot be read: {error}"
    return "" if agree else f"the stock settings say {own}, and the record under {CONFIG_KEY!r} says {recorded}"


def _without_weights(config: Any, record: dict[str, Any]) -> OpenHost:
    """The host that a config describes: all on the meta device, but for its rotary module."""
    import transformers

    config = copy.deepcopy(config)
    config.__dict__.pop(CONFIG_KEY, None)
    cls = getattr(transformers, str(record.get("architecture")), None)
    if cls is None:
        raise ValueError(f"transformers {transformers.__version__} has no model class {record.get('architecture')!r}")
    with torch.device("meta"), quiet():
        empty = cls(config)
    host = open_host(empty)
    return host if host.rotary is None else replace(host, rotary=type(host.rotary)(host.rotary.config))


def contradictions(files: Files, host: OpenHost, config: Any) -> list[str]:
    """What in a directory contradicts its config: whorl's record, entries for older readers, or rotary buffers among
    the weights."""
    found = [files.contradiction] if files.contradiction else []
    found += _told_apart(files.text_config, attached(host.model) is not None)
    if host.rotary is None or not files.frequencies:
        return found
    meanings = []
    for layer_type, attention in zip(host.layer_types, host.attentions, strict=True):
        settings = of_layers(config, layer_type, host.typed)
        sizes = Sizes(head_dim_of(config, attention), getattr(config, "max_position_embeddings", 0) or 0)
        with suppress(ValueError):  # settings that say nothing: the checks of settings tell
            if settings is not None and (meaning := meant(settings, sizes)) is not None:
                meanings.append(torch.from_numpy(meaning.frequencies))
    for key, stored in files.frequencies.items():
        if meanings and not any(_agree(stored, meaning) for meaning in meanings):
            values = ", ".join(f"{v:.3g}" for v in stored.double().flatten()[:3].tolist())
            found.append(f"{key} holds {values}, ... ({stored.numel()} of them)")
            break
    return found


def unsaid_to_older_readers(files: Files) -> list[str]:
    """Rope settings of a config that stand under `rope_parameters` alone, in the words of the entries for readers that
    look at the top. A base of 10,000 and whole heads are what these take for granted."""
    config = files.config
    settings = config.get("rope_parameters")
    if not isinstance(settings, dict) or config.get("model_type") not in FAMILIES:
        return []
    try:
        wanted = for_older_readers(config["model_type"], settings)
    except (KeyError, TypeError, AttributeError):  # settings that say nothing: the checks of settings tell
        return []
    missing = {k: v for k, v in wanted.items() if v not in (None, *GRANTED) and config.get(k) is None}
    return [f"{k} {rope_type(v) if isinstance(v, dict) else v!r}" for k, v in missing.items()]


def _told_apart(config: dict[str, Any], everything: bool) -> list[str]:
    """Rope settings that older readers take from the top of a config, and that say something else than its
    `rope_parameters`. `everything`: theta and share too, which are otherwise the matter of the checks of settings."""
    new = _of_full_layers(config.get("rope_parameters"))
    if not new:
        return []
    found = []
    old = _of_full_layers(config.get("rope_scaling"))
    if old:
        keys = sorted({"rope_type", *new} & {"rope_type", *old})
        differ = [k for k in keys if _value(new, k) != _value(old, k)]
        said = ", ".join(f"{k} {_value(new, k)!r} and {_value(old, k)!r}" for k in differ)
        found += [f"rope_parameters and rope_scaling say {said}"] if differ else []
    for key, names in TOP.items() if everything else ():
        for name in names:
            value = config.get(name)
            if isinstance(value, int | float) and key in new and value != new[key]:
                found.append(f"rope_parameters say {key} {new[key]!r}, and {name} beside them is {value!r}")
    return found


def _of_full_layers(settings: Any) -> dict[str, Any]:
    """Flat settings; those of the full layers where they go by layer type, since an old `rope_scaling` means these."""
    if not isinstance(settings, dict):
        return {}
    inner = settings.get("full_attention")
    return inner if isinstance(inner, dict) else settings


def _value(settings: dict[str, Any], key: str) -> Any:
    return rope_type(settings) if key == "rope_type" else settings[key]


def _agree(stored: torch.Tensor, meaning: torch.Tensor) -> bool:
    """Whether stored frequencies are these, to the rounding of the dtype that they are stored in."""
    values = stored.double().flatten()
    eps = max(torch.finfo(stored.dtype).eps, 32 * torch.finfo(torch.float32).eps) if stored.is_floating_point() else 0.0
    return values.shape == meaning.shape and bool(
        ((values - meaning).abs() <= eps * meaning + 2**-24 * (eps > 1e-4)).all()
    )
