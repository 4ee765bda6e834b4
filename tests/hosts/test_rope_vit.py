"""A whole checkpoint with the names and shapes of RoPE-ViT's code, on timm's model, against that code in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, gelu, layer_norm

import whorl
from tests.hosts.timm_models import VisionTransformer
from whorl.attaching.official import take_official

WIDTH, HEADS, DIM, LAYERS, PATCH, CLASSES = 32, 2, 16, 2, 8, 5
State = dict[str, torch.Tensor]


def checkpoint(mixed: bool) -> State:
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    def linear(name: str, out: int, into: int) -> State:
        return {f"{name}.weight": drawn(out, into), f"{name}.bias": drawn(out)}

    def norm(name: str) -> State:
        return {f"{name}.weight": 1 + drawn(WIDTH), f"{name}.bias": drawn(WIDTH)}

    state = {
        "cls_token": drawn(1, 1, WIDTH),
        "patch_embed.proj.weight": drawn(WIDTH, 3, PATCH, PATCH, scale=0.1),
        "patch_embed.proj.bias": drawn(WIDTH),
        **norm("norm"),
        **linear("head", CLASSES, WIDTH),
    }
    for block in (f"blocks.{layer}" for layer in range(LAYERS)):
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    if mixed:  # rows of x and of y, and the places of an image of 32 x 32 pixels
        state["freqs"] = drawn(2, LAYERS, HEADS * DIM // 2, scale=1.0)
        state["freqs_t_x"], state["freqs_t_y"] = torch.arange(16) % 4, torch.arange(16) // 4
    return state


def official(state: State, pixels: torch.Tensor, mixed: bool) -> torch.Tensor:
    """Logits. Patches turn as complex numbers of neighbouring channels, by x f_x + y f_y; the class token does not."""
    s, x = {name: value.double() for name, value in state.items()}, pixels.double()

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ s[f"{name}.weight"].mT + s[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (WIDTH,), s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

    x = conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=PATCH)
    batch, columns, patches = len(x), x.shape[-1], x.shape[-1] * x.shape[-2]
    x = torch.cat([s["cls_token"].expand(batch, -1, -1), x.flatten(2).mT], 1)
    place = torch.arange(patches)
    across, down = (place % columns).double()[:, None], (place // columns).double()[:, None]
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).view(batch, -1, 3, HEADS, DIM)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if mixed:
            of_x, of_y = s["freqs"][:, layer].view(2, HEADS, 1, DIM // 2)
            angles = across * of_x + down * of_y
        else:
            along = 100.0 ** (-4 * torch.arange(DIM // 4).double() / DIM)
            angles = torch.cat([across * along, down * along], -1)
        turn = torch.polar(torch.ones_like(angles), angles)

        def turned(z: torch.Tensor, turn: torch.Tensor = turn) -> torch.Tensor:
            pairs = torch.view_as_complex(z[:, :, 1:].unflatten(-1, (-1, 2)).contiguous()) * turn
            return torch.cat([z[:, :, :1], torch.view_as_real(pairs).flatten(-2)], 2)

        out = (turned(q) @ turned(k).mT / DIM**0.5).softmax(-1) @ v
        x = x + linear(f"{block}.attn.proj", out.transpose(1, 2).flatten(2))
        x = x + linear(f"{block}.mlp.fc2", gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))))
    return linear("head", norm("norm", x)[:, 0])


@pytest.mark.parametrize("mixed", [True, False])
@torch.no_grad()
def test_logits_of_a_whole_checkpoint_are_its_authors_at_any_size(mixed: bool) -> None:
    state = checkpoint(mixed)
    model = VisionTransformer(
        img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=LAYERS, num_heads=HEADS, num_classes=CLASSES,
        pos_embed="none",
    ).eval()  # fmt: skip
    whorl.attach(model, "mixed-rope" if mixed else "axial-rope")
    found = model.load_state_dict(take_official(model, state), strict=False)
    assert not found.unexpected_keys
    assert all("whorl" in name for name in found.missing_keys)
    for seed, size in enumerate(((32, 32), (16, 64), (24, 56))):
        pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
        expected = official(state, pixels, mixed)
        assert float((model(pixels) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
