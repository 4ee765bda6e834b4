"""Tiny models of timm, one for each kind of part that one may have, and their forward in plain code, as truth.

timm is an optional extra of whorl. Where it is not installed the tests that import this are skipped.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from functools import partial
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
Eva = timm.models.Eva
ResPostBlock = timm.models.vision_transformer.ResPostBlock

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
HEAD_DIM = 16

ROTARY = {"use_rot_pos_emb": True}
OF_DINOV3 = {"rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True, "use_abs_pos_emb": False}
MAKERS: dict[str, Callable[..., Any]] = {
    "vit": VisionTransformer,
    "deit": timm.models.VisionTransformerDistilled,
    "registers": partial(VisionTransformer, reg_tokens=2, no_embed_class=True, init_values=0.5),
    "siglip": partial(VisionTransformer, class_token=False, global_pool="map"),
    "clip": partial(VisionTransformer, pre_norm=True, global_pool="avg", qk_norm=True),
    "post-norm": partial(VisionTransformer, block_fn=ResPostBlock, dynamic_img_size=True),
    "bare": partial(VisionTransformer, pos_embed="none", reg_tokens=1),
    "eva": partial(Eva, swiglu_mlp=True, scale_attn_inner=True),
    "eva02": partial(Eva, ref_feat_shape=(3, 5), qkv_fused=False, **ROTARY),
    "axial": partial(Eva, use_abs_pos_emb=False, rope_grid_indexing="xy", rope_temperature=100.0, **ROTARY),
    "mixed": partial(Eva, rope_type="mixed", rope_temperature=10.0, **ROTARY),
    "dinov3": partial(Eva, num_reg_tokens=2, init_values=0.5, attn_type="rope", qkv_bias=False, **OF_DINOV3, **ROTARY),
    "grouped": partial(
        Eva, attn_type="rope", num_kv_heads=1, qkv_fused=False, qk_norm=True, class_token=False, **ROTARY
    ),
    "eva-post-norm": partial(Eva, use_post_norm=True, dynamic_img_size=True, **ROTARY),
}
RelPos = timm.models.VisionTransformerRelPos
RELATIVE: dict[str, Callable[..., Any]] = {
    "mlp": RelPos,
    "bias": partial(RelPos, rel_pos_type="bias", class_token=True, init_values=0.5, global_pool="token"),
    "shared": partial(RelPos, rel_pos_type="mlp-swin", shared_rel_pos=True, qk_norm=True, init_values=None),
    "relative-post-norm": partial(
        RelPos,
        rel_pos_type="bias",
        class_token=True,
        block_fn=timm.models.vision_transformer_relpos.ResPostRelPosBlock,
        init_values=None,
    ),
}
"""Those whose own biases no encoding says."""
OWN = {
    "bare": "nope",
    "eva02": "learned-2d:grid=4@4,antialias=true+axial-rope:base=10000,order=ij,scale=3@5",
    "axial": "axial-rope:base=100",
    "mixed": "learned-2d:grid=4@4,antialias=true+mixed-rope",
    "dinov3": "dinov3-rope:base=100",
    **dict.fromkeys(("grouped", "eva-post-norm"), "learned-2d:grid=4@4,antialias=true+axial-rope:base=10000,order=ij"),
}  # all others have a table


@torch.no_grad()
def tiny(kind: str, **sizes: Any) -> Any:
    """A random model whose attention is peaked, and whose own positions are large enough to be seen."""
    torch.manual_seed(0)
    model = (MAKERS | RELATIVE)[kind](**{**SIZES, **sizes})
    for name, parameter in model.named_parameters():
        if name.endswith("pos_embed"):
            parameter.mul_(20)
        elif name.endswith(("qkv.weight", "q_proj.weight", "k_proj.weight")):
            parameter.mul_(12)
        elif name.endswith("relative_position_bias_table"):
            parameter.mul_(100)
        elif name.endswith(("rel_pos.mlp.fc2.weight", "ls1.gamma", "ls2.gamma", "head.weight")):
            nn.init.normal_(parameter)
    return model.eval()


def plain_truth(
    model: Any,
    pixels: torch.Tensor,
    turn: Turn | None = None,
    bias: Bias | None = None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The features [batch, tokens, width] of a stock model in a dtype, whose own positions are taken out.

    What stands before the patches is not turned.
    """
    model = copy.deepcopy(model).to(dtype)
    patches = model.patch_embed.proj(pixels.to(dtype))
    rows, columns = patches.shape[-2:]
    at = [(i // columns, i % columns) for i in range(rows * columns)]
    tokens = patches.flatten(2).transpose(1, 2)
    norm_pre = getattr(model, "norm_pre", nn.Identity())
    before = [getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    prefix = [token.expand(len(pixels), -1, -1) for token in before if token is not None]
    x = norm_pre(torch.cat([*prefix, tokens], 1))
    first = x.shape[1] - len(at)
    angles = None if turn is None else torch.tensor([turn(*place, rows, columns) for place in at], dtype=dtype)
    added = None
    if bias is not None:
        added = torch.tensor([[bias(*a, *b) for b in at] for a in at], dtype=dtype).permute(2, 0, 1)
    for block in model.blocks:
        x = _block(block, x, lambda x, attn=block.attn: _attention(attn, x, first, angles, added))
    return model.norm(x)


def _block(block: Any, x: torch.Tensor, attend: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    if type(block).__name__ in ("ResPostBlock", "EvaBlockPostNorm", "ResPostRelPosBlock"):
        x = x + block.norm1(attend(x))
        return x + block.norm2(block.mlp(x))
    if hasattr(block, "gamma_1"):
        scales = [1.0 if gamma is None else gamma for gamma in (block.gamma_1, block.gamma_2)]
        x = x + scales[0] * attend(block.norm1(x))
        return x + scales[1] * block.mlp(block.norm2(x))
    x = x + block.ls1(attend(block.norm1(x)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def _attention(attn: Any, x: torch.Tensor, first: int, angles: Any, added: Any) -> torch.Tensor:
    """angles: [patches, pairs], of channels i and i + half or of neighbours; added: [heads, patches, patches]."""
    if attn.qkv is None:
        projected = [getattr(attn, f"{name}_proj")(x) for name in "qkv"]
    else:
        projected = list(attn.qkv(x).chunk(3, -1))
        if getattr(attn, "q_bias", None) is not None:
            projected = [y + getattr(attn, f"{name}_bias") for y, name in zip(projected, "qkv", strict=True)]
    q, k, v = (y.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for y in projected)
    k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], 1) for y in (attn.k_norm(k), v))
    q = attn.q_norm(q)
    if angles is not None:
        turns = torch.polar(torch.ones_like(angles), angles)
        turn = turned if getattr(attn, "rotate_half", True) else turned_neighbours
        q, k = (torch.cat([y[:, :, :first], turn(y[:, :, first:], turns)], 2) for y in (q, k))
    logits = q @ k.transpose(-1, -2) / attn.head_dim**0.5
    if added is not None:
        logits[:, :, first:, first:] += added
    out = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return attn.proj(getattr(attn, "norm", nn.Identity())(out))


def turned_neighbours(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)
