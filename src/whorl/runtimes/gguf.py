"""llama.cpp: one GGUF file of a LlamaForCausalLM.

Names and metadata are those that llama.cpp's convert_hf_to_gguf writes, q and k are in the interleaved layout, and the
spectrum is `rope.freq_base` with one factor per pair in `rope_freqs.weight` (`gguf_reading` has the formula). So HoPE,
p-RoPE, partial rotary, no rotation at all and any scaled spectrum are factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whorl.attaching.plan import layer_plan
from whorl.attaching.reading import encoding_of
from whorl.attaching.records import NAMED
from whorl.encodings import Encoding, Sum
from whorl.encodings.spectrum import rope_frequencies
from whorl.hosts import head_dim_of, open_host
from whorl.hosts.transformers.rope_settings import rope_parameters
from whorl.runtimes.base import Check, Runtime, Written
from whorl.runtimes.gguf_reading import STILL, settings_of, tensor_of
from whorl.runtimes.gguf_tokenizers import add_tokenizer
from whorl.runtimes.layout import permute_layout

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
GGUF_FILE = "model.gguf"
LLAMA = "llama.cpp's llama architecture"


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
        return _other_than_llama(model) or _other_positions(model)

    def write(self, model: Any, folder: Path, tokenizer: Any) -> Written:
        import gguf

        rotation = _rotation(model)
        writer = gguf.GGUFWriter(folder / GGUF_FILE, "llama")
        _add_metadata(writer, model, rotation, self.dtype)
        tokens = add_tokenizer(writer, tokenizer, model.config)
        for name, tensor in _tensors(model, rotation, self.dtype):
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
        for _, tensor in _tensors(model, rotation, self.dtype):  # made anew, so that one at a time is in memory
            writer.write_tensor_data(_bytes(tensor))
        writer.close()
        return Written(folder, str(rotation.encoding), tokens)

    def check(self, model: Any, written: Written) -> Check:
        """Reads the file back: tensors are equal bit for bit, frequencies and amplitude to float32."""
        from gguf import GGUFReader

        reader, rotation = GGUFReader(written.folder / GGUF_FILE), _rotation(model)
        left = {tensor.name: tensor for tensor in reader.tensors}
        count = len(left)
        for name, tensor in _tensors(model, rotation, self.dtype):
            if name not in left or not torch.equal(tensor_of(left.pop(name)), tensor):
                raise ValueError(f"{name} in the GGUF is not what was written; nothing was kept")
        if left:
            raise ValueError(f"{', '.join(left)} in the GGUF was not written; nothing was kept")
        config, frequencies = settings_of(reader)
        pairs = [*zip(frequencies, rotation.frequencies, strict=True), (config["attention_factor"], rotation.amplitude)]
        off = max(abs(read - own) / own if own else (math.inf if read else 0.0) for read, own in pairs)
        place = "rope.freq_base" if rotation.factors is None else "rope.freq_base and rope_freqs.weight"
        return Check(f"read back: {count} tensors are equal; frequencies (in {place}), of themselves,", off, 2**-22)


def _other_than_llama(model: Any) -> str | None:
    """Why this is no LlamaForCausalLM as llama.cpp runs it, or None."""
    name, config = type(model).__name__, model.config
    if name != "LlamaForCausalLM":
        return (
            f"whorl writes GGUF for LlamaForCausalLM and got a {name}; for another family export it for hf, and use "
            "llama.cpp's convert_hf_to_gguf.py, which knows what that family's settings can say"
        )
    if config.hidden_act != "silu":
        return f"llama.cpp's llama has silu in its feed-forward, and this model has {config.hidden_act}"
    if config.rms_norm_eps <= 0:
        return f"llama.cpp needs rms_norm_eps above 0, got {config.rms_norm_eps}"
    if getattr(model, "is_quantized", False) or not all(p.is_floating_point() for p in model.parameters()):
        return "this model's weights are quantized; export the model that they were made from"
    if any(p.is_meta for p in model.parameters()):
        return "this model has weights that are not in memory (device_map offload); load it whole"
    return None


def _other_positions(model: Any) -> str | None:
    """Why llama.cpp's llama cannot say the model's encoding, or None: it has one spectrum for all layers, and no other
    seam for positions."""
    host, encoding = open_host(model), encoding_of(model)
    for index, layer_type in enumerate(host.layer_types):
        one = encoding.for_layer(index, layer_type)
        for part in one.parts if isinstance(one, Sum) else (one,):
            if getattr(part, "length_dependent", False):
                return f"the frequencies of {part} depend on the length of the context, and {LLAMA} has one list"
    plan = layer_plan(host, encoding)
    if plan.add is not None:
        return f"{encoding} adds to the embedding, and {LLAMA} turns q and k and does nothing else"
    if any(seam.biases for seam in plan.layers):
        return f"{encoding} adds a bias to attention logits (a window is one), for which {LLAMA} has no place"
    spectrum, *others = {seam.spectrum for seam in plan.layers}
    if others:
        return f"{encoding} has layers with {1 + len(others)} spectra, and {LLAMA} has one rope_freqs for all"
    if spectrum.amplitude != 1 and spectrum.width < spectrum.head_dim:
        return (
            f"{encoding} scales {spectrum.width} of {spectrum.head_dim} channels by {spectrum.amplitude:g}; "
            "rope.scaling.attn_factor scales whole heads"
        )
    return None


@dataclass(frozen=True)
class _Rotation:
    """An encoding as llama.cpp says it.

    frequencies  radians per token of every pair of the head, 0 where it stands still
    factors      by which each is below `base`'s own, float32; None where all are 1
    width        channels whose rows are reordered
    """

    encoding: Encoding
    base: float
    frequencies: tuple[float, ...]
    factors: np.ndarray[Any, Any] | None
    amplitude: float
    width: int


def _rotation(model: Any) -> _Rotation:
    """Of a model that is not refused."""
    host, encoding = open_host(model), encoding_of(model)
    spectrum = layer_plan(host, encoding).layers[0].spectrum
    head_dim, width = spectrum.head_dim, spectrum.width
    assert head_dim == head_dim_of(model.config, host.attentions[0])
    base = float(np.float32(_base(model, encoding)))  # as the file keeps it
    frequencies = spectrum.frequencies + (0.0,) * ((head_dim - width) // 2)
    own = rope_frequencies(base, head_dim)
    factors = np.array([min(f0 / f, STILL) if f > 0 else STILL for f0, f in zip(own, frequencies, strict=True)])
    factors = factors.astype(np.float32)
    plain = bool(np.all(np.abs(factors - 1) <= 2**-23))  # a base that float32 cannot hold gives such
    return _Rotation(encoding, base, frequencies, None if plain else factors, spectrum.amplitude, width or head_dim)


def _base(model: Any, encoding: Encoding) -> float:
    """The base that the file names; the factors say the rest, so any would do."""
    for place in (encoding, getattr(encoding, "inner", None)):
        base = getattr(place, "base", None)
        if isinstance(base, int | float):
            return float(base)
    return float(rope_parameters(model.config).get("rope_theta") or 10000.0)


def _add_metadata(writer: Any, model: Any, rotation: _Rotation, dtype: str) -> None:
    """The keys of llama.cpp's convert_hf_to_gguf for llama, and the encoding's notation under a key of whorl's."""
    import gguf

    config = model.config
    head_dim = head_dim_of(config, model.model.layers[0].self_attn)
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
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rotation.base)
    if rotation.amplitude != 1:
        writer.add_rope_scaling_attn_factors(rotation.amplitude)
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[types[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("whorl.encoding", str(rotation.encoding))


@torch.no_grad()
def _tensors(model: Any, rotation: _Rotation, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the file by its GGUF name, on the CPU, in the file's layout and dtype."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    if rotation.factors is not None:
        yield "rope_freqs.weight", torch.from_numpy(rotation.factors)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    for key, value in model.state_dict().items():
        if "whorl" in key.split(".") or (tied and key == "lm_head.weight"):
            continue
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"llama.cpp's llama has no place for the weight {key}")
        for module, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if module in key:
                value = permute_layout(value, heads, rotation.width, to="interleaved")
        kept = value.to("cpu", DTYPES[dtype] if value.dim() > 1 else torch.float32)
        if bool(torch.isinf(kept).any()) and not bool(torch.isinf(value).any()):
            raise ValueError(f"{key} has values past {dtype}'s range, up to {float(value.abs().max()):.3g}; try bf16")
        yield name, kept.contiguous()


def _bytes(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """As the gguf package takes it: NumPy has no bfloat16."""
    return tensor.view(torch.uint8).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
