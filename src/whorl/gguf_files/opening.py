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

import numpy as np
import torch

from whorl.checking import shown
from whorl.encodings import Encoding
from whorl.extras import require
from whorl.gguf_files import positions
from whorl.gguf_files.architectures import architecture_of, config_arguments
from whorl.gguf_files.header import Header, Stored, read_header
from whorl.gguf_files.layout import back, head_order, reorder_heads
from whorl.hosts import open_host
from whorl.hosts.transformers.messages import quiet, without_progress_bars

CHUNK = 2**22  # numbers that are dequantized at once


def config_and_encoding(path: Path) -> tuple[Any, Encoding | None]:
    """The config of the model in a GGUF file, as its family in transformers has it, and the encoding to attach where
    the config cannot say what the file does. No weight is read.

    Raises ValueError, naming them, for an architecture and for keys that are not read.
    """
    _, config, _, encoding = _described(path)
    return config, encoding


def open_gguf(path: Path, config: Any = None, **how: Any) -> tuple[Any, Encoding | None]:
    """The model, in evaluation mode, and the encoding to attach to it where its config cannot say what the file does.

    config: in the place of the file's own. Keyword arguments go to `from_pretrained` (dtype, attn_implementation,
    device_map). Raises ValueError for a file that cannot be read, and where the tensors are not those of the model.
    """
    require(f"reading {path}", "gguf")
    header, own, empty, encoding = _described(path)
    config = own if config is None else config
    dtype = _dtype(how.pop("dtype", how.pop("torch_dtype", None)))
    state = dict(_weights(header, empty, dtype))
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


def _described(path: Path) -> tuple[Header, Any, Any, Encoding | None]:
    """The header, the config, the model on the meta device, and the encoding to attach where the config cannot say what
    the file does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    header = read_header(path)
    architecture, factors = architecture_of(header), _factors(header)
    with quiet(), _explained(path):
        config = AutoConfig.for_model(architecture.family, **config_arguments(header, factors))
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
        config.architectures = [type(empty).__name__]
        host = open_host(empty)
        with torch.device("cpu"):  # its tables are looked at
            host = replace(host, rotary=type(host.rotary)(host.rotary.config))
        encoding = positions.encoding_beyond(header, host, factors, architecture.local)
    return header, config, empty, encoding


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


def _factors(header: Header) -> np.ndarray[Any, Any] | None:
    stored = header.tensors.get(positions.FACTORS)
    if stored is None:
        return None
    return _dequantized(header.path, positions.FACTORS, stored, torch.float32).double().numpy()


def _weights(header: Header, empty: Any, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's weights by transformers' names. Raises ValueError where the file has others, or of other shapes."""
    import gguf
    from transformers.utils import logging

    config, architecture = empty.config, architecture_of(header)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == header.architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    wanted = {}
    for name, parameter in empty.state_dict().items():
        if not (config.tie_word_embeddings and name == "lm_head.weight"):
            wanted[name] = (names.get_name(name, try_suffixes=(".weight", ".bias")), tuple(parameter.shape))
    held = {name: stored.shape for name, stored in header.tensors.items() if name != positions.FACTORS}
    lacking = sorted(f"{theirs or name}" for name, (theirs, _) in wanted.items() if theirs not in held)
    unknown = sorted(held.keys() - {theirs for theirs, _ in wanted.values()})
    others = [f"{t} is {held[t]} and not {shape}" for t, shape in wanted.values() if held.get(t, shape) != shape]
    if lacking or unknown or others:
        raise ValueError(
            f"{header.path} does not hold the weights of a {type(empty).__name__}: missing {_some(lacking)}, not known "
            f"to it {_some(unknown)}, of another shape {_some(others)}"
        )
    head_dim = open_host(empty).shapes[0].head_dim
    first = range(positions.turned(header, head_dim) // 2)
    order = back(head_order(head_dim, head_dim // 2, first, architecture.layout))
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads, "q_norm": 1, "k_norm": 1}
    if order == tuple(range(head_dim)):
        heads = {}
    # transformers' own bar, which obeys its switch; on a terminal only
    for name in logging.tqdm(wanted, desc="reading the GGUF", disable=None, leave=False):
        theirs = str(wanted[name][0])
        value = _dequantized(header.path, theirs, header.tensors[theirs], dtype)
        if architecture.offset and theirs.endswith("norm.weight"):
            value = _dequantized(header.path, theirs, header.tensors[theirs], torch.float32).sub(1).to(dtype)
        if (module := name.split(".")[-2]) in heads:
            value = reorder_heads(value, heads[module], order)
        yield name, value


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _dequantized(path: Path, name: str, stored: Stored, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of the file in this dtype, some rows at a time, so that what dequantizing takes besides stays small."""
    require(f"reading {path}", "gguf")
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(stored.kind)
    except ValueError:
        raise ValueError(f"{path} stores {name} in ggml's type {stored.kind}, which gguf does not know") from None
    width = stored.shape[-1] if stored.shape else 1
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, row_bytes = int(np.prod(stored.shape[:-1], dtype=np.int64)), width // block * size
    if width % block or path.stat().st_size < stored.at + rows * row_bytes:
        raise ValueError(f"{path} ends before {name} does: it is not whole")
    raw = np.memmap(path, np.uint8, "r", stored.at, (rows, row_bytes))
    values = torch.empty(rows, width, dtype=dtype, device="cpu")  # also while a model is made on meta
    step = max(1, CHUNK // width)
    for start in range(0, rows, step):
        try:
            part = gguf.quants.dequantize(np.ascontiguousarray(raw[start : start + step]), kind)
        except NotImplementedError as error:
            raise ValueError(f"{path} stores {name} as {kind.name}, which the gguf package cannot read") from error
        values[start : start + step] = torch.from_numpy(np.require(part, requirements="W"))
    return values.reshape(stored.shape)
