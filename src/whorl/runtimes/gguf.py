"""llama.cpp: one GGUF file of a model that one of its architectures runs.

Names and metadata are those that llama.cpp's convert_hf_to_gguf writes, and that `gguf_files` reads. q and k are in the
layout that the architecture pairs channels by, and the spectrum is said by what it reads (`gguf_rotation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whorl.attaching.records import NAMED
from whorl.gguf_files.architectures import ARCHITECTURES, Architecture, architecture_writing
from whorl.gguf_files.header import read_header
from whorl.gguf_files.keys import (
    CAPS,
    EPSILON,
    KEY_WIDTH,
    KV_HEADS,
    PATTERN,
    SIZES,
    VALUE_WIDTH,
    WINDOW,
    config_arguments,
)
from whorl.gguf_files.layout import reorder_heads
from whorl.gguf_files.positions import FACTORS, LOCAL, SINGLE, layer_spectra, yarn_amplitude
from whorl.gguf_files.tensors import PLAIN, factors_of, heads_that_turn, names_in_file, read_tensor
from whorl.hosts import head_dim_of, open_host
from whorl.runtimes.base import Check, Runtime, Written
from whorl.runtimes.gguf_rotation import Said, said_of
from whorl.runtimes.gguf_tokenizers import add_tokenizer

DTYPES = {name.lower(): dtype for name, dtype in PLAIN.items()}
GGUF_FILE = "model.gguf"


@dataclass(frozen=True)
class GGUF(Runtime):
    """`model.gguf`, whose matrices have this dtype; vectors are float32."""

    dtype: str = "f32"

    name = "gguf"
    title = "llama.cpp"
    extra = "gguf"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    def refuse(self, model: Any) -> str | None:
        if (reason := _other_graph(model)) is not None:
            return reason
        found = said_of(model, _architecture(model))
        return found if isinstance(found, str) else None

    def write(self, model: Any, folder: Path, tokenizer: Any) -> Written:
        import gguf

        if any(p.is_meta for p in model.parameters()):
            raise ValueError("this model has weights that are not in memory (device_map offload); load it whole")
        said = _said(model)
        writer = gguf.GGUFWriter(folder / GGUF_FILE, _architecture(model).name)
        _add_metadata(writer, model, said, self.dtype)
        tokens = add_tokenizer(writer, tokenizer, model.config)
        for name, tensor in _tensors(model, said, self.dtype):
            writer.add_tensor_info(
                name,
                _bytes(tensor).shape,
                _bytes(tensor).dtype,
                _bytes(tensor).nbytes,
                raw_dtype=gguf.GGMLQuantizationType.BF16 if tensor.dtype == torch.bfloat16 else None,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, tensor in _tensors(model, said, self.dtype):  # made anew, so that one at a time is in memory
            writer.write_tensor_data(_bytes(tensor))
        writer.close()
        return Written(folder, str(said.encoding), tokens)

    def check(self, model: Any, written: Written) -> Check:
        """Reads the file back: tensors are equal bit for bit, frequencies and amplitude to float32."""
        header, said = read_header(written.folder / GGUF_FILE), _said(model)
        left = set(header.tensors)
        for name, tensor in _tensors(model, said, self.dtype):
            if name not in left or not _equal(read_tensor(header, name), tensor):
                raise ValueError(f"{name} in the GGUF is not what was written; nothing was kept")
            left.remove(name)
        if left:
            raise ValueError(f"{', '.join(left)} in the GGUF was not written; nothing was kept")
        factors = factors_of(header)
        config = config_arguments(header, factors)
        pairs: list[tuple[float, float]] = []
        spectra = layer_spectra(header, config.get("layer_types", said.kinds), config["head_dim"], factors)
        for spectrum, wanted in zip(spectra, said.wanted, strict=True):
            pairs += zip((spectrum.amplitude, *spectrum.frequencies), (said.amplitude, *wanted), strict=True)
        off = max(abs(read - own) / own if own else (math.inf if read else 0.0) for read, own in pairs)
        return Check(
            f"read back: {len(header.tensors)} tensors are equal; frequencies (in {said.place}), of themselves,",
            off,
            SINGLE,
        )


def _other_graph(model: Any) -> str | None:
    """Why llama.cpp has no graph for this model that whorl writes, or None."""
    name, config = type(model).__name__, model.config
    architecture = architecture_writing(name)
    if architecture is None:
        *others, last = (one.written for one in ARCHITECTURES.values() if one.written)
        return (
            f"whorl writes GGUF for {', '.join(others)} and {last}, and got a {name}; for another family export it for "
            "hf, and use llama.cpp's convert_hf_to_gguf.py, which knows what that family's settings can say"
        )
    for key, value in architecture.fixed.items():
        if (found := getattr(config, key, None)) != value:
            return f"{architecture.prose} has {key}={value}, and this model {found}"
    heads, head_dim = config.num_attention_heads, head_dim_of(config, open_host(model).attentions[0])
    if architecture.square and heads * head_dim != config.hidden_size:
        return (
            f"{architecture.prose} has queries as wide as the hidden state, {config.hidden_size} here, and this model "
            f"{heads} heads of {head_dim}: llama.cpp would not load the file"
        )
    width = architecture.query_width(config.to_dict())
    if width is not None and config.query_pre_attn_scalar != width:
        return (
            f"{architecture.prose} divides queries by the root of {width}, and this model by that of "
            f"query_pre_attn_scalar={config.query_pre_attn_scalar}"
        )
    if config.rms_norm_eps <= 0:
        return f"llama.cpp needs rms_norm_eps above 0, got {config.rms_norm_eps}"
    if getattr(model, "is_quantized", False) or not all(p.is_floating_point() for p in model.parameters()):
        return "this model's weights are quantized; export the model that they were made from"
    return None


def _architecture(model: Any) -> Architecture:
    """Of a model that is not refused."""
    found = architecture_writing(type(model).__name__)
    assert found is not None
    return found


def _said(model: Any) -> Said:
    """Of a model that is not refused."""
    found = said_of(model, _architecture(model))
    assert isinstance(found, Said), found
    return found


def _add_metadata(writer: Any, model: Any, said: Said, dtype: str) -> None:
    """The keys of llama.cpp's convert_hf_to_gguf for the architecture, and the encoding's notation under a key of
    whorl's."""
    import gguf

    name = Path(str(model.name_or_path or "").partition(NAMED)[0]).name
    writer.add_type("model")
    if name:
        writer.add_name(name)
    adds = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    for key, value in _keys(model.config, said).items():
        adds[type(value)](f"{_architecture(model).name}.{key}", value)
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[types[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("whorl.encoding", str(said.encoding))


def _keys(config: Any, said: Said) -> dict[str, Any]:
    """Those of the architecture, below its name: int for uint32, float for float32."""
    main, head_dim = said.main, len(said.main.order)
    keys = {key: getattr(config, ours) for key, ours in SIZES.items()} | {
        EPSILON: float(config.rms_norm_eps),
        KV_HEADS: config.num_key_value_heads,
        KEY_WIDTH: head_dim,
        VALUE_WIDTH: head_dim,
        "vocab_size": config.vocab_size,
        "rope.dimension_count": main.width,
        "rope.freq_base": main.base,
    }
    amplitude = float(said.amplitude)
    if main.scaling != 1:
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": main.scaling}
    if main.original is not None:
        keys |= {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": main.original}
        amplitude /= yarn_amplitude(main.scaling)
    if abs(amplitude - 1) > SINGLE:
        keys["rope.scaling.attn_factor"] = amplitude
    if LOCAL in said.rotations:
        keys[WINDOW], keys[PATTERN] = config.sliding_window, [kind == LOCAL for kind in said.kinds]
        keys["rope.freq_base_swa"] = said.rotations[LOCAL].base
    return keys | {key: float(cap) for key in CAPS if (cap := getattr(config, key, None))}


@torch.no_grad()
def _tensors(model: Any, said: Said, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the file by its GGUF name, on the CPU, in the file's layout and dtype."""
    config, architecture, state = model.config, _architecture(model), model.state_dict()
    names = names_in_file(architecture, config.num_hidden_layers, state)
    if said.main.factors is not None:
        yield FACTORS, torch.from_numpy(said.main.factors)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    heads = heads_that_turn(config)
    for key, value in state.items():
        if "whorl" in key.split(".") or (tied and key == "lm_head.weight"):
            continue
        if (name := names[key]) is None:
            raise ValueError(f"{architecture.prose} has no place for the weight {key}")
        if (module := key.split(".")[-2]) in heads:
            rotation = said.rotations[said.kinds[int(key.split(".")[2])]]
            value = reorder_heads(value, heads[module], rotation.order)
        if module.endswith("norm"):
            value = value.float() + architecture.norm_offset
        kept = value.to("cpu", DTYPES[dtype] if value.dim() > 1 else torch.float32)
        if bool(torch.isinf(kept).any()) and not bool(torch.isinf(value).any()):
            raise ValueError(f"{key} has values past {dtype}'s range, up to {float(value.abs().max()):.3g}; try bf16")
        yield name, kept.contiguous()


def _equal(read: torch.Tensor, own: torch.Tensor) -> bool:
    return read.dtype == own.dtype and torch.equal(read, own)


def _bytes(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """As the gguf package takes it: NumPy has no bfloat16."""
    return tensor.view(torch.uint8).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
