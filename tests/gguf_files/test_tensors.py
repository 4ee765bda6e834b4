"""Tensors of a GGUF, against the gguf package's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import whorl
from whorl.gguf_files import tensors
from whorl.gguf_files.header import read_header

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

from .written import small, written  # noqa: E402


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_1", "Q5_0"])
def test_weights_are_what_the_gguf_package_dequantizes(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    model = small("qwen2")
    path = written(model, tmp_path / "small.gguf", "qwen2", kind=kind)
    monkeypatch.setattr(tensors, "CHUNK", 200)  # numbers, so that rows come in several parts
    state = whorl.load(path).state_dict()
    held = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for ours, theirs in (("model.embed_tokens", "token_embd"), ("model.layers.1.mlp.down_proj", "blk.1.ffn_down")):
        tensor = held[f"{theirs}.weight"]
        whole = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(state[f"{ours}.weight"], whole)
    assert {v.dtype for v in state.values()} == {torch.float32}
    assert whorl.load(path, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.float32)],
)
def test_a_tensor_has_the_files_dtype_unless_another_is_given(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = written(small("qwen2"), tmp_path / "small.gguf", "qwen2", kind=kind)
    header, name = read_header(path), "blk.1.ffn_down.weight"
    own = tensors.read_tensor(header, name)
    assert own.dtype == dtype
    held = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    whole = torch.tensor(gguf.dequantize(held.data, held.tensor_type))
    assert torch.equal(own.float(), whole)
    assert torch.equal(tensors.read_tensor(header, name, torch.float64), whole.double())
