"""Inspection of image models, against a plain attention in float64 on grids that are not square."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whorl
from tests.attaching.images import Bias, Place, Turn, axial, dinov3, plain_truth
from whorl.encodings.alibi import slopes
from whorl.hosts import IMAGES
from whorl.inspection import images
from whorl.testing import tiny_image_model, tiny_model

HEAD_DIM = 16
WIDE = torch.randn(3, 3, 16, 48, generator=torch.Generator().manual_seed(1))  # 2 x 6 patches
ROWS, COLUMNS = 2, 6
FAMILIES = ("vit", "deit", "dinov3_vit", "siglip_vision_model")  # 1, 2, 3 and no tokens before the patches

Found = list[dict[str, np.ndarray]]  # by layer


def distances(row: int, column: int, at: int, by: int) -> list[float]:
    return [-slope * math.hypot(row - at, column - by) for slope in slopes(2)]


@torch.no_grad()
def plain(model: Any, turn: Turn | None, bias: Bias | None, dtype: torch.dtype = torch.float64) -> Found:
    """Sums by loops over the queries and keys of every image, of weights [images, heads, queries, keys]."""
    found: Found = []

    def noting(q: torch.Tensor, k: torch.Tensor, places: list[Place]) -> torch.Tensor:
        logits = q @ k.mT
        first = places.count(None)
        at: list[Any] = places[first:]
        if bias is not None:
            logits[:, :, first:, first:] += torch.tensor([[bias(*a, *b) for b in at] for a in at]).permute(2, 0, 1)
        weights = logits.softmax(-1)[:, :, first:].double().numpy()
        sums = np.zeros((2, 2 * ROWS - 1, 2 * COLUMNS - 1))
        counts = np.zeros(sums.shape[1:])
        for i, (row, column) in enumerate(at):
            for j, (other_row, other_column) in enumerate(at):
                place = other_row - row + ROWS - 1, other_column - column + COLUMNS - 1
                sums[:, *place] += weights[..., i, first + j].mean(0)
                counts[place] += 1
        pairs = HEAD_DIM // 2
        norms = {}
        for name, x in (("q", q * HEAD_DIM**0.5), ("k", k)):
            squares = x[:, :, first:].square()
            norms[name] = (squares[..., :pairs] + squares[..., pairs:]).sqrt().mean((0, 2)).double().numpy()
        found.append({"attention": sums / counts, "prefix": weights[..., :first].mean((0, 2)), **norms})
        return torch.zeros(())

    plain_truth(model, WIDE, turn, bias, dtype, noting)
    return found


CASES: dict[str, tuple[Turn | None, Bias | None]] = {
    "axial-rope:base=100": (axial(HEAD_DIM), None),
    "axial-rope:order=ij,base=30": (axial(HEAD_DIM, 30.0, "ij"), None),
    "hope-2d:base=100,grid=7@7": (axial(HEAD_DIM, cut=7), None),
    "mixed-rope:rotate=false": (axial(HEAD_DIM, 10.0), None),
    "dinov3-rope:base=100": (dinov3(HEAD_DIM), None),
    "euclidean-alibi": (None, distances),
    "axial-rope:base=100+euclidean-alibi": (axial(HEAD_DIM), distances),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoding", CASES)
def test_norms_and_attention_are_those_of_a_plain_attention(encoding: str, family: str) -> None:
    model = tiny_image_model(family)
    truth = plain(model, *CASES[encoding])
    rounded = plain(model, *CASES[encoding], dtype=torch.float32)
    whorl.attach(model, encoding)
    for found in (whorl.inspect_images(model, WIDE), whorl.inspect_images(model.double(), WIDE.double())):
        for layer, (exact, other) in enumerate(zip(truth, rounded, strict=True)):
            names = {"attention": "attention", "prefix": "prefix"}
            if CASES[encoding][0] is not None:
                names |= {"q": "norm_q", "k": "norm_k"}
            for key, name in names.items():
                if not exact[key].size:
                    assert name not in found.arrays
                    continue
                allowed = (
                    4 * np.abs(other[key] - exact[key]).max() + np.finfo(np.float32).eps * np.abs(exact[key]).max()
                )
                assert np.abs(found.arrays[name][layer] - exact[key]).max() < allowed, (name, layer)
        flipped = found.attention[..., ::-1, ::-1]
        assert np.abs(flipped - found.attention).max() > 1e-2, "key - query is told from query - key"


def test_rows_are_told_from_columns() -> None:
    """An image on its side has the map on its side, where an encoding takes rows for what it took columns for."""
    upright, turned = (whorl.attach(tiny_image_model("vit"), f"axial-rope:order={order}") for order in ("xy", "ij"))
    for model in (upright, turned):
        weight = model.embeddings.patch_embeddings.projection.weight.data
        weight.copy_((weight + weight.mT) / 2)  # a patch and its transpose are the same
    found = whorl.inspect_images(upright, WIDE)
    other = whorl.inspect_images(turned, WIDE.mT)
    assert found.attention.shape == (2, 2, 3, 11)
    np.testing.assert_allclose(found.attention, other.attention.swapaxes(-1, -2), atol=1e-5)
    assert [h.queries.rows for h in found.summary.heads] == pytest.approx(
        [h.queries.columns for h in other.summary.heads], abs=1e-5
    )
    assert abs(found.summary.heads[0].queries.rows - other.summary.heads[0].queries.rows) > 1e-3


def test_the_summary_is_what_the_arrays_say() -> None:
    model = whorl.attach(tiny_image_model("dinov3_vit"), "hope-2d:base=100,grid=7@7")
    found = whorl.inspect_images(model, WIDE)
    settings = found.summary.settings
    assert (settings.images, settings.rows, settings.columns, found.summary.model.prefix) == (3, 2, 6, 3)
    down, right = np.meshgrid(*found.offsets(), indexing="ij")
    counts = (ROWS - abs(down)) * (COLUMNS - abs(right))
    far = np.hypot(down, right)
    assert settings.even_distance == pytest.approx((counts * far).sum() / counts.sum())
    for head in found.summary.heads:
        map_ = found.attention[head.layer, head.head].astype(float)
        on_prefix = found.prefix[head.layer, head.head].sum()
        assert (map_ * counts).sum() / 12 + on_prefix == pytest.approx(1, abs=1e-6)
        assert head.prefix == pytest.approx(on_prefix, abs=1e-6)
        assert head.distance == pytest.approx((map_ * counts * far).sum() / (map_ * counts).sum(), abs=1e-5)
        near = (abs(down) * 2 <= ROWS - 1) & (abs(right) * 2 <= COLUMNS - 1)
        place = np.unravel_index(np.where(near, map_, -1).argmax(), map_.shape)
        assert (head.down, head.right) == (down[place], right[place])
        assert head.there == pytest.approx(map_[place], abs=1e-6)
        along = found.frequency[head.layer, head.head]
        for side, norms in ((head.queries, found.norm_q), (head.keys, found.norm_k)):
            assert side is not None
            whole = norms[head.layer, head.head].sum()
            for name, of in (("rows", along[:, 0] > 0), ("columns", along[:, 1] > 0), ("still", ~along.any(-1))):
                share = norms[head.layer, head.head][of].sum() / whole
                assert getattr(side, name) == pytest.approx(share, abs=1e-6)
            assert side.rows + side.columns + side.still == pytest.approx(1)
        unfit = [p for p, f in enumerate(along.max(-1)) if 0 < f < 2 * math.pi / 4]  # its own grid has 4 x 4 patches
        assert list(head.unfit) == unfit
        assert unfit == [0, 4], "one turn in 6.3 patches: those that fit in a grid of 7 x 7, and not in its own"
        assert head.queries is not None
        assert head.queries.unfit == pytest.approx(head.queries.rows + head.queries.columns)


def test_a_pair_of_mixed_rope_has_a_frequency_along_each_axis_in_each_head() -> None:
    model = whorl.attach(tiny_image_model("vit"), "mixed-rope")
    found = whorl.inspect_images(model, WIDE)
    for layer, of_layer in enumerate(whorl.attaching.seams_of(model)):
        (score,) = of_layer.scores
        x, y = getattr(score, "score", score).frequency_bias.detach().numpy()
        np.testing.assert_allclose(found.frequency[layer], np.stack([y, x], -1), rtol=1e-6)
    for head in found.summary.heads:
        along = found.frequency[head.layer, head.head].astype(float)
        norms = found.norm_q[head.layer, head.head]
        share = (norms * along[:, 0] ** 2 / (along**2).sum(-1)).sum() / norms.sum()
        assert head.queries is not None
        assert head.queries.rows == pytest.approx(share, abs=1e-5)
        assert head.unfit == tuple(p for p, f in enumerate(abs(along).max(-1)) if f < 2 * math.pi / 4)


def test_stock_models_are_read_and_left_as_they_are() -> None:
    model = tiny_image_model("dinov3_vit")
    with torch.no_grad():
        before = model(WIDE).last_hidden_state
    attributes = {name: sorted(module.__dict__) for name, module in model.named_modules()}
    stock = whorl.inspect_images(model, WIDE)
    with torch.no_grad():
        assert torch.equal(model(WIDE).last_hidden_state, before)
    assert {name: sorted(module.__dict__) for name, module in model.named_modules()} == attributes
    whorl.attach(model, whorl.encoding_of(model))
    attached = whorl.inspect_images(model, WIDE)
    for name in stock.arrays:
        np.testing.assert_allclose(attached.arrays[name], stock.arrays[name], atol=2e-5, err_msg=name)
    assert stock.summary.model.encoding.startswith("dinov3-rope")
    np.testing.assert_allclose(
        stock.frequency[0, 0, 0], [2 * math.pi * 2 / 4, 0], rtol=1e-6
    )  # rows have the first half


@pytest.mark.parametrize("family", IMAGES)
def test_every_family_is_read(family: str) -> None:
    try:
        whorl.attach(model := tiny_image_model(family), "axial-rope")
    except ValueError as error:
        pytest.skip(str(error))
    found = whorl.inspect_images(model, WIDE)
    assert np.isfinite(found.attention).all()
    assert len(found.summary.heads) == 4
    if "clip" in family or "siglip" in family:
        return
    whorl.detach(model)
    assert np.isfinite(whorl.inspect_images(model, WIDE).attention).all()


@pytest.mark.parametrize(
    "encoding", ["irpe:on=qkv", "irpe:mode=bias", "pape", "pape-ri", "alibi-2d", "lookhere", "log-n"]
)
def test_weights_are_those_that_the_model_uses(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is added to logits: against the weights that attention itself gives, in blocks of two queries."""
    model = whorl.attach(tiny_image_model("vit"), encoding)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in whorl.attached(model).parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        weights = model(WIDE, output_attentions=True).attentions
    monkeypatch.setattr(images, "BLOCK_NUMBERS", 2 * 2 * 13)
    found = whorl.inspect_images(model, WIDE)
    for layer, of_layer in enumerate(weights):
        np.testing.assert_allclose(found.prefix[layer], of_layer[:, :, 1:, :1].mean((0, 2)), atol=1e-5)
        one_down = of_layer[:, :, 1:, 1:].unflatten(-1, (ROWS, COLUMNS)).unflatten(2, (ROWS, COLUMNS))
        one_down = torch.stack([one_down[:, :, 0, x, 1, x] for x in range(COLUMNS)], -1).mean((0, 2))
        np.testing.assert_allclose(found.attention[layer, :, ROWS, COLUMNS - 1], one_down, atol=1e-5)


def test_memory_does_not_grow_with_the_square_of_the_patches() -> None:
    """64 x 64 patches: weights of one layer and image would be 134 MB."""
    model = whorl.attach(tiny_image_model("vit"), "axial-rope")
    sizes: list[int] = []

    class Noting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, torch.Tensor))
            return out

    with Noting():
        whorl.inspect_images(model, torch.randn(1, 3, 512, 512))
    assert max(sizes) < 4 * images.BLOCK_NUMBERS < 4097**2 / 8


def test_a_budget_ends_the_reading_after_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "BATCH_TOKENS", 1)
    model = tiny_image_model("vit")
    found = whorl.inspect_images(model, WIDE, minutes=1e-9)
    assert (found.summary.settings.images, found.summary.settings.asked) == (1, 3)
    alone = whorl.inspect_images(model, WIDE[:1])
    np.testing.assert_array_equal(found.attention, alone.attention)


def test_what_is_read_is_kept_and_told(tmp_path: Path) -> None:
    found = whorl.inspect_images(whorl.attach(tiny_image_model("vit"), "axial-rope"), WIDE)
    found.save(tmp_path)
    again = whorl.ImageInspection.load(tmp_path)
    assert again.summary == found.summary
    assert all(np.array_equal(again.arrays[name], array) for name, array in found.arrays.items())
    with pytest.raises(ValueError, match=r"an inspection of 'images'; whorl.ImageInspection.load reads it"):
        whorl.Inspection.load(tmp_path)
    assert len(found.to_frame()) == 4
    assert "columns" in repr(found)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (WIDE[0], "a tensor of real numbers"),
        (torch.zeros(2, 16), "a tensor of real numbers"),
        (torch.zeros(1, 3, 4, 4), "holds no patch"),
        ([1, 2], "a tensor of real numbers"),
    ],
)
def test_what_are_no_images_is_refused(pixels: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        whorl.inspect_images(tiny_image_model("vit"), pixels)


def test_other_models_are_refused_and_say_what_takes_them() -> None:
    with pytest.raises(ValueError, match=r"LlamaForCausalLM is no image model.*whorl.inspect"):
        whorl.inspect_images(tiny_model("llama"), WIDE)
    with pytest.raises(ValueError, match=r"ViTModel reads images.*whorl.inspect_images"):
        whorl.inspect(tiny_image_model("vit"), torch.zeros(1, 16, dtype=torch.long))
