"""GGUF files for llama.cpp, by what comes out when they are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import whorl
from whorl.gguf_files.positions import STILL
from whorl.gguf_files.tensors import read_tensor
from whorl.outputs import MARKER
from whorl.runtimes import gguf as runtime
from whorl.runtimes.exporting import export
from whorl.runtimes.gguf import GGUF_FILE
from whorl.runtimes.gguf_reading import read_gguf
from whorl.testing import logits_and_budget, max_error, tiny_model

from .exports import TOKENS, llama, names
from .llama_cpp import as_llama_cpp

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

SCALED = "rope~yarn:factor=4,original=16"
ENCODINGS = {
    "stock": None,
    "rope": "rope:base=5e5",
    "hope": "hope:train_length=40",
    "p-rope": "p-rope:p=0.5",
    "partial": "partial-rope:fraction=0.5",
    "nope": "nope",
    "frequencies": "frequencies:values=0.9@0@0.3@0.01@0@0.7@0.2@0.05",
    "few frequencies": "frequencies:values=0.9@0.3@0.01",
    "amplitude": "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=1.25",
    "yarn": SCALED,
    "hope and yarn": "hope:train_length=40~yarn:factor=4",
}


def in_place(model: Any) -> tuple[float, ...]:
    """The frequencies of every pair of a head, from the encoding."""
    spectrum = whorl.encoding_of(model).spectrum(16) or whorl.encodings.Spectrum((), 16)
    return spectrum.frequencies + (0.0,) * (8 - len(spectrum.frequencies))


def rebuilt(path: Path) -> Any:
    """A LlamaForCausalLM of what `read_gguf` gives, with its frequencies attached."""
    config, (frequencies, *_), weights = read_gguf(path)
    amplitude = config.pop("attention_factor")
    config = {k: v for k, v in config.items() if k not in ("architecture", "encoding", "tokenizer")}
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    assert not unexpected
    return whorl.attach(model, whorl.Frequencies(frequencies, amplitude))


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_gguf_has_the_models_frequencies_weights_and_logits(name: str, tmp_path: Path) -> None:
    model = llama(ENCODINGS[name])
    done = export(model, tmp_path / "out", runtime="gguf")
    assert names(tmp_path) == ["out", f"out/{MARKER}", f"out/{GGUF_FILE}"]
    path = done.path / GGUF_FILE
    config, by_layer, weights = read_gguf(path)
    frequencies = by_layer[0]
    assert by_layer == (frequencies,) * 3

    wanted = in_place(model)
    assert [f == 0 for f in frequencies] == [f == 0 for f in wanted]
    assert all(abs(a - b) <= 2**-23 * b for a, b in zip(frequencies, wanted, strict=True))
    if name in ("stock", "rope"):
        assert frequencies == wanted
    spectrum = whorl.encoding_of(model).spectrum(16)
    assert config["attention_factor"] == pytest.approx(1.0 if spectrum is None else spectrum.amplitude, rel=2**-23)
    assert config["encoding"] == str(whorl.encoding_of(model))
    own = {k: v for k, v in model.state_dict().items() if "whorl" not in k}
    assert weights.keys() == own.keys()
    in_part = name in ("partial", "few frequencies")
    for key, value in weights.items():
        if not (in_part and ("q_proj" in key or "k_proj" in key)):
            assert torch.equal(value, own[key]), key

    again = rebuilt(path)
    logits, budget = logits_and_budget(again, TOKENS)
    assert max_error(as_llama_cpp(path, TOKENS), logits) < budget, "the file alone, in llama.cpp's layout"
    # What float32 factors round away, in float64; nothing where the factors are 1 and 1e30.
    rounded = max_error(again.double()(TOKENS).logits, model.double()(TOKENS).logits)
    if name in ("rope", "hope", "p-rope", "nope"):  # the stock model's own are float32 always
        assert rounded < 1e-12
    assert rounded < budget
    other = whorl.attach(model, "rope:base=3").double()(TOKENS).logits if name != "rope" else torch.zeros(1)
    assert max_error(other, logits) > 100 * budget, "a fault in the frequencies would be seen"


@torch.no_grad()
def test_the_wrong_layout_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama("hope:train_length=40")
    logits, budget = logits_and_budget(model, TOKENS)
    monkeypatch.setattr(runtime, "reorder_heads", lambda weight, *_: weight)
    export(model, tmp_path / "halves", runtime="gguf")
    assert max_error(as_llama_cpp(tmp_path / "halves" / GGUF_FILE, TOKENS), logits) > 100 * budget


@torch.no_grad()
@pytest.mark.parametrize(
    "sizes",
    [
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "head_dim": 24},
        {"attention_bias": True, "mlp_bias": True},
    ],
    ids=str,
)
def test_tied_grouped_wide_and_biased_models(sizes: dict[str, Any], tmp_path: Path) -> None:
    model = llama("p-rope:p=0.5", **sizes)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    logits, budget = logits_and_budget(model, TOKENS)
    path = export(model, tmp_path / "out", runtime="gguf").path / GGUF_FILE
    assert max_error(as_llama_cpp(path, TOKENS), logits) < budget
    assert max_error(rebuilt(path)(TOKENS).logits, logits) < budget
    tensors = {t.name for t in gguf.GGUFReader(path).tensors}
    assert ("output.weight" in tensors) == (not sizes.get("tie_word_embeddings", False))
    assert ("blk.0.attn_k.bias" in tensors) == sizes.get("attention_bias", False)


def test_metadata_and_names_are_llama_cpps(tmp_path: Path) -> None:
    model = llama("hope:train_length=40", tie_word_embeddings=True)
    reader = gguf.GGUFReader(export(model, tmp_path / "out", runtime="gguf").path / GGUF_FILE)
    said = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert said.pop("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert said == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "llama.block_count": 3,
        "llama.context_length": 64,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.vocab_size": 97,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "none",
        "whorl.no_tokenizer": "none given",
        "whorl.encoding": "hope:train_length=40,base=10000",
    }
    shapes = {t.name: tuple(int(n) for n in reversed(t.shape)) for t in reader.tensors}
    layer = {
        "attn_norm": (64,), "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
        "ffn_norm": (64,), "ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96),
    }  # fmt: skip
    assert shapes == {
        "token_embd.weight": (97, 64),
        "output_norm.weight": (64,),
        "rope_freqs.weight": (8,),
        **{f"blk.{i}.{name}.weight": shape for i in range(3) for name, shape in layer.items()},
    }
    factors = next(t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    assert factors.dtype == np.float32
    assert factors.tolist() == [1.0] * 2 + [float(np.float32(STILL))] * 6, "as llama.cpp's Gemma 4: [1, ..., 1e30, ...]"


def test_a_pair_that_stands_still_does_so_in_float32_at_any_context() -> None:
    position, x, y = np.float32(2**31), np.float32(1e-3), np.float32(1e3)
    angle = position * np.float32(1) / np.float32(STILL)
    assert x * np.cos(angle) - y * np.sin(angle) == x


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_matrices_in_half_precision(dtype: str, tmp_path: Path) -> None:
    model = llama("hope:train_length=40")
    path = export(model, tmp_path / "out", runtime="gguf", dtype=dtype).path / GGUF_FILE
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds["blk.1.ffn_down.weight"] == kinds["token_embd.weight"] == dtype.upper()
    assert kinds["rope_freqs.weight"] == kinds["blk.1.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    for key, value in read_gguf(path).weights.items():
        own = model.state_dict()[key]
        assert torch.equal(value, own.to(runtime.DTYPES[dtype]) if own.dim() > 1 else own), key
    model.model.embed_tokens.weight[3, 3] = 1e5
    if dtype == "f16":
        with pytest.raises(ValueError, match="past f16's range, up to 1e\\+05; try bf16"):
            export(model, tmp_path / "large", runtime="gguf", dtype=dtype)
    else:
        export(model, tmp_path / "large", runtime="gguf", dtype=dtype)


def test_llama_3s_scaling_gives_the_factors_of_convert_hf_to_gguf(tmp_path: Path) -> None:
    """The formula of llama.cpp's LlamaModel.generate_extra_tensors."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = llama(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    path = export(model, tmp_path / "out", runtime="gguf").path / GGUF_FILE
    factors = next(t.data for t in gguf.GGUFReader(path).tensors if t.name == "rope_freqs.weight")
    wanted = []
    for i in range(8):
        wavelength = 2 * math.pi * 5e5 ** (2 * i / 16)
        smooth = (64 / wavelength - 1) / 3
        between = 1 / ((1 - smooth) / 8 + smooth)
        wanted.append(1.0 if wavelength < 16 else 8.0 if wavelength > 64 else between)
    assert 1 < wanted[1] < 8
    # The stock module's frequencies are float32, with a few roundings of their own.
    assert factors.tolist() == pytest.approx(wanted, rel=1e-6)
    assert read_gguf(path).config["encoding"].startswith("frequencies:")


@pytest.mark.parametrize(
    ("family", "encoding", "why"),
    [
        ("gpt_neox", None, "Gemma3ForCausalLM, and got a GPTNeoXForCausalLM"),
        ("mistral", None, "Gemma3ForCausalLM, and got a MistralForCausalLM"),
        ("llama", "alibi", "adds a bias to attention logits"),
        ("llama", "t5", "adds a bias to attention logits"),
        ("llama", "rope+window:size=8", r"a bias to attention logits \(a window is one\)"),
        ("llama", "sinusoidal", "adds to the embedding"),
        ("llama", "learned:max_positions=50", "adds to the embedding"),
        ("llama", "rope/nope", "layers with 2 spectra"),
        ("llama", "frequencies:values=1@0.1,amplitude=1.5", "scales 4 of 16 channels by 1.5"),
    ],
)
def test_what_llama_cpps_llama_cannot_say_is_refused(family: str, encoding: str | None, why: str, tmp_path) -> None:
    model = tiny_model(family)
    if encoding is not None:
        whorl.attach(model, encoding)
    with pytest.raises(ValueError, match=why):
        export(model, tmp_path / "out", runtime="gguf")
    assert names(tmp_path) == []


def test_other_settings_that_are_refused(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ValueError, match="depend on the length of the context, and llama.cpp"):
        export(llama(rope_parameters=dynamic), tmp_path / "out", runtime="gguf")
    with pytest.raises(ValueError, match="architecture has hidden_act=silu, and this model gelu"):
        export(llama(hidden_act="gelu"), tmp_path / "out", runtime="gguf")
    assert names(tmp_path) == []


def test_a_gguf_that_is_not_what_the_model_says_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that drops the factors (llama.cpp would run RoPE), and one that spoils a weight."""
    tensors = runtime._tensors
    said = []

    def without_factors(*args: Any) -> Any:
        said.append(args)
        return (item for item in tensors(*args) if item[0] != "rope_freqs.weight")

    with monkeypatch.context() as patch:
        patch.setattr(runtime, "_tensors", without_factors)
        with pytest.raises(ValueError, match=r"llama.cpp is another model: .*rope_freqs.weight.* differ by inf"):
            export(llama("hope:train_length=40"), tmp_path / "out", runtime="gguf")
    assert len(said) == 3
    data = runtime._bytes
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "_bytes", lambda t: data(t if t.shape != (32, 64) else t + 1))
        with pytest.raises(ValueError, match="blk.0.attn_k.weight in the GGUF is not what was written"):
            export(llama(), tmp_path / "out", runtime="gguf")
    with monkeypatch.context() as patch:  # equal values in a wider dtype are not what was written
        patch.setattr(runtime, "read_tensor", lambda *args: read_tensor(*args).double())
        with pytest.raises(ValueError, match="token_embd.weight in the GGUF is not what was written"):
            export(llama(), tmp_path / "out", runtime="gguf")
    assert names(tmp_path) == []


def test_other_ggufs_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="architecture 'gpt2'; of GGUF files, llama, qwen2"):
        read_gguf(tmp_path / "other.gguf")
