"""llama.cpp: one GGUF file of a model that one of its architectures runs (`gguf_architectures`).

Names and metadata are those that llama.cpp's convert_hf_to_gguf writes. q and k are in the layout that the architecture
pairs channels by, and the spectrum is said by what it reads (`gguf_rotation`).
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
from whorl.gguf_files.layout import reorder_heads
from whorl.runtimes.base import Check, Runtime, Written
from whorl.runtimes.gguf_architectures import ARCHITECTURES, SLIDING, heads_of, names_of
from whorl.runtimes.gguf_reading import settings_of, tensor_of
from whorl.runtimes.gguf_rotation import PRECISION, Said, said_of
from whorl.runtimes.gguf_tokenizers import add_tokenizer

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
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
        found = said_of(model, ARCHITECTURES[type(model).__name__])
        return found if isinstance(found, str) else None

    def write(self, model: Any, folder: Path, tokenizer: Any) -> Written:
        import gguf

        if any(p.is_meta for p in model.parameters()):
            raise ValueError("this model has weights that are not in memory (device_map offload); load it whole")
        said = _said(model)
        writer = gguf.GGUFWriter(folder / GGUF_FILE, ARCHITECTURES[type(model).__name__].name)
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
        from gguf import GGUFReader

        reader, said = GGUFReader(written.folder / GGUF_FILE), _said(model)
        left = {tensor.name: tensor for tensor in reader.tensors}
        count = len(left)
        for name, tensor in _tensors(model, said, self.dtype):
            if name not in left or not torch.equal(tensor_of(left.pop(name)), tensor):
                raise ValueError(f"{name} in the GGUF is not what was written; nothing was kept")
        if left:
            raise ValueError(f"{', '.join(left)} in the GGUF was not written; nothing was kept")
        config, by_layer = settings_of(reader)
        pairs = [(config["attention_factor"], said.amplitude)]
        for read, own in zip(by_layer, said.wanted, strict=True):
            pairs += zip(read, own, strict=True)
        off = max(abs(read - own) / own if own else (math.inf if read else 0.0) for read, own in pairs)
        return Check(
            f"read back: {count} tensors are equal; frequencies (in {said.place}), of themselves,", off, PRECISION
        )


def _other_graph(model: Any) -> str | None:
    """Why llama.cpp has no graph for this model that whorl writes, or None."""
    name, config = type(model).__name__, model.config
    architecture = ARCHITECTURES.get(name)
    if architecture is None:
        *others, last = ARCHITECTURES
        return (
            f"whorl writes GGUF for {', '.join(others)} and {last}, and got a {name}; for another family export it for "
            "hf, and use llama.cpp's convert_hf_to_gguf.py, which knows what that family's settings can say"
        )
    for key, value in architecture.fixed.items():
        if (found := getattr(config, key, None)) != value:
            return f"{architecture.prose} has {key}={value}, and this model {found}"
    if architecture.query_scale is not None:
        width = architecture.query_scale(config)
        if config.query_pre_attn_scalar != width:
            return (
                f"{architecture.prose} divides queries by the root of {width:g}, and this model by that of "
                f"query_pre_attn_scalar={config.query_pre_attn_scalar}"
            )
    if config.rms_norm_eps <= 0:
        return f"llama.cpp needs rms_norm_eps above 0, got {config.rms_norm_eps}"
    if getattr(model, "is_quantized", False) or not all(p.is_floating_point() for p in model.parameters()):
        return "this model's weights are quantized; export the model that they were made from"
    return None


def _said(model: Any) -> Said:
    """Of a model that is not refused."""
    found = said_of(model, ARCHITECTURES[type(model).__name__])
    assert isinstance(found, Said), found
    return found


def _add_metadata(writer: Any, model: Any, said: Said, dtype: str) -> None:
    """The keys of llama.cpp's convert_hf_to_gguf for the architecture, and the encoding's notation under a key of
    whorl's."""
    import gguf

    config, main = model.config, said.main
    head_dim = len(main.order)
    writer.add_type("model")
    name = Path(str(model.name_or_path or "").partition(NAMED)[0]).name
    if name:
        writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(main.width)
    writer.add_rope_freq_base(main.base)
    if main.scaling != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(main.scaling)
    if said.amplitude != 1:
        writer.add_rope_scaling_attn_factors(said.amplitude)
    if SLIDING in said.rotations:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == SLIDING for kind in said.kinds])
        writer.add_rope_freq_base_swa(said.rotations[SLIDING].base)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[types[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("whorl.encoding", str(said.encoding))


@torch.no_grad()
def _tensors(model: Any, said: Said, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the file by its GGUF name, on the CPU, in the file's layout and dtype."""
    config, architecture = model.config, ARCHITECTURES[type(model).__name__]
    names = names_of(architecture, config.num_hidden_layers)
    if said.main.factors is not None:
        yield "rope_freqs.weight", torch.from_numpy(said.main.factors)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    heads = heads_of(config.num_attention_heads, config.num_key_value_heads)
    for key, value in model.state_dict().items():
        if "whorl" in key.split(".") or (tied and key == "lm_head.weight"):
            continue
        module, _, kind = key.rpartition(".")
        if module not in names:
            raise ValueError(f"{architecture.prose} has no place for the weight {key}")
        if (last := module.rpartition(".")[2]) in heads:
            rotation = said.rotations[said.kinds[int(module.split(".")[2])]]
            value = reorder_heads(value, heads[last], rotation.order)
        if last.endswith("norm"):
            value = value.float() + architecture.norm_offset
        kept = value.to("cpu", DTYPES[dtype] if value.dim() > 1 else torch.float32)
        if bool(torch.isinf(kept).any()) and not bool(torch.isinf(value).any()):
            raise ValueError(f"{key} has values past {dtype}'s range, up to {float(value.abs().max()):.3g}; try bf16")
        yield f"{names[module]}.{kind}", kept.contiguous()


def _bytes(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """As the gguf package takes it: NumPy has no bfloat16."""
    return tensor.view(torch.uint8).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
