"""EXPORT: a model and its encoding for runtimes that do not know whorl.

hf     a directory that stock transformers loads (`whorl.attaching.saving` says how an encoding is put in stock terms)
gguf   one file for llama.cpp, of a LlamaForCausalLM: names and metadata as its convert_hf_to_gguf writes them, q and k
       in the interleaved layout, and the spectrum as `rope.freq_base` and `rope_freqs.weight`

llama.cpp turns pair i by position x base^(-2i/d) / factor_i, for all d/2 pairs of a head. So HoPE, p-RoPE, partial
rotary, no rotation at all and any scaled spectrum are factors. A pair that stands still has the factor 1e30, as in
llama.cpp's own Gemma 4: its cos is 1, and its sin below 1e-20, which float32 sums do not see.

What was written is read back and compared before it gets its name.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from whorl import finite, outputs
from whorl.attaching import attach, attached
from whorl.attaching.plan import layer_plan
from whorl.attaching.reading import encoding_of, same_rotations, stock_encoding
from whorl.attaching.records import NAMED
from whorl.attaching.saving import save_for_all
from whorl.attaching.stock import stock_form
from whorl.checking import check_path, shown
from whorl.encodings import Encoding, Spectrum, Sum
from whorl.encodings.spectrum import rope_frequencies
from whorl.extras import require
from whorl.hosts import head_dim_of, open_host
from whorl.hosts.transformers.opening import unwrapped
from whorl.hosts.transformers.rope_settings import rope_parameters
from whorl.numerics import allowance, max_error, too_large_to_copy
from whorl.ops.rotation import LAYOUTS

log = logging.getLogger(__name__)

FORMATS = ("hf", "gguf")
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
GGUF_FILE = "model.gguf"
STILL = 1e30  # the factor of a pair that does not turn
TOKENS = 48  # of each of the two rows that a written directory is compared on
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Exported:
    """What was written, in words for a person: where, with which encoding, how it was checked, and the tokenizer."""

    path: Path
    encoding: str
    checked: str
    tokenizer: str


def export(
    model: Any,
    out: str | Path,
    *,
    format: str = "hf",
    tokenizer: Any = None,
    dtype: str | None = None,
    force: bool = False,
) -> Exported:
    """Writes the model with its encoding, stock or attached, for a runtime that does not know whorl.

    out: a directory that is not there yet, or is empty. With `force`, one that whorl wrote is replaced (see `outputs`).
    "hf": config, safetensors and tokenizer; loaded by stock transformers and compared before it gets its name.
    "gguf": `model.gguf`, read back and compared; a tokenizer that llama.cpp cannot run is left out, with the reason.
    dtype: of a GGUF's matrices, "f32" (the default), "f16" or "bf16"; vectors are float32.

    Nothing is left at `out` when it fails. Raises ValueError, with the reason, for what the format cannot say.

    >>> export(whorl.attach(model, "hope:train_length=1024"), "out", tokenizer=tokenizer).path
    PosixPath('out')
    """
    out = check_path("out", out, "the path of a folder")
    if not isinstance(model, torch.nn.Module):
        open_host(model)  # says what it is
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "hf" and dtype is not None:
        raise ValueError(f"dtype={dtype!r} is of GGUF files; an hf directory keeps the model's own {model.dtype}")
    if format == "gguf":
        require("GGUF", "gguf")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if hasattr(model, "peft_config"):
        raise ValueError("this model has PEFT adapters; export what model.merge_and_unload() returns")
    model = unwrapped(model)
    reads = [str(getattr(model, "name_or_path", "") or "").partition(NAMED)[0]]
    outputs.check_replaces(out, force, reads)
    finite.check_weights(model)
    write = _hf_writer(model, tokenizer) if format == "hf" else _gguf_writer(model, tokenizer, dtype or "f32")
    with outputs.replacing(out, "export", force, reads) as folder:
        encoding, checked, tokens = write(folder)
    return Exported(Path(out), encoding, checked, tokens)


def permute_layout(weight: torch.Tensor, heads: int, width: int, to: str) -> torch.Tensor:
    """The rows of a q or k projection (or of its bias), reordered head by head from one layout of pairs to the other.

    weight   [heads x head_dim, ...]; the first `width` channels of a head are in pairs, the others stay where they are
    to       "interleaved": what comes in halves  [x0 x1 x2 y0 y1 y2] goes out as [x0 y0 x1 y1 x2 y2];
             "half": the other way round

    Reordering q and k alike changes no logit, if the runtime pairs channels as the new layout says.

    >>> permute_layout(torch.arange(8), heads=1, width=6, to="interleaved")
    tensor([0, 3, 1, 4, 2, 5, 6, 7])
    """
    if to not in LAYOUTS:
        raise ValueError(f"to must be one of {', '.join(LAYOUTS)}, got {to!r}")
    if not isinstance(weight, torch.Tensor) or not isinstance(heads, int) or not isinstance(width, int):
        raise ValueError(
            f"the rows of a tensor, heads and a width in channels are wanted, got {shown(weight)}, {heads!r}, {width!r}"
        )
    if heads < 1 or weight.shape[0] % heads or width % 2 or not 0 <= width <= weight.shape[0] // heads:
        raise ValueError(
            f"{weight.shape[0]} rows in {heads} heads cannot have {width} channels in pairs: rows must be a multiple "
            "of heads, and the width even and no more than a head"
        )
    if width == 0:
        return weight
    rows = weight.unflatten(0, (heads, -1))
    pairs = rows[:, :width].unflatten(1, (2, width // 2) if to == "interleaved" else (width // 2, 2))
    return torch.cat([pairs.transpose(1, 2).flatten(1, 2), rows[:, width:]], dim=1).flatten(0, 1)


# Hugging Face.


def _hf_writer(model: Any, tokenizer: Any) -> Callable[[Path], tuple[str, str, str]]:
    """Raises ValueError for what stock transformers cannot say, before anything is written."""
    if attached(model) is None:
        encoding = "its own"
    else:
        encoding, form = str(encoding_of(model)), stock_form(model)
        if isinstance(form, str):
            raise ValueError(
                f"stock transformers cannot say {encoding} on a {type(model).__name__}: {form}. "
                "Keep it with model.save_pretrained(directory), and read that with whorl.load(directory)"
            )

    def write(folder: Path) -> tuple[str, str, str]:
        save_for_all(model, folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        checked = _compare_with_stock(model, folder)
        return encoding, checked, "none given" if tokenizer is None else type(tokenizer).__name__

    return write


@torch.no_grad()
def _compare_with_stock(model: Any, folder: Path) -> str:
    """Loads the folder as anybody would and compares logits. Raises ValueError for a mismatch."""
    training = model.training
    model.eval()
    try:
        half = torch.finfo(model.dtype).bits < 32
        # A float64 copy, the stock model, and a float32 copy of what is in half precision.
        room = too_large_to_copy(model, 8 + 4 + 4 * half) is None
        ours = copy.deepcopy(model).float() if half and room else model
        ids = _some_tokens(model)
        logits, truth = ours(ids).logits, None
        if room:
            with suppress(RuntimeError, NotImplementedError):  # code without float64 kernels
                truth = copy.deepcopy(ours).double()(ids).logits
        allowed = allowance(logits, truth)
        stock = _stock_class(model).from_pretrained(folder, dtype=ours.dtype, use_safetensors=True)
        assert attached(stock) is None
        error = max_error(stock.to(model.device).eval()(ids).logits, logits)
        if not error <= allowed:
            allowed += _moved_by_rounded_frequencies(stock, ours, ids, logits)
    finally:
        model.train(training)
    finite.check_values(logits, "the model's own logits are not finite", model, ids)
    if not error <= allowed:
        raise ValueError(
            f"stock transformers reads what was written as another model: on {ids.numel()} tokens its logits differ by "
            f"{error:.2g}, of {allowed:.2g} that rounding explains. Nothing was kept; keep this model with "
            "model.save_pretrained(directory), and read that with whorl.load(directory)"
        )
    return f"loaded by stock transformers: logits differ by {error:.2g}, of {allowed:.2g} that rounding explains"


def _moved_by_rounded_frequencies(stock: Any, ours: Any, ids: torch.Tensor, logits: torch.Tensor) -> float:
    """How far the logits of an attached model are moved by the stock module's own frequencies, which are float32 and
    where they are blended (YaRN, Llama 3) off by more than a rounding. 0 where they are not the model's at all."""
    host = open_host(stock)
    if attached(ours) is None or host.rotary is None:
        return 0.0
    own = stock_encoding(host)
    if not same_rotations(host, own, encoding_of(ours)):
        return 0.0
    return max_error(attach(copy.deepcopy(ours), own)(ids).logits, logits)


def _stock_class(model: Any) -> Any:
    """The class that a person would load the directory with: the causal LM's auto class, or the model's own."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    auto = type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING
    return (
        AutoModelForCausalLM if auto and MODEL_FOR_CAUSAL_LM_MAPPING[type(model.config)] is type(model) else type(model)
    )


def _some_tokens(model: Any) -> torch.Tensor:
    """Two rows of ids, the same for every model of a vocabulary, as long as a table of positions allows."""
    config = model.config.get_text_config()
    length = min(TOKENS, getattr(config, "max_position_embeddings", None) or TOKENS)
    drawn = torch.randint(config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    return drawn.to(model.device)


# GGUF.


@dataclass(frozen=True)
class _Rotation:
    """A spectrum as llama.cpp says it. factors: float32, one per pair of the whole head; None where all are 1."""

    base: float
    factors: np.ndarray[Any, Any] | None
    amplitude: float
    width: int  # channels whose rows are permuted


def _gguf_writer(model: Any, tokenizer: Any, dtype: str) -> Callable[[Path], tuple[str, str, str]]:
    """Raises ValueError for what llama.cpp's llama architecture cannot say, before anything is written."""
    gguf = _gguf()
    _refuse_others(model)
    encoding = encoding_of(model)
    rotation = _in_llama_cpp_terms(model, encoding)
    spectrum = _one_spectrum(model, encoding)

    def write(folder: Path) -> tuple[str, str, str]:
        path = folder / GGUF_FILE
        writer = gguf.GGUFWriter(path, "llama")
        _add_metadata(writer, model, encoding, rotation, dtype)
        tokens = _add_tokenizer(writer, tokenizer, model.config)
        for name, tensor in _tensors(model, rotation, dtype):
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
        for _, tensor in _tensors(model, rotation, dtype):  # made anew, so that one at a time is in memory
            writer.write_tensor_data(_bytes(tensor))
        writer.close()
        count = _compare_with_file(path, model, rotation, spectrum, dtype)
        said = "rope.freq_base" if rotation.factors is None else "rope.freq_base and rope_freqs.weight"
        return str(encoding), f"read back: {count} tensors, and the frequencies in {said}", tokens

    return write


def _gguf() -> Any:
    require("GGUF", "gguf")
    import gguf

    return gguf


def _refuse_others(model: Any) -> None:
    """Raises ValueError for all but a LlamaForCausalLM as llama.cpp runs it."""
    name = type(model).__name__
    if name != "LlamaForCausalLM":
        raise ValueError(
            f"whorl writes GGUF for LlamaForCausalLM and got a {name}; for another family use --format hf and "
            "llama.cpp's convert_hf_to_gguf.py, which knows what that family's settings can say"
        )
    if model.config.hidden_act != "silu":
        raise ValueError(
            f"llama.cpp's llama has silu in its feed-forward, and this model has {model.config.hidden_act}"
        )
    if model.config.rms_norm_eps <= 0:
        raise ValueError(f"llama.cpp needs rms_norm_eps above 0, got {model.config.rms_norm_eps}")
    whole = {p.dtype for p in model.parameters() if not p.is_floating_point()}
    if whole or getattr(model, "is_quantized", False):
        raise ValueError("this model's weights are quantized; export the model that they were made from")
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("this model has weights that are not in memory (device_map offload); load it whole")


def _one_spectrum(model: Any, encoding: Encoding) -> Spectrum:
    """The one spectrum of all layers, or ValueError: llama.cpp's llama has one, and no other seam for positions."""
    host = open_host(model)
    where = "llama.cpp's llama architecture"
    for index, layer_type in enumerate(host.layer_types):
        one = encoding.for_layer(index, layer_type)
        for part in one.parts if isinstance(one, Sum) else (one,):
            if getattr(part, "length_dependent", False):
                raise ValueError(
                    f"the frequencies of {part} depend on the length of the context, and {where} has one list"
                )
    plan = layer_plan(host, encoding)
    if plan.add is not None:
        raise ValueError(f"{encoding} adds to the embedding, and {where} turns q and k and does nothing else")
    if any(seam.biases for seam in plan.layers):
        raise ValueError(
            f"{encoding} adds a bias to attention logits (a window is one), for which {where} has no place"
        )
    spectra = {seam.spectrum for seam in plan.layers}
    if len(spectra) > 1:
        raise ValueError(f"{encoding} has layers with {len(spectra)} spectra, and {where} has one rope_freqs for all")
    return spectra.pop()


def _in_llama_cpp_terms(model: Any, encoding: Encoding) -> _Rotation:
    spectrum = _one_spectrum(model, encoding)
    head_dim, width = spectrum.head_dim, spectrum.width
    assert head_dim == head_dim_of(model.config, open_host(model).attentions[0])
    if spectrum.amplitude != 1 and width < head_dim:
        raise ValueError(
            f"{encoding} scales {width} of {head_dim} channels by {spectrum.amplitude:g}; rope.scaling.attn_factor "
            "scales whole heads"
        )
    base = float(np.float32(_base(model, encoding)))  # as the file keeps it
    frequencies = spectrum.frequencies + (0.0,) * ((head_dim - width) // 2)
    factors = np.array(
        [
            min(own / f, STILL) if f > 0 else STILL
            for own, f in zip(rope_frequencies(base, head_dim), frequencies, strict=True)
        ],
        dtype=np.float32,
    )
    plain = bool(np.all(np.abs(factors - 1) <= 2**-23))  # a base that float32 cannot hold gives such
    return _Rotation(base, None if plain else factors, spectrum.amplitude, width or head_dim)


def _base(model: Any, encoding: Encoding) -> float:
    """The base that the file names; the factors say the rest, so any would do."""
    for place in (encoding, getattr(encoding, "inner", None)):
        base = getattr(place, "base", None)
        if isinstance(base, int | float):
            return float(base)
    return float(rope_parameters(model.config).get("rope_theta") or 10000.0)


def _add_metadata(writer: Any, model: Any, encoding: Encoding, rotation: _Rotation, dtype: str) -> None:
    """The keys of llama.cpp's convert_hf_to_gguf for llama, and the encoding's notation under a key of whorl's."""
    gguf, config = _gguf(), model.config
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
    writer.add_string("whorl.encoding", str(encoding))


@torch.no_grad()
def _tensors(model: Any, rotation: _Rotation, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the file by its GGUF name, on the CPU, in the file's layout and dtype."""
    gguf, config = _gguf(), model.config
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


def _compare_with_file(path: Path, model: Any, rotation: _Rotation, spectrum: Spectrum, dtype: str) -> int:
    """Reads the file back. Raises ValueError where it does not say what the model does; the count of its tensors."""
    reader = _gguf().GGUFReader(path)
    written = {t.name: t for t in reader.tensors}
    wanted = dict.fromkeys(written)
    for name, tensor in _tensors(model, rotation, dtype):
        if name not in wanted or not torch.equal(_tensor(written[name]), tensor):
            raise ValueError(f"{name} in the GGUF is not what was written; nothing was kept")
        del wanted[name]
    config, frequencies = _settings(reader)
    own = spectrum.frequencies + (0.0,) * (len(frequencies) - len(spectrum.frequencies))
    same = all(abs(a - b) <= 2**-22 * b for a, b in zip(frequencies, own, strict=True))
    if wanted or not same or not math.isclose(config["attention_factor"], spectrum.amplitude, rel_tol=2**-23):
        raise ValueError(
            f"the GGUF says other frequencies than the model has: {frequencies}, and {own}; nothing was kept"
        )
    return len(written)


class GGUFLlama(NamedTuple):
    """A GGUF of the llama architecture. See `read_gguf_llama`."""

    config: dict[str, Any]
    frequencies: tuple[float, ...]
    weights: dict[str, torch.Tensor]


def read_gguf_llama(path: str | Path) -> GGUFLlama:
    """What an exported GGUF says: a config, one frequency per pair (radians per token), and weights in half layout.

    config: the arguments of a LlamaConfig, but for its rotation; `attention_factor`, which multiplies cos and sin;
    `encoding`, in whorl's notation; `tokenizer`, the kind of it. Weights go by transformers' names, in the file's
    dtype. The channels of heads that turn in part come back in another order than they had, and give the same logits.

    Raises ValueError for another architecture, for quantized weights and for scalings that `export` does not write.
    """
    path = Path(check_path("path", path, "the path of a GGUF file"))
    if not path.is_file():
        raise ValueError(f"there is no file {path}; whorl export --format gguf writes one")
    reader = _gguf().GGUFReader(path)
    config, frequencies = _settings(reader)
    gguf = _gguf()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"]).mapping
    # Several families' names lead to one tensor; Llama's are those below "model." and lm_head.
    back = {v[1]: k for k, v in names.items() if k == "lm_head" or (k.startswith("model.") and _is_llamas(k))}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        stem, _, kind = tensor.name.rpartition(".")
        name, value = back[stem], _tensor(tensor)
        module = name.rpartition(".")[2]
        if module in heads:
            value = permute_layout(value, heads[module], config["head_dim"], to="half")
        weights[f"{name}.{kind}"] = value
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    return GGUFLlama(config, frequencies, weights)


LAYER = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def _is_llamas(name: str) -> bool:
    parts = name.split(".", 3)
    return name in ("model.embed_tokens", "model.norm") or (
        len(parts) == 4 and parts[1] == "layers" and parts[3] in LAYER
    )


def _settings(reader: Any) -> tuple[dict[str, Any], tuple[float, ...]]:
    said = {key: field.contents() for key, field in reader.fields.items()}
    if said.get("general.architecture") != "llama":
        raise ValueError(f"this GGUF is of the architecture {said.get('general.architecture')!r}; llama alone is read")
    scaling = sorted(k for k in said if k.startswith("llama.rope.scaling.") and not k.endswith(".attn_factor"))
    if scaling or said["llama.rope.dimension_count"] != said["llama.attention.key_length"]:
        raise ValueError(f"this GGUF has rotary settings that whorl does not write: {scaling or 'a partial width'}")
    head_dim = said["llama.rope.dimension_count"]
    factors = np.ones(head_dim // 2)
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            factors = tensor.data.astype(np.float64)
    own = rope_frequencies(said["llama.rope.freq_base"], head_dim)
    frequencies = tuple(0.0 if x >= 0.999 * STILL else f / float(x) for f, x in zip(own, factors, strict=True))
    config = {
        "vocab_size": said["llama.vocab_size"],
        "hidden_size": said["llama.embedding_length"],
        "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"],
        "num_attention_heads": said["llama.attention.head_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "head_dim": said["llama.attention.key_length"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": said["llama.attention.layer_norm_rms_epsilon"],
        "attention_bias": any(t.name.endswith("attn_q.bias") for t in reader.tensors),
        "mlp_bias": any(t.name.endswith("ffn_up.bias") for t in reader.tensors),
        "attention_factor": said.get("llama.rope.scaling.attn_factor", 1.0),
        "encoding": said.get("whorl.encoding"),
        "tokenizer": said.get("tokenizer.ggml.model"),
    }
    return config, frequencies


def _tensor(tensor: Any) -> torch.Tensor:
    """A tensor of a GGUFReader, whose shape it says innermost first."""
    kinds = _gguf().GGMLQuantizationType
    if tensor.tensor_type not in (kinds.F32, kinds.F16, kinds.BF16):
        raise ValueError(f"{tensor.name} is quantized ({tensor.tensor_type.name}); whorl reads f32, f16 and bf16")
    value = torch.from_numpy(np.array(tensor.data))
    if tensor.tensor_type == kinds.BF16:
        value = value.view(torch.bfloat16)
    return value.reshape(tuple(int(n) for n in reversed(tensor.shape)))


# Tokenizers.


def _add_tokenizer(writer: Any, tokenizer: Any, config: Any) -> str:
    """Writes the tokenizer, or the kind "none" and the reason. Returns words for a person."""
    if tokenizer is None:
        why = "none given"
    else:
        with tempfile.TemporaryDirectory(prefix="whorl-tokenizer-") as folder:
            tokenizer.save_pretrained(folder)
            ids = {f"{t}_token_id": getattr(config, f"{t}_token_id", None) for t in ("bos", "eos", "pad")}
            first = {k: v[0] if isinstance(v, list) else v for k, v in ids.items()}
            (Path(folder) / "config.json").write_text(json.dumps(first))
            try:
                return _write_tokenizer(writer, tokenizer, Path(folder), config.vocab_size)
            except ValueError as error:
                why = str(error)
        log.warning("the GGUF has no tokenizer: %s", why)
    writer.add_tokenizer_model("none")
    writer.add_string("whorl.no_tokenizer", why)
    return f"not written: {why}" if tokenizer is not None else why


def _write_tokenizer(writer: Any, tokenizer: Any, folder: Path, vocab_size: int) -> str:
    """Byte-level BPE whose pre-tokenizer llama.cpp has by name, or SentencePiece's BPE; ValueError for others.

    All that may fail comes before the first key is written.
    """
    gguf = _gguf()
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{type(tokenizer).__name__} writes no tokenizer.json")
    described = json.loads(path.read_text(encoding="utf-8"))
    model = described["model"]
    if model["type"] != "BPE":
        raise ValueError(f"its model is {model['type']}, and whorl writes BPE alone")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ValueError(f"it has the token id {largest}, and the model {vocab_size} embeddings")
    if model.get("byte_fallback"):
        pre, rows = None, _sentencepiece_rows(folder, described)
    else:
        pre, rows = _pre_tokenizer(described), _byte_level_rows(tokenizer)
    names, scores, kinds = (list(column) for column in zip(*rows, strict=True))
    for i in range(len(names), vocab_size):
        names.append(f"[PAD{i}]".encode())
        scores.append(-1e9)
        kinds.append(gguf.TokenType.UNUSED)
    special = gguf.SpecialVocab(folder, load_merges=pre is not None, n_vocab=vocab_size)
    probe = tokenizer("a")["input_ids"]
    special.add_special_token = {
        "bos": bool(probe) and probe[0] == tokenizer.bos_token_id,
        "eos": bool(probe) and probe[-1] == tokenizer.eos_token_id,
    }
    writer.add_tokenizer_model("gpt2" if pre else "llama")
    writer.add_tokenizer_pre(pre or "default")
    writer.add_token_list(names)
    if pre is None:
        writer.add_token_scores(scores)
        first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0]
        writer.add_add_space_prefix(first.startswith("▁"))
    writer.add_token_types(kinds)
    special.add_to_gguf(writer, quiet=True)
    return f"byte-level BPE, pre-tokenizer {pre}" if pre else "SentencePiece's BPE"


def _pre_tokenizer(described: dict[str, Any]) -> str:
    """llama.cpp's name for how text is split before the merges. Raises ValueError for what it does otherwise."""
    whole = described.get("pre_tokenizer") or {"type": "none at all"}
    steps = whole["pretokenizers"] if whole["type"] == "Sequence" else [whole]
    kinds = [step["type"] for step in steps]
    if kinds[-1] != "ByteLevel":
        raise ValueError(f"it is a BPE of characters without byte fallback (pre-tokenizer: {', '.join(kinds)})")
    if described.get("normalizer") is not None:
        raise ValueError(f"it normalizes text ({described['normalizer']['type']}), and llama.cpp's BPE does not")
    if steps[-1]["add_prefix_space"]:
        raise ValueError("it puts a space before the text, and llama.cpp's BPE does not")
    regex, whole_words = steps[-1].get("use_regex", True), bool(described["model"].get("ignore_merges"))
    if kinds == ["ByteLevel"] and regex and not whole_words:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and regex and not whole_words:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not regex and whole_words:
        split = steps[0]
        if (split["pattern"].get("Regex"), split["behavior"], split["invert"]) == (LLAMA_3, "Isolated", False):
            return "llama-bpe"
    raise ValueError(f"whorl has no llama.cpp name for its pre-tokenizer ({', '.join(kinds)})")


def _byte_level_rows(tokenizer: Any) -> list[tuple[bytes, float, int]]:
    """Text, score and kind of every id up to the largest, as convert_hf_to_gguf's gpt2 vocabularies have them."""
    kinds, added = _gguf().TokenType, tokenizer.added_tokens_decoder
    by_id = {i: text for text, i in tokenizer.get_vocab().items()}
    rows: list[tuple[bytes, float, int]] = []
    for i in range(max(by_id) + 1):
        kind = kinds.NORMAL
        if i not in by_id:
            kind = kinds.UNUSED
        elif i in added:
            text = by_id[i]
            control = added[i].special or (text.startswith("<|") and text.endswith("|>"))
            kind = kinds.CONTROL if control else kinds.USER_DEFINED
        rows.append((by_id.get(i, f"[PAD{i}]").encode(), 0.0, kind))
    return rows


def _sentencepiece_rows(folder: Path, described: dict[str, Any]) -> list[tuple[bytes, float, int]]:
    """From the gguf package's helper, but for the scores, for which it has a placeholder.

    llama.cpp merges the pair of the best score first, so a token's score is minus the rank of its merge.
    """
    try:
        rows = [(bytes(t), float(s), int(k)) for t, s, k in _gguf().LlamaHfVocab(folder).all_tokens()]
    except (FileNotFoundError, TypeError) as error:
        raise ValueError(f"it is no SentencePiece BPE that the gguf package knows: {error}") from error
    rank: dict[bytes, int] = {}
    for i, merge in enumerate(described["model"]["merges"]):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge).encode(), i)
    return [(text, -float(rank[text]) if text in rank else -1e9, kind) for text, _, kind in rows]
