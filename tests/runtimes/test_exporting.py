"""Exports: directories for stock transformers and GGUF files for llama.cpp, by what comes out when they are read."""

from __future__ import annotations

import copy
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import rms_norm, silu, softmax
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import whorl
from whorl.attaching import attached
from whorl.outputs import MARKER
from whorl.runtimes import exporting
from whorl.runtimes.exporting import GGUF_FILE, STILL, export, permute_layout, read_gguf_llama
from whorl.testing import logits_and_budget, max_error, tiny_model

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

TOKENS = torch.arange(2 * 44).reshape(2, 44) * 31 % 97
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


def llama(encoding: str | None = None, **sizes: Any) -> Any:
    model = tiny_model("llama", **sizes)
    return model if encoding is None else whorl.attach(model, encoding)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def in_place(model: Any) -> tuple[float, ...]:
    """The frequencies of every pair of a head, from the encoding."""
    spectrum = whorl.encoding_of(model).spectrum(16) or whorl.encodings.Spectrum((), 16)
    return spectrum.frequencies + (0.0,) * (8 - len(spectrum.frequencies))


@torch.no_grad()
def as_llama_cpp(path: Path, tokens: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits from a GGUF alone, by llama.cpp's graph for llama (src/models/llama.cpp, rope type NORM)."""
    reader = gguf.GGUFReader(path)
    said = {k: f.contents() for k, f in reader.fields.items()}
    weight = {
        t.name: (
            torch.from_numpy(np.array(t.data)).view(torch.bfloat16)
            if t.tensor_type.name == "BF16"
            else torch.from_numpy(np.array(t.data))
        ).to(dtype)
        for t in reader.tensors
    }
    heads, groups = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    n_rot, eps = said["llama.rope.dimension_count"], said["llama.attention.layer_norm_rms_epsilon"]
    factors = weight.get("rope_freqs.weight", torch.ones(n_rot // 2)).double()
    theta = said["llama.rope.freq_base"] ** (-torch.arange(0, n_rot, 2, dtype=torch.float64) / n_rot) / factors
    angles = torch.arange(tokens.shape[1])[:, None] * theta
    mscale = said.get("llama.rope.scaling.attn_factor", 1.0)
    cos, sin = (angles.cos() * mscale).to(dtype), (angles.sin() * mscale).to(dtype)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        y = x @ weight[f"{name}.weight"].T
        return y + weight[f"{name}.bias"] if f"{name}.bias" in weight else y

    def turned(x: torch.Tensor, count: int) -> torch.Tensor:  # neighbours, [batch, heads, tokens, head_dim]
        x = x.unflatten(-1, (count, -1)).transpose(1, 2)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    x = weight["token_embd.weight"][tokens]
    hidden = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for i in range(said["llama.block_count"]):
        blk = f"blk.{i}"
        h = rms_norm(x, x.shape[-1:], weight[f"{blk}.attn_norm.weight"], eps)
        q, k = turned(linear(h, f"{blk}.attn_q"), heads), turned(linear(h, f"{blk}.attn_k"), groups)
        v = linear(h, f"{blk}.attn_v").unflatten(-1, (groups, -1)).transpose(1, 2)
        k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (k, v))
        scores = (q @ k.mT / math.sqrt(n_rot)).masked_fill(hidden, -torch.inf)
        x = x + linear((softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2), f"{blk}.attn_output")
        h = rms_norm(x, x.shape[-1:], weight[f"{blk}.ffn_norm.weight"], eps)
        x = x + linear(silu(linear(h, f"{blk}.ffn_gate")) * linear(h, f"{blk}.ffn_up"), f"{blk}.ffn_down")
    x = rms_norm(x, x.shape[-1:], weight["output_norm.weight"], eps)
    return x @ weight.get("output.weight", weight["token_embd.weight"]).T


def rebuilt(path: Path) -> Any:
    """A LlamaForCausalLM of what `read_gguf_llama` gives, with its frequencies attached."""
    config, frequencies, weights = read_gguf_llama(path)
    amplitude = config.pop("attention_factor")
    config = {k: v for k, v in config.items() if k not in ("encoding", "tokenizer")}
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    assert not unexpected
    return whorl.attach(model, whorl.Frequencies(frequencies, amplitude))


# The layout.


@pytest.mark.parametrize(("heads", "head_dim", "width"), [(1, 6, 6), (3, 16, 16), (2, 10, 4), (2, 6, 0), (5, 2, 2)])
def test_permutation_is_undone_and_is_llama_cpps(heads: int, head_dim: int, width: int) -> None:
    for shape in ((heads * head_dim, 7), (heads * head_dim,)):
        weight = torch.randn(shape)
        there = permute_layout(weight, heads, width, to="interleaved")
        assert torch.equal(permute_layout(there, heads, width, to="half"), weight)
        if width == head_dim:  # LlamaModel.permute of llama.cpp's conversion/llama.py
            theirs = weight.reshape(heads, 2, head_dim // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
            assert torch.equal(there, theirs)
    drawn = permute_layout(torch.arange(heads * head_dim), heads, width, to="interleaved").view(heads, head_dim)
    for head in range(heads):
        own = head * head_dim + torch.arange(head_dim)
        assert torch.equal(drawn[head, width:], own[width:])
        assert torch.equal(drawn[head, 0:width:2], own[: width // 2])
        assert torch.equal(drawn[head, 1:width:2], own[width // 2 : width])


@pytest.mark.parametrize(
    ("rows", "heads", "width", "to"),
    [(10, 3, 2, "half"), (8, 2, 3, "half"), (8, 2, 6, "half"), (8, 0, 4, "half"), (8, 2, 4, "neighbours")],
)
def test_permutation_refuses_what_does_not_fit(rows: int, heads: int, width: int, to: str) -> None:
    with pytest.raises(ValueError, match="channels in pairs|must be one of"):
        permute_layout(torch.zeros(rows, 2), heads, width, to)


# GGUF.


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODINGS)
def test_a_gguf_has_the_models_frequencies_weights_and_logits(name: str, tmp_path: Path) -> None:
    model = llama(ENCODINGS[name])
    done = export(model, tmp_path / "out", format="gguf")
    assert names(tmp_path) == ["out", f"out/{MARKER}", f"out/{GGUF_FILE}"]
    path = done.path / GGUF_FILE
    config, frequencies, weights = read_gguf_llama(path)

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
    monkeypatch.setattr(exporting, "permute_layout", lambda weight, *_, **__: weight)
    export(model, tmp_path / "halves", format="gguf")
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
    path = export(model, tmp_path / "out", format="gguf").path / GGUF_FILE
    assert max_error(as_llama_cpp(path, TOKENS), logits) < budget
    assert max_error(rebuilt(path)(TOKENS).logits, logits) < budget
    tensors = {t.name for t in gguf.GGUFReader(path).tensors}
    assert ("output.weight" in tensors) == (not sizes.get("tie_word_embeddings", False))
    assert ("blk.0.attn_k.bias" in tensors) == sizes.get("attention_bias", False)


def test_metadata_and_names_are_llama_cpps(tmp_path: Path) -> None:
    model = llama("hope:train_length=40", tie_word_embeddings=True)
    reader = gguf.GGUFReader(export(model, tmp_path / "out", format="gguf").path / GGUF_FILE)
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
    path = export(model, tmp_path / "out", format="gguf", dtype=dtype).path / GGUF_FILE
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds["blk.1.ffn_down.weight"] == kinds["token_embd.weight"] == dtype.upper()
    assert kinds["rope_freqs.weight"] == kinds["blk.1.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    for key, value in read_gguf_llama(path).weights.items():
        own = model.state_dict()[key]
        assert torch.equal(value, own.to(exporting.DTYPES[dtype]) if own.dim() > 1 else own), key
    model.model.embed_tokens.weight[3, 3] = 1e5
    if dtype == "f16":
        with pytest.raises(ValueError, match="past f16's range, up to 1e\\+05; try bf16"):
            export(model, tmp_path / "large", format="gguf", dtype=dtype)
    else:
        export(model, tmp_path / "large", format="gguf", dtype=dtype)


def test_llama_3s_scaling_gives_the_factors_of_convert_hf_to_gguf(tmp_path: Path) -> None:
    """The formula of llama.cpp's LlamaModel.generate_extra_tensors."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    model = llama(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    path = export(model, tmp_path / "out", format="gguf").path / GGUF_FILE
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
    assert read_gguf_llama(path).config["encoding"].startswith("frequencies:")


@pytest.mark.parametrize(
    ("family", "encoding", "why"),
    [
        ("gpt_neox", None, "LlamaForCausalLM and got a GPTNeoXForCausalLM"),
        ("mistral", None, "LlamaForCausalLM and got a MistralForCausalLM"),
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
        export(model, tmp_path / "out", format="gguf")
    assert names(tmp_path) == []


def test_what_stock_makes_of_a_blend_in_float32_is_no_other_model(tmp_path) -> None:
    """Llama 3's band over 24 tokens: stock's frequencies are right to float32, and the logits further off than matrix
    products in float32 explain."""
    model = whorl.attach(tiny_model("qwen3"), "rope~llama3:factor=32,original=24")
    assert "loaded by stock transformers" in export(model, tmp_path / "a", format="hf").checked
    settings = json.loads((tmp_path / "a" / "config.json").read_text())["rope_parameters"]
    assert settings["rope_type"] == "llama3"


def test_other_settings_that_are_refused(tmp_path: Path) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ValueError, match="depend on the length of the context, and llama.cpp"):
        export(llama(rope_parameters=dynamic), tmp_path / "out", format="gguf")
    with pytest.raises(ValueError, match="has silu in its feed-forward, and this model has gelu"):
        export(llama(hidden_act="gelu"), tmp_path / "out", format="gguf")
    for how, why in (
        ({"format": "onnx"}, "format must be one of hf, gguf, got 'onnx'"),
        ({"dtype": "f16"}, "dtype='f16' is of GGUF files"),
        ({"format": "gguf", "dtype": "q4_0"}, "dtype must be one of f32, f16, bf16, got 'q4_0'"),
    ):
        with pytest.raises(ValueError, match=why):
            export(llama(), tmp_path / "out", **how)
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge_and_unload"):
        export(adapted, tmp_path / "out")
    assert names(tmp_path) == []


def test_a_gguf_that_is_not_what_the_model_says_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that drops the factors (llama.cpp would run RoPE), and one that spoils a weight."""
    tensors = exporting._tensors
    said = []

    def without_factors(*args: Any) -> Any:
        said.append(args)
        return (item for item in tensors(*args) if item[0] != "rope_freqs.weight")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_tensors", without_factors)
        with pytest.raises(ValueError, match="says other frequencies"):
            export(llama("hope:train_length=40"), tmp_path / "out", format="gguf")
    assert len(said) == 3
    data = exporting._bytes
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_bytes", lambda t: data(t if t.shape != (32, 64) else t + 1))
        with pytest.raises(ValueError, match="blk.0.attn_k.weight in the GGUF is not what was written"):
            export(llama(), tmp_path / "out", format="gguf")
    assert names(tmp_path) == []


def test_other_ggufs_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gpt2")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="architecture 'gpt2'; llama alone"):
        read_gguf_llama(tmp_path / "other.gguf")


# Tokenizers.

TEXT = "It's 1984 — the quick brown fox, 12345 times;  doesn't jump\n\nover the lazy dogs' naïve café 🦙! <s>"


def trained(kind: str, vocab_size: int = 400) -> Any:
    """A small BPE over bytes, split as GPT-2's, SmolLM's or Llama 3's, or with byte fallback, as SentencePiece's."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = [Path(__file__).read_text(encoding="utf-8")]
    special = ["<|endoftext|>"]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "llama-bpe")
    if kind == "sentencepiece":
        special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        text = text[0].split("\n")
    else:
        tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
        tokenizer.decoder = decoders.ByteLevel()
        before = {
            "gpt-2": [],
            "smollm": [pre_tokenizers.Digits(individual_digits=True)],
            "llama-bpe": [pre_tokenizers.Split(Regex(exporting.LLAMA_3), "isolated")],
        }[kind]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level]) if before else byte_level
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind != "sentencepiece" else []
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    if kind == "sentencepiece":  # bytes are pieces of the vocabulary, and not special
        described = json.loads(tokenizer.to_str())
        described["added_tokens"] = described["added_tokens"][:3]
        tokenizer = Tokenizer.from_str(json.dumps(described))
    first, last = (special[0], special[0]) if len(special) == 1 else ("<s>", "</s>")
    unknown = {} if len(special) == 1 else {"unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, eos_token=last, **unknown)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe"])
def test_a_byte_level_tokenizer_goes_along(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    size = len(tokenizer) + 3
    done = export(llama(vocab_size=size), tmp_path / "out", format="gguf", tokenizer=tokenizer)
    assert done.tokenizer == f"byte-level BPE, pre-tokenizer {kind}"
    said = {k: f.contents() for k, f in gguf.GGUFReader(done.path / GGUF_FILE).fields.items()}
    assert said["tokenizer.ggml.model"] == "gpt2"
    assert said["tokenizer.ggml.pre"] == kind
    tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert tokens[:-3] == tokenizer.convert_ids_to_tokens(list(range(size - 3)))
    assert tokens[-1] == f"[PAD{size - 1}]"
    assert kinds == [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (size - 4) + [gguf.TokenType.UNUSED] * 3
    assert said["tokenizer.ggml.bos_token_id"] == said["tokenizer.ggml.eos_token_id"] == 0
    assert said["tokenizer.ggml.add_bos_token"] is False
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert said["tokenizer.ggml.merges"] == [" ".join(m) for m in merges]
    assert "whorl.no_tokenizer" not in said


def test_a_sentencepiece_tokenizer_goes_along_with_scores_that_give_its_merges(tmp_path: Path) -> None:
    """Against llama.cpp's way: neighbours whose joined token scores best are joined first, the leftmost of equals."""
    tokenizer = trained("sentencepiece", 800)
    done = export(llama(vocab_size=len(tokenizer)), tmp_path / "out", format="gguf", tokenizer=tokenizer)
    assert done.tokenizer == "SentencePiece's BPE"
    said = {k: f.contents() for k, f in gguf.GGUFReader(done.path / GGUF_FILE).fields.items()}
    assert said["tokenizer.ggml.model"] == "llama"
    assert said["tokenizer.ggml.add_space_prefix"] is True
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[:4] == [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.BYTE]
    ids = {t: i for i, t in enumerate(said["tokenizer.ggml.tokens"])}
    scores = said["tokenizer.ggml.scores"]

    pieces = list("▁" + TEXT.replace(" <s>", "").replace(" ", "▁"))
    while True:
        joined = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in ids]
        if not joined:
            break
        _, i = min(joined)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    found = [j for p in pieces for j in ([ids[p]] if p in ids else [ids[f"<0x{b:02X}>"] for b in p.encode()])]
    assert found == tokenizer(TEXT.replace(" <s>", ""), add_special_tokens=False)["input_ids"]
    assert len(found) < len(TEXT)


def test_a_tokenizer_that_llama_cpp_cannot_run_is_left_out_and_said(tmp_path, caplog, shared) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    normalizing, spaced, large = trained("gpt-2"), trained("gpt-2"), trained("gpt-2")
    normalizing.backend_tokenizer.normalizer = normalizers.NFC()
    spaced.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    merging = trained("llama-bpe")
    merging.backend_tokenizer.pre_tokenizer = trained("gpt-2").backend_tokenizer.pre_tokenizer
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    cases = {
        "its model is WordLevel": words,
        "normalizes text (NFC)": normalizing,
        "puts a space before": spaced,
        "no llama.cpp name for its pre-tokenizer (ByteLevel)": merging,
        "characters without byte fallback": AutoTokenizer.from_pretrained(shared / "fixtures" / "babyllama-tok105"),
        "it has the token id 399, and the model 300 embeddings": large,
    }
    for why, tokenizer in cases.items():
        caplog.clear()
        size = 300 if tokenizer is large else 400
        done = export(llama(vocab_size=size), tmp_path / "out", format="gguf", tokenizer=tokenizer, force=True)
        assert done.tokenizer.startswith("not written: ")
        assert why in done.tokenizer
        assert why in caplog.text
        said = {k: f.contents() for k, f in gguf.GGUFReader(done.path / GGUF_FILE).fields.items()}
        assert said["tokenizer.ggml.model"] == "none"
        assert why in said["whorl.no_tokenizer"]
        assert not any(k.startswith("tokenizer.") and k != "tokenizer.ggml.model" for k in said)


# Hugging Face.


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"),
    [
        ("llama", None),
        ("llama", "hope:train_length=40"),
        ("llama", "p-rope:p=0.5"),
        ("llama", "frequencies:values=1@0.5@0.3@0.2@0.1@0.05@0.02@0.01,amplitude=1.25"),
        ("gpt_neox", "hope:train_length=40"),
        ("gpt2", "learned:max_positions=50"),
        ("gemma3_text", "full_attention=nope/sliding_attention=hope:train_length=16+window:size=24"),
        ("modernbert", "p-rope:p=0.5"),
    ],
)
def test_an_hf_export_is_a_stock_directory(family: str, encoding: str | None, tmp_path: Path) -> None:
    model = tiny_model(family)
    if encoding is not None:
        whorl.attach(model, encoding)
    model.train()
    done = export(model, tmp_path / "out", tokenizer=trained("gpt-2", 300))
    assert model.training, "left as it was"
    assert "logits differ by" in done.checked
    model.eval()
    logits, budget = logits_and_budget(model, TOKENS)
    stock = type(model).from_pretrained(done.path).eval()
    assert attached(stock) is None
    assert max_error(stock(TOKENS).logits, logits) < budget
    assert (done.path / "tokenizer.json").exists()
    assert names(tmp_path)[0] == "out"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing beside it"


def test_half_precision_is_kept_and_compared_in_float32(tmp_path: Path) -> None:
    model = llama("hope:train_length=40").bfloat16()
    export(model, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert model.dtype == torch.bfloat16
    whorl.attach(model, "rope:base=10100")
    model.save_pretrained = whorl.detach(copy.deepcopy(model)).save_pretrained  # says 10,000
    with pytest.raises(ValueError, match="as another model"):  # bfloat16's own error would hide it
        export(model, tmp_path / "near")


@pytest.mark.parametrize(("half", "room"), [(False, True), (False, False), (True, True)])
def test_what_stock_reads_otherwise_is_not_kept(half: bool, room: bool, tmp_path: Path, monkeypatch) -> None:
    """Saving that forgets the encoding: stock would run RoPE. Seen by float64's measure, and by roundings without it
    (but for half precision, whose 64 roundings are a quarter of the logits: docs/export.md says so)."""
    model = llama("nope")
    if half:
        model.bfloat16()
    monkeypatch.setattr(exporting, "too_large_to_copy", lambda *_: None if room else "no memory")
    model.save_pretrained = whorl.detach(copy.deepcopy(model)).save_pretrained
    with pytest.raises(ValueError, match="reads what was written as another model.*whorl.load"):
        export(model, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("family", "encoding", "why"),
    [
        ("llama", "alibi", "no place for a bias"),
        ("gpt2", "rope:base=500", "a learned table"),
        ("llama", "rope:base=500/nope", "one spectrum"),
    ],
)
def test_what_stock_cannot_say_is_refused_and_whorl_load_named(family: str, encoding: str, why: str, tmp_path) -> None:
    model = whorl.attach(tiny_model(family), encoding)
    with pytest.raises(ValueError, match=rf"stock transformers cannot say {encoding} on.*{why}.*whorl\.load"):
        export(model, tmp_path / "out")
    assert names(tmp_path) == []


# The place.


def test_an_existing_place_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = llama(), tmp_path / "out"
    export(model, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match="is there already; give another folder, or --force"):
        export(model, out, format="gguf")
    with pytest.raises(ValueError, match="cannot say alibi"):
        export(llama("alibi"), out, force=True)
    spoiled = llama("hope:train_length=40")
    spoiled.save_pretrained = whorl.detach(copy.deepcopy(spoiled)).save_pretrained
    with pytest.raises(ValueError, match="as another model"):
        export(spoiled, out, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before, "an export that fails leaves the old one"
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == out.resolve() and not self.name.endswith(".old"):
            raise OSError("no")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(ValueError, match="no. What was made is whole"):
            export(model, out, force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    shutil.rmtree(next(tmp_path.glob(".out.*")))
    export(model, out, format="gguf", force=True)
    assert names(tmp_path) == ["out", f"out/{MARKER}", f"out/{GGUF_FILE}"]
    (tmp_path / "empty").mkdir()
    export(model, tmp_path / "empty", format="gguf")
    assert names(tmp_path / "empty") == [MARKER, GGUF_FILE]


def test_force_replaces_nothing_but_exports(tmp_path: Path) -> None:
    model = llama()
    (tmp_path / "file").write_text("x")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    model.save_pretrained(tmp_path / "training")
    (tmp_path / "training" / "checkpoint-100").mkdir()
    model.save_pretrained(tmp_path / "source")
    read = whorl.load(tmp_path / "source")
    before = names(tmp_path)
    for name, what, why in (
        ("file", model, "is a file"),
        ("thesis", model, "not known to be whorl's"),
        ("training", model, "not known to be whorl's"),
        ("source", read, "source is read from, which lies there"),
        ("source", whorl.attach(read, "hope:train_length=40"), "source is read from, which lies there"),
    ):
        with pytest.raises(ValueError, match=why):
            export(what, tmp_path / name, force=True)
    assert names(tmp_path) == before


# The command.


def run(*arguments: str) -> Any:
    """`whorl export` by itself, registered or not."""
    import typer
    from typer.testing import CliRunner

    from whorl.cli import export as command

    app = typer.Typer()
    app.command(epilog=command.EPILOG)(command.export)
    return CliRunner().invoke(app, list(arguments))


def test_the_command_exports_a_directory_in_both_formats(tmp_path: Path) -> None:
    tokenizer = trained("gpt-2")
    model = llama("hope:train_length=40", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    bare = run(str(tmp_path / "model"), "--out", str(tmp_path / "bare"))
    assert bare.exit_code == 0, bare.output
    assert "goes without a tokenizer" in bare.output
    tokenizer.save_pretrained(tmp_path / "model")
    for arguments in ([], ["--format", "gguf", "--dtype", "bf16"]):
        done = run(str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--force", *arguments)
        assert done.exit_code == 0, done.output
        assert "positional encoding hope:train_length=40" in done.output
        assert "without a tokenizer" not in done.output
    assert names(tmp_path / "out") == [MARKER, GGUF_FILE]
    again = run(str(tmp_path / "model"), "--out", str(tmp_path / "out"))
    assert isinstance(again.exception, ValueError)
    assert "is there already" in str(again.exception)


def test_a_trial_of_a_comparison_is_exported(tmp_path: Path, shared: Path) -> None:
    from whorl.comparison import compare

    text = str(shared / "fixtures" / "text" / "tinyshakespeare.txt")
    settings: dict[str, Any] = {"text": text, "model": "tiny", "tokens": 2048, "train_length": 32, "lengths": (32,)}
    settings |= {"tail": 8, "windows": 2, "quiet": True}
    compare(["hope"], out=str(tmp_path / "run"), **settings)
    (trial,) = (tmp_path / "run" / "trials").iterdir()
    for format in ("hf", "gguf"):
        done = run(str(trial), "--out", str(tmp_path / format), "--format", format)
        assert done.exit_code == 0, done.output
        assert "hope:train_length=32" in done.output
    assert (tmp_path / "hf" / "tokenizer.json").exists()
    said = read_gguf_llama(tmp_path / "gguf" / GGUF_FILE).config
    assert said["tokenizer"] == "gpt2"
    assert said["encoding"] == "hope:train_length=32,base=10000"
