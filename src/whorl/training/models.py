"""Builds the model of a trial: a preset, a config or a checkpoint, with the encoding attached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whorl.attaching import attach
from whorl.attaching.filling import completed
from whorl.attaching.loading import configuration, from_config, from_pretrained
from whorl.encodings import Encoding
from whorl.files import read_json
from whorl.finite import check_weights
from whorl.gguf_files.header import gguf_at
from whorl.gguf_files.opening import open_gguf
from whorl.hosts import ENCODERS, IMAGES, host_of
from whorl.points import PointConfig, PointTransformer
from whorl.results.trial import ModelFiles
from whorl.training.attention import for_training
from whorl.training.checkpoints import contents
from whorl.training.settings import MODELS, ModelPreset, Settings

if TYPE_CHECKING:
    from whorl.tasks.base import Task

WEIGHTS = ("*.safetensors*", "*.bin")  # a folder that holds any is no mere config; pickled ones are then refused


def model_files(settings: Settings) -> ModelFiles | None:
    """What the model is made of, as its path holds it now; None for a preset. Raises ValueError where it cannot be
    read."""
    if settings.preset is not None:
        return None
    if settings.task_class.body == "points":
        return ModelFiles(_point_sizes(settings))
    config = configuration(settings.model)
    whence = ("_name_or_path", "transformers_version")
    told = {key: value for key, value in json.loads(config.to_json_string()).items() if key not in whence}
    return ModelFiles(told, _weights(settings, config) if has_weights(settings) else None)


def _weights(settings: Settings, config: Any) -> str:
    """The sha256 of the model's weights by their files; of what lies on a hub the commit."""
    path = Path(settings.model)
    if not path.exists():
        return f"commit {config._commit_hash}"
    file = gguf_at(path)
    found = hashlib.sha256()
    for one in sorted({p for weights in WEIGHTS for p in path.glob(weights)}) if file is None else [file]:
        found.update(f"{one.name} {contents(one)['sha256']}".encode())
    return found.hexdigest()


def build_model(
    settings: Settings, vocab_size: int, eos_token_id: int, weights: bool = True, files: ModelFiles | None = None
) -> Any:
    """The stock model before any encoding is attached; random weights depend on torch's seed alone.

    A preset or a config gives random weights and takes the task's vocabulary; a directory, GGUF file or hub name
    with weights gives those; `weights=False` leaves them out, for a look at the shapes. files: what the model is made
    of, which its path may not hold any more; None: what that holds. Raises ValueError for a model that cannot be
    loaded, and for a checkpoint whose vocabulary is smaller than the task's.
    """
    task = settings.task_class
    if task.body == "points":
        return PointTransformer(_of_points(settings, vocab_size, files))
    if task.body == "images":
        return _of_images(settings, vocab_size, weights, files)
    auto = _auto_class(task)
    if settings.preset is not None:
        config = _preset(settings.preset, task, vocab_size, settings.train_tokens, eos_token_id)
        return from_config(config, settings.model, auto)
    pretrained, config = _told(settings, files)
    _refuse_other_bodies(task, config, settings.model)
    if pretrained and weights:
        file = gguf_at(settings.model)
        if file is None:
            model = from_pretrained(auto, settings.model, dtype=torch.float32)
            if getattr(model, "peft_config", None) is not None:  # which a folder may hold beside the model
                raise ValueError(
                    f"{settings.model} holds a PEFT adapter beside the model, which would be put on it, and all else "
                    "frozen; give a folder without it, or the merged model (model.merge_and_unload())"
                )
        else:
            model, _ = open_gguf(file)  # an encoding of its own is replaced by the trial's
        check_weights(model, settings.model)
    else:
        if not pretrained:
            config.vocab_size = vocab_size
            config.bos_token_id = config.eos_token_id = eos_token_id
            if (config.pad_token_id or 0) >= vocab_size:  # of another vocabulary; nothing is padded
                config.pad_token_id = None
        model = from_config(config, settings.model, auto)
    if model.config.vocab_size < vocab_size:
        raise ValueError(
            f"the task has {vocab_size} tokens and the model {settings.model!r} only {model.config.vocab_size}; "
            f"give the model's own tokenizer with --tokenizer {settings.model}"
        )
    return model


def _auto_class(task: type[Task]) -> Any:
    """transformers' class for all families with the task's body."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if task.body == "encoder" else AutoModelForCausalLM


def _preset(size: ModelPreset, task: type[Task], vocab_size: int, train_length: int, eos_token_id: int) -> Any:
    """The config of a stock Llama, or of a ModernBERT of the same sizes in which every layer sees all tokens: its local
    layers' windows would tell positions to a model that has none."""
    from transformers import LlamaConfig, ModernBertConfig

    shared = {
        "vocab_size": vocab_size,
        "hidden_size": size.width,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "max_position_embeddings": train_length,
        "tie_word_embeddings": task.needs.tied_embeddings,
        "initializer_range": task.needs.initializer_range or size.width**-0.5,
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
    }
    if task.body == "decoder":
        return LlamaConfig(**shared)
    none = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id"))  # ids of another vocabulary
    return ModernBertConfig(**shared, **none, layer_types=["full_attention"] * size.layers)


def _told(settings: Settings, files: ModelFiles | None) -> tuple[bool, Any]:
    """Whether the model comes with weights, and its config."""
    if files is None:
        return has_weights(settings), configuration(settings.model)
    from transformers import CONFIG_MAPPING

    return files.weights is not None, CONFIG_MAPPING[files.config["model_type"]].from_dict(files.config)


def _of_points(settings: Settings, classes: int, files: ModelFiles | None) -> PointConfig:
    """The sizes of a point transformer: half of a preset's width and depth, in twice as many heads, or those that a
    JSON file of a `whorl.points.PointConfig` says."""
    size = settings.preset
    if size is not None:
        return PointConfig(classes, size.width // 2, max(2, size.layers // 2), 2 * size.heads)
    return PointConfig.from_dict({**(_point_sizes(settings) if files is None else files.config), "classes": classes})


def _point_sizes(settings: Settings) -> dict[str, Any]:
    path = Path(settings.model)
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(
            f"the points task trains whorl's own point transformer, and {settings.model!r} is no config of one; try "
            'tiny, or a JSON file as {"width": 64, "layers": 2, "heads": 4}'
        )
    sizes: dict[str, Any] = read_json(path)
    return sizes


def _of_images(settings: Settings, classes: int, weights: bool, files: ModelFiles | None) -> Any:
    """A ViT of half a preset's width, or the image model that a config or a checkpoint says, with so many classes."""
    from transformers import AutoModelForImageClassification, ViTConfig

    grid = settings.known.grid
    assert grid is not None
    side, size = settings.task_settings().train_length, settings.preset
    patch, labels = side // grid[0], {"num_labels": classes}
    if size is not None:
        width, spread = size.width // 2, settings.task_class.needs.initializer_range
        config = ViTConfig(
            hidden_size=width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
            intermediate_size=size.intermediate // 2, image_size=side, patch_size=patch,
            initializer_range=spread or width**-0.5, **labels,
        )  # fmt: skip
        return from_config(config, settings.model, AutoModelForImageClassification)
    pretrained, config = _told(settings, files)
    if config.model_type not in IMAGES:
        raise ValueError(
            f"the images task trains image models, and {settings.model!r} ({config.model_type}) is none that whorl "
            f"knows ({', '.join(IMAGES)}); try tiny"
        )
    if config.patch_size not in (patch, [patch, patch], (patch, patch)):
        raise ValueError(
            f"the patches of {settings.model!r} have {config.patch_size} pixels a side, and the task's {patch}; try "
            f"--task images:patch={config.patch_size} --train-length {12 * patch}"
        )
    if pretrained and config.num_labels != classes > 1:  # one is asked for by a look at the shapes
        raise ValueError(
            f"the task has {classes} classes and the model {settings.model!r} {config.num_labels}; give its "
            "config.json alone, from which it is trained from the start"
        )
    if pretrained and weights:
        model = from_pretrained(AutoModelForImageClassification, settings.model, dtype=torch.float32)
        check_weights(model, settings.model)
        return model
    config.num_labels = classes
    return from_config(config, settings.model, AutoModelForImageClassification)


def _refuse_other_bodies(task: type[Task], config: Any, name: str) -> None:
    """Raises ValueError for a decoder where the task is an encoder's, the other way round, and for what is neither."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if task.body == "encoder":
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise ValueError(
                f"the {task.name} task is for encoders, whose tokens see those after them too, and {name!r} "
                f"({config.model_type}) is none; try a ModernBERT or a BERT, or --task language"
            )
    elif config.model_type in ENCODERS and not getattr(config, "is_decoder", False):
        raise ValueError(
            f"the {task.name} task asks for tokens that come next, and in {name!r} ({config.model_type}) every token "
            "sees them; try a decoder, or --task mlm"
        )
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"the {task.name} task trains decoders of texts, and transformers has none for the model type of {name!r} "
            f"({config.model_type}); try a model that reads texts alone, as a Llama or a Qwen 3"
        )


def has_weights(settings: Settings) -> bool:
    """Whether the model comes with weights: a directory that holds some, a GGUF file, or a hub name; not a preset or a
    config."""
    if settings.preset is not None:
        return False
    path = Path(settings.model)
    if gguf_at(path) is not None:
        return True
    there = not path.exists() or any(any(path.glob(weights)) for weights in WEIGHTS)
    return not path.is_file() and there


def build(
    settings: Settings,
    encoding: Encoding,
    seed: int,
    vocab_size: int,
    eos_token_id: int,
    files: ModelFiles | None = None,
    weights: bool = True,
) -> Any:
    """The model of one trial. The same seed gives the same initial weights whatever the encoding,
    and an encoding's own.

    encoding: a trial's, which leaves nothing to the host. files, weights: see `build_model`. Seeds torch's global
    generators, from which a training draws on: who wants his own back takes `whorl.randomness.put_back`.
    """
    torch.manual_seed(seed)
    model = build_model(settings, vocab_size, eos_token_id, weights, files)
    body = settings.task_class.body
    if body in ("decoder", "encoder"):
        model.config.use_cache = False
    if body != "points":
        for_training(model, settings.train_tokens)
    attach(model, completed(host_of(model), encoding), seed=seed)
    # The seed of dropout, if the model has any, must not depend on how many numbers the initialisation drew.
    torch.manual_seed(seed)
    return model


def parameter_count(model: Any) -> int:
    """Distinct parameters, tied ones counted once."""
    return sum(p.numel() for p in model.parameters())


def model_label(settings: Settings) -> str:
    """How reports call the model."""
    return settings.model if settings.model in MODELS else Path(settings.model).name
