"""The tensors of a GGUF: their names, which of their rows are channels of heads, and their values, dequantized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from whorl.extras import require
from whorl.gguf_files.architectures import Architecture
from whorl.gguf_files.header import Header
from whorl.gguf_files.positions import FACTORS

CHUNK = 2**22  # numbers that are dequantized at once
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # ggml's types that torch has


def names_in_file(architecture: Architecture, layers: int, names: Iterable[str]) -> dict[str, str | None]:
    """The names in a file by those of transformers' weights; None for one that the architecture has no place for."""
    import gguf

    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    known = gguf.get_tensor_name_map(kind, layers)
    return {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}


def heads_that_turn(config: Any) -> dict[str, int]:
    """The modules whose rows (a norm's weights) are channels of heads that turn, and how many heads each has."""
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads, "q_norm": 1, "k_norm": 1}


def factors_of(header: Header) -> np.ndarray[Any, Any] | None:
    """`rope_freqs.weight` in float64, where the file has it."""
    return read_tensor(header, FACTORS).double().numpy() if FACTORS in header.tensors else None


def read_tensor(header: Header, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of the file by its name there, some rows at a time, so that what dequantizing takes besides stays small.

    dtype: the file's own (float32 for what is quantized) unless one is given. Raises ValueError for a type that is not
    known, and where the file ends before the tensor does.
    """
    path, stored = header.path, header.tensors[name]
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
    own = PLAIN.get(kind.name, torch.float32)
    values = torch.empty(rows, width, dtype=own if dtype is None else dtype, device="cpu")  # also while meta is default
    step = max(1, CHUNK // width)
    for start in range(0, rows, step):
        try:
            part = gguf.quants.dequantize(np.ascontiguousarray(raw[start : start + step]), kind)
        except NotImplementedError as error:
            raise ValueError(f"{path} stores {name} as {kind.name}, which the gguf package cannot read") from error
        values[start : start + step] = torch.from_numpy(np.require(part, requirements="W"))
    return values.reshape(stored.shape)
