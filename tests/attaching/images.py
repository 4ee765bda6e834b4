"""A plain attention on a grid, in float64, as truth for models of images: no code of whorl's is in it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import whorl

Turn = Callable[[int, int, int, int], list[float]]  # (row, column, rows, columns) -> the angle of each pair
Bias = Callable[[int, int, int, int], list[float]]  # (row, column, other row, other column) -> of each head
Place = tuple[int, int] | None  # None: it stands nowhere
Change = Callable[[torch.Tensor, torch.Tensor, list[Place]], torch.Tensor]  # (scaled q, k, places) -> added to logits

IMPL = "whorl-tests-plain"


def plain_truth(
    model: Any,
    pixels: torch.Tensor,
    turn: Turn | None = None,
    bias: Bias | None = None,
    dtype: torch.dtype = torch.float64,
    change: Change | None = None,
) -> torch.Tensor:
    """The last hidden states [batch, tokens, width] of a stock model in a dtype, whose own positions are taken out.

    Patches are of 8 x 8 pixels. Pairs are channels i and i + half; what stands before the patches is not turned.
    """
    from transformers import AttentionInterface

    rows, columns = pixels.shape[-2] // 8, pixels.shape[-1] // 8
    at = [(i // columns, i % columns) for i in range(rows * columns)]

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **_: Any) -> tuple[torch.Tensor, None]:
        before = q.shape[2] - len(at)
        if turn is not None:
            angles = torch.tensor([turn(row, column, rows, columns) for row, column in at], dtype=dtype)
            turns = torch.polar(torch.ones_like(angles), angles)
            q, k = (torch.cat([x[:, :, :before], turned(x[:, :, before:], turns)], 2) for x in (q, k))
        logits = scaling * q @ k.transpose(-1, -2)
        if bias is not None:
            added = torch.tensor([[bias(*a, *b) for b in at] for a in at], dtype=dtype)
            logits[:, :, before:, before:] += added.permute(2, 0, 1)
        if change is not None:
            logits = logits + change(scaling * q, k, [None] * before + at)
        return (logits.softmax(-1) @ v).transpose(1, 2), None

    AttentionInterface.register(IMPL, attend)
    truth = silenced(copy.deepcopy(model)).to(dtype)
    truth.set_attn_implementation(IMPL)
    return truth(pixels.to(dtype), **resampling(model)).last_hidden_state


def idle(model: Any, pixels: torch.Tensor) -> set[str]:
    """The parameters that are to learn and take no part in a forward."""
    model.zero_grad()
    out = model(pixels)
    out = out if isinstance(out, torch.Tensor) else sum(part.sum() for part in out.values() if part is not None)
    out.square().sum().backward()
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


def check_that_what_is_taken_out_does_not_learn(model: Any, encoding: str, pixels: torch.Tensor) -> None:
    """DDP refuses parameters that are to learn and take no part."""
    learned, before = {n: p.requires_grad for n, p in model.named_parameters()}, idle(model, pixels)
    whorl.attach(model, encoding)
    assert idle(model, pixels) <= before
    whorl.detach(model)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == learned


def resampling(model: Any) -> dict[str, bool]:
    """What a stock model must be told before it takes images of another size."""
    asks = not (model.config.model_type.startswith("dino") or model.config.model_type == "beit")
    return {"interpolate_pos_encoding": True} if asks else {}


def turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    half = turns.shape[-1]
    z = torch.complex(x[..., :half], x[..., half:]) * turns
    return torch.cat([z.real, z.imag], -1)


@torch.no_grad()
def silenced(model: Any) -> Any:
    """With nothing that its own positions would add or turn."""
    for module in model.modules():
        for name in ("position_embeddings", "position_embedding"):
            table = getattr(module, name, None)
            if table is not None:
                (table.weight if isinstance(table, nn.Module) else table).zero_()
        if hasattr(module, "rope_embeddings"):
            module.rope_embeddings.inv_freq.zero_()
    return model


def axial(head_dim: int, base: float = 100.0, order: str = "xy", cut: float = math.inf) -> Turn:
    """Columns have the first half of the pairs; those with a longer wavelength than `cut` patches do not rotate."""
    along = [base ** (-4 * t / head_dim) for t in range(head_dim // 4)]
    along = [f if 2 * math.pi / f <= cut else 0.0 for f in along]

    def turn(row: int, column: int, rows: int, columns: int) -> list[float]:
        first, second = (column, row) if order == "xy" else (row, column)
        return [at * f for at in (first, second) for f in along]

    return turn


def dinov3(head_dim: int, base: float = 100.0) -> Turn:
    """Rows have the first half; centres go from -1 to 1."""

    def turn(row: int, column: int, rows: int, columns: int) -> list[float]:
        centres = (2 * (row + 0.5) / rows - 1, 2 * (column + 0.5) / columns - 1)
        return [2 * math.pi * c / base ** (4 * t / head_dim) for c in centres for t in range(head_dim // 4)]

    return turn
