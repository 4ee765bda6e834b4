"""The table of architectures, against the gguf package and transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import whorl
from whorl.gguf_files.architectures import ARCHITECTURES, Architecture, architecture_writing

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")


def test_an_architecture_that_is_not_read_is_named_with_those_that_are(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"of the architecture 'mamba'; of GGUF files, llama, qwen2, .* are read"):
        whorl.load(tmp_path / "mamba.gguf")


@pytest.mark.parametrize("one", ARCHITECTURES.values(), ids=lambda one: one.name)
def test_its_names_are_those_of_gguf_and_of_transformers(one: Architecture) -> None:
    assert one.name in gguf.MODEL_ARCH_NAMES.values()
    config = AutoConfig.for_model(one.family, num_hidden_layers=2, hidden_size=64, vocab_size=97)
    with torch.device("meta"):
        stock = type(AutoModelForCausalLM.from_config(config))
    assert one.written in (stock.__name__, None)
    assert all(hasattr(config, key) for key in one.fixed)
    assert architecture_writing(stock.__name__) is (one if one.written else None)


@pytest.mark.parametrize(("layers", "width"), [(46, 144), (42, 256)])
def test_a_gemma_divides_queries_by_a_width_that_its_size_says(layers: int, width: int) -> None:
    """Gemma 2 27B: 4,608 channels in 32 heads of 128 (here 256, to tell the two apart)."""
    config = {"num_hidden_layers": layers, "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 256}
    assert ARCHITECTURES["gemma2"].query_width(config) == width
    assert ARCHITECTURES["llama"].query_width(config) is None
