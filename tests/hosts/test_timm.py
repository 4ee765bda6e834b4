"""Image models of timm: any encoding of a grid, at any height and width, put on and taken off again."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch

import whorl
from tests.attaching.images import Bias, Turn, axial, check_that_what_is_taken_out_does_not_learn, dinov3
from tests.hosts.timm_models import (
    HEAD_DIM,
    MAKERS,
    OWN,
    RELATIVE,
    SIZES,
    VisionTransformer,
    plain_truth,
    timm,
    tiny,
)
from whorl.encodings.alibi import slopes

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # as the models are built for
WIDE = torch.randn(2, 3, 16, 64, generator=torch.Generator().manual_seed(1))  # as many patches, of another grid
TALL = torch.randn(1, 3, 40, 24, generator=torch.Generator().manual_seed(2))
IMAGES = {"square": PIXELS, "wide": WIDE, "tall": TALL}
ENCODINGS = (
    "axial-rope",
    "hope-2d:grid=7@7",  # a whole turn of the fastest pair fits
    "mixed-rope",
    "dinov3-rope",
    "sincos-2d",
    "learned-2d:grid=3@5",
    "euclidean-alibi",
    "pape",
    "irpe:on=qkv",
    "sincos-2d+axial-rope",
)


def features(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    return model.forward_features(pixels)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max())


@cache
@torch.no_grad()
def rounding(kind: str) -> float:
    """How far features in float32 are from those in float64, in stock code."""
    model = tiny(kind)
    return 8 * far(features(model, PIXELS), features(copy.deepcopy(model).double(), PIXELS.double()))


def drawn(model: Any) -> Any:
    """The encoding's own parameters moved from where they start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in whorl.attached(model).parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_attaching_what_is_there_changes_nothing_and_detaching_gives_back_the_bits(kind: str) -> None:
    model = tiny(kind)
    stock, logits, own = features(model, PIXELS), model(PIXELS), whorl.encoding_of(model)
    state = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert str(own) == OWN.get(kind, "learned-2d:grid=4@4,antialias=true")
    assert whorl.parse(str(own)) == own
    whorl.attach(model, own)
    assert far(features(model, PIXELS), stock) < rounding(kind)
    assert far(model(PIXELS), logits) < 4 * rounding(kind)
    for encoding in ENCODINGS:
        drawn(whorl.attach(model, encoding))
        assert str(whorl.encoding_of(model)).startswith(encoding.partition(":")[0].partition("+")[0])
        assert whorl.encoding_of(model).name == own.name or far(features(model, PIXELS), stock) > 20 * rounding(kind)
    whorl.detach(model)
    assert torch.equal(features(model, PIXELS), stock)
    assert torch.equal(model(PIXELS), logits)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == state
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(tensor, weights.pop(name)) for name, tensor in model.state_dict().items())
    assert not weights
    assert whorl.encoding_of(model) == own


def distances(heads: int) -> Bias:
    return lambda row, column, at, by: [-s * math.hypot(row - at, column - by) for s in slopes(heads)]


def scaled(head_dim: int, base: float, sides: tuple[int, int]) -> Turn:
    """Rows have the first half, and any image as many rows and columns as `sides` says."""

    def turn(row: int, column: int, rows: int, columns: int) -> list[float]:
        along = (row / rows * sides[0], column / columns * sides[1])
        return [at / base ** (4 * t / head_dim) for at in along for t in range(head_dim // 4)]

    return turn


TRUTHS: dict[str, tuple[Turn | None, Bias | None]] = {
    "nope": (None, None),
    "axial-rope:base=100": (axial(HEAD_DIM), None),
    "axial-rope:order=ij,base=30": (axial(HEAD_DIM, 30.0, "ij"), None),
    "hope-2d:base=100,grid=7@7": (axial(HEAD_DIM, cut=7), None),
    "mixed-rope:rotate=false": (axial(HEAD_DIM, 10.0), None),
    "axial-rope:order=ij,base=30,scale=3@5": (scaled(HEAD_DIM, 30.0, (3, 5)), None),
    "dinov3-rope:base=100": (dinov3(HEAD_DIM), None),
    "euclidean-alibi": (None, distances(2)),
    "axial-rope:base=100+euclidean-alibi": (axial(HEAD_DIM), distances(2)),
}


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("encoding", TRUTHS)
@pytest.mark.parametrize("kind", [*MAKERS, *RELATIVE])
@torch.no_grad()
def test_any_size_equals_a_plain_attention_on_its_grid(kind: str, encoding: str, size: str) -> None:
    model, pixels = tiny(kind), IMAGES[size]
    truth = plain_truth(model, pixels, *TRUTHS[encoding])
    same_precision = plain_truth(model, pixels, *TRUTHS[encoding], dtype=torch.float32)
    allowed = 4 * far(same_precision, truth) + torch.finfo(torch.float32).eps
    whorl.attach(model, encoding)
    assert far(features(model, pixels), truth) < allowed
    if "alibi" not in encoding and "mixed" not in encoding:  # biases and learned frequencies are float32
        assert far(features(model.double(), pixels.double()), truth) < 1e-12


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_its_own_encoding_at_another_size_is_that_of_a_model_resized_to_it(kind: str, size: str) -> None:
    model, pixels = tiny(kind), IMAGES[size]
    resized = copy.deepcopy(model)
    resized.set_input_size(img_size=tuple(pixels.shape[-2:]))
    whorl.attach(model, whorl.encoding_of(model))
    assert far(features(model, pixels), features(resized, pixels)) < rounding(kind)


@pytest.mark.parametrize("encoding", [*ENCODINGS[:5], *ENCODINGS[6:9], "learned-2d:grid=4@4"])
@torch.no_grad()
def test_rows_are_not_columns_and_the_number_of_tokens_says_no_grid(encoding: str) -> None:
    """The same patches in the same order, as one grid and as another; and the image on its side."""
    model = drawn(whorl.attach(tiny("siglip"), encoding))
    patches = torch.randn(16, 3, 8, 8)

    def laid(rows: int, columns: int) -> torch.Tensor:
        return patches.view(rows, columns, 3, 8, 8).permute(2, 0, 3, 1, 4).reshape(1, 3, 8 * rows, 8 * columns)

    square, wide, tall = (features(model, laid(*grid)) for grid in ((4, 4), (2, 8), (8, 2)))
    assert far(wide, square) > 100 * rounding("siglip")
    assert far(wide, tall) > 100 * rounding("siglip")


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_all_ways_into_a_model_have_the_encoding(fused: bool) -> None:
    model = tiny("registers")
    for block in model.blocks:
        block.attn.fused_attn = fused
    whorl.attach(model, "axial-rope+euclidean-alibi")
    truth = plain_truth(model_without(model), WIDE, *TRUTHS["axial-rope:base=100+euclidean-alibi"])
    last, maps = model.forward_intermediates(WIDE)
    for found in (features(model, WIDE), last):
        assert far(found, truth) < 1e-4
    assert maps[-1].shape == (2, 32, 2, 8)
    (tokens,) = model.get_intermediate_layers(WIDE, 1, norm=True)
    assert far(tokens, truth[:, 3:]) < 1e-4
    assert torch.equal(model(WIDE), model.forward_head(features(model, WIDE)))
    assert all(block.attn.fused_attn is fused for block in model.blocks)


def model_without(model: Any) -> Any:
    return whorl.detach(copy.deepcopy(model))


@torch.no_grad()
def test_a_head_that_pools_by_attention_has_none() -> None:
    """SigLIP's asks one query of all patches, by content alone."""
    model = whorl.attach(tiny("siglip"), "axial-rope+euclidean-alibi")
    stock = model_without(model)
    truth = plain_truth(stock, WIDE, *TRUTHS["axial-rope:base=100+euclidean-alibi"]).float()
    assert far(model(WIDE), stock.forward_head(truth)) < 1e-3


@pytest.mark.parametrize(
    ("kind", "encoding"), [*(("vit", encoding) for encoding in ENCODINGS), ("mixed", "mixed-rope")]
)
def test_gradients_reach_what_is_learned_and_checkpointing_changes_none(kind: str, encoding: str) -> None:
    model = whorl.attach(tiny(kind), encoding).train()
    runs: list[Any] = []
    model.blocks[0].norm1.register_forward_hook(lambda *_: runs.append(1))

    def gradients(checkpointed: bool) -> dict[str, torch.Tensor]:
        """Of two images of different grids, whose forwards both come before the first backward."""
        model.set_grad_checkpointing(checkpointed)
        model.zero_grad()
        losses = [features(model, pixels).square().mean() for pixels in (WIDE, PIXELS)]
        losses[0].backward()
        losses[1].backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(False)
    assert len(runs) == 2
    again = gradients(True)
    assert len(runs) == 6, "each block was run again for its backward"
    for name, parameter in whorl.attached(model).named_parameters():
        assert not parameter.numel() or plain[f"whorl.{name}"].any(), name
    assert plain.keys() == again.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_of_several_sizes_follow_one_another_and_copies_have_their_own() -> None:
    model = whorl.attach(tiny("vit"), "sincos-2d+axial-rope+euclidean-alibi")
    first, twin = features(model, WIDE), copy.deepcopy(model)
    features(model, TALL)
    assert torch.equal(features(model, WIDE), first)
    whorl.detach(model)
    assert torch.equal(features(twin, WIDE), first)


@pytest.mark.parametrize("encoding", ["sincos-2d", "axial-rope", "axial-rope+euclidean-alibi"])
@pytest.mark.parametrize("given", ["bool", "numbers", "causal"])
@torch.no_grad()
def test_a_callers_mask_hides_what_it_hides(given: str, encoding: str) -> None:
    model = whorl.attach(tiny("vit"), encoding)
    shown = torch.ones(17, 17, dtype=torch.bool).tril()
    how: dict[str, Any] = {
        "bool": {"attn_mask": shown},
        "numbers": {"attn_mask": torch.zeros(1, 1, 17, 17).masked_fill(~shown, -math.inf)},
        "causal": {"is_causal": True},
    }[given]
    other = PIXELS.clone()
    other[:, :, 24:, 24:] += 1  # the last patch
    found, moved = (model.forward_features(pixels, **how) for pixels in (PIXELS, other))
    assert far(moved[:, :-1], found[:, :-1]) < 1e-6 < far(moved[:, -1], found[:, -1])
    assert far(features(model, other)[:, :-1], features(model, PIXELS)[:, :-1]) > 1e-3
    assert far(found, features(model, PIXELS)) > 1e-3


@pytest.mark.parametrize(
    "rope", [{"rope_type": "mrope", "rope_grid_indexing": "ij", "embed_dim": 128}, {"rope_grid_offset": 1.0}]
)
@torch.no_grad()
def test_a_rotation_that_no_encoding_says_is_named_and_can_be_replaced(rope: dict[str, Any]) -> None:
    model = tiny("axial", **rope)
    stock = features(model, PIXELS)
    with pytest.raises(ValueError, match=r"rotates q and k by a RotaryEmbedding\w+ with .*, which no encoding of"):
        whorl.encoding_of(model)
    truth = plain_truth(model, WIDE, axial(model.blocks[0].attn.head_dim))
    assert far(features(whorl.attach(model, "axial-rope:base=100"), WIDE), truth) < 1e-4
    assert torch.equal(features(whorl.detach(model), PIXELS), stock)


@torch.no_grad()
def test_compiled_and_rounded_models_go_on() -> None:
    model = whorl.attach(tiny("vit"), "sincos-2d+axial-rope+euclidean-alibi")
    eager = model(WIDE)
    compiled = torch.compile(model, backend="eager")
    assert far(compiled(WIDE), eager) < rounding("vit")
    assert whorl.attached(compiled) is whorl.attached(model)
    assert far(model.bfloat16()(WIDE.bfloat16()).float(), eager) < 0.5


def test_an_image_that_is_no_whole_number_of_patches_is_refused_or_padded() -> None:
    odd = torch.randn(1, 3, 30, 44)
    with pytest.raises(ValueError, match="an image of 30 x 44 pixels is no whole number of patches of 8 x 8"):
        whorl.attach(tiny("vit"), "axial-rope")(odd)
    model = whorl.attach(tiny("vit", dynamic_img_size=True, dynamic_img_pad=True), "axial-rope")
    padded = torch.nn.functional.pad(odd, (0, 4, 0, 2))
    assert torch.equal(model(odd), model(padded))
    truth = plain_truth(model_without(model), padded, *TRUTHS["axial-rope:base=100"])
    assert far(features(model, odd), truth) < 1e-4


@pytest.mark.parametrize(
    ("encoding", "reason"),
    [
        ("rope", "positions of one axis, and a position in VisionTransformer has 2; .* as axial-rope"),
        ("alibi", "try alibi-2d, axial-rope, hope-2d, lookhere or irpe.* positions of one axis, and these have 2"),
        ("learned", "stand on a grid; try learned-2d, sincos-2d"),
    ],
)
def test_what_goes_by_tokens_in_a_row_is_refused_on_a_grid(encoding: str, reason: str) -> None:
    model = tiny("vit")
    with pytest.raises(ValueError, match=reason):
        whorl.attach(model, encoding)
    assert whorl.attached(model) is None


def _others() -> dict[str, tuple[Any, str]]:
    models = timm.models
    parallel = models.vision_transformer.ParallelScalingBlock
    small = {"img_size": 32, "embed_dim": 16}
    swin = models.SwinTransformer(patch_size=4, window_size=4, depths=(1,), num_heads=(2,), **small)
    return {
        "swin": (
            swin,
            "timm's SwinTransformer: its layers attend by WindowAttention, within windows .* VisionTransformer",
        ),
        "xcit": (models.Xcit(depth=1, num_heads=2, patch_size=8, **small), "timm's Xcit"),
        "resnet": (timm.create_model("test_resnet"), "timm's ResNet: it has no attention"),
        "parallel": (
            VisionTransformer(block_fn=parallel, **SIZES),
            "this VisionTransformer: looked for blocks with an attention `attn` of the class Attention, and found a "
            "ParallelScalingBlock",
        ),
        "diff": (VisionTransformer(attn_layer="diff", **SIZES), "and found a Block with an attention of .* DiffAtt"),
        "dropping": (VisionTransformer(patch_drop_rate=0.2, **SIZES), "leaves out patches in training"),
        "features": (
            models._features.FeatureGetterNet(tiny("vit"), out_indices=1),
            r"try whorl.attach\(model.get_submodule\('model'\), encoding\)",
        ),
    }


@pytest.mark.parametrize("which", ["swin", "xcit", "resnet", "parallel", "diff", "dropping", "features"])
def test_models_without_a_known_seam_are_refused_by_name(which: str) -> None:
    model, reason = _others()[which]
    with pytest.raises(ValueError, match=reason):
        whorl.attach(model, "axial-rope")


@pytest.mark.parametrize("kind", MAKERS)
def test_inspect_reads_stock_models_and_attached_ones_alike(kind: str) -> None:
    model = tiny(kind)
    state = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    with torch.no_grad():
        before = model(PIXELS)
        found = whorl.inspect_images(model, PIXELS)
        assert torch.equal(model(PIXELS), before)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == state
    whorl.attach(model, whorl.encoding_of(model))
    again = whorl.inspect_images(model, PIXELS)
    assert found.arrays.keys() == again.arrays.keys()
    for name, array in found.arrays.items():
        assert abs(array - again.arrays[name]).max() < rounding(kind) * max(1, abs(array).max()), name
    assert ("norm_q" in found.arrays) == ("rope" in str(whorl.encoding_of(model)))


@pytest.mark.parametrize("kind", ["vit", "axial", "mlp"])
def test_inspect_says_of_a_stock_model_which_sizes_it_takes(kind: str) -> None:
    model = tiny(kind)
    with pytest.raises(ValueError, match="takes images of the size alone that it was built for: Input height"):
        whorl.inspect_images(model, TALL)
    assert whorl.inspect_images(whorl.attach(model, "axial-rope"), TALL).summary.settings.rows == 5


@torch.no_grad()
def test_inspect_sees_the_attention_of_a_plain_one() -> None:
    """Interleaved pairs and a grid that is not square: against the logits' own softmax, in float64."""
    model = whorl.attach(tiny("axial"), "axial-rope:base=100,order=ij")
    seen: list[torch.Tensor] = []
    real = torch.Tensor.softmax
    stock = model_without(model)

    def noting(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(out := real(self, *args, **kwargs))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "softmax", noting)
        plain_truth(stock, WIDE, axial(HEAD_DIM, 100.0, "ij"))
    found = whorl.inspect_images(model, WIDE)
    for layer, weights in enumerate(seen):
        of_patches = weights[:, :, 1:, 1:].unflatten(-1, (2, 8)).unflatten(2, (2, 8))
        pairs = [of_patches[:, :, 0, x, 1, x + 3] for x in range(5)]  # 1 row down, 3 columns to the right
        expected = torch.stack(pairs, -1).mean((0, 2)).numpy()
        assert abs(found.attention[layer, :, 1 + 1, 7 + 3] - expected).max() < 1e-4
        assert abs(found.attention[layer, :, 0, 7 - 3] - expected).max() > 1e-3


def test_a_pickle_says_what_keeps_a_model(tmp_path: Any) -> None:
    for encoding in ("axial-rope", "learned-2d", "irpe"):
        model = whorl.attach(tiny("vit"), encoding)
        with pytest.raises(TypeError, match=r"torch.save\(model\) would lose.*whorl.save\(model, directory\)"):
            torch.save(model, tmp_path / "model.pt")
    torch.save(whorl.detach(model), tmp_path / "model.pt")


def test_methods_that_others_have_replaced_are_not_lost() -> None:
    model = tiny("vit")
    model.forward_features = lambda x: x
    with pytest.raises(ValueError, match="the forward_features of a VisionTransformer has been replaced already"):
        whorl.attach(model, "axial-rope")
    assert whorl.attached(model) is None
    del model.forward_features
    whorl.attach(model, "axial-rope")
    model.patch_embed.forward = lambda x: x
    with pytest.raises(ValueError, match="the forward of a PatchEmbed has been replaced already"):
        whorl.detach(model)


def test_a_model_without_vectors_drops_none_out() -> None:
    """timm leaves `pos_drop` out where it adds nothing."""
    model, pixels = tiny("bare", pos_drop_rate=0.5).train(), torch.randn(2, 3, 32, 32)
    stock = model(pixels)
    whorl.attach(model, "nope")
    assert torch.equal(model(pixels), stock)


@pytest.mark.parametrize("encoding", ["axial-rope", "learned-2d", "mixed-rope"])
@pytest.mark.parametrize("kind", [*MAKERS, *RELATIVE])
def test_what_is_taken_out_does_not_learn(kind: str, encoding: str) -> None:
    check_that_what_is_taken_out_does_not_learn(tiny(kind).train(), encoding, PIXELS)
