"""The model in a GGUF file: transformers' class, every weight dequantized, one tensor at a time.

Nothing is written anywhere. Weights become float32 unless another dtype is asked for: that is what llama.cpp computes
with, and norms are float32 in every file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from whorl.checking import few, shown
from whorl.encodings import Encoding
from whorl.extras import require
from whorl.gguf_files import positions
from whorl.gguf_files.architectures import architecture_of
from whorl.gguf_files.header import Header, read_header
from whorl.gguf_files.keys import config_arguments
from whorl.gguf_files.layout import back, head_order, reorder_heads
from whorl.gguf_files.tensors import factors_of, heads_that_turn, names_in_file, read_tensor
from whorl.hosts import open_host
from whorl.hosts.transformers.messages import quiet, without_progress_bars


def config_and_encoding(path: Path) -> tuple[Any, Encoding | None]:
    """The config of the model in a GGUF file, as its family in transformers has it, and the encoding to attach where
    the config cannot say what the file does. No weight is read.

    Raises ValueError, naming them, for an architecture and for keys that are not read.
    """
    config, _, encoding = described(read_header(path))
    return config, encoding


def open_gguf(path: Path, config: Any = None, **how: Any) -> tuple[Any, Encoding | None]:
    """The model, in evaluation mode, and the encoding to attach to it where its config cannot say what the file does.

    config: in the place of the file's own. Keyword arguments go to `from_pretrained` (dtype, attn_implementation,
    device_map). Raises ValueError for a file that cannot be read, and where the tensors are not those of the model.
    """
    require(f"reading {path}", "gguf")
    header = read_header(path)
    own, empty, encoding = described(header)
    config = own if config is None else config
    dtype = _dtype(how.pop("dtype", how.pop("torch_dtype", None)))
    state = dict(weights_of(header, empty, dtype))
    with quiet(), without_progress_bars():
        model = type(empty).from_pretrained(None, config=config, state_dict=state, dtype=dtype, **how)
    model.name_or_path = model.config.name_or_path = str(path)
    return model.eval(), encoding


def _dtype(given: torch.dtype | str | None) -> torch.dtype:
    """As `from_pretrained` takes it, by name too. Raises ValueError for what is none."""
    found = (
        torch.float32 if given in (None, "auto") else getattr(torch, given, None) if isinstance(given, str) else given
    )
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype must be one of torch, as torch.bfloat16 or 'bfloat16', got {shown(given)}")
    return found


def described(header: Header) -> tuple[Any, Any, Encoding | None]:
    """The config, the model on the meta device, and the encoding to attach where the config cannot say what the file
    does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture, factors = architecture_of(header), factors_of(header)
    with quiet(), _explained(header.path):
        config = AutoConfig.for_model(architecture.family, **config_arguments(header, factors))
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        config.architectures = [type(empty).__name__]
        host = open_host(empty)
        with torch.device("cpu"):  # its tables are looked at
            host = replace(host, rotary=type(host.rotary)(host.rotary.config))
        encoding = positions.encoding_beyond(header, host, factors)
    return config, empty, encoding


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Keys whose values stock code does not take become a ValueError that names the file."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # of any kind: the values are a stranger's
        said = " ".join(str(error).split())
        raise ValueError(f"{path} says what makes no model ({type(error).__name__}: {said})") from error


def weights_of(header: Header, empty: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's weights by transformers' names, as they stand in transformers' layout.

    empty: the model of the file (`described`). dtype: the file's own unless one is given. Raises ValueError where the
    file has other weights, or of other shapes.
    """
    from transformers.utils import logging

    config, architecture = empty.config, architecture_of(header)
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in empty.state_dict().items()
        if not (config.tie_word_embeddings and name == "lm_head.weight")
    }
    names = names_in_file(architecture, config.num_hidden_layers, shapes)
    wanted = {names[name] or name: shape for name, shape in shapes.items()}
    held = {name: stored.shape for name, stored in header.tensors.items() if name != positions.FACTORS}
    lacking, unknown = sorted(wanted.keys() - held), sorted(held.keys() - wanted)
    others = [f"{t} is {held[t]} and not {shape}" for t, shape in wanted.items() if held.get(t, shape) != shape]
    if lacking or unknown or others:
        raise ValueError(
            f"{header.path} does not hold the weights of a {type(empty).__name__}: missing {_some(lacking)}, not known "
            f"to it {_some(unknown)}, of another shape {_some(others)}"
        )
    head_dim = open_host(empty).shapes[0].head_dim
    first = range(positions.turned(header, head_dim) // 2)
    order = back(head_order(head_dim, head_dim // 2, first, architecture.layout))
    heads = heads_that_turn(config) if order != tuple(range(head_dim)) else {}
    # transformers' own bar, which obeys its switch; on a terminal only
    for name in logging.tqdm(shapes, desc="reading the GGUF", disable=None, leave=False):
        theirs, module = str(names[name]), name.split(".")[-2]
        if architecture.norm_offset and module.endswith("norm"):
            value = read_tensor(header, theirs, torch.float32) - architecture.norm_offset
            value = value if dtype is None else value.to(dtype)
        else:
            value = read_tensor(header, theirs, dtype)
        if module in heads:
            value = reorder_heads(value, heads[module], order)
        yield name, value


def _some(names: list[str]) -> str:
    return few(names, 8) or "none"
