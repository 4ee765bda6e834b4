"""State dicts with the names and shapes of RoPE-ViT's and iRPE's own code, against what that code does with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whorl
from tests.attaching.images import Place, plain_truth
from tests.attaching.test_images import TALL, far, states
from tests.encodings.test_irpe_on_grids import official
from whorl.attaching.official import take_official
from whorl.encodings.grid import Grid
from whorl.testing import tiny_image_model

LAYERS, HEADS, DIM, WIDTH = 2, 2, 16, 32


def irpe_state(method: str, on: str, heads: int, bias: bool = False) -> dict[str, torch.Tensor]:
    """Of a DeiT with a class token: a bucket more, for it."""
    generator = torch.Generator().manual_seed(0)
    count, parts = (50 if method == "product" else 8), ("rp_rows.", "rp_cols.") if method == "cross" else ("",)
    state = {"blocks.0.attn.qkv.weight": torch.randn(3 * WIDTH, WIDTH, generator=generator)}
    for layer in range(LAYERS):
        for letter in on:
            for part in parts:
                shape = (heads, count) if bias else (heads, DIM, count) if letter != "v" else (heads, count, DIM)
                name = f"blocks.{layer}.attn.rpe_{letter}.{part}lookup_table_{'bias' if bias else 'weight'}"
                state[name] = 0.5 * torch.randn(shape, generator=generator)
    return state


def said(state: dict[str, torch.Tensor], start: str, method: str, at: list[Place]) -> torch.Tensor:
    """What the official code looks up for each two tokens, [heads or 1, channels (none of a bias), tokens, tokens]."""
    kind = "bias" if any(name.endswith("bias") and ".rpe_" in name for name in state) else "weight"
    parts = ("rp_rows.", "rp_cols.") if method == "cross" else ("",)
    total: Any = 0
    for n, part in enumerate(parts):
        table = state[f"{start}.{part}lookup_table_{kind}"].double()
        ids = [[table.shape[-1] - 1 if i is None or j is None else official(method, i[0] - j[0], i[1] - j[1])[n] for j in at] for i in at]  # fmt: skip # noqa: E501
        total = total + table[..., torch.tensor(ids)]
    return total


@pytest.mark.parametrize("heads", ["shared", "own"])
@pytest.mark.parametrize("method", ["product", "cross", "euclidean", "quantization"])
@pytest.mark.parametrize("on", ["k", "qk", "bias"])
@torch.no_grad()
def test_irpe_reads_as_its_authors_code_does(on: str, method: str, heads: str) -> None:
    bias = on == "bias"
    state = irpe_state(method, "k" if bias else on, HEADS if heads == "own" else 1, bias)
    notation = f"irpe:method={method},heads={heads}," + ("mode=bias" if bias else f"on={on}")
    model = whorl.attach(tiny_image_model("vit"), notation)
    rest = take_official(model, state)
    assert list(rest) == ["blocks.0.attn.qkv.weight"]
    assert rest["blocks.0.attn.qkv.weight"] is state["blocks.0.attn.qkv.weight"]
    found, stock = states(model, TALL), whorl.detach(model)

    def truth(dtype: torch.dtype) -> torch.Tensor:
        layers = iter(range(LAYERS))

        def change(q: torch.Tensor, k: torch.Tensor, at: list[Place]) -> torch.Tensor:
            start = f"blocks.{next(layers)}.attn.rpe_"
            of_k = said(state, f"{start}k", method, at).to(dtype)
            if bias:
                return of_k[None]
            added = torch.einsum("bhid,hdij->bhij", q, of_k.expand(HEADS, -1, -1, -1))
            if on == "qk":  # rpe_q(k * scale), a row for each key, and then transposed
                of_q = said(state, f"{start}q", method, at).to(dtype).expand(HEADS, -1, -1, -1)
                added = added + torch.einsum("bhjd,hdji->bhij", k * DIM**-0.5, of_q)
            return added

        return plain_truth(stock, TALL, change=change, dtype=dtype)

    right = truth(torch.float64)
    allowed = 4 * far(truth(torch.float32), right) + torch.finfo(torch.float32).eps
    assert far(found, right) < allowed
    assert far(plain_truth(stock, TALL), right) > 100 * allowed


@torch.no_grad()
def test_vectors_of_values_are_as_they_are() -> None:
    state = irpe_state("product", "v", 1)
    model = whorl.attach(tiny_image_model("vit"), "irpe:on=v")
    take_official(model, state)
    for layer, parameter in enumerate(whorl.attached(model).parameters()):
        assert torch.equal(parameter, state[f"blocks.{layer}.attn.rpe_v.lookup_table_weight"])


@pytest.mark.parametrize("encoding", ["mixed-rope", "axial-rope"])
@torch.no_grad()
def test_q_and_k_of_rope_vit_turn_as_its_authors_turn_them(encoding: str) -> None:
    """Neighbouring channels as complex numbers, times cis of x f_x + y f_y."""
    generator, grid = torch.Generator().manual_seed(0), Grid(5, 3)
    freqs = torch.randn(2, LAYERS, HEADS * DIM // 2, generator=generator)
    weight, bias = (torch.randn(3 * WIDTH, *more, generator=generator) for more in ((WIDTH,), ()))
    state = {"freqs": freqs} if encoding == "mixed-rope" else {}
    state |= {f"blocks.1.attn.qkv.{n}": x for n, x in (("weight", weight), ("bias", bias))}
    state["freqs_t_x"] = torch.arange(14.0)
    model = whorl.attach(tiny_image_model("vit"), encoding)
    rest = take_official(model, state)
    assert list(rest) == ["blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.bias"]
    hidden = torch.randn(15, WIDTH, generator=generator)

    def q_and_k(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return (hidden @ weight.mT + bias).view(15, 3, HEADS, DIM).permute(1, 2, 0, 3)[:2].double()

    at = grid.positions()[0].double()
    if encoding == "mixed-rope":
        of_x, of_y = freqs[:, 1].view(2, HEADS, 1, DIM // 2).double()
        angles = at[:, 1, None] * of_x + at[:, 0, None] * of_y
        (score,) = whorl.attaching.seams_of(model)[1].scores
        cos, sin = score.turning(Grid(5, 3, 1).positions()[:, 1:], None, torch.float64)
    else:
        along = 100.0 ** (-4 * torch.arange(DIM // 4, dtype=torch.float64) / DIM)
        angles = torch.cat([at[:, 1, None] * along, at[:, 0, None] * along], -1)[None]
        tables = whorl.ops.rotation_tables(whorl.attaching.seams_of(model)[1].spectrum, grid.places(), torch.float64)
        cos, sin = tables.cos[:, None], tables.sin[:, None]
    theirs = torch.view_as_complex(q_and_k(weight, bias).unflatten(-1, (-1, 2)).contiguous())
    theirs = torch.view_as_real(theirs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    ours = q_and_k(rest["blocks.1.attn.qkv.weight"], rest["blocks.1.attn.qkv.bias"])
    a, b = ours.chunk(2, -1)
    ours = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    torch.testing.assert_close(ours[0] @ ours[1].mT, theirs[0] @ theirs[1].mT, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "method", "on", "said"),
    [
        ("irpe", "product", "", "looked for blocks.0.attn.rpe_k.lookup_table_weight"),
        ("irpe", "product", "qk", "has blocks.0.attn.rpe_q.lookup_table_weight, .* no place for"),
        ("irpe:heads=own", "product", "k", r"has \[2, 50, 16\], the checkpoint \[1, 50, 16\]"),
        ("mixed-rope", "product", "", "looked for freqs"),
        ("alibi-2d", "product", "", "no irpe, axial-rope or mixed-rope attached"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(encoding: str, method: str, on: str, said: str) -> None:
    model = whorl.attach(tiny_image_model("vit"), encoding)
    before = [p.detach().clone() for p in whorl.attached(model).parameters()]
    with pytest.raises(ValueError, match=said):
        take_official(model, irpe_state(method, on, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, whorl.attached(model).parameters(), strict=True))
