"""llama.cpp's graph for llama in PyTorch, so that a GGUF is run as llama.cpp would run it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import rms_norm, silu, softmax

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")


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
