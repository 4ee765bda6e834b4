"""Tiny models of timm, one for each kind of part that one may have, and their forward in plain code, as truth.

timm is an optional extra of whorl. Where it is not installed the tests that import this are skipped.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from tests.attaching.images import Bias, Turn, turned

REASON = "timm is an optional extra of whorl: pip install 'whorl[timm]'; make test-timm runs these tests with it"


def _import_timm() -> Any:
    """timm, also beside a torchvision whose library does not load, as that of a wheel for CUDA with a torch for CPUs.

    Its import fails where it describes operators of that library. timm uses none of them: declared, they are there to
    be described.
    """
    if find_spec("timm") is None:
        pytest.skip(REASON, allow_module_level=True)
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("timm")


timm = _import_timm()
VisionTransformer = timm.models.VisionTransformer
ResPostBlock = timm.models.vision_transformer.ResPostBlock

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
HEAD_DIM = 16

MAKERS: dict[str, Callable[..., Any]] = {
    "vit": VisionTransformer,
    "deit": lambda **sizes: timm.models.VisionTransformerDistilled(**sizes),
    "registers": lambda **sizes: VisionTransformer(reg_tokens=2, no_embed_class=True, init_values=0.5, **sizes),
    "siglip": lambda **sizes: VisionTransformer(class_token=False, global_pool="map", **sizes),
    "clip": lambda **sizes: VisionTransformer(pre_norm=True, global_pool="avg", qk_norm=True, **sizes),
    "post-norm": lambda **sizes: VisionTransformer(block_fn=ResPostBlock, dynamic_img_size=True, **sizes),
    "bare": lambda **sizes: VisionTransformer(pos_embed="none", reg_tokens=1, **sizes),
}


@torch.no_grad()
def tiny(kind: str, **sizes: Any) -> Any:
    """A random model whose attention is peaked, and whose own positions are large enough to be seen."""
    torch.manual_seed(0)
    model = MAKERS[kind](**{**SIZES, **sizes})
    for name, parameter in model.named_parameters():
        if name.endswith("pos_embed"):
            parameter.mul_(20)
        elif name.endswith("qkv.weight"):
            parameter.mul_(12)
        elif name.endswith("head.weight"):
            nn.init.normal_(parameter)
    return model.eval()


def plain_truth(
    model: Any,
    pixels: torch.Tensor,
    turn: Turn | None = None,
    bias: Bias | None = None,
    vectors: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The features [batch, tokens, width] of a stock model in a dtype, whose own positions are taken out.

    Pairs are channels i and i + half; what stands before the patches is not turned. vectors: added to all tokens.
    """
    model = copy.deepcopy(model).to(dtype)
    patches = model.patch_embed.proj(pixels.to(dtype))
    rows, columns = patches.shape[-2:]
    at = [(i // columns, i % columns) for i in range(rows * columns)]
    tokens = patches.flatten(2).transpose(1, 2)
    before = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    prefix = [token.expand(len(pixels), -1, -1) for token in before if token is not None]
    x = torch.cat([*prefix, tokens], 1)
    if vectors is not None:
        x = x + vectors.to(dtype)
    x = model.norm_pre(x)
    first = x.shape[1] - len(at)
    for block in model.blocks:
        attend = _Attention(block.attn, at, (rows, columns), first, turn, bias)
        if isinstance(block, ResPostBlock):
            x = x + block.norm1(attend(x))
            x = x + block.norm2(block.mlp(x))
        else:
            x = x + block.ls1(attend(block.norm1(x)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.norm(x)


class _Attention:
    def __init__(self, attn: Any, at: Any, grid: tuple[int, int], first: int, turn: Turn | None, bias: Bias | None):
        self.attn, self.at, self.grid, self.first, self.turn, self.bias = attn, at, grid, first, turn, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        attn, first = self.attn, self.first
        q, k, v = attn.qkv(x).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if self.turn is not None:
            angles = torch.tensor([self.turn(*place, *self.grid) for place in self.at], dtype=x.dtype)
            turns = torch.polar(torch.ones_like(angles), angles)
            q, k = (torch.cat([y[:, :, :first], turned(y[:, :, first:], turns)], 2) for y in (q, k))
        logits = q @ k.transpose(-1, -2) / attn.head_dim**0.5
        if self.bias is not None:
            added = torch.tensor([[self.bias(*a, *b) for b in self.at] for a in self.at], dtype=x.dtype)
            logits[:, :, first:, first:] += added.permute(2, 0, 1)
        return attn.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
