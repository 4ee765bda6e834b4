"""llama.cpp's graphs in PyTorch, so that a GGUF is run as llama.cpp would run it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, rms_norm, silu, softmax

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")


NEIGHBOURS = ("llama",)  # rope type NORM (llama_model_rope_type); the others are NEOX
WITH_FACTORS = ("llama",)  # whose graphs give rope_freqs to ggml_rope_ext


@torch.no_grad()
def as_llama_cpp(path: Path, tokens: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Logits from a GGUF alone, by llama.cpp's graphs (src/models/{llama,qwen2,qwen3,gemma3}.cpp of build b11549)."""
    reader = gguf.GGUFReader(path)
    every = {k: f.contents() for k, f in reader.fields.items()}
    name = every["general.architecture"]
    said = {k.removeprefix(f"{name}."): v for k, v in every.items()}
    weight = {
        t.name: (
            torch.from_numpy(np.array(t.data)).view(torch.bfloat16)
            if t.tensor_type.name == "BF16"
            else torch.from_numpy(np.array(t.data))
        ).to(dtype)
        for t in reader.tensors
    }
    heads, groups, head_dim = (
        said[f"attention.{k}"] for k in ("head_count", "head_count_kv", "key_length")
    )  # fmt: skip
    n_rot, eps, gemma = said["rope.dimension_count"], said["attention.layer_norm_rms_epsilon"], name == "gemma3"
    assert gemma or n_rot == head_dim, "GGML_ASSERT(n_embd_head == n_rot)"
    assert name in WITH_FACTORS or "rope_freqs.weight" not in weight, "wrong number of tensors"
    layers, count = said["block_count"], tokens.shape[1]
    local = said.get("attention.sliding_window_pattern", [False] * layers)
    attention, kind = said.get("rope.scaling.attn_factor", 1.0), said.get("rope.scaling.type", "linear")
    assert not any("yarn_" in key for key in said), "these graphs read no other turns than 32 and 1"
    factors = weight.get("rope_freqs.weight", torch.ones(n_rot // 2)).double()

    def rope_yarn(extrapolated: torch.Tensor, base: float, scale: float) -> tuple[torch.Tensor, float]:
        def corrected(turns: float) -> float:
            original = said["rope.scaling.original_context_length"]
            return n_rot * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = max(0, math.floor(corrected(32))), min(n_rot - 1, math.ceil(corrected(1)))
        mix = 1 - ((torch.arange(n_rot // 2) - low) / max(0.001, high - low)).clamp(0, 1).double()
        return extrapolated * scale * (1 - mix) + extrapolated * mix, attention * (1 + 0.1 * math.log(1 / scale))

    def tables(base: float, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        theta = base ** (-torch.arange(0, n_rot, 2, dtype=torch.float64) / n_rot) / factors
        theta, mscale = rope_yarn(theta, base, scale) if kind == "yarn" else (theta * scale, attention)
        angles = torch.arange(count)[:, None] * theta
        return (angles.cos() * mscale).to(dtype), (angles.sin() * mscale).to(dtype)

    wide = tables(said["rope.freq_base"], 1 / said.get("rope.scaling.factor", 1.0))
    near = tables(said.get("rope.freq_base_swa", 10000.0), 1.0)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        y = x @ weight[f"{name}.weight"].T
        return y + weight[f"{name}.bias"] if f"{name}.bias" in weight else y

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return rms_norm(x, x.shape[-1:], weight[f"{name}.weight"], eps) if f"{name}.weight" in weight else x

    def turned(x: torch.Tensor, is_local: bool) -> torch.Tensor:  # [batch, heads, tokens, head_dim]
        cos, sin = near if is_local else wide
        x, rest = x[..., :n_rot], x[..., n_rot:]
        even, odd = (x[..., 0::2], x[..., 1::2]) if name in NEIGHBOURS else x.chunk(2, dim=-1)
        both = even * cos - odd * sin, even * sin + odd * cos
        x = torch.stack(both, dim=-1).flatten(-2) if name in NEIGHBOURS else torch.cat(both, dim=-1)
        return torch.cat([x, rest], dim=-1)

    x = weight["token_embd.weight"][tokens] * (math.sqrt(said["embedding_length"]) if gemma else 1)
    distance = torch.arange(count)[:, None] - torch.arange(count)
    for i in range(layers):
        blk, hidden = f"blk.{i}", distance < 0
        if local[i]:
            hidden = hidden | (distance >= said["attention.sliding_window"])
        h = norm(x, f"{blk}.attn_norm")
        q, k, v = (
            linear(h, f"{blk}.attn_{part}").unflatten(-1, (n, -1)).transpose(1, 2)
            for part, n in (("q", heads), ("k", groups), ("v", groups))
        )
        q, k = turned(norm(q, f"{blk}.attn_q_norm"), local[i]), turned(norm(k, f"{blk}.attn_k_norm"), local[i])
        k, v = (t.repeat_interleave(heads // groups, dim=1) for t in (k, v))
        scores = (q @ k.mT / math.sqrt(head_dim)).masked_fill(hidden, -torch.inf)
        attended = linear((softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2), f"{blk}.attn_output")
        x = x + norm(attended, f"{blk}.post_attention_norm")
        h = norm(x, f"{blk}.ffn_norm")
        gate = linear(h, f"{blk}.ffn_gate")
        gate = gelu(gate, approximate="tanh") if gemma else silu(gate)
        x = x + norm(linear(gate * linear(h, f"{blk}.ffn_up"), f"{blk}.ffn_down"), f"{blk}.post_ffw_norm")
    x = norm(x, "output_norm")
    logits = x @ weight.get("output.weight", weight["token_embd.weight"]).T
    cap = said.get("final_logit_softcapping", 0.0)
    return cap * torch.tanh(logits / cap) if cap else logits
