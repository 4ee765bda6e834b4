"""Rotations that a GGUF says by scalings and factors, against llama.cpp's formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whorl
from whorl.encodings.scalings.llama3 import Llama3
from whorl.encodings.spectrum import rope_frequencies

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

from .written import HEAD, small, written  # noqa: E402

OWN = rope_frequencies(10000.0, HEAD)


def frequencies(path: Path, layer_type: str = "") -> tuple[tuple[float, ...], float]:
    spectrum = whorl.encoding_of(whorl.load(path)).for_layer(0, layer_type).spectrum(HEAD)
    return spectrum.frequencies, spectrum.amplitude


def close(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=2e-6, atol=0))


def file(tmp_path: Path, said: dict[str, Any], **more: Any) -> Path:
    return written(small("llama"), tmp_path / "small.gguf", "llama", said, **more)


def test_linear_divides_every_frequency(tmp_path: Path) -> None:
    said = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    assert close(frequencies(file(tmp_path, said))[0], [f / 4 for f in OWN])
    assert close(frequencies(file(tmp_path, {"rope.scale_linear": 4.0}))[0], [f / 4 for f in OWN])
    none = {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}
    assert close(frequencies(file(tmp_path, none))[0], OWN)


def test_yarn_of_no_length_is_of_the_context(tmp_path: Path) -> None:
    """llama.cpp's n_ctx_orig_yarn is n_ctx_train where the file does not say it."""
    said = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    model = small("llama")
    lengths = {**said, "rope.scaling.original_context_length": model.config.max_position_embeddings}
    silent = whorl.load(written(model, tmp_path / "silent.gguf", "llama", said))
    assert whorl.encoding_of(silent) == whorl.encoding_of(
        whorl.load(written(model, tmp_path / "said.gguf", "llama", lengths))
    )


def test_yarn_is_llama_cpps(tmp_path: Path) -> None:
    """ggml's rope_yarn: the ramp between two rounded corrected dimensions, and cos and sin by 1 + 0.1 ln(factor)."""
    factor, original = 4.0, 64
    said = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": 1.5,
    }

    def corrected(rotations: float) -> float:
        return HEAD * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(10000.0))

    low, high = max(0.0, math.floor(corrected(32.0))), min(HEAD - 1.0, math.ceil(corrected(1.0)))
    mix = [1 - min(1.0, max(0.0, (i - low) / max(0.001, high - low))) for i in range(HEAD // 2)]
    wanted = [f / factor * (1 - m) + f * m for f, m in zip(OWN, mix, strict=True)]
    assert sum(0 < m < 1 for m in mix) > 0
    found, amplitude = frequencies(file(tmp_path, said))
    assert close(found, wanted)
    assert close(amplitude, 1.5 * (1 + 0.1 * math.log(factor)))


def test_layers_with_a_window_have_the_files_factor_and_not_yarns(tmp_path: Path) -> None:
    """ggml multiplies by 1 + 0.1 ln(1 / freq_scale), which is 1 where gemma3's graph gives a scale of 1."""
    said = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": 1.5,
    }
    path = written(small("gemma3"), tmp_path / "small.gguf", "gemma3", said)
    assert close(frequencies(path, "sliding_attention")[1], 1.5)
    assert close(frequencies(path, "full_attention")[1], 1.5 * (1 + 0.1 * math.log(4)))


def test_factors_of_llama_3_are_its_scaling(tmp_path: Path) -> None:
    scaled = Llama3(8.0, 8192, 1.0, 4.0)(whorl.RoPE(500000.0).spectrum(HEAD)).frequencies
    factors = [a / b for a, b in zip(rope_frequencies(500000.0, HEAD), scaled, strict=True)]
    assert factors[-1] == pytest.approx(8.0)
    path = file(tmp_path, {"rope.freq_base": 500000.0}, rope_freqs=factors)
    model = whorl.load(path)
    assert whorl.attached(model) is None, "stock says it"
    assert model.config.rope_parameters == {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    assert close(frequencies(path)[0], scaled)


def test_other_factors_are_a_list_of_frequencies(tmp_path: Path) -> None:
    factors = np.linspace(1, 3, HEAD // 2, dtype=np.float32)
    factors[-3:] = 1e30
    path = file(tmp_path, {}, rope_freqs=factors)
    found, _ = frequencies(path)
    assert close(found, [0.0 if x > 1e29 else f / x for f, x in zip(OWN, factors.tolist(), strict=True)])
    assert found[-3:] == (0.0, 0.0, 0.0)
    assert isinstance(whorl.encoding_of(whorl.load(path)), whorl.Frequencies)


def test_a_note_that_does_not_fit_the_factors_is_not_believed(tmp_path: Path) -> None:
    """Somebody has changed the factors; the notation still says what they were."""
    from whorl.runtimes.exporting import export

    model = whorl.attach(small("llama"), "hope:train_length=40")
    path = export(model, tmp_path / "out", runtime="gguf").path / "model.gguf"
    assert str(whorl.encoding_of(whorl.load(path))) == "hope:train_length=40,base=10000"
    content = bytearray(path.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "rope_freqs.weight")
    content[tensor.data_offset : tensor.data_offset + 4] = np.float32(2).tobytes()
    path.write_bytes(content)
    assert whorl.encoding_of(whorl.load(path)).values[0] == 0.5


def test_a_note_of_somebodys_own_encoding_is_a_list_of_frequencies(tmp_path: Path) -> None:
    from whorl.runtimes.exporting import export

    @dataclass(frozen=True)
    class Halved(whorl.RoPE):
        name = "halved"

        def spectrum(self, head_dim: int) -> whorl.Spectrum:
            own = super().spectrum(head_dim)
            return replace(own, frequencies=tuple(f / 2 for f in own.frequencies))

    path = export(whorl.attach(small("llama"), Halved()), tmp_path / "out", runtime="gguf").path
    found = whorl.encoding_of(whorl.load(path))
    assert isinstance(found, whorl.Frequencies)
    assert close(found.values, [f / 2 for f in OWN])


@pytest.mark.parametrize(
    ("architecture", "count", "words"),
    [
        ("qwen2", HEAD // 2, "llama.cpp does not read for qwen2"),
        ("llama", 3, "has 3 factors .* for 16 pairs"),
    ],
)
def test_factors_that_llama_cpp_would_not_read_are_refused(
    architecture: str, count: int, words: str, tmp_path: Path
) -> None:
    path = written(small(architecture), tmp_path / "small.gguf", architecture, rope_freqs=torch.full((count,), 2.0))
    with pytest.raises(ValueError, match=words):
        whorl.load(path)


def test_gemma_3_scales_the_layers_that_attend_to_everything(tmp_path: Path) -> None:
    said = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base": 1e6}
    path = written(small("gemma3"), tmp_path / "small.gguf", "gemma3", said)
    assert close(frequencies(path, "full_attention")[0], [f / 8 for f in rope_frequencies(1e6, HEAD)])
    assert close(frequencies(path, "sliding_attention")[0], OWN)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_numbers_that_llama_cpp_does_not_read_are_refused(architecture: str, tmp_path: Path) -> None:
    """llama.cpp b11549 gives the same logits, bit for bit, with and without each of these in a file of these four."""
    yarn = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 64,
    }
    model = small(architecture)
    plain = frequencies(written(model, tmp_path / "plain.gguf", architecture, yarn), "full_attention")
    amplitude = 1 + 0.1 * math.log(4)  # in a file of its converter, all of it
    runs = {f"rope.scaling.yarn_{key}": value for key, value in (("beta_fast", 32.0), ("attn_factor", amplitude))}
    assert frequencies(written(model, tmp_path / "said.gguf", architecture, yarn | runs), "full_attention") == plain
    for key, value, own in (
        ("beta_fast", 8.0, 32),
        ("beta_slow", 4.0, 1),
        ("attn_factor", 1.0, 1.13863),
        ("ext_factor", 0.5, 1),
        ("log_multiplier", 0.5, 0),
    ):
        path = written(model, tmp_path / "other.gguf", architecture, {**yarn, f"rope.scaling.yarn_{key}": value})
        said = f"says {architecture}.rope.scaling.yarn_{key} = {value:g}, and llama.cpp.* runs {own}: .* two models"
        with pytest.raises(ValueError, match=said):
            whorl.load(path)
