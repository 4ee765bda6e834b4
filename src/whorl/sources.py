"""What a command is pointed at: a model's directory, a GGUF file, a hub name, or a trial."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whorl.attaching import timm_folders
from whorl.attaching.records import NAMED
from whorl.checking import check_path, check_there, trials_beside
from whorl.data import corpus
from whorl.devices import check_device, placed
from whorl.files import read_json
from whorl.gguf_files.header import gguf_at, read_header
from whorl.hosts import IMAGES, PACKED
from whorl.hosts.transformers import compat
from whorl.hub import check_on_hub
from whorl.results.extension import EXTENSION, TUNED, Extension
from whorl.results.measured import IMAGES as IMAGES_READ
from whorl.results.measured import TEXTS

if TYPE_CHECKING:
    from whorl.training.settings import Settings

log = logging.getLogger(__name__)

WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "config.json", "adapter_config.json", "result.json")


@dataclass
class Source:
    """A model by name, and what goes with it. `steps` are the training steps of a trial's snapshots, `reads` the
    folders that its weights and its tokenizer are read from (or hub names). `extended_from` is the length that a model
    was trained at which `extend` then made read further without training; its config says the length that it reads."""

    name: str
    train_length: int | None
    text: str | None  # the text that it was trained on
    steps: tuple[int, ...] = ()
    folder: Path | None = None  # of a trial
    reads: tuple[str, ...] = ()
    text_digest: str | None = None  # of that text as it was then; earlier versions did not record it
    extended_from: int | None = None
    given_tokenizer: str | None = None  # in place of its own
    device: str | None = None  # to be read on; None: see `devices.placed`

    def model(self, stream_layers: bool = False, step: int | None = None) -> Any:
        """The model, in evaluation mode; with `stream_layers`, its layers stay on disk until each is needed.

        Streaming has glibc map blocks of 1 MiB and more anew for the rest of the process, which cannot be undone: a
        threshold once set does not grow again by itself. Elsewhere nothing of the process changes.
        """
        if not stream_layers or self.folder is not None or timm_folders.is_one(self.name):
            return placed(self._whole(step), self.device)
        if self.device not in (None, "cpu"):
            raise ValueError(
                f"layers that stay on disk are read on the CPU, and not on {self.device!r}; give one of both"
            )
        return _streamed(self.name)

    def _whole(self, step: int | None) -> Any:
        if timm_folders.is_one(self.name):
            return timm_folders.load(self.name)
        if self.folder is not None:
            from whorl.training.trials import load_trial

            model = load_trial(self.folder, step)
            model.name_or_path = self.name
            return model
        return _loaded(self.name)

    def whole(self, say: Callable[[str], None]) -> Any:
        """The model, with PEFT's adapters merged into its weights, of which `say` is told: for what writes one model.

        Raises ValueError where they cannot be.
        """
        model = self.model()
        if getattr(model, "peft_config", None) is None:
            return model
        from whorl.attaching.adapters import merged

        whole = merged(model, self.name)
        say("the adapter is merged into its base: what is written is one model")
        return whole

    def without_weights(self) -> Any | None:
        """The same model with its weights on the meta device, for questions that ask none; None where no config here
        says it (a trial, an adapter, a name of the hub) and where stock code cannot build it so."""
        if self.folder is not None or not Path(self.name).exists():
            return None
        from whorl.attaching.loading import without_weights

        try:
            return without_weights(self.name)
        except ValueError:  # `model()` says what is wrong
            return None

    def length(self, model: Any, given: int | None = None) -> int:
        """The tokens that the model was trained at: as given, or as its trial, extension.json or its config says.

        Raises ValueError where nothing says it.
        """
        length = given or self.train_length or self.extended_from or declared_length(model)
        if length is None:
            raise ValueError("this model does not say its training length; give --train-length")
        return int(length)

    @property
    def tells_length(self) -> str:
        """What says the length that it was trained at."""
        own = "its config" if gguf_at(self.name) is None else "its file"
        return "its trial" if self.train_length else EXTENSION if self.extended_from else own

    def tokenizer(self) -> Any:
        """Raises ValueError without one; where the model's config is what cannot be read, it says so."""
        try:
            advice = "give one (--tokenizer), or save it there with tokenizer.save_pretrained"
            return corpus.load_tokenizer(self.tokenizer_name, *([] if self.given_tokenizer else [advice]))
        except ValueError:
            if (Path(self.tokenizer_name) / "config.json").is_file():  # which stock code reads for a tokenizer
                from whorl.attaching.loading import configuration

                configuration(self.tokenizer_name)
            raise

    @property
    def tokenizer_name(self) -> str:
        """Where its tokenizer lies: a trial has its own, and had the comparison's in earlier versions."""
        if self.given_tokenizer is not None:
            return self.given_tokenizer
        if self.folder is None:
            return self.name
        own = self.folder / "tokenizer"
        return str(own if own.exists() else self.folder.parents[1] / "tokenizer")

    def holds_out(self, text: str, documents: Sequence[str]) -> bool:
        """Whether this is the text that a trial was trained on, of which a part was held out; not if it has changed.

        documents: what the text holds now.
        """
        if self.folder is None or self.text not in (text, str(Path(text).absolute())):
            return False
        if self.text_digest in (None, corpus.digest(documents)):
            return True
        log.warning(
            "%s is not the text any more that %s was trained on: nothing of it counts as held out", text, self.name
        )
        return False


def read_by(name: str) -> str:
    """What a model or a trial reads: "texts", "images" or "points"; "texts" where nothing says it."""
    path = Path(name)
    if (result := path / "result.json").exists():
        from whorl.training.trials import read_result, settings_of

        return _read_in(settings_of(read_result(result)))
    if gguf_at(name) is not None:
        return TEXTS
    return IMAGES_READ if timm_folders.is_one(name) or _of_images(_config_at(name)) else TEXTS


def several(
    names: Sequence[str], of: str = TEXTS, tokenizer: str | None = None, device: str | None = None
) -> list[Source]:
    """A source for each name; trials of one encoding and seed are told apart by their ids. Raises as `source` does."""
    found = [source(name, of, tokenizer, device) for name in names]
    twice = Counter(one.name for one in found)
    return [
        one if twice[one.name] == 1 or one.folder is None else replace(one, name=f"{one.name} ({one.folder.name})")
        for one in found
    ]


def source(name: str, of: str = TEXTS, tokenizer: str | None = None, device: str | None = None) -> Source:
    """What a name is of. tokenizer: a folder, GGUF file or hub name to take one from, in place of the model's own.
    device: to be read on, as PyTorch names it; None: the GPU, where there is one with room (see `devices.placed`).

    Raises ValueError for what is neither a model nor a trial, for what reads something else than `of`, and for a device
    that is not there.
    """
    check_device(device)
    found = replace(_source(name, of), device=device)
    if tokenizer is None:
        return found
    given = check_path("tokenizer", tokenizer, "a folder that holds tokenizer.json, a .gguf file or a hub name")
    return replace(found, given_tokenizer=given, reads=(*(found.reads or (found.name,)), given))


def _source(name: str, of: str) -> Source:
    path = Path(name)
    if (file := gguf_at(path)) is not None:
        read_header(file)
        return Source(name, None, None, reads=(str(file),))
    result = path / "result.json"
    if result.exists():
        from whorl.training.trials import read_result, settings_of, snapshots_of

        trial = read_result(result)
        settings, text = settings_of(trial), trial.text
        if (body := _read_in(settings)) != of:
            raise ValueError(_reads_others(path, body, of))
        where, digest = (settings.text, None) if text is None else (text.source, text.sha256)
        reads = (str(path), str(path.parents[1] / "tokenizer"), settings.model)
        label, snapshots = f"{trial.notation}, seed {trial.seed}", tuple(snapshots_of(path))
        return Source(label, settings.train_tokens, where, snapshots, path, reads, digest)
    if (path / "trials").is_dir():
        trials = sorted(str(p.parent) for p in path.glob("trials/*/result.json"))
        raise ValueError(
            f"{name} is a comparison of {len(trials)} finished trials: name one, "
            f"as {trials[0]}" if trials else f"{name} is a comparison without a finished trial"
        )  # fmt: skip
    if path.exists() and not (path / "config.json").exists() and not (path / "adapter_config.json").exists():
        others = f"; {found}" if (found := trials_beside(name)) else ""
        raise ValueError(f"{name} holds no config.json and no result.json: it is neither a model nor a trial{others}")
    check_there(name)
    check_on_hub(name)
    if (found := read_by(name)) != of:
        raise ValueError(_reads_others(path, found, of))
    bases = _base_of_adapter(path)
    extended_from = next((length for one in (path, *map(Path, bases)) if (length := _extended_from(one))), None)
    return Source(name, None, None, reads=(name, *bases), extended_from=extended_from)


def _read_in(settings: Settings) -> str:
    """What the models of a trial with these settings read."""
    body = settings.task_class.body
    return body if body in ("images", "points") else TEXTS


def _config_at(name: str) -> dict[str, Any]:
    """What the config.json of a folder, or of a name of the hub, holds; nothing where there is none."""
    path: Any = Path(name) / "config.json"
    if not Path(name).exists():
        with contextlib.suppress(OSError):  # of a hub that does not answer, which what loads it will say
            path = compat.file_of(name, "config.json", {})
    config = read_json(Path(path)) if path is not None and Path(path).is_file() else None
    return config if isinstance(config, dict) else {}


def _of_images(config: dict[str, Any]) -> bool:
    """Whether a config is of a model that reads images alone, of a family that is known or of another."""
    return config.get("model_type") in (*IMAGES, *PACKED) or (
        "image_size" in config and not any(key in config for key in ("vocab_size", "text_config"))
    )


def _reads_others(path: Path, found: str, of: str) -> str:
    """Why a model that reads one thing is refused where another is read."""
    if of != TEXTS:
        return f"{path} reads {found}, and this is done with models of {of}; give models of {of} alone"
    known = str(_config_at(str(path)).get("model_type", "")) if found == IMAGES_READ else ""
    others = f" (a {known!r}; the families of images that whorl knows: {', '.join(IMAGES)})"
    family = others if known and known not in (*IMAGES, *PACKED) else ""
    commands = [] if known in PACKED else [f"whorl compare --task {found}, "]
    if found == IMAGES_READ:
        commands = [*([] if family else [f"whorl inspect {path}, "]), f"whorl doctor {path}, ", *commands]
    return (
        f"{path} reads {found}{family}, and this is done with models of texts; try {''.join(commands)}or in Python "
        "whorl.load, whorl.attach and whorl.encoding_of"
    )


def declared_length(model: Any) -> int | None:
    """The tokens that a model reads, as its config says."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)


def identity(names: Sequence[str]) -> list[Any]:
    """What tells the weights that are read from these folders or files from others: names, sizes and times."""
    found: list[Any] = [str(name) for name in names]
    for path in map(Path, names):
        files = [path] if path.is_file() else sorted(one for kind in WEIGHTS for one in path.glob(kind))
        found += [[str(one), one.stat().st_size, one.stat().st_mtime_ns] for one in files]
    return found


def _extended_from(path: Path) -> int | None:
    """The training length that extension.json says beside the weights; None after a tuning at the new one."""
    if not (path / EXTENSION).exists():
        return None
    try:
        found = Extension.read(path / EXTENSION)
    except ValueError as error:
        log.warning("%s; the training length is taken from the config", error)
        return None
    return None if found.method.endswith(TUNED) else found.train_length


def _base_of_adapter(path: Path) -> tuple[str, ...]:
    """The model that an adapter's directory is put on."""
    config = path / "adapter_config.json"
    base = json.loads(config.read_text()).get("base_model_name_or_path") if config.exists() else None
    return (str(base).partition(NAMED)[0],) if base else ()


def _loaded(name: str, **how: Any) -> Any:
    from whorl.attaching.loading import load

    return load(name, dtype="auto", **how).eval()


def _streamed(name: str) -> Any:
    """Layers on disk, each read when its turn comes (accelerate's disk offload), and the rest in memory."""
    from whorl.attaching.loading import configuration, from_config
    from whorl.hosts import open_host

    if _base_of_adapter(Path(name)):
        raise ValueError(
            f"the layers of {name} cannot be streamed: it is an adapter. Merge it into its base "
            "(model.merge_and_unload().save_pretrained(directory)), and stream that"
        )
    if (file := gguf_at(name)) is not None:
        raise ValueError(
            f"the layers of {file} cannot be streamed: a GGUF is dequantized whole. Write its safetensors with "
            "whorl export --runtime hf on a machine that holds it, and stream those"
        )
    with torch.device("meta"):
        empty = from_config(configuration(name), name)
    host = open_host(empty)
    names = {module: name for name, module in empty.named_modules()}
    prefix = names[host.first_layer].rpartition(".")[0]
    where: dict[str, str] = {}

    def place(module: torch.nn.Module, path: str) -> None:
        for child, inner in module.named_children():
            full = f"{path}.{child}" if path else child
            if full == prefix:
                where.update({f"{full}.{i}": "disk" for i, _ in inner.named_children()})
            elif prefix.startswith(f"{full}."):
                place(inner, full)
            else:
                where[full] = "cpu"

    place(empty, "")
    _give_memory_back()
    return _loaded(name, device_map=where, offload_folder=tempfile.mkdtemp(prefix="whorl-offload-"))


def _give_memory_back() -> None:
    """Asks glibc to map what is large anew and return it when freed. Its threshold grows with use, up to 32 MiB, and
    weights that come and go below it leave holes: 2 GiB of a 3 GiB model were held in the end."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        threshold = -3  # M_MMAP_THRESHOLD
        ctypes.CDLL(None).mallopt(threshold, 1 << 20)
